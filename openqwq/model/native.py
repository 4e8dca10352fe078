"""The C kernels of this folder, compiled once by the system's compiler and kept in the user's cache folder.

Public: `native_kernels`, `rounded_kernels`, `decode_kernels`, `sampling_kernels`, `product_kernels`,
`document_kernels`, `invariant_kernels`. Without a compiler, and for shapes that the kernels are not made for, callers
take PyTorch's operators: the same numbers up to rounding, more slowly.
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
from typing import Any

from openqwq.log import logger

SOURCE = Path(__file__).with_name("native.c")
ROUNDED_SOURCE = Path(__file__).with_name("rounded.c")
DECODE_SOURCE = Path(__file__).with_name("decode.c")
SAMPLE_SOURCE = Path(__file__).with_name("sample.c")
PRODUCT_SOURCE = Path(__file__).with_name("products.c")
DOCUMENT_SOURCE = Path(__file__).with_name("documents.c")
INVARIANT_SOURCE = Path(__file__).with_name("invariant.c")
# Sums may be reordered. Never -ffast-math: linked with it, a library turns off subnormal numbers in the whole process.
MATHS = ("-fassociative-math", "-freciprocal-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno")
STRICT_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
FLAGS = (*STRICT_FLAGS, *MATHS)
COMPILE_TIMEOUT_S = 120
MAX_GROUP, MAX_HEAD_DIM, MAX_BLOCK = 32, 256, 64  # bounds of native.c's buffers


@lru_cache(maxsize=1)
def native_kernels() -> ctypes.CDLL | None:
    """The compiled kernels; None, and one line in the log, where they cannot be had."""
    kernels = _load(SOURCE, FLAGS, "attention runs on PyTorch's operators, which is slower")
    if kernels is not None:
        kernels.attend_paged.restype = kernels.linear_packed.restype = kernels.widen_packed.restype = None
        kernels.attend_paged.argtypes = [ctypes.c_void_p] * 8 + [ctypes.c_int64] * 2 + [ctypes.c_int] * 5
        codes = [ctypes.c_int] * 2 + [ctypes.c_void_p] * 4
        kernels.linear_packed.argtypes = [*codes, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_int]
        kernels.widen_packed.argtypes = [*codes] + [ctypes.c_int64] * 2 + [ctypes.c_int]
    return kernels


@lru_cache(maxsize=1)
def rounded_kernels() -> ctypes.CDLL | None:
    """The kernel that reads a rounded cache; None, and one line in the log, where it cannot be had."""
    kernels = _load(ROUNDED_SOURCE, FLAGS, "attention runs on PyTorch's operators, which is slower")
    if kernels is not None:
        kernels.attend_rounded.restype = None
        kernels.attend_rounded.argtypes = [ctypes.c_void_p] * 10 + [ctypes.c_int64] * 2 + [ctypes.c_int] * 5
    return kernels


@lru_cache(maxsize=1)
def decode_kernels() -> ctypes.CDLL | None:
    """The kernel that is a whole decoder; None, and one line in the log, where it cannot be had."""
    kernels = _load(DECODE_SOURCE, FLAGS, "decoding runs on PyTorch's operators, which is slower")
    if kernels is not None:
        kernels.decode_rows.restype = None
        kernels.decode_rows.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 3 + [ctypes.c_int]
    return kernels


@lru_cache(maxsize=1)
def sampling_kernels() -> ctypes.CDLL | None:
    """The kernel that samples a token for each row; None, and one line in the log, where it cannot be had."""
    kernels = _load(SAMPLE_SOURCE, FLAGS, "sampling runs on PyTorch's operators, which is slower")
    if kernels is not None:
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        kernels.sample_rows.restype = None
        kernels.sample_rows.argtypes = [pointer, pointer, size, size, pointer, pointer, pointer, ctypes.c_int]
    return kernels


@lru_cache(maxsize=1)
def product_kernels() -> ctypes.CDLL | None:
    """The kernel that multiplies large matrices; None, and one line in the log, where it cannot be had."""
    kernels = _load(PRODUCT_SOURCE, STRICT_FLAGS, "training runs on PyTorch's products, which may be slower")
    if kernels is not None:
        pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
        matrices: list[Any] = [pointer, size, size, pointer, size, size, pointer, pointer]
        kernels.multiply.argtypes = [*matrices, *[size] * 3, number, number]
        kernels.multiply_rows.argtypes = [*[pointer] * 4, *[size] * 3, number]
        kernels.multiply.restype = kernels.multiply_rows.restype = number
    return kernels


@lru_cache(maxsize=1)
def document_kernels() -> ctypes.CDLL | None:
    """The kernels of attention for training; None, and one line in the log, where they cannot be had."""
    kernels = _load(DOCUMENT_SOURCE, STRICT_FLAGS, "training mixes documents by PyTorch's operators, which is slower")
    if kernels is not None:
        kernels.attend_documents.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int]
        kernels.document_slopes.argtypes = [ctypes.c_void_p] * 8 + [ctypes.c_int]
        kernels.attend_documents.restype = kernels.document_slopes.restype = ctypes.c_int
    return kernels


@lru_cache(maxsize=1)
def invariant_kernels() -> ctypes.CDLL | None:
    """The kernels of the batch-invariant mode; None, and one line in the log, where they cannot be had."""
    kernels = _load(INVARIANT_SOURCE, STRICT_FLAGS, "there is no batch-invariant mode")
    if kernels is not None:
        pointer, size, real, threads = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
        kernels.rms_norm_rows.argtypes = [pointer] * 3 + [size] * 2 + [real, threads]
        kernels.rms_norm_slopes.argtypes = [pointer] * 5 + [size] * 2 + [real, threads]
        kernels.swiglu_rows.argtypes = [pointer] * 3 + [size] * 2 + [real, threads]
        kernels.swiglu_slopes.argtypes = [pointer] * 5 + [size] * 2 + [real, threads]
        kernels.turn_rows.argtypes = [pointer] * 4 + [size] + [threads] * 3
        kernels.logprob_rows.argtypes = [pointer] * 4 + [size] * 2 + [threads]
        for name in ("rms_norm_rows", "rms_norm_slopes", "swiglu_rows", "swiglu_slopes", "turn_rows", "logprob_rows"):
            getattr(kernels, name).restype = None
    return kernels


def _load(source: Path, flags: tuple[str, ...], without: str) -> ctypes.CDLL | None:
    """The library of a source, compiled if it is not there yet; `without`: what the log says where it cannot be."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        logger.info("no C compiler (cc, gcc or clang): %s", without)
        return None
    try:
        return ctypes.CDLL(str(_compiled(source, flags, compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("%s could not be compiled, %s: %s", source.name, without, error)
        return None


def _compiled(source: Path, flags: tuple[str, ...], compiler: str) -> Path:
    """The shared library for this source, compiler and processor; written whole or not at all."""
    headers = sorted(source.parent.glob("*.h"))
    sources = b"/".join(file.read_bytes() for file in (source, *headers))
    what = (sources, compiler.encode(), " ".join(flags).encode(), _processor().encode())
    name = f"{source.stem}-{hashlib.blake2b(b'/'.join(what), digest_size=8).hexdigest()}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openqwq"
    library = folder / name
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            target = Path(work) / name
            command = [compiler, *flags, str(source), "-o", str(target), "-lm"]
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
