"""Large pages for the large tensors of a CPU: Linux hands them out where it is asked to.

Weights are read from end to end for every token, and with pages of 4 KiB the processor looks up a new one every 64
reads of a cache line, where its prefetchers stop as well. Elsewhere, and where no large page is free, nothing changes.

Public: use_large_pages.
"""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from typing import Any

from torch import Tensor

LARGE_PAGE = 1 << 21
WORTHWHILE = 2 * LARGE_PAGE  # bytes: smaller tensors hold one whole page at best
MADV_HUGEPAGE, MADV_COLLAPSE = 14, 25  # the second since Linux 6.1


def use_large_pages(tensor: Tensor, *, filled: bool) -> None:
    """Ask for large pages under a tensor. filled: what it holds is moved into them; else they come when it is written.

    Only whole pages of it: what lies beside it is left alone.
    """
    if tensor.device.type != "cpu" or tensor.nbytes < WORTHWHILE or (madvise := _madvise()) is None:
        return
    begin = -(-tensor.data_ptr() // LARGE_PAGE) * LARGE_PAGE
    size = (tensor.data_ptr() + tensor.nbytes) // LARGE_PAGE * LARGE_PAGE - begin
    madvise(begin, size, MADV_HUGEPAGE)  # advice: a kernel that refuses leaves all as it was
    if filled:
        madvise(begin, size, MADV_COLLAPSE)


@lru_cache(maxsize=1)
def _madvise() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
