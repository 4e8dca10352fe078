"""The languages that programs may be written in: Python always, others where this machine has a toolchain.

Public: LANGUAGES, Toolchain, find_toolchains, describe_languages. A toolchain outside of the system's own folders
is bound into the jail under /toolchains, so that no path of the host shows.
"""

from __future__ import annotations

import functools
import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .jail.bubblewrap import Bind
from .spec import LANGUAGES, Limits

COMPILE_LIMITS = Limits(wall_s=60, cpu_s=60, memory_mib=1024, processes=128, output_bytes=1 << 16, tmp_mib=512)
MAX_BINARY_BYTES = 64 << 20
QUERY_S = 20  # a toolchain that does not tell its version or folder by then is not used
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "{folder}",
    "TMPDIR": "{folder}",
    "LANG": "C.UTF-8",
}  # {folder}: the job's
PROGRAMS = {
    "cpp": ("g++", "clang++"),
    "javascript": ("node", "nodejs"),
    "java": ("javac",),
    "rust": ("rustc",),
    "go": ("go",),
}
PACKAGES = {"cpp": "g++", "javascript": "nodejs", "java": "default-jdk-headless", "rust": "rustc", "go": "golang-go"}


Show = Callable[[str, str], tuple[str, tuple[Bind, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """How programs of one language are compiled and run inside.

    source:      the file that a program's text is written to.
    compile:     command that leaves its result in the folder `out`; empty where nothing is compiled.
    run:         command, started beside what `compile` has left, or beside the source.
    environment: on top of the ordinary one.
    binds:       what the jail must show.
    host:        path of the compiler or interpreter outside.
    Words may hold {memory_mib} and {half_mib} (of the program's limit) and {main} (a class), the environment {folder}.
    """

    source: str
    compile: tuple[str, ...] = ()
    run: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    binds: tuple[Bind, ...] = ()
    host: str


class _Unreadable(Exception):
    """The toolchain lies where the sandbox's own user may not read."""


def find_toolchains(*, jailed: bool = True) -> dict[str, Toolchain]:
    """The toolchains of this machine by language; looked for once. Python needs none and is not among them.

    jailed: as a jail shows them; else where they lie.
    """
    return _search(jailed)[0]


def describe_languages() -> dict[str, str]:
    """For each language the version that programs meet, or what to do to have one; for `openqwq doctor`."""
    toolchains, faults = _search(True)
    lines = {"python": "always"}
    for language in LANGUAGES[1:]:
        if language in toolchains:
            option = "version" if language == "go" else "--version"
            lines[language] = _query(toolchains[language].host, option).partition("\n")[0]
        else:
            lines[language] = faults[language]
    return lines


@functools.cache
def _search(jailed: bool) -> tuple[dict[str, Toolchain], dict[str, str]]:
    """The toolchains, and for each language without one the reason."""
    found: dict[str, Toolchain] = {}
    faults: dict[str, str] = {}
    for language in LANGUAGES[1:]:
        for path in _programs(*PROGRAMS[language]):
            try:
                toolchain = FINDERS[language](path, _show if jailed else _leave)
            except _Unreadable as error:
                faults.setdefault(language, str(error))
                continue
            if toolchain is not None:
                found[language] = toolchain
                break
        else:
            faults.setdefault(language, f"not found (package {PACKAGES[language]})")
    return found, faults


def _programs(*names: str) -> Iterator[str]:
    """Every program of these names that the path leads to: the first one may be unusable here."""
    for name in names:
        for folder in os.get_exec_path():
            path = os.path.join(folder, name)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                yield path


def main_class(code: str) -> str:
    """The class of a Java program whose `main` is started: the last one that is opened before it."""
    start = re.search(r"\bvoid\s+main\s*\(", code)
    names = re.findall(r"\b(?:class|record|interface|enum)\s+(\w{1,100})\b", code[: start.start()] if start else code)
    public = re.search(r"\bpublic\s+(?:\w+\s+)*?class\s+(\w{1,100})\b", code)
    return public[1] if public else names[-1] if names else "Main"


def _find_cpp(path: str, show: Show) -> Toolchain | None:
    compiler, binds = show(os.path.realpath(path), "")
    if binds:  # a compiler elsewhere has its parts elsewhere too
        return None
    command = (compiler, "-O2", "-std=gnu++20", "-o", "out/program", "program.cpp")
    return Toolchain(source="program.cpp", compile=command, run=("./program",), host=path)


def _find_javascript(path: str, show: Show) -> Toolchain | None:
    inside, binds = show(os.path.realpath(path), "/toolchains/node")
    run = (inside, "--max-old-space-size={memory_mib}", "program.js")
    return Toolchain(source="program.js", run=run, binds=binds, host=path)


def _find_java(path: str, show: Show) -> Toolchain | None:
    home = Path(os.path.realpath(path)).parents[1]
    inside, binds = show(str(home), "/toolchains/java")
    settings = (home / "lib" / "jvm.cfg").resolve().parent  # Debian keeps it in /etc
    if not settings.is_relative_to(home):
        binds += (Bind(str(settings), str(settings)),)
    small = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
    javac = (f"{inside}/bin/javac", *("-J" + option for option in small), "-encoding", "UTF-8", "-nowarn")
    return Toolchain(
        source="{main}.java",
        compile=(*javac, "-d", "out", "{main}.java"),
        run=(f"{inside}/bin/java", *small, "-Xss64m", "-Xmx{half_mib}m", "-cp", ".", "{main}"),
        binds=binds,
        host=path,
    )


def _find_rust(path: str, show: Show) -> Toolchain | None:
    sysroot = _query(path, "--print", "sysroot").strip()
    linker = next(_programs("gcc", "clang"), "")
    if not linker or not sysroot.startswith("/"):
        return None
    inside, binds = show(os.path.realpath(sysroot), "/toolchains/rust")
    linker = os.path.realpath(linker)
    command = (f"{inside}/bin/rustc", "--edition", "2021", "-O", "-C", f"linker={linker}")
    return Toolchain(
        source="program.rs",
        compile=(*command, "-o", "out/program", "program.rs"),
        run=("./program",),
        binds=binds,
        host=path,
    )


def _find_go(path: str, show: Show) -> Toolchain | None:
    root = _query(path, "env", "GOROOT").strip()
    if not root.startswith("/"):
        return None
    inside, binds = show(os.path.realpath(root), "/toolchains/go")
    settings = {"GOROOT": inside, "GOCACHE": "{folder}/cache", "GOPATH": "{folder}/go", "GO111MODULE": "off"}
    return Toolchain(
        source="program.go",
        compile=(f"{inside}/bin/go", "build", "-o", "out/program", "program.go"),
        run=("./program",),
        environment={**settings, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-p=1"},
        binds=binds,
        host=path,
    )


FINDERS: dict[str, Callable[[str, Show], Toolchain | None]] = {
    "cpp": _find_cpp,
    "javascript": _find_javascript,
    "java": _find_java,
    "rust": _find_rust,
    "go": _find_go,
}


def _is_system(path: str) -> bool:
    """Whether every jail shows this path anyway."""
    return Path(path).is_relative_to("/usr") and not Path(path).is_relative_to("/usr/local")


def _show(path: str, inside: str) -> tuple[str, tuple[Bind, ...]]:
    """Where the jail shows a folder or file, and what must be bound for that. Raises _Unreadable."""
    if _is_system(path):
        return path, ()
    if os.getuid() == 0:  # root's jails are started by user nobody
        for part in (Path(path), *Path(path).parents):
            if not part.stat().st_mode & stat.S_IXOTH:
                raise _Unreadable(f"{path} cannot be read by other users than root, as the sandbox's own is")
    return inside, (Bind(path, inside),)


def _leave(path: str, inside: str) -> tuple[str, tuple[Bind, ...]]:
    return path, ()


def _query(*command: str) -> str:
    """What a toolchain answers; empty when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=QUERY_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
