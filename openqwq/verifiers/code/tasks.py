"""Coding tasks as data sets write them, read into what the sandbox takes.

Public: `read_task`, `CodeTask`, `TaskError`, `ANY`. Told apart by their keys:
- ours: `tests`, for functions and asserts `entry_point`, on stdin `language` and `tolerance`, and `mode`, which the
  tests' own form tells where it is left out;
- HumanEval: `prompt`, `test`, `entry_point`; MBPP: `test_list` and `test_imports`;
- LiveCodeBench: `public_test_cases`, `private_test_cases` (packed or not) and `metadata` with `func_name`;
- APPS, TACO: `inputs` and `outputs` with `fn_name`, or `tests` of `input` and `output` with `func_name`, each also as
  JSON text.
Nothing is ever unpickled: of LiveCodeBench's packed tests, a pickled text, the text is read (`packed.py`).
"""

from __future__ import annotations

import ast
import builtins
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from openqwq.sandbox.spec import LANGUAGES

from .packed_tests import PackedError, unpack_text
from .python_source import add_prelude

ANY = "any"
"""In place of a language: the one that the program's fence names."""

LONG_DIGITS = 4000
LIBRARY = """from typing import *
from collections import *
from itertools import *
from functools import *
from heapq import *
from bisect import *
from math import *
import collections, functools, heapq, itertools, math, re, string, sys
"""
"""LiveCodeBench's starter code uses names that it does not import."""


class TaskError(Exception):
    """The problem's tests cannot be read: the task's fault."""


@dataclass(frozen=True, slots=True)
class CodeTask:
    """Tests for the sandbox, and what stands around the candidate's program.

    prelude:  put before the program; the tests may rely on it.
    method:   the entry point may be a method of `class Solution`.
    language: of programs on stdin, or ANY; empty where the task does not say.
    tolerance: of numbers with decimals on stdout; None where the task does not say.
    """

    mode: str
    tests: Sequence[Any]
    entry_point: str = ""
    prelude: str = ""
    method: bool = False
    language: str = ""
    tolerance: float | None = None

    @property
    def has_input(self) -> bool:
        """Whether some test has something to read on stdin."""
        return self.mode == "stdio" and any(isinstance(t, dict) and str(t.get("stdin", "")).strip() for t in self.tests)

    def wrap(self, program: str) -> str:
        """The whole program to run."""
        if self.method and re.search(r"^class Solution\b", program, re.MULTILINE):
            program += f"\n\ndef {self.entry_point}(*args):\n    return Solution().{self.entry_point}(*args)\n"
        return add_prelude(self.prelude, program) if self.prelude else program


def read_task(answer: Any) -> CodeTask:
    """The task of a `problem.answer`. Raises TaskError for none, zero tests, or another shape."""
    if not isinstance(answer, dict):
        raise TaskError("the problem has no tests")
    if "test_list" in answer:
        task = _read_mbpp(answer)
    elif "test" in answer and "prompt" in answer:
        task = _read_humaneval(answer)
    elif "public_test_cases" in answer or "private_test_cases" in answer:
        task = _read_livecodebench(answer)
    elif mode := answer.get("mode") or _mode_of(answer.get("tests")):
        task = _read_ours(answer, str(mode))
    elif "inputs" in answer or "input_output" in answer or "tests" in answer:
        task = _read_apps(answer)
    else:
        raise TaskError("the problem has no tests")
    if not isinstance(task.tests, list):
        raise TaskError("the problem has no tests")
    if not task.tests:
        raise TaskError("the problem has zero tests")
    if task.mode not in ("function", "stdio", "asserts"):
        raise TaskError(f"the problem's mode is {task.mode!r}, not function, stdio or asserts")
    if task.mode != "stdio" and not str(task.entry_point).isidentifier():
        raise TaskError("the problem names no entry point")
    return replace(task, language=_read_language(answer, task.mode), tolerance=_read_tolerance(answer))


def _read_language(answer: dict[str, Any], mode: str) -> str:
    language = answer.get("language", "")
    if language not in ("", *LANGUAGES, ANY):
        raise TaskError(f"the problem's language is {language!r}, not one of {', '.join((*LANGUAGES, ANY))}")
    if mode != "stdio" and language not in ("", "python"):
        raise TaskError(f"tests in mode {mode!r} are for Python only, {language} has stdio")
    return language


def _read_tolerance(answer: dict[str, Any]) -> float | None:
    tolerance = answer.get("tolerance")
    if tolerance is None:
        return None
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance <= 1:
        raise TaskError(f"the problem's tolerance is {tolerance!r}, not a number from 0 to 1")
    return float(tolerance)


def _mode_of(tests: Any) -> str:
    """The mode that the form of some tests is of; "" for none of ours."""
    if not isinstance(tests, list) or not tests:
        return ""
    if all(isinstance(test, str) for test in tests):
        return "asserts"
    forms = {"function": {"args", "expected"}, "stdio": {"stdin", "stdout"}}
    found = (m for m, keys in forms.items() if all(isinstance(test, dict) and keys <= test.keys() for test in tests))
    return next(found, "")


def _read_ours(answer: dict[str, Any], mode: str) -> CodeTask:
    tests = answer.get("tests", [])
    if mode == "function" and isinstance(tests, list):
        tests = [_with_listed_arguments(test) for test in tests]
    return CodeTask(mode, tests, answer.get("entry_point", ""))


def _with_listed_arguments(test: Any) -> Any:
    """The test; a text in place of the list of arguments is the only argument."""
    return {**test, "args": [test["args"]]} if isinstance(test, dict) and isinstance(test.get("args"), str) else test


def _read_humaneval(answer: dict[str, Any]) -> CodeTask:
    """The prompt's imports and helpers stand before the program, and, around the proxy, before the tests."""
    prompt, name = str(answer["prompt"]), str(answer.get("entry_point", ""))
    head, found, _ = prompt.rpartition(f"def {name}(")
    if not found:
        raise TaskError("the prompt does not define the entry point")
    check = f"candidate = {name}\n{prompt}\n    pass\n{name} = candidate\n{answer['test']}\ncheck(candidate)"
    return CodeTask("asserts", [check], name, prelude=head)


def _read_mbpp(answer: dict[str, Any]) -> CodeTask:
    tests, imports = answer["test_list"], list(answer.get("test_imports") or [])
    if not isinstance(tests, list) or not all(isinstance(test, str) for test in tests):
        raise TaskError("`test_list` is not a list of texts")
    name = answer.get("entry_point") or (_called_name(tests[0]) if tests else "")
    imports += _imports_used(str(answer.get("code", "")), "\n".join(tests))
    return CodeTask("asserts", ["\n".join([*imports, test]) for test in tests], name)


def _imports_used(reference: str, tests: str) -> list[str]:
    """The reference's imports whose names its tests use: MBPP's were written to run behind it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in a data set's program is nothing to tell users
            statements = ast.parse(reference).body
    except (SyntaxError, ValueError, RecursionError):
        return []
    return [
        ast.unparse(statement)
        for statement in statements
        if isinstance(statement, ast.Import | ast.ImportFrom)
        and any(re.search(rf"\b{alias.asname or alias.name.partition('.')[0]}\b", tests) for alias in statement.names)
    ]


def _called_name(test: str) -> str:
    """The first function that an assert calls and Python does not know; the first of all where it knows them."""
    try:
        nodes = ast.walk(ast.parse(test))
    except (SyntaxError, ValueError, RecursionError) as error:
        raise TaskError(f"an assert cannot be read: {error}") from error
    called = [node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    return next((name for name in called if not hasattr(builtins, name)), next(iter(called), ""))


def _read_livecodebench(answer: dict[str, Any]) -> CodeTask:
    """A row as it is published: public tests as JSON text, private ones as JSON text or packed."""
    rows = [*_as_list(answer.get("public_test_cases")), *_as_list(_unpacked(answer.get("private_test_cases")))]
    metadata = _as_json(answer.get("metadata") or {})
    if not isinstance(metadata, dict):
        raise TaskError("`metadata` is no object")
    return _read_apps({"tests": rows, "func_name": metadata.get("func_name")})


def _as_list(value: Any) -> list[Any]:
    rows = _as_json(value or [])
    if not isinstance(rows, list):
        raise TaskError("the test cases are no list")
    return rows


def _unpacked(value: Any) -> Any:
    if not isinstance(value, str) or value.lstrip().startswith("["):
        return value
    try:
        return unpack_text(value) if value else value
    except PackedError as error:
        raise TaskError(f"the private test cases cannot be unpacked: {error}") from error


def _read_apps(answer: dict[str, Any]) -> CodeTask:
    content = _as_json(answer.get("input_output", answer))
    if "tests" in content or not isinstance(content.get("inputs"), list | str):
        rows = _as_json(content.get("tests", answer.get("tests")))
        if not isinstance(rows, list) or not all(isinstance(row, dict) and "input" in row for row in rows):
            raise TaskError("a test has no `input`")
        inputs, outputs = [row["input"] for row in rows], [row.get("output") for row in rows]
    else:
        inputs, outputs = _as_json(content["inputs"]), _as_json(content.get("outputs"))
    name = content.get("fn_name") or answer.get("fn_name") or answer.get("func_name") or answer.get("entry_point")
    if not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise TaskError("`inputs` and `outputs` differ in length")
    pairs = list(zip(inputs, outputs, strict=True))
    if name:
        tests = [{"args": _arguments(given), "expected": _value(wanted)} for given, wanted in pairs]
        if all(isinstance(test["expected"], list) and len(test["expected"]) == 1 for test in tests):
            tests = [test | {"alternatives": test["expected"]} for test in tests]  # APPS often wraps each output
        return CodeTask("function", tests, str(name), prelude=LIBRARY, method=True)
    return CodeTask("stdio", [{"stdin": _text(given), "stdout": _text(wanted)} for given, wanted in pairs])


def _as_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise TaskError("its tests are a text, but no JSON") from error


def _integer(digits: str) -> int:
    """The integer; `int` alone refuses more than 4,300 digits."""
    return int(digits) if len(digits) < LONG_DIGITS else int(Decimal(digits))


def _arguments(given: Any) -> list[Any]:
    """LiveCodeBench writes one JSON value a line, APPS a list."""
    if isinstance(given, str):
        return [_as_json(line) for line in given.split("\n") if line.strip()]
    if not isinstance(given, list):
        raise TaskError("the arguments of a call are no list")
    return given


def _value(wanted: Any) -> Any:
    return _as_json(wanted) if isinstance(wanted, str) else wanted


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(map(str, value))
    if not isinstance(value, str):
        raise TaskError("an input or output is no text")
    return value
