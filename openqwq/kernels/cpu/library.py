"""The C kernels as one loaded library: what the package brought for this processor, or compiled here and kept.

A wheel has them in `lib/`, for the levels of each architecture. A checkout, and a processor that no wheel is made for,
compiles `src/` at first use by the system's compiler into the user's cache folder.
Public: library, kernels, missing_reason, library_origin, describe_library, pointers,
processor, MAX_GROUP, MAX_HEAD_DIM, MAX_BLOCK.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from openqwq.log import logger

from . import compiling

SHIPPED = Path(__file__).with_name("lib")
MAX_GROUP, MAX_HEAD_DIM, MAX_BLOCK = 32, 256, 64  # bounds of the buffers of paged_attention.c and documents.c

_POINTER, _SIZE, _NUMBER, _REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
_CODES = [_NUMBER] * 2 + [_POINTER] * 4
_MATRICES = [_POINTER, _SIZE, _SIZE, _POINTER, _SIZE, _SIZE, _POINTER, _POINTER]
_SIGNATURES: dict[str, tuple[type | None, list]] = {
    "attend_paged": (None, [_POINTER] * 8 + [_SIZE] * 2 + [_NUMBER] * 5),
    "attend_rounded": (None, [_POINTER] * 12 + [_SIZE] * 2 + [_NUMBER] * 5),
    "linear_packed": (None, [*_CODES, _POINTER] + [_SIZE] * 3 + [_NUMBER]),
    "widen_packed": (None, [*_CODES] + [_SIZE] * 2 + [_NUMBER]),
    "decode_rows": (None, [_POINTER] * 5 + [_SIZE] * 3 + [_NUMBER]),
    "sample_rows": (None, [_POINTER, _POINTER, _SIZE, _SIZE, _POINTER, _POINTER, _POINTER, _NUMBER]),
    "multiply": (_NUMBER, [*_MATRICES, *[_SIZE] * 3, _NUMBER, _NUMBER]),
    "multiply_rows": (_NUMBER, [*[_POINTER] * 4, *[_SIZE] * 3, _NUMBER]),
    "attend_documents": (_NUMBER, [_POINTER] * 5 + [_NUMBER]),
    "document_slopes": (_NUMBER, [_POINTER] * 8 + [_NUMBER]),
    "rms_norm_rows": (None, [_POINTER] * 3 + [_SIZE] * 2 + [_REAL, _NUMBER]),
    "rms_norm_slopes": (None, [_POINTER] * 5 + [_SIZE] * 2 + [_REAL, _NUMBER]),
    "swiglu_rows": (None, [_POINTER] * 3 + [_SIZE] * 2 + [_REAL, _NUMBER]),
    "swiglu_slopes": (None, [_POINTER] * 5 + [_SIZE] * 2 + [_REAL, _NUMBER]),
    "turn_rows": (None, [_POINTER] * 4 + [_SIZE] + [_NUMBER] * 3),
    "logprob_rows": (None, [_POINTER] * 4 + [_SIZE] * 2 + [_NUMBER]),
}
_missing, _origin = "", ""


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The C kernels; None, logged once with the reason, where they are not available."""
    global _missing, _origin
    shipped = compiling.variant_for(platform.machine(), set(processor().split()))
    try:
        loaded, _origin = _load(_shipped(shipped)), f"shipped for {shipped}"
        return loaded
    except OSError as error:
        reason = str(error)
        if not isinstance(error, FileNotFoundError):
            logger.warning("%s: install openqwq again; kernels compiled on this machine are tried instead", error)
    try:
        loaded, _origin = _load_compiled()
    except (OSError, subprocess.SubprocessError) as error:
        _missing = f"{reason}; {error}"
        hint = "install gcc, or a wheel of openqwq for this machine"
        logger.warning("the C kernels are not available, PyTorch's slower operators run: %s (%s)", _missing, hint)
        return None
    return loaded


def missing_reason() -> str:
    """Why `library` is None; "" where it is not."""
    return "" if library() is not None else _missing


def library_origin() -> str:
    """Whether the kernels came with the package, and for what, or were compiled here; "" where `library` is None."""
    return "" if library() is None else _origin


def describe_library() -> str:
    """Where the kernels come from, the widest vectors of this processor, their folder; "" where `library` is None."""
    loaded = library()
    if loaded is None:
        return ""
    flags = processor().split()
    sets = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "asimd": "NEON", "sse2": "SSE2"}
    vectors = next((name for flag, name in sets.items() if flag in flags), platform.machine())
    return f"{library_origin()}, {vectors}, in {Path(loaded._name).parent}"


def kernels() -> ctypes.CDLL:
    """The library, for callers that have checked that it is there."""
    found = library()
    assert found is not None
    return found


def pointers(*tensors: Tensor | None) -> list[int | None]:
    """Where each tensor's numbers begin; None for None."""
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


def processor() -> str:
    """The instruction set that `-march=native` means: a cache folder may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _shipped(variant: str | None) -> Path:
    """The wheel's library for this processor. Raises FileNotFoundError, with the reason, where the package has none."""
    if not any(SHIPPED.glob("*.so")):
        raise FileNotFoundError("the package came without compiled kernels")
    if variant is None:
        raise FileNotFoundError(f"the package has no kernels for this processor ({platform.machine()})")
    file = compiling.shipped_file(SHIPPED, variant)
    if not file.is_file():
        raise FileNotFoundError(f"the package's kernels for {variant} are missing or made from other sources")
    return file


def _load_compiled() -> tuple[ctypes.CDLL, str]:
    """The library for these sources, compiler and processor, compiled unless the cache has it whole; its origin."""
    compiler = compiling.find_compiler()
    if compiler is None:
        raise OSError("no C compiler was found (cc, gcc or clang)")
    what = f"{compiling.sources_digest()} {compiler} {processor()}".encode()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openqwq"
    target = folder / f"kernels-{hashlib.blake2b(what, digest_size=8).hexdigest()}.so"
    origin = f"compiled here by {_version(compiler)}"
    if target.exists():
        try:
            return _load(target), origin
        except OSError as error:
            logger.warning("%s: compiled anew", error)
    folder.mkdir(parents=True, exist_ok=True)
    logger.info("compiling the C kernels, once for this machine")
    compiling.build_library(compiler, "native", target)
    return _load(target), origin


def _version(compiler: str) -> str:
    told = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=10, check=False)
    return next(iter(told.stdout.splitlines()), compiler)


def _load(file: Path) -> ctypes.CDLL:
    """The library with its functions' types. Raises OSError where the file is damaged or does not fit."""
    compiling.check_whole(file)
    _share_openmp()
    loaded = ctypes.CDLL(str(file))
    try:
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise OSError(f"{file} lacks a kernel: {error}") from error
    return loaded


def _share_openmp() -> None:
    """Lets the kernels see the OpenMP runtime that PyTorch loaded, whatever its file is called; else the system's."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text(encoding="utf-8").splitlines() if maps.exists() else []
    files = {fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6}
    runtimes = [file for file in files if Path(file).name.startswith(("libgomp", "libomp", "libiomp"))]
    runtimes.sort(key=lambda file: ("/torch" not in file, file))  # scikit-learn and others bring their own
    ctypes.CDLL(runtimes[0] if runtimes else "libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
