"""Attention contexts: packed sequences, the paged cache, windows."""
