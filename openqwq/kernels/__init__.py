"""Kernels: tensors in, tensors out. Knows no model.

`ops.py` is the face: `choose_ops` picks a backend, and `Ops` says what each can do. `reference.py` computes everything
by PyTorch's operators; `cpu/` has C kernels, `triton/` GPU kernels (imported only where Triton is installed).
"""

from .cpu.large_pages import use_large_pages
from .cpu.library import library, missing_reason
from .documents import Documents
from .layouts import CacheLayer, Quantization
from .ops import REFERENCE, Backend, Ops, choose_ops, describe_choice, log_choice, shape_obstacle

__all__ = [
    "REFERENCE",
    "Backend",
    "CacheLayer",
    "Documents",
    "Ops",
    "Quantization",
    "choose_ops",
    "describe_choice",
    "library",
    "log_choice",
    "missing_reason",
    "shape_obstacle",
    "use_large_pages",
]
