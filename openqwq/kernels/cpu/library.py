"""The C kernels in `src/` as one library, compiled once by the system's compiler and kept in the user's cache folder.

Public: library, kernels, missing_reason, describe_library, pointers, processor, MAX_GROUP, MAX_HEAD_DIM, MAX_BLOCK.
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

from torch import Tensor

from openqwq.log import logger

SOURCES = Path(__file__).with_name("src")
STRICT_FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC")
# Sums may be reordered. Never -ffast-math: linked with it, a library turns off subnormal numbers in the whole process.
MATHS = ("-fassociative-math", "-freciprocal-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno")
RELAXED = ("paged_attention", "rounded_attention", "decode", "sample")  # sums in any order; all others are strict
COMPILE_TIMEOUT_S = 240
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
_missing = ""


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None, logged once, where they are not available."""
    global _missing
    compiler = _find_compiler()
    try:
        if compiler is None:
            raise OSError("no C compiler was found (cc, gcc or clang)")
        loaded = ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        _missing = str(error)
        logger.warning("the C kernels are not available, PyTorch's slower operators run: %s", _missing)
        return None
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def missing_reason() -> str:
    """Why `library` is None; "" where it is not."""
    return "" if library() is not None else _missing


def describe_library() -> str:
    """The compiler, the widest vectors that it uses, and where the kernels are; "" where `library` is None."""
    loaded, compiler = library(), _find_compiler()
    if loaded is None or compiler is None:
        return ""
    told = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=10, check=False)
    named = next(iter(told.stdout.splitlines()), compiler)
    flags = processor().split()
    sets = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "asimd": "NEON", "sse2": "SSE2"}
    vectors = next((name for flag, name in sets.items() if flag in flags), platform.machine())
    return f"{named}, {vectors}, in {Path(loaded._name).parent}"


def _find_compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def kernels() -> ctypes.CDLL:
    """The library, for callers that have checked that it is there."""
    found = library()
    assert found is not None
    return found


def pointers(*tensors: Tensor | None) -> list[int | None]:
    """Where each tensor's numbers begin; None for None."""
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


def _compiled(compiler: str) -> Path:
    """The shared library for these sources, compiler and processor; written whole or not at all."""
    files = sorted(SOURCES.glob("*.[ch]"))
    what = (*(file.read_bytes() for file in files), compiler.encode(), " ".join((*STRICT_FLAGS, *MATHS)).encode())
    name = f"kernels-{hashlib.blake2b(b'/'.join((*what, processor().encode())), digest_size=8).hexdigest()}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openqwq"
    target = folder / name
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            _compile(compiler, [file for file in files if file.suffix == ".c"], Path(work), Path(work) / name)
            os.replace(Path(work) / name, target)
    return target


def _compile(compiler: str, sources: list[Path], work: Path, target: Path) -> None:
    logger.info("compiling the C kernels, once for this machine")
    running = []
    for source in sources:
        flags = (*STRICT_FLAGS, *(MATHS if source.stem in RELAXED else ()))
        command = [compiler, *flags, "-c", str(source), "-o", str(work / f"{source.stem}.o")]
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    for source, process in zip(sources, running, strict=True):
        _, errors = process.communicate(timeout=COMPILE_TIMEOUT_S)
        if process.returncode:
            raise OSError(f"{source.name} could not be compiled: {errors.strip()[:500]}")
    objects = [str(work / f"{source.stem}.o") for source in sources]
    command = [compiler, "-shared", "-fopenmp", *objects, "-o", str(target), "-lm"]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S)


def processor() -> str:
    """The instruction set that `-march=native` means: a cache folder may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
