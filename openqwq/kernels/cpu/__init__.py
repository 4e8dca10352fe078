"""Kernels for a CPU: Python over one C library."""
