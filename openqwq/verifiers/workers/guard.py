"""Nothing that a text says is run while a worker judges: Python refuses `eval`, `exec` and their like there.

Public: `EvaluationGuard`. sympy and other libraries evaluate texts in more places than their documentation names:
`sympify`, `N`, `equals`, `parse_expr`, and `lambdify`, whose source is put together from the names of symbols. Our own
code hands none of them a text; this guard is the second lock, which holds for what they do inside.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import cache
from types import CodeType, FrameType, ModuleType
from typing import Any

REFUSED = frozenset(
    ["os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn"]
    + [f"socket.{call}" for call in ("connect", "bind", "sendto", "sendmsg", "getaddrinfo", "gethostbyname")]
)
"""Audit events of a judge that reaches for other programs or other machines."""
_IMPORT = "<frozen importlib._bootstrap>"
_LAMBDIFY = "sympy/utilities/lambdify.py"
_SYMPY_READER = "parse_expr"
_NAMELESS = ("sympy/polys/monomials.py", "sympy/polys/ring_series.py")
"""They make code from the number of variables and from a table of sympy's own."""
_GENERATED = "_lambdifygenerated"
_NOT_NUMERIC = {"cplot", "doctests", "memoize", "monitor", "plot", "runtests", "splot", "timing"}
_INTEGER = re.compile(r"[+-]?[0-9]+")
_QUOTIENT = re.compile(r"[+-]?[0-9]+/[0-9]+")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


class EvaluationRefused(RuntimeError):
    """Something under judgement was about to be run as a program."""


class EvaluationGuard:
    """Within it, code made from text does not run, and no program or connection is started.

    Modules are imported as ever. sympy reads a text as a plain number or not at all, and a numerical function that it
    generates runs where it holds numbers and names of mpmath only. An audit hook cannot be taken off again, so this is
    for processes that judge and do nothing else.
    """

    def __init__(self) -> None:
        self.active = False
        sys.addaudithook(self._watch)

    def __enter__(self) -> None:
        if "sympy.parsing.sympy_parser" in sys.modules:
            parser = vars(sys.modules["sympy.parsing.sympy_parser"])
            if not isinstance(parser[_SYMPY_READER], _NumberReader):
                parser[_SYMPY_READER] = _NumberReader(parser[_SYMPY_READER])
        self.active = True

    def __exit__(self, *_: object) -> None:
        self.active = False

    def _watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event in REFUSED:
            raise EvaluationRefused(f"{event} while judging")
        if event == "exec" and not _is_harmless(arguments[0], sys._getframe(1)):
            raise EvaluationRefused("code made from text, while judging")


class _NumberReader:
    """sympy's own reader for modules that are being imported; else what it makes of plain numbers, at once."""

    def __init__(self, original: Callable[..., Any]):
        self.original = original

    def __call__(self, text: str, *arguments: Any, **options: Any) -> Any:
        from sympy import Float, Integer, Rational

        if _INTEGER.fullmatch(text):
            return Integer(text)
        if _DECIMAL.fullmatch(text):
            return Float(text)
        if _QUOTIENT.fullmatch(text):
            return Rational(text)
        if _is_importing(sys._getframe(1)):
            return self.original(text, *arguments, **options)
        raise SyntaxError("sympy reads plain numbers only while judging")


def _is_harmless(code: CodeType, caller: FrameType) -> bool:
    file = caller.f_code.co_filename.replace("\\", "/")
    if file.endswith(_LAMBDIFY):
        return caller.f_code.co_name == "_import" or _is_arithmetic(code)
    return file.endswith(_NAMELESS) or _is_importing(caller)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT:
            return True
        frame = frame.f_back
    return False


def _is_arithmetic(code: CodeType) -> bool:
    """Whether a generated function names nothing but mpmath's functions and holds no text."""
    if any(name not in _numeric_names() for name in code.co_names):
        return False
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if not _is_arithmetic(constant):
                return False
        elif isinstance(constant, str | bytes) and constant != _GENERATED:
            return False
    return True


@cache
def _numeric_names() -> frozenset[str]:
    """mpmath's numbers and functions, and Python's own of the same kind."""
    import mpmath

    names = {name for name in dir(mpmath) if not name.startswith("_") and name not in _NOT_NUMERIC}
    modules = {name for name in names if isinstance(getattr(mpmath, name), ModuleType)}
    return frozenset(names - modules | {_GENERATED, "abs", "max", "min"})
