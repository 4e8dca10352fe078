"""Kernels for a GPU, in Triton. Imported only where Triton is installed."""
