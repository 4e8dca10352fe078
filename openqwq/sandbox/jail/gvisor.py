"""A jail of gVisor's: `runsc` is a kernel of its own, in user space, between a program and this machine's kernel.

Public: Bundle, find_gvisor, runtime_command, join_and_run, remove_stale_bundles. What shows inside is what
`bubblewrap.py` shows: the system read-only, a private /tmp, no network, an empty environment, no capability. It is
written as an OCI bundle (a root folder and config.json), one for each jail, removed with it.

Three differences. Jobs have no namespaces of their own, so each gets a jail to itself. A job's memory and processes
count together with the runtime's own, which is why the group's bounds are wider here; RLIMIT_AS holds each process
to the job's limit. And the jail joins its control group as a whole, before it starts.

Source of the form: opencontainers/runtime-spec 1.0.2, config.md and config-linux.md.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from openqwq.errors import UserError

from .bubblewrap import ENVIRONMENT, NOBODY, Bind, Interpreter, hidden_folders, system_folders

RUNTIME_MIB = 256  # what the runtime's processes may take on top of a job's memory
RUNTIME_PROCESSES = 192  # and their threads on top of its processes
PREFIX = "openqwq-gvisor-"
CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
NAMESPACES = ("pid", "ipc", "uts", "mount", "network")
JOIN = 'for group in $1; do echo 0 > "/proc/self/fd/$group" || exit 1; done; shift; exec "$@"'
_numbers = itertools.count()


def find_gvisor() -> str:
    """The path of `runsc`. Raises UserError with the package to install."""
    path = shutil.which("runsc")
    if path is None:
        raise UserError(
            "the jail `gvisor` needs gVisor, and `runsc` is not on the path",
            hint="`apt-get install runsc` (Debian), or gVisor's own release; or take the jail `bubblewrap`",
        )
    return path


class Bundle:
    """A root folder and its config.json, on disk until `remove`."""

    def __init__(
        self,
        interpreter: Interpreter,
        files: Mapping[str, bytes],
        command: Sequence[str],
        *,
        tmp_mib: int,
        binds: Sequence[Bind],
    ):
        self.name = f"{PREFIX}{os.getpid()}-{next(_numbers)}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        mounts = list(_mounts(interpreter, tmp_mib, binds))
        root = self.folder / "root"
        for mount in mounts:
            (root / mount["destination"].lstrip("/")).mkdir(parents=True, exist_ok=True)
        for folder in system_folders():
            if folder.is_symlink():
                (root / folder.name).symlink_to(os.readlink(folder))
        for path, data in files.items():
            file = root / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        (self.folder / "config.json").write_text(json.dumps(_config(command, mounts)), encoding="utf-8")

    def remove(self) -> None:
        """Remove it all, once the runtime is gone."""
        _remove(self.folder)


def _remove(folder: Path) -> None:
    """Remove a bundle, unless a folder of the system still shows in it."""
    if f"/{folder.name}/" not in Path("/proc/self/mountinfo").read_text(encoding="utf-8"):
        shutil.rmtree(folder, ignore_errors=True)


def remove_stale_bundles() -> None:
    """Remove the bundles that killed processes of ours left behind."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        pid = folder.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            _remove(folder)


def runtime_command(runtime: str, bundle: Bundle) -> list[str]:
    """The command that runs the bundle to its end. The platform is the runtime's own choice."""
    options = ["--root", str(bundle.folder / "state"), "--network=none", "--ignore-cgroups"]
    if os.getuid() != 0:
        options.append("--rootless")
    return [runtime, *options, "run", "--bundle", str(bundle.folder), bundle.name]


def join_and_run(command: Sequence[str], groups: Sequence[int]) -> list[str]:
    """The command, started inside of the control groups whose `cgroup.procs` these descriptors are."""
    return ["/bin/sh", "-c", JOIN, "sh", " ".join(map(str, groups)), *command]


def _mounts(interpreter: Interpreter, tmp_mib: int, binds: Sequence[Bind]) -> Iterator[dict[str, Any]]:
    """Toolchains need a /proc, as they do in bubblewrap; the runtime's shows this jail's processes only."""
    for folder in system_folders():
        if not folder.is_symlink():
            yield _bind(str(folder), str(folder))
    for hidden in hidden_folders(interpreter):
        yield _tmpfs(hidden, "ro", "size=4k")
    if interpreter.prefix and not Path(interpreter.prefix).is_relative_to("/usr"):
        yield _bind(interpreter.prefix, interpreter.prefix)
    for bind in binds:
        yield _bind(bind.outside, bind.inside)
    yield {"destination": "/proc", "type": "proc", "source": "proc"} if binds else _tmpfs("/proc", "ro", "size=4k")
    yield _tmpfs("/sys", "ro", "size=4k")
    yield _tmpfs("/tmp", "mode=1777", f"size={tmp_mib}m")
    yield _tmpfs("/dev/shm", "ro", "size=4k")


def _bind(outside: str, inside: str) -> dict[str, Any]:
    return {"destination": inside, "type": "bind", "source": outside, "options": ["rbind", "ro"]}


def _tmpfs(inside: str, *options: str) -> dict[str, Any]:
    return {"destination": inside, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", *options]}


def _config(command: Sequence[str], mounts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "ociVersion": "1.0.2",
        "hostname": "sandbox",
        "root": {"path": "root", "readonly": True},
        "process": {
            "terminal": False,
            "user": {"uid": NOBODY, "gid": NOBODY},
            "args": list(command),
            "env": [f"{name}={value}" for name, value in ENVIRONMENT.items()],
            "cwd": "/tmp",
            "noNewPrivileges": True,
            "capabilities": {name: [] for name in CAPABILITY_SETS},
        },
        "mounts": list(mounts),
        "linux": {"namespaces": [{"type": name} for name in NAMESPACES]},
    }
