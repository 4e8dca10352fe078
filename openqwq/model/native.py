"""The C kernels of native.c, compiled once by the system's compiler and kept in the user's cache folder.

Public: `native_kernels`. Without a compiler, and for shapes that the kernels are not made for, callers take
PyTorch's operators: the same numbers up to rounding, more slowly.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from ..log import logger

SOURCE = Path(__file__).with_name("native.c")
# Sums may be reordered. Never -ffast-math: linked with it, a library turns off subnormal numbers in the whole process.
MATHS = ("-fassociative-math", "-freciprocal-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno")
FLAGS = ("-O3", "-march=native", *MATHS, "-fopenmp", "-shared", "-fPIC")
COMPILE_TIMEOUT_S = 120


@lru_cache(maxsize=1)
def native_kernels() -> ctypes.CDLL | None:
    """The compiled kernels; None, and one line in the log, where they cannot be had."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        logger.info("no C compiler (cc, gcc or clang): attention runs on PyTorch's operators, which is slower")
        return None
    try:
        kernels = ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning(f"{SOURCE.name} could not be compiled, attention runs on PyTorch's operators: {error}")
        return None
    kernels.attend_paged.restype = None
    kernels.attend_paged.argtypes = [ctypes.c_void_p] * 8 + [ctypes.c_int64] * 2 + [ctypes.c_int] * 5
    kernels.linear_packed.restype = kernels.widen_packed.restype = None
    codes = [ctypes.c_int] * 2 + [ctypes.c_void_p] * 4
    kernels.linear_packed.argtypes = [*codes, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_int]
    kernels.widen_packed.argtypes = [*codes] + [ctypes.c_int64] * 2 + [ctypes.c_int]
    return kernels


def _compiled(compiler: str) -> Path:
    """The shared library for this source, compiler and processor; written whole or not at all."""
    what = (SOURCE.read_bytes(), compiler.encode(), " ".join(FLAGS).encode(), _processor().encode())
    name = f"native-{hashlib.blake2b(b'/'.join(what), digest_size=8).hexdigest()}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openqwq"
    library = folder / name
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            target = Path(work) / name
            command = [compiler, *FLAGS, str(SOURCE), "-o", str(target), "-lm"]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S)
            os.replace(target, library)
    return library


def _processor() -> str:
    """The instruction set that `-march=native` means: a cache folder may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
