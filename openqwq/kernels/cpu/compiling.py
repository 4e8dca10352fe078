"""Compile the C kernels in `src/`: at first use for the processor at hand, or for the variants of a wheel.

Needs the standard library only: `setup.py` loads this file by its path, where neither torch nor openqwq is installed.
Public: build_library, build_variants, shipped_file, variant_for, find_compiler, sources_digest, check_whole.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).with_name("src")
STRICT_FLAGS = ("-O3", "-fopenmp", "-fPIC")
# Sums may be reordered. Never -ffast-math: linked with it, a library turns off subnormal numbers in the whole process.
MATHS = ("-fassociative-math", "-freciprocal-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno")
RELAXED = ("paged_attention", "rounded_attention", "decode", "sample")  # sums in any order; all others are strict
COMPILE_TIMEOUT_S = 240
SEAL_BYTES = 32  # a digest of the library, after its end: a cut or changed file may crash the loader

# The x86-64 psABI's levels, by the names of Linux's flags; the best first. `abm` is lzcnt, `xsave` stands for osxsave.
_V3 = frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
VARIANTS: dict[str, dict[str, frozenset[str]]] = {
    "x86_64": {"x86-64-v4": _V4, "x86-64-v3": _V3},
    "aarch64": {"armv8-a": frozenset({"asimd"})},
}


def variant_for(machine: str, flags: set[str]) -> str | None:
    """The best variant that a processor with these flags runs; None where a wheel has none for it."""
    return next((name for name, needed in VARIANTS.get(machine, {}).items() if needed <= flags), None)


def shipped_file(folder: Path, variant: str) -> Path:
    """Where a wheel keeps this variant, made from the sources that are here now."""
    return folder / f"kernels-{variant}-{sources_digest()}.so"


def build_variants(folder: Path) -> list[Path]:
    """Every variant for this machine's architecture, written into `folder`.

    Raises OSError or subprocess.SubprocessError with the compiler's words.
    """
    compiler = find_compiler()
    if compiler is None:
        raise OSError("no C compiler was found (cc, gcc or clang)")
    folder.mkdir(parents=True, exist_ok=True)
    targets = []
    for variant in VARIANTS.get(platform.machine(), {}):
        targets.append(shipped_file(folder, variant))
        build_library(compiler, variant, targets[-1])
    return targets


def build_library(compiler: str, march: str, target: Path) -> None:
    """The sources compiled for `march` and sealed; `target` is written whole or not at all.

    The library names no OpenMP runtime: it takes the one that is loaded, PyTorch's. A second one in the process would
    start threads of its own.
    """
    sources = sorted(SOURCES.glob("*.c"))
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        work = Path(name)
        running = []
        for source in sources:
            flags = (*STRICT_FLAGS, f"-march={march}", *(MATHS if source.stem in RELAXED else ()))
            command = [compiler, *flags, "-c", str(source), "-o", str(work / f"{source.stem}.o")]
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
        for source, process in zip(sources, running, strict=True):
            _, errors = process.communicate(timeout=COMPILE_TIMEOUT_S)
            if process.returncode:
                raise OSError(f"{source.name} could not be compiled: {errors.strip()[:500]}")
        objects = [str(work / f"{source.stem}.o") for source in sources]
        command = [compiler, "-shared", *objects, "-o", str(work / target.name), "-lm"]
        linked = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False)
        if linked.returncode:
            raise OSError(f"the C kernels could not be linked: {linked.stderr.strip()[:500]}")
        with open(work / target.name, "r+b") as file:
            file.write(_seal(file.read()))
        os.replace(work / target.name, target)


def check_whole(file: Path) -> None:
    """Raises OSError where the library was cut off or changed since it was built."""
    found = file.read_bytes()
    if _seal(found[:-SEAL_BYTES]) != found[-SEAL_BYTES:]:
        raise OSError(f"{file} is damaged")


def sources_digest() -> str:
    """Names the sources and the flags: 16 hexadecimal digits."""
    files = sorted(SOURCES.glob("*.[ch]"))
    what = (*(file.read_bytes() for file in files), " ".join((*STRICT_FLAGS, *MATHS, *RELAXED)).encode())
    return hashlib.blake2b(b"/".join(what), digest_size=8).hexdigest()


def find_compiler() -> str | None:
    """The system's C compiler; None where there is none on the search path."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def _seal(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=SEAL_BYTES).digest()
