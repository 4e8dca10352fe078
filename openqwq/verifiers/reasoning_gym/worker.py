"""What runs inside the worker process of `reasoning_gym`: the library's own scorer on one answer, ours for algebra.

The library's scorers of algebra evaluate the answer as Python; the rules here say the same of what `read_expression`
reads.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import reasoning_gym
import sympy

from ..expressions import read_expression

warnings.simplefilter("ignore")


def judge(job: list[Any], mark: Callable[[str], None]) -> str:
    """ "equal", "different" or "unreadable gold"; the gold answer, where there is one, must pass first."""
    dataset, entry, answer = job
    scorer = _RULES.get(dataset) or _scorer(dataset)
    gold = entry.get("answer")
    if gold is not None and scorer(gold, entry) != 1.0:
        return "unreadable gold"
    mark("candidate")
    return "equal" if scorer(answer, entry) == 1.0 else "different"


@cache
def _scorer(dataset: str) -> Callable[[str, Any], float]:
    return reasoning_gym.create_dataset(dataset, size=1, seed=0).score_answer


def _same_polynomial(answer: str, entry: Any) -> float:
    """The gold polynomial, multiplied out."""
    return float(_read(answer) == _read(entry["answer"]))


def _is_antiderivative(answer: str, entry: Any) -> float:
    """An expression whose derivative is the integrand."""
    variable = sympy.Symbol(entry["metadata"]["variable"])
    integrand = _read(entry["metadata"]["integrand"])
    return float(sympy.simplify(sympy.diff(_read(answer), variable) - integrand) == 0)


_RULES: dict[str, Callable[[str, Any], float]] = {
    "polynomial_multiplication": _same_polynomial,
    "simple_integration": _is_antiderivative,
}


def _read(text: str) -> sympy.Expr:
    """Raises ValueError for a text that is no expression."""
    try:
        value = read_expression(text, unknown_functions=False)
    except (SyntaxError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if not isinstance(value, sympy.Expr):
        raise ValueError("not an expression")
    return value
