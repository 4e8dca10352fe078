"""What a Python text is, as far as parsing tells: nothing is compiled or run.

Public: `Source`, `read_source`, `add_prelude`.
"""

from __future__ import annotations

import ast
import builtins
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

MAX_PARSED_CHARACTERS = 65_536
"""Longer texts are not parsed."""
BOILERPLATE = ("setrecursionlimit", "set_int_max_str_digits", "filterwarnings", "simplefilter", "seed")
"""Calls that a file of definitions makes as well."""
_STDIN_FILES = ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
_COMPOUND = (ast.For, ast.While, ast.If, ast.With, ast.Try, ast.Match, ast.AsyncFor, ast.AsyncWith)


@dataclass(frozen=True, slots=True)
class Source:
    """A Python text that parses.

    defines: names that it defines at its top level, imports left out; methods of classes as `Class.method`.
    missing: names that it uses, and neither binds anywhere nor Python knows.
    acts:    it does something when it is run, rather than only define what others call.
    reads:   it reads the standard input.
    stubs:   functions among `defines` that have no body.
    """

    defines: frozenset[str]
    missing: frozenset[str]
    acts: bool
    reads: bool
    stubs: frozenset[str]


def read_source(code: str) -> Source | None:
    """What the text is; None where it does not parse, or is too long to be tried."""
    tree = _parse(code)
    if tree is None:
        return None
    statements = list(_top_level(tree.body))
    nodes = list(ast.walk(tree))
    return Source(
        defines=frozenset(name for statement in statements for name in _defined(statement)),
        missing=_missing(nodes),
        acts=any(map(_acts, tree.body)),
        reads=any(map(_reads, nodes)),
        stubs=frozenset(s.name for s in statements if isinstance(s, ast.FunctionDef) and all(map(_is_empty, s.body))),
    )


def add_prelude(prelude: str, code: str) -> str:
    """The code behind a prelude, with its `from __future__` imports, which must come first, before both."""
    tree = _parse(code) if "__future__" in code else None
    imports = [s for s in tree.body if isinstance(s, ast.ImportFrom) and s.module == "__future__"] if tree else []
    names = dict.fromkeys(alias.name for statement in imports for alias in statement.names)
    if not names:
        return f"{prelude}\n{code}"
    lines = code.split("\n")
    for statement in imports:  # blank in place, so that the lines of a traceback stay
        first, last = statement.lineno - 1, (statement.end_lineno or statement.lineno) - 1
        start = len(lines[first].encode()[: statement.col_offset].decode())
        rest = lines[last].encode()[statement.end_col_offset :].decode()
        lines[first : last + 1] = [lines[first][:start] + "pass" + rest] + [""] * (last - first)
    return f"from __future__ import {', '.join(names)}\n{prelude}\n" + "\n".join(lines)


def _parse(code: str) -> ast.Module | None:
    if len(code) > MAX_PARSED_CHARACTERS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in a program is nothing to tell users
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # MemoryError: the parser's stack, not the machine's
        return None


def _top_level(statements: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when the module does, those inside of `if`, `try` and the like among them."""
    for statement in statements:
        yield statement
        for field in ("body", "orelse", "finalbody"):
            if isinstance(statement, _COMPOUND):
                yield from _top_level(getattr(statement, field, []))
        if isinstance(statement, ast.Try):
            for handler in statement.handlers:
                yield from _top_level(handler.body)


def _defined(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    if isinstance(statement, ast.ClassDef):
        for item in _top_level(statement.body):
            yield from (f"{statement.name}.{name}" for name in _defined(item))
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))


def _missing(nodes: list[ast.AST]) -> frozenset[str]:
    bound: set[str] = {"__name__", "__file__", "__doc__"}
    used: set[str] = set()
    for node in nodes:
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                used.add(name)
            case ast.Name(id=name) | ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                bound.add(name)
            case ast.AsyncFunctionDef(name=name):
                bound.add(name)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                bound.add(name)
            case ast.MatchMapping(rest=str(name)):
                bound.add(name)
            case ast.alias(name="*"):
                return frozenset()
            case ast.alias(name=name, asname=other):
                bound.add(other or name.partition(".")[0])
    return frozenset(name for name in used - bound if not hasattr(builtins, name))


def _acts(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call)]
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return bool(calls) and any(map(_reads, ast.walk(statement)))
    names = [node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "") for node in calls]
    return any(name not in BOILERPLATE for name in names)


def _reads(node: ast.AST) -> bool:
    match node:
        case ast.Name(id="input" | "stdin" | "fileinput", ctx=ast.Load()) | ast.Attribute(attr="stdin"):
            return True
        case ast.Constant(value=str(text)):
            return text in _STDIN_FILES
        case ast.Call(
            func=ast.Name(id="open") | ast.Attribute(attr="read" | "fdopen"), args=[ast.Constant(value=0), *_]
        ):
            return True
    return False


def _is_empty(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )
