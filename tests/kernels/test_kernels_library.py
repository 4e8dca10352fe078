"""Which C library is loaded: the package's own for this processor, one compiled here, or none, and what is said."""

import platform
import subprocess
import sys

import pytest
import torch

from openqwq.cli import doctor
from openqwq.kernels import describe_choice
from openqwq.kernels.cpu import compiling
from openqwq.kernels.cpu import library as library_module
from openqwq.kernels.cpu.library import library, library_origin, missing_reason, processor

BASE = "fpu sse sse2 cx16"
LEVEL_3 = f"{BASE} avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
LEVEL_4 = f"{LEVEL_3} avx512f avx512bw avx512cd avx512dq avx512vl"
HERE = compiling.variant_for(platform.machine(), set(processor().split()))

needs_variant = pytest.mark.skipif(
    compiling.find_compiler() is None or HERE is None, reason="needs a C compiler and a processor that wheels know"
)


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    """The folder `lib` as a wheel brings it."""
    folder = tmp_path_factory.mktemp("wheel") / "lib"
    compiling.build_variants(folder)
    return folder


@pytest.fixture
def package(variants, tmp_path, monkeypatch):
    """A package with an own copy of the variants and an empty cache, on a machine without a compiler."""
    folder = tmp_path / "lib"
    folder.mkdir()
    for file in variants.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(library_module, "SHIPPED", folder)
    monkeypatch.setattr(compiling, "find_compiler", lambda: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library.cache_clear()
    yield folder
    library.cache_clear()


@pytest.mark.parametrize(
    ("machine", "flags", "variant"),
    [
        ("x86_64", LEVEL_4, "x86-64-v4"),
        ("x86_64", LEVEL_3, "x86-64-v3"),
        ("x86_64", LEVEL_4.replace(" avx512vl", ""), "x86-64-v3"),
        ("x86_64", LEVEL_3.replace(" fma", ""), None),
        ("x86_64", BASE, None),
        ("x86_64", "", None),
        ("aarch64", "fp asimd crc32", "armv8-a"),
        ("aarch64", "fp", None),
        ("riscv64", LEVEL_4, None),
    ],
)
def test_the_variant_is_the_best_that_the_processor_runs(machine, flags, variant):
    assert compiling.variant_for(machine, set(flags.split())) == variant


@needs_variant
def test_a_package_with_kernels_needs_no_compiler_and_says_which_it_took(package):
    assert library() is not None and missing_reason() == ""
    assert library_origin() == f"shipped for {HERE}"
    found = doctor.check_kernels()
    assert found.status == "ok" and found.text.startswith(f"shipped for {HERE}") and str(package) in found.text
    assert f"shipped for {HERE}" in describe_choice("cpu", "cpu", torch.float32)


@needs_variant
@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_damaged_kernels_of_the_package_are_never_loaded(package, caplog, damage):
    file = compiling.shipped_file(package, HERE)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes({"cut": bytes(content[:4096]), "changed": bytes(content), "empty": b""}[damage])
    with caplog.at_level("WARNING"):
        assert library() is None
    assert f"{file} is damaged" in missing_reason() and "no C compiler" in missing_reason()
    assert "install openqwq again" in caplog.text and "PyTorch's slower operators run" in caplog.text
    found = doctor.check_kernels()
    assert found.status == "warn" and "is damaged" in found.text


@needs_variant
def test_kernels_made_from_other_sources_are_not_taken(package):
    file = compiling.shipped_file(package, HERE)
    file.rename(file.with_name(f"kernels-{HERE}-0123456789abcdef.so"))
    assert library() is None and "made from other sources" in missing_reason()


@needs_variant
def test_a_processor_that_no_variant_fits_is_named(package, monkeypatch, caplog):
    monkeypatch.setattr(library_module, "processor", lambda: f"flags : {BASE}")
    with caplog.at_level("WARNING"):
        assert library() is None
    assert "no kernels for this processor" in missing_reason() and "install gcc" in caplog.text


@needs_variant
def test_without_fitting_kernels_those_compiled_here_are_taken_and_named(package, monkeypatch, caplog):
    monkeypatch.undo()
    monkeypatch.setattr(library_module, "SHIPPED", package)
    monkeypatch.setenv("XDG_CACHE_HOME", str(package.parent / "cache"))
    compiling.shipped_file(package, HERE).write_bytes(b"")
    with caplog.at_level("WARNING"):
        assert library() is not None
    assert library_origin().startswith("compiled here by ") and "install openqwq again" in caplog.text

    (kept,) = (package.parent / "cache" / "openqwq").glob("*.so")
    content = kept.read_bytes()
    kept.unlink()  # this process has the file mapped: another takes its place
    kept.write_bytes(content[:-1])
    library.cache_clear()
    with caplog.at_level("WARNING"):
        assert library() is not None
    assert f"{kept} is damaged: compiled anew" in caplog.text
    compiling.check_whole(kept)


@needs_variant
def test_every_variant_that_runs_here_multiplies_as_float64_does(variants):
    flags = set(processor().split())
    a = torch.randn(33, 70, generator=torch.Generator().manual_seed(0))
    b = torch.randn(70, 19, generator=torch.Generator().manual_seed(1))
    for variant, needed in compiling.VARIANTS[platform.machine()].items():
        if needed <= flags:
            out = torch.empty(33, 19)
            loaded = library_module._load(compiling.shipped_file(variants, variant))
            matrices = (a.data_ptr(), *a.stride(), b.data_ptr(), *b.t().stride(), None, out.data_ptr())
            assert loaded.multiply(*matrices, 33, 19, 70, False, 2)
            torch.testing.assert_close(out.double(), a.double() @ b.double(), rtol=0, atol=1e-4)


@needs_variant
def test_one_openmp_runtime_serves_pytorch_and_the_kernels():
    code = """
import torch
from openqwq.kernels.cpu.library import library
assert library() is not None
torch.randn(300, 300) @ torch.randn(300, 300)
print(len({line.split()[5] for line in open("/proc/self/maps") if "libgomp" in line or "libiomp" in line}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]


def test_a_library_without_its_kernels_is_refused(tmp_path):
    if compiling.find_compiler() is None:
        pytest.skip("needs a C compiler")
    (tmp_path / "empty.c").write_text("int nothing;\n")
    file = tmp_path / "empty.so"
    subprocess.run([compiling.find_compiler(), "-shared", str(tmp_path / "empty.c"), "-o", str(file)], check=True)
    file.write_bytes(file.read_bytes() + compiling._seal(file.read_bytes()))
    with pytest.raises(OSError, match="lacks a kernel"):
        library_module._load(file)
