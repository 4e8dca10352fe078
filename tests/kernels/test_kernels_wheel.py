"""A wheel, installed outside the checkout where no compiler is: its kernels, recipes, base, and steps of training."""

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata

from openqwq.kernels.cpu import compiling
from openqwq.kernels.cpu.library import processor

ROOT = Path(__file__).parents[2]
HERE = compiling.variant_for(platform.machine(), set(processor().split()))
TIMEOUT_S = 240
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"

try:
    from setuptools.command.bdist_wheel import bdist_wheel  # noqa: F401
except ImportError:
    pytest.skip("needs setuptools 78 or later", allow_module_level=True)


def build_wheel(folder, path):
    """The wheel of a copy of the checkout, and what the build wrote on stderr."""
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "lib")
    for name in ("openqwq", "recipes"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-c", BUILD, str(folder)]
    environment = {**os.environ, "PATH": path, "PYTHONPATH": ""}
    done = subprocess.run(
        command, cwd=source, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    return folder / done.stdout.splitlines()[-1], done.stderr


def tools_but_no_compiler(folder):
    """A search path with what openqwq runs, and nothing that compiles."""
    folder.mkdir()
    for name in ("bwrap", "runsc", "sh", "git"):
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    return str(folder)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The `openqwq` of an environment into which the wheel was installed, and the variables to run it with."""
    if compiling.find_compiler() is None or HERE is None:
        pytest.skip("needs a C compiler and a processor that wheels know")
    folder = tmp_path_factory.mktemp("wheel")
    wheel, _ = build_wheel(folder, os.environ["PATH"])
    assert wheel.name.endswith(f"-py3-none-linux_{platform.machine()}.whl")
    with zipfile.ZipFile(wheel) as archive:
        libraries = [name for name in archive.namelist() if name.endswith(".so")]
    assert len(libraries) == len(compiling.VARIANTS[platform.machine()])
    assert all(name.startswith("openqwq/kernels/cpu/lib/") for name in libraries)
    python = folder / "venv" / "bin" / "python"
    venv.create(python.parents[1], symlinks=True)
    inside = Path(
        subprocess.check_output(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        ).strip()
    )
    (inside / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # torch and the rest, not openqwq itself
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--ignore-installed", str(wheel)], check=True, timeout=TIMEOUT_S)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PATH": tools_but_no_compiler(folder / "bin"), "XDG_CACHE_HOME": str(folder / "cache")}
    return str(python.with_name("openqwq")), environment


def test_an_installed_wheel_has_fast_kernels_recipes_and_base_without_a_compiler(installed, tmp_path):
    openqwq, environment = installed

    def tell(*arguments):
        command = [openqwq, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )

    checks = {check["name"]: check for check in json.loads(tell("doctor", "--json").stdout)["checks"]}
    assert checks["packages"]["status"] == "ok"
    assert checks["kernels"]["status"] == "ok" and f"shipped for {HERE}" in checks["kernels"]["text"]
    assert str(ROOT) not in checks["kernels"]["text"]
    listed = tell("recipe", "list").stdout
    assert "smoke" in listed and "tiny" in listed
    shown = tell("recipe", "check", "tiny")
    assert shown.returncode == 0, shown.stderr


def test_an_installed_wheel_trains_by_a_shipped_recipe(installed, tmp_path):
    openqwq, environment = installed
    metrics = tmp_path / "runs" / "smoke" / "metrics.jsonl"
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [openqwq, "train", "smoke"], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=log
        )
    try:
        until = time.monotonic() + TIMEOUT_S
        while process.poll() is None and time.monotonic() < until:
            if metrics.exists() and len(metrics.read_text().splitlines()) >= 2:
                break
            time.sleep(0.1)
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)
    log = (tmp_path / "log").read_text()
    assert len(metrics.read_text().splitlines()) >= 2, log
    assert f"shipped for {HERE}" in log and "compiling" not in log


def test_a_wheel_built_without_a_compiler_is_for_any_machine_and_says_what_it_lacks(tmp_path):
    wheel, said = build_wheel(tmp_path, tools_but_no_compiler(tmp_path / "bin"))
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "this wheel has no compiled kernels: no C compiler" in said
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        told = Metadata.from_email(archive.read(metadata), validate=True)
    assert not any(name.endswith(".so") for name in names)
    for name in ("recipes/smoke.toml", "recipes/base/tiny/model.safetensors", "kernels/cpu/src/decode.c"):
        assert f"openqwq/{name}" in names
    assert told.license_expression == "Apache-2.0" and told.description.startswith("# ")
