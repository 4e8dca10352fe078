"""How a jail is started: the arguments for bubblewrap, and the Python that runs inside.

Inside there is a read-only system without /etc, /root, /home, /sys and /usr/local, a private /tmp,
no network, an empty environment and no capability. Our own files that run inside are copied in, and
the arguments travel on a descriptor, so that no path of the host shows.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from openqwq.errors import UserError

NOBODY = 65534
INSIDE = Path(__file__).resolve().parents[1] / "inside"
ZYGOTE = "from openqwq.sandbox.inside.zygote import main; main()"  # `-m` would load runpy, a twentieth of the start
FILTER = "/jail/filter"  # the system-call filter for every job
DEVICES = ("null", "zero", "full", "random", "urandom")
STREAMS = {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}  # links into /proc/self, where there is one
COMPILE = """
import os, py_compile, sys
folder, *names = sys.argv[1:]
for name in names:
    module = os.path.join(folder, name + ".py")
    shown = "/jail/openqwq/sandbox/inside/" + name + ".py"
    py_compile.compile(module, cfile=name + ".pyc", dfile=shown, doraise=True)
"""
INTERPRETER_CHECK = "import sys, ctypes, json, socket; assert sys.version_info >= (3, 10)"
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # a program's verdict must not depend on the order of a set
    "PYTHONPATH": "/jail",
}


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The Python inside: its path, and the folder to bind besides /usr ("" when it lies there)."""

    path: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Bind:
    """A folder of the host that shows inside, read-only."""

    outside: str
    inside: str


def find_interpreter() -> Interpreter:
    """The system's Python where it is whole enough (it starts fastest), else the one that runs us."""
    system = "/usr/bin/python3"
    if Path(system).exists() and Path(system).resolve().is_relative_to("/usr/bin"):
        check = subprocess.run([system, "-I", "-S", "-c", INTERPRETER_CHECK], capture_output=True)
        if check.returncode == 0:
            return Interpreter(system, "")
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return Interpreter(str(Path(sys.base_prefix) / "bin" / name), sys.base_prefix)


@functools.cache
def modules_inside(interpreter: Interpreter) -> dict[str, bytes]:
    """Our files that run inside, by their paths there, compiled once: compiling them is a fifth of a jail's start.

    Raises OSError or CalledProcessError where the interpreter cannot.
    """
    names = sorted(file.stem for file in INSIDE.glob("*.py"))
    with tempfile.TemporaryDirectory() as folder:
        command = [interpreter.path, "-I", "-S", "-c", COMPILE, str(INSIDE), *names]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return {f"/jail/openqwq/sandbox/inside/{name}.pyc": Path(folder, f"{name}.pyc").read_bytes() for name in names}


def find_bubblewrap() -> str:
    """The path of `bwrap`. Raises UserError with the package to install."""
    path = shutil.which("bwrap")
    if path is None:
        raise UserError(
            "the sandbox needs bubblewrap, and `bwrap` is not on the path",
            hint="`apt-get install bubblewrap` (or the same package of another system)",
        )
    return path


def jail_arguments(
    interpreter: Interpreter, *, tmp_mib: int, nested: bool, files: dict[str, int], binds: Sequence[Bind] = ()
) -> list[str]:
    """bubblewrap's arguments.

    files:  paths inside, and descriptors that hold the content.
    nested: the jobs get namespaces of their own, for which the zygote needs /proc (Python jobs see none).
    binds:  toolchains; with them a job that has no namespaces of its own sees the jail's /proc, as they need one.
    """
    args = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
    args += ["--hostname", "sandbox", "--uid", str(NOBODY), "--gid", str(NOBODY)]
    args += _system_arguments(interpreter)
    for device in DEVICES:
        args += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    args += ["--symlink", "/tmp", "/dev/shm"]
    for name, place in STREAMS.items():
        args += ["--symlink", f"/proc/self/{place}", f"/dev/{name}"]
    for bind in binds:
        args += ["--ro-bind", bind.outside, bind.inside]
    args += ["--proc", "/proc"] if nested or binds else ["--dir", "/proc"]
    args += ["--size", str(tmp_mib << 20), "--tmpfs", "/tmp"]
    for path, fd in files.items():
        args += ["--perms", "0444", "--ro-bind-data", str(fd), path]
    args += ["--remount-ro", "/"]
    for name, value in ENVIRONMENT.items():
        args += ["--setenv", name, value]
    return [*args, "--chdir", "/tmp"]


def system_folders() -> list[Path]:
    """The folders that programs need, links among them: /usr, and beside it what leads there or is its own."""
    folders = [Path("/") / name for name in ("usr", "bin", "sbin", "lib", "lib32", "lib64")]
    return [folder for folder in folders if folder.is_symlink() or folder.is_dir()]


def hidden_folders(interpreter: Interpreter) -> list[str]:
    """What must not show below /usr."""
    return [
        hidden
        for hidden in ("/usr/local", "/usr/src")
        if Path(hidden).is_dir() and not Path(interpreter.prefix or "/nowhere").is_relative_to(hidden)
    ]


def _system_arguments(interpreter: Interpreter) -> list[str]:
    args = []
    for folder in system_folders():
        if folder.is_symlink():
            args += ["--symlink", os.readlink(folder), str(folder)]
        else:
            args += ["--ro-bind", str(folder), str(folder)]
    for hidden in hidden_folders(interpreter):
        args += ["--size", "4096", "--tmpfs", hidden, "--remount-ro", hidden]
    if interpreter.prefix and not Path(interpreter.prefix).is_relative_to("/usr"):
        args += ["--ro-bind", interpreter.prefix, interpreter.prefix]
    return args
