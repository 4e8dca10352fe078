"""Problem sources, one file each; `build.py` makes them from a recipe."""
