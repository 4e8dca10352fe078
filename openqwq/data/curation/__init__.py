"""Filters over problems: contamination, admission and measured pass rates."""
