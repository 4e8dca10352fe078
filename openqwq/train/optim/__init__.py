"""Optimisers and the update of the weights."""
