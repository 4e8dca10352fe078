"""The candidate's side of the wall: load its code, call it or run it, hand plain results out.

Runs inside the jail in the candidate's own process, so nothing here is trusted or secret: the expected
values are outside, and a forged result is worth no more than a computed one.
"""

from __future__ import annotations

import json
import linecache
import os
import sys
import traceback
import types
from typing import Any

from openqwq.sandbox.codec import decode, encode

FILE_NAME = "program.py"
MAX_REASON = 300  # characters of an exception's text that travel out


def run_program(job: dict[str, Any]) -> None:
    """Run the code as a script on file descriptors 0, 1 and 2; ends by returning or SystemExit."""
    sys.stdin = sys.__stdin__ = _open_stream(0, "r", "surrogateescape")
    sys.stdout = sys.__stdout__ = _open_stream(1, "w", "surrogateescape")
    sys.stderr = sys.__stderr__ = _open_stream(2, "w", "backslashreplace")
    sys.argv = [FILE_NAME]
    try:
        _execute(job["code"], "__main__")
    except SystemExit:
        raise
    except BaseException as error:
        trace = error.__traceback__
        while trace and trace.tb_frame.f_code.co_filename != FILE_NAME:
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace)
        sys.exit(1)


def _open_stream(fd: int, mode: str, errors: str) -> Any:
    return open(fd, mode, buffering=1 if fd == 2 else -1, encoding="utf-8", errors=errors, closefd=False)


def answer_calls(job: dict[str, Any], channel: int) -> None:
    """Load the code, call its entry point with each of the arguments, write one JSON line for each; never returns."""
    try:
        namespace = _execute(job["code"], "candidate")
        function = namespace[job["entry_point"]]
    except BaseException as error:
        _send(channel, ["error", type(error).__name__, _describe(error)])
        os._exit(1)
    _send(channel, ["loaded"])
    for arguments in job["calls"]:
        _send(channel, _answer(function, arguments))
    os._exit(0)


def _answer(function: Any, arguments: Any) -> list[Any]:
    try:
        return ["value", encode(function(*decode(arguments)))]
    except BaseException as error:
        return ["error", type(error).__name__, _describe(error)]


def _execute(code: str, name: str) -> dict[str, Any]:
    module = types.ModuleType(name)
    sys.modules[name] = module
    linecache.cache[FILE_NAME] = (len(code), None, code.splitlines(keepends=True), FILE_NAME)
    exec(compile(code, FILE_NAME, "exec"), module.__dict__)
    return module.__dict__


def _describe(error: BaseException) -> str:
    try:
        return str(error)[:MAX_REASON]
    except BaseException:
        return ""


def _send(channel: int, frame: list[Any]) -> None:
    data = memoryview(json.dumps(frame).encode() + b"\n")
    while data:
        data = data[os.write(channel, data) :]
