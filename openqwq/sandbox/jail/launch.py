"""What is started for a jail: a command, and what it inherits.

Public: Launch, prepare_launch.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .bubblewrap import ENVIRONMENT, FILTER, ZYGOTE, Bind, find_bubblewrap, jail_arguments, modules_inside
from .gvisor import Bundle, find_gvisor, join_and_run, runtime_command
from .options import JailOptions
from .seccomp import build_filter


@dataclass(slots=True)
class Launch:
    """A command and what it inherits.

    stdin:       a descriptor.
    fds:         descriptors that it keeps under their numbers.
    own_fds:     those of them that are for it alone, closed here by `close`.
    environment: the whole of it.
    remove:      what to do after the jail's end.
    """

    command: list[str]
    stdin: int = subprocess.DEVNULL
    fds: list[int] = field(default_factory=list)
    own_fds: list[int] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    remove: Callable[[], None] = lambda: None

    def close(self) -> None:
        for fd in self.own_fds:
            os.close(fd)
        self.own_fds = []


def prepare_launch(
    options: JailOptions, control: int, *, tmp_mib: int, binds: Sequence[Bind], warm: bool, groups: Sequence[int]
) -> Launch:
    """The jail's command. Raises OSError, or CalledProcessError where our files cannot be compiled for its Python.

    control: the jail's end of the socket on which it is given its jobs.
    groups:  `cgroup.procs` files that the jail joins where its jobs cannot.
    """
    words = ["nested" if options.nested else "flat", "many" if warm else "once"]
    zygote = ["-s", "-S", "-B", "-c", ZYGOTE]
    if options.jail == "none":
        environment = {**ENVIRONMENT, "PYTHONPATH": str(Path(__file__).parents[3])}
        command = [sys.executable, *zygote, str(control), *words, ""]
        return Launch(command, fds=[control], environment=environment)
    files = dict(modules_inside(options.interpreter))
    inner = build_filter(inner=True)
    if inner is not None:
        files |= {FILTER: inner}
    command = [options.interpreter.path, *zygote]
    words.append(FILTER if inner is not None else "")
    if options.jail == "gvisor":
        bundle = Bundle(options.interpreter, files, [*command, "0", *words], tmp_mib=tmp_mib, binds=binds)
        started = join_and_run(runtime_command(find_gvisor(), bundle), groups)
        environment = {"PATH": os.environ.get("PATH", os.defpath)}
        return Launch(started, stdin=control, fds=list(groups), environment=environment, remove=bundle.remove)
    return _bubblewrap(options, [*command, str(control), *words], files, control, tmp_mib, binds)


def _bubblewrap(
    options: JailOptions, command: list[str], files: dict[str, bytes], control: int, tmp_mib: int, binds: Sequence[Bind]
) -> Launch:
    fds = {path: memory_file(data) for path, data in files.items()}
    args = jail_arguments(options.interpreter, tmp_mib=tmp_mib, nested=options.nested, files=fds, binds=binds)
    made = list(fds.values())
    outer = build_filter(inner=not options.nested)
    if outer is not None:
        made.append(memory_file(outer))
        args += ["--seccomp", str(made[-1])]
    made.append(memory_file(b"".join(arg.encode() + b"\0" for arg in args)))
    started = [find_bubblewrap(), "--args", str(made[-1]), "--", *command]
    return Launch(started, fds=[control, *made], own_fds=made)


def memory_file(data: bytes | bytearray) -> int:
    """A descriptor of an anonymous file that holds the data, read from its start."""
    fd = os.memfd_create("data")
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
