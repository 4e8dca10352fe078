"""GGUF files, llama.cpp's and Ollama's format: read as a model folder is."""
