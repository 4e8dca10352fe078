"""Checkpoints on disk: Hugging Face folders and the state of a run."""
