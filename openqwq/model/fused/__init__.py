"""Whole decoder passes in one call, for CPUs and GPUs."""
