"""From a program's text to jobs: what runs it, compiled first where its language asks for it.

Public: Execute, Program, CompileError, prepare.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .inside import archive
from .jail.jail import Job, Outcome
from .languages import COMPILE_LIMITS, ENVIRONMENT, MAX_BINARY_BYTES, Toolchain, main_class
from .spec import Limits

Execute = Callable[[Job, Limits], Outcome]
"""Runs a job in some jail; raises JailError."""

MAKE_FOLDER = ("/bin/sh", "-c", 'mkdir out && exec "$@"', "sh")


class CompileError(Exception):
    """The compiler did not end well; `outcome` says how."""

    def __init__(self, outcome: Outcome):
        super().__init__("the program does not compile")
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Program:
    """A program that is ready to run any number of times.

    archives: descriptors of its files, closed by `prepare`.
    """

    payload: Mapping[str, Any]
    archives: tuple[int, ...]
    native: bool

    def job(self, stdin: str) -> Job:
        """One run of the program."""
        return Job(payload={**self.payload, "stdin": stdin}, archives=self.archives, native=self.native)


@contextlib.contextmanager
def prepare(
    code: str,
    toolchain: Toolchain | None,
    files: Mapping[str, bytes],
    limits: Limits,
    execute: Execute,
) -> Iterator[Program]:
    """The program with its files, compiled under limits of our own. Raises CompileError, or JailError.

    toolchain: None for Python.
    limits:    those of the program's runs.
    """
    with contextlib.ExitStack() as stack:
        archives: list[int] = []
        if toolchain is None:
            if files:
                archives.append(_keep(stack, archive.pack(dict(files))))
            yield Program({"kind": "run", "code": code}, tuple(archives), native=False)
            return
        words = {
            "memory_mib": limits.memory_mib,
            "half_mib": max(16, limits.memory_mib // 2),
            "main": main_class(code),
        }
        source = {toolchain.source.format(**words): code.encode("utf-8", "surrogatepass")}
        archives.append(_keep(stack, archive.pack({**files, **source})))
        environment = ENVIRONMENT | toolchain.environment
        if toolchain.compile:
            payload = _command((*MAKE_FOLDER, *toolchain.compile), words, environment) | {"stdin": ""}
            job = Job(payload=payload, archives=tuple(archives), collect=MAX_BINARY_BYTES, native=True)
            outcome = execute(job, COMPILE_LIMITS)
            if outcome.made is not None:
                archives.append(_keep(stack, outcome.made))
            if outcome.end != "exit" or outcome.exit_code != 0:
                raise CompileError(outcome)
        yield Program(_command(toolchain.run, words, environment), tuple(archives), native=True)


def _command(words: tuple[str, ...], values: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    argv = [word if word in MAKE_FOLDER else word.format(**values) for word in words]
    return {"kind": "command", "argv": argv, "environment": dict(environment)}


def _keep(stack: contextlib.ExitStack, fd: int) -> int:
    stack.callback(os.close, fd)
    return fd
