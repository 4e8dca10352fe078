r"""What runs inside the worker process of `math` with `protocol="qwq"`: the official comparison of two answers.

Two readers in the official order: Python-like expressions, then LaTeX. The official first reader, sympy's
`parse_latex`, never runs there: it needs a version of antlr that the official requirements exclude. The official
`parse_expr` is `eval` on the model's text, and so are its comparisons of a text that no reader took; here a reader of
arithmetic over names takes the place of the first, and such a text equals its own spelling only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import sympy
from latex2sympy2_extended import latex2sympy

from ..expressions import read_expression
from .qwq import is_close, same_number
from .qwq import simple_choice as clean_choice

_UNKNOWN = re.compile(r"\\textbf|\\cup|\\cap|\{,\}|−")
"""What the official reader refuses and the library that we read LaTeX with takes."""
_BRACKETED = re.compile(r"(\(|\[).+(\)|\])")
_MATRIX_BRACES = re.compile(r"\{.*,.*}")
_MATRICES = ("\\begin{pmatrix}", "\\begin{bmatrix}"), ("\\end{pmatrix}", "\\end{bmatrix}")


def judge(job: list[str], mark: Callable[[str], None]) -> str:
    """ "equal" or "different": gold first, then the candidate's answer, both normalised."""
    gold, answer, _ = job
    _read(gold)
    mark("candidate")
    return "equal" if equal(answer, gold) else "different"


def equal(answer: str, gold: str) -> bool:
    """The official `math_equal(prediction, reference)`."""
    if answer.strip().lower() == gold.strip().lower():
        return True
    if gold in ("A", "B", "C", "D", "E") and clean_choice(answer) == gold:
        return True
    decided = same_number(answer, gold)
    if decided is not None:
        return decided
    if not answer:
        return False
    gold, answer = gold.strip(), answer.strip()
    if "pmatrix" in answer and "pmatrix" not in gold:
        gold = _as_matrices(gold)
    return (
        _same_without_brackets(answer, gold)
        or _same_items(answer, gold)
        or _same_matrix(answer, gold)
        or _same_equation(answer, gold)
        or same_symbolically(answer, gold)
    )


def _as_matrices(text: str) -> str:
    found = [match.strip("{}").replace(",", "\\") for match in _MATRIX_BRACES.findall(text.strip())]
    return ", ".join(f"\\begin{{pmatrix}}{inside}\\end{{pmatrix}}" for inside in found)


def _same_without_brackets(answer: str, gold: str) -> bool:
    if (answer.startswith("[") and answer.endswith("]") and not gold.startswith("(")) or (
        answer.startswith("(") and answer.endswith(")") and not gold.startswith("[")
    ):
        answer, gold = answer.strip("[]()"), gold.strip("[]()")
    table = str.maketrans("", "", "{}()")
    return answer.translate(table).lower() == gold.translate(table).lower()


def _same_items(answer: str, gold: str) -> bool:
    if not (_BRACKETED.match(answer) and _BRACKETED.match(gold)):
        return False
    return _all_equal(answer[1:-1].split(","), gold[1:-1].split(","))


def _all_equal(answers: list[str], golds: list[str]) -> bool:
    return len(answers) == len(golds) and all(equal(a, g) for a, g in zip(answers, golds, strict=True))


def _same_matrix(answer: str, gold: str) -> bool:
    heads, tails = _MATRICES
    if not all(text.startswith(heads) and text.endswith(tails) for text in (answer, gold)):
        return False
    rows = [_matrix_rows(text) for text in (answer, gold)]
    if len(rows[0]) != len(rows[1]):
        return False
    return all(_all_equal(a.split("&"), g.split("&")) for a, g in zip(*rows, strict=True))


def _matrix_rows(text: str) -> list[str]:
    inside = text[len("\\begin{pmatrix}") : -len("\\end{pmatrix}")]
    return [row.strip() for row in inside.split("\\\\") if row.strip()]


def _same_equation(answer: str, gold: str) -> bool:
    sides, gold_sides = answer.split("="), gold.split("=")
    if len(sides) == len(gold_sides) == 2:
        difference = f"{sides[0].strip()} - ({sides[1].strip()})"
        gold_difference = f"{gold_sides[0].strip()} - ({gold_sides[1].strip()})"
        return same_symbolically(difference, gold_difference) or same_symbolically(f"-({difference})", gold_difference)
    if len(sides) == 2 and len(sides[0].strip()) <= 2 and len(gold_sides) == 1:
        return equal(sides[1], gold)
    if len(gold_sides) == 2 and len(gold_sides[0].strip()) <= 2 and len(sides) == 1:
        return equal(answer, gold_sides[1])
    return False


def same_symbolically(answer: str, gold: str) -> bool:
    """Whether two readings are equal as expressions, equations, numbers within 1e-4 or rounded matrices."""
    first, second = _read(answer), _read(gold)
    if isinstance(first, str) or isinstance(second, str):
        return str(first) == str(second)  # sympy would evaluate the text
    return any(_holds(test, first, second) for test in (_is_same, _is_equal, _is_equation, _is_number, _is_matrix))


def _holds(test: Callable[[Any, Any], Any], first: Any, second: Any) -> bool:
    """A comparison that fails decides nothing, whatever it raises: values of any two kinds meet here."""
    try:
        return bool(test(first, second))
    except MemoryError:
        raise
    except Exception:
        return False


def _is_same(first: Any, second: Any) -> bool:
    return str(first) == str(second) or first == second


def _is_equal(first: Any, second: Any) -> bool:
    return first.equals(second) or sympy.simplify(first - second) == 0


def _is_equation(first: Any, second: Any) -> bool:
    return abs(first.lhs - first.rhs).equals(abs(second.lhs - second.rhs))


def _is_number(first: Any, second: Any) -> bool:
    return is_close(float(first.evalf()), float(second.evalf()))


def _is_matrix(first: Any, second: Any) -> bool:
    if first.shape != second.shape:
        return False
    rounded = [matrix.applyfunc(lambda value: round(value, 3)) for matrix in (first, second)]
    return rounded[0].equals(rounded[1])


def _read(text: str) -> Any:
    """The sympy value of an answer; the text itself where no reader takes it."""
    for reader in (read_expression, _read_latex):
        for spelling in (text.replace("\\\\", "\\"), text):
            try:
                return reader(spelling)
            except MemoryError:
                raise
            except Exception:
                continue
    return text


def _read_latex(text: str) -> Any:
    """As the official reader does: what follows an unmatched bracket is left out, `4\\frac{2}{3}` is a product.

    A list is a list, in its order; points, intervals and their unions are unknown to it.
    """
    text = text[: _first_unmatched(text)]
    if _UNKNOWN.search(text):
        raise ValueError("the official reader does not take this")
    items = _split_list(text)
    if len(items) > 1:
        return [_read_latex(item) for item in items]
    return latex2sympy(re.sub(r"(?<=\d)\s*\\frac", r" \\cdot \\frac", text))


def _split_list(text: str) -> list[str]:
    """The items of `1,2`, `[1,2]` or `{1;2}`. Raises ValueError for commas in brackets that call no function."""
    text = text.strip()
    if (text[:1] + text[-1:]) in ("[]", "{}") and _first_unmatched(text[1:-1]) is None:
        text = text[1:-1]
    items, open_brackets, start = [], [""], 0
    for position, character in enumerate(text):
        if character in "([{":
            is_call = character == "(" and text[:position].rstrip()[-1:].isalpha()
            open_brackets.append("call" if is_call else character)
        elif character in ")]}" and len(open_brackets) > 1:
            open_brackets.pop()
        elif character not in ",;" or text[position - 1 : position] == "\\":
            continue
        elif open_brackets[-1] in ("(", "["):
            raise ValueError("the official reader knows no points and no intervals")
        elif len(open_brackets) == 1:
            items.append(text[start:position])
            start = position + 1
    return [*items, text[start:]]


def _first_unmatched(text: str) -> int | None:
    """Where a closing bracket has no opening one; None when all have."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if depth < 0:
            return position
    return None
