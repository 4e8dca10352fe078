"""The candidate's side of the wall: load its code, call it or run it, hand plain results out.

Runs inside the jail in the candidate's own process, so nothing here is trusted or secret: the expected
values are outside, and a forged result is worth no more than a computed one.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import linecache
import os
import sys
import traceback
import types

from .codec import CodecError, CodecSizeError, CodecTypeError, decode, encode

TYPE_CHECKING = False  # importing `typing` for it would be a tenth of a jail's start
if TYPE_CHECKING:
    from typing import Any, BinaryIO

FILE_NAME = "program.py"
STREAMS = (
    (0, "stdin", "r", "surrogateescape"),
    (1, "stdout", "w", "surrogateescape"),
    (2, "stderr", "w", "backslashreplace"),
)
STREAM_FILES = {
    path: fd for fd, name, *_ in STREAMS for path in (f"/dev/{name}", f"/dev/fd/{fd}", f"/proc/self/fd/{fd}")
}
"""Names of the standard streams, which programs in Python open without a /proc."""
MAX_REASON = 300  # characters of an exception's text that travel out


def run_program(job: dict[str, Any]) -> None:
    """Run the code as a script on file descriptors 0, 1 and 2; ends by returning or SystemExit."""
    for fd, name, mode, errors in STREAMS:
        stream = _open_stream(fd, mode, errors)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.argv = [FILE_NAME]
    _open_streams_by_name()
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


def prepare_interpreter() -> None:
    """Have what an ordinary interpreter has, though ours starts without `site`, and no limit on an integer's digits."""
    for name in ("exit", "quit"):
        setattr(builtins, name, _make_exit(name))
    if hasattr(sys, "set_int_max_str_digits"):  # Python 3.10 has it from 3.10.7 on
        sys.set_int_max_str_digits(0)


def _make_exit(name: str) -> Any:
    def leave(code: Any = None) -> None:
        raise SystemExit(code)

    leave.__name__ = leave.__qualname__ = name
    return leave


def _open_streams_by_name() -> None:
    """Let `open` and `os.open` find the standard streams under their usual names."""
    open_file, open_fd = io.open, os.open

    def stream_of(file: Any) -> int | None:
        path = os.fspath(file) if isinstance(file, os.PathLike) else file
        return STREAM_FILES.get(path) if isinstance(path, str) else None

    def open_any(file: Any, *args: Any, **kwargs: Any) -> Any:
        fd = stream_of(file)
        return open_file(file if fd is None else os.dup(fd), *args, **kwargs)

    def open_any_fd(path: Any, *args: Any, **kwargs: Any) -> int:
        fd = stream_of(path)
        return open_fd(path, *args, **kwargs) if fd is None else os.dup(fd)

    builtins.open = io.open = open_any  # type: ignore[assignment]
    os.open = open_any_fd


def run_command(job: dict[str, Any]) -> None:
    """Become the job's command, on file descriptors 0, 1 and 2; what cannot be executed ends with 127 as in a shell."""
    argv = job["argv"]
    environment = {name: text.replace("{folder}", os.getcwd()) for name, text in job["environment"].items()}
    try:
        os.execve(argv[0], argv, environment)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
        os._exit(127)


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
            number, args, kwargs = json.loads(line)
            _send(sink, [number, *_answer(function, args, kwargs, opaque=True)])
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
        os.set_blocking(source, False)
        _send(channel, function.fault or (FORGED if answers.read(1) else ["ended"]))
    os._exit(0)


FORGED = ["forged"]


class Fault(BaseException):
    """A call that cannot be made or has no honest answer. No `except Exception` of a test catches it."""


class Opaque:
    """A result that is no plain data, for tests that only ask whether it is true, as of a `re.Match`.

    Its truth is the candidate's word, which it could have returned as well. A test that does anything else with it
    fails, whatever it catches.
    """

    def __init__(self, truth: bool, kind: str, proxy: Proxy):
        self._opaque = truth, kind, proxy

    def __bool__(self) -> bool:
        return self._opaque[0]

    def __getattr__(self, name: str) -> Any:
        raise self.misuse()

    def misuse(self) -> Fault:
        """What a test meets that asks for more, and what it fails by."""
        _, kind, proxy = self._opaque
        return proxy.spoil(["failed", CodecError.__name__, f"a value of type {kind} is not plain data"])


def _misused(self: Opaque, *_: Any) -> Any:
    raise self.misuse()


# fmt: off
for _name in (
    "eq", "ne", "lt", "le", "gt", "ge", "hash", "len", "iter", "next", "getitem", "contains", "call", "int", "float",
    "complex", "index", "round", "abs", "neg", "pos", "invert", "add", "radd", "sub", "rsub", "mul", "rmul", "truediv",
    "rtruediv", "floordiv", "rfloordiv", "mod", "rmod", "divmod", "rdivmod", "pow", "rpow", "matmul", "rmatmul", "and",
    "rand", "or", "ror", "xor", "rxor", "lshift", "rlshift", "rshift", "rrshift", "enter", "exit", "reversed", "await",
    "aiter", "anext", "setitem", "delitem", "bytes", "format", "str", "reduce_ex", "instancecheck",
):
    setattr(Opaque, f"__{_name}__", _misused)
# fmt: on


class Proxy:
    """Calls the candidate's function in its own process; plain data in, plain data or an exception out.

    Calls have unguessable numbers, and an answer must repeat its call's: nothing can be answered in advance.
    raised: the exception that the function itself raised last.
    spoilt: what the running test may not pass over, even if it catches everything.
    fault:  what no test from then on may.
    """

    def __init__(self, answers: BinaryIO, sink: int):
        self._answers = answers
        self._sink = sink
        self.raised: Exception | None = None
        self.spoilt: list[Any] | None = None
        self.fault: list[Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        number = int.from_bytes(os.urandom(6), "big")
        try:
            call = [number, encode(list(args)), encode(kwargs)]
        except CodecTypeError as error:
            if error.kind is not Opaque:
                raise self._fail(["unreadable", str(error)]) from None
            raise self.spoil(["failed", CodecError.__name__, "a result that is not plain data was passed on"]) from None
        except CodecError as error:  # what the function returned before may be what is large
            raise self.spoil(["failed", CodecError.__name__, str(error)]) from None
        try:
            _send(self._sink, call)
            line = self._answers.readline()
        except OSError:
            line = b""
        if not line:
            raise self._fail(["gone"])
        match _parse(line):
            case [int(found), "value", value] if found == number:
                try:
                    return decode(value)
                except CodecError:
                    raise self._fail(FORGED) from None
            case [int(found), "opaque", bool(truth), str(kind)] if found == number:
                return Opaque(truth, kind, self)
            case [int(found), "error", str(name), str(text)] if found == number:
                if _steers(name):
                    raise self.spoil(["error", name, text])
                self.raised = _make_exception(name, text)
                raise self.raised
        raise self._fail(FORGED)

    def spoil(self, why: list[Any]) -> Fault:
        """What to raise, so that the running test fails for this reason."""
        self.spoilt = self.spoilt or why
        return Fault()

    def _fail(self, fault: list[Any]) -> Fault:
        self.fault = self.fault or fault
        return Fault()


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _steers(name: str) -> bool:
    """Whether an exception of this name would end a loop, a generator or the tests, rather than tell of an error.

    `map` and `next` take StopIteration for the end of the data, and a test that then checks nothing would pass.
    """
    kind = getattr(builtins, name, None)
    if name == CodecError.__name__ or not (isinstance(kind, type) and issubclass(kind, BaseException)):
        return name == CodecError.__name__
    return not issubclass(kind, Exception) or issubclass(kind, (StopIteration, StopAsyncIteration))


def _make_exception(name: str, text: str) -> Exception:
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with contextlib.suppress(TypeError):  # UnicodeDecodeError and its like take other arguments
            return kind(text)
    return RuntimeError(f"{name}: {text}")


def _run_assert(text: str, namespace: dict[str, Any], function: Proxy) -> list[Any]:
    function.raised = function.spoilt = None
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
    return function.fault or function.spoilt or result


def _load(job: dict[str, Any], channel: int) -> Any:
    """The candidate's entry point, reported as loaded; if it is not available, that is reported and the run ends."""
    try:
        function = _find_function(_execute(job["code"], "candidate"), job["entry_point"])
    except BaseException as error:
        _send(channel, ["error", type(error).__name__, _describe(error)])
        os._exit(1)
    _send(channel, ["loaded"])
    return function


def _find_function(namespace: dict[str, Any], entry_point: str) -> Any:
    """The entry point; of "Solution.solve" the method, on an object that is made without arguments."""
    name, _, method = entry_point.partition(".")
    return getattr(namespace[name](), method) if method else namespace[name]


def _answer(function: Any, args: Any, kwargs: Any, *, opaque: bool = False) -> list[Any]:
    """What a call comes to; `opaque`: of a result that is no plain data at least whether it is true."""
    try:
        result = function(*decode(args), **decode(kwargs))
        try:
            return ["value", encode(result)]
        except CodecError as error:
            if not opaque or isinstance(error, CodecSizeError):
                return ["error", CodecError.__name__, str(error)]
            return ["opaque", bool(result), type(result).__name__]
    except CodecError as error:
        return ["error", CodecError.__name__, str(error)]
    except BaseException as error:
        return ["error", type(error).__name__, _describe(error)]


def _execute(code: str, name: str) -> dict[str, Any]:
    module = types.ModuleType(name)
    module.__dict__["__builtins__"] = builtins  # as a script has it
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
