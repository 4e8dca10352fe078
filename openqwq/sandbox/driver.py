"""The candidate's side of the wall: load its code, call it or run it, hand plain results out.

Runs inside the jail in the candidate's own process, so nothing here is trusted or secret: the expected
values are outside, and a forged result is worth no more than a computed one.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import linecache
import os
import sys
import traceback
import types
from typing import Any, BinaryIO

from openqwq.sandbox.codec import CodecError, decode, encode

FILE_NAME = "program.py"
STREAMS = (
    (0, "stdin", "r", "surrogateescape"),
    (1, "stdout", "w", "surrogateescape"),
    (2, "stderr", "w", "backslashreplace"),
)
MAX_REASON = 300  # characters of an exception's text that travel out


def run_program(job: dict[str, Any]) -> None:
    """Run the code as a script on file descriptors 0, 1 and 2; ends by returning or SystemExit."""
    for fd, name, mode, errors in STREAMS:
        stream = _open_stream(fd, mode, errors)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
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
    function = _load(job, channel)
    for arguments in job["calls"]:
        _send(channel, _answer(function, arguments, ["d", []]))
    os._exit(0)


def serve_calls(job: dict[str, Any], channel: int, source: int, sink: int) -> None:
    """Load the code, answer the calls of the other process until it is gone; never returns."""
    function = _load(job, channel)
    with open(source, "rb") as calls:
        for line in calls:
            _send(sink, _answer(function, *json.loads(line)))
    os._exit(0)


def run_asserts(job: dict[str, Any], channel: int, source: int, sink: int) -> None:
    """Run each test text with a proxy for the entry point, write one JSON line for each; never returns.

    This is the tests' own process: the candidate's is another one, which only answers calls.
    """
    with open(source, "rb") as answers:
        function = Proxy(answers, sink)
        namespace = {"__name__": "tests", job["entry_point"]: function}
        _send(channel, ["loaded"])
        for text in job["tests"]:
            _send(channel, _run_assert(text, namespace, function))
    os._exit(0)


class Unreadable(BaseException):
    """A test that cannot be run: its arguments are not plain data. No `except Exception` of a test catches it."""


class Gone(BaseException):
    """The candidate's process has ended. No `except Exception` of a test catches it."""


class Proxy:
    """Calls the candidate's function in its own process; plain data in, plain data or an exception out.

    raised: the exception that the function itself raised last.
    fault:  what no test may pass over, even if it catches everything.
    """

    def __init__(self, answers: BinaryIO, sink: int):
        self._answers = answers
        self._sink = sink
        self.raised: Exception | None = None
        self.fault: list[Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            call = [encode(list(args)), encode(kwargs)]
        except CodecError as error:
            self.fault = ["unreadable", str(error)]
            raise Unreadable from None
        try:
            _send(self._sink, call)
            line = self._answers.readline()
        except OSError:
            line = b""
        if not line:
            self.fault = ["gone"]
            raise Gone
        answer = json.loads(line)
        if answer[0] == "value":
            return decode(answer[1])
        self.raised = _make_exception(str(answer[1]), str(answer[2]))
        raise self.raised


def _make_exception(name: str, text: str) -> Exception:
    if name == CodecError.__name__:
        return CodecError(text)
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with contextlib.suppress(TypeError):  # UnicodeDecodeError and its like take other arguments
            return kind(text)
    return RuntimeError(f"{name}: {text}")


def _run_assert(text: str, namespace: dict[str, Any], function: Proxy) -> list[Any]:
    function.raised = None
    result: list[Any] = ["passed"]
    try:
        program = compile(text, "test.py", "exec")
    except (SyntaxError, ValueError) as error:
        return ["unreadable", str(error)]
    try:
        exec(program, namespace)
    except BaseException as error:
        outcome = "error" if error is function.raised else "failed"
        result = [outcome, type(error).__name__, _describe(error)]
    return function.fault or result


def _load(job: dict[str, Any], channel: int) -> Any:
    """The candidate's entry point, reported as loaded; when it cannot be had, that is reported and the process ends."""
    try:
        function = _execute(job["code"], "candidate")[job["entry_point"]]
    except BaseException as error:
        _send(channel, ["error", type(error).__name__, _describe(error)])
        os._exit(1)
    _send(channel, ["loaded"])
    return function


def _answer(function: Any, args: Any, kwargs: Any) -> list[Any]:
    try:
        return ["value", encode(function(*decode(args), **decode(kwargs)))]
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
