"""Sizes and docstrings: a function under 100 lines, a file under 400, a first line for everything public."""

import ast
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path for folder in ("openqwq", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
PACKAGE_FILES = [file for file in FILES if file.is_relative_to(ROOT / "openqwq")]
MAX_FUNCTION_LINES = 100
MAX_FILE_LINES = 400
LINES_OF_NINE_IN_TEN = 40

Function = ast.FunctionDef | ast.AsyncFunctionDef


def short(file: Path) -> str:
    return str(file.relative_to(ROOT))


def functions_of(file: Path) -> list[Function]:
    return [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, Function)]


def num_lines(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize("file", FILES, ids=short)
def test_file_and_its_functions_are_short(file):
    lines = file.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_FILE_LINES
    assert not {f.name: num_lines(f) for f in functions_of(file) if num_lines(f) > MAX_FUNCTION_LINES}


def test_most_functions_fit_on_a_screen():
    lengths = [num_lines(function) for file in PACKAGE_FILES for function in functions_of(file)]
    assert statistics.quantiles(lengths, n=10)[-1] <= LINES_OF_NINE_IN_TEN


@pytest.mark.parametrize("file", PACKAGE_FILES, ids=short)
def test_public_things_have_docstrings(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    docstring = ast.get_docstring(tree)
    assert docstring
    named = re.search(r"^Public: (.+?)(?:\.\s|\.?\Z|\n\n)", docstring, re.MULTILINE | re.DOTALL)
    public = set(re.findall(r"\w+", named[1])) if named else None
    undocumented = [
        node.name
        for node in tree.body
        if isinstance(node, Function | ast.ClassDef) and not ast.get_docstring(node)
        if (node.name in public if public else is_public(node.name, file))
    ]
    assert not undocumented


def is_public(name: str, file: Path) -> bool:
    """Where a module does not say what is public: all but `_names`; of a verb, its docstring alone."""
    is_verb = file.parent.name == "cli" and file.name not in ("main.py", "_options.py")
    return not name.startswith("_") and not is_verb
