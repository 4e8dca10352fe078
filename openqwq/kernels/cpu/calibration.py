"""Which of two ways is faster on this machine: measured once, and kept in the user's cache folder.

A choice that changed between two runs would change their last bits, so it is written down before it is used; where it
cannot be written, PyTorch's product is taken.

Public: multiply_pays.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

from openqwq.log import logger

from .library import kernels, library, processor

SIZE = (512, 640, 512)  # M, K, N: a layer of a small model over one micro-batch
ROUNDS = 7


@lru_cache(maxsize=1)
def multiply_pays() -> bool:
    """Whether products.c multiplies float32 matrices faster than PyTorch here, on one thread."""
    if library() is None:
        return False
    file = _file()
    try:
        return bool(json.loads(file.read_text(encoding="utf-8"))["multiply"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    ours, torchs = _seconds_of_products()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(f".{os.getpid()}.tmp")
        scratch.write_text(json.dumps({"multiply": ours < torchs, "ours_s": ours, "torch_s": torchs}), encoding="utf-8")
        os.replace(scratch, file)
    except OSError as error:
        logger.warning("the faster matrix product cannot be remembered (%s): PyTorch's is used", error)
        return False
    logger.info("products.c takes %.2f of PyTorch's time on this machine", ours / torchs)
    return bool(json.loads(file.read_text(encoding="utf-8"))["multiply"])


def _seconds_of_products() -> tuple[float, float]:
    """The least of some times of each, in turn, on one thread: what another process takes away falls out."""
    rows, depth, columns = SIZE
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator) for shape in ((rows, depth), (depth, columns)))
    out = torch.empty(rows, columns)
    lines = (a.data_ptr(), *a.stride(), b.data_ptr(), *reversed(b.stride()), None, out.data_ptr())

    def ours() -> None:
        kernels().multiply(*lines, rows, columns, depth, False, 1)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = [(_timed(ours), _timed(lambda: torch.mm(a, b, out=out))) for _ in range(ROUNDS)]
    finally:
        torch.set_num_threads(threads)
    return min(own for own, _ in times), min(other for _, other in times)


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _file() -> Path:
    """One file for each processor and version of PyTorch: a cache folder may be shared between machines."""
    name = hashlib.blake2b(f"{processor()} {torch.__version__}".encode(), digest_size=8).hexdigest()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openqwq"
    return folder / f"products-{name}.json"
