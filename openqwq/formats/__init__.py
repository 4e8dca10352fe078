"""Files that models come in: one file or folder of modules a format, and one way to open them all."""

from .hub import find_folder
from .safetensors import INDEX_NAME, SINGLE_NAME
from .weights import Weights, open_weights

__all__ = ["INDEX_NAME", "SINGLE_NAME", "Weights", "find_folder", "open_weights"]
