r"""Whether two formulas are equal, by high-precision arithmetic; runs in the worker process of `math`.

Public: `exactly_same`, `evaluates`. Values are computed with 60 digits, and with 240 where 60 cannot tell them apart;
formulas with variables are compared at several points, equations by whether their two sides differ by one factor.
Trees go in, never text.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import reduce
from typing import Any

from mpmath import mp, mpc, mpf

from .exact import symbols_of
from .expression import Tree

DIGITS = (60, 240)
MARGIN = 15
"""Digits that may be lost on the way."""
NUM_POINTS = 6


def exactly_same(first: Tree, second: Tree) -> bool | None:
    """Whether two formulas, or two ("eq", left, right), are equal; None where they have no values."""
    if first == second:
        return True
    equations = [tree[0] == "eq" for tree in (first, second)]
    if equations[0] != equations[1]:
        return False
    names = sorted(symbols_of(first) | symbols_of(second))
    for digits in DIGITS:
        with mp.workdps(digits):
            compare = _proportional if equations[0] else _equal
            found = compare(first, second, [_point(names, i) for i in range(NUM_POINTS if names else 1)], digits)
        if not found:
            return found
    return True


def evaluates(tree: Tree) -> bool:
    """Whether a formula has a finite value somewhere."""
    names = sorted(symbols_of(tree))
    with mp.workdps(DIGITS[0]):
        parts = tree[1:] if tree[0] == "eq" else (tree,)
        return all(any(_try(part, _point(names, i)) is not None for i in range(NUM_POINTS)) for part in parts)


def _point(names: list[str], index: int) -> dict[str, Any]:
    """Values for the variables, different at each index; at the last two some are negative."""
    sign = -1 if index >= NUM_POINTS - 2 else 1
    return {
        name: mpf(sign if (i + index) % 2 else 1) * (mpf(1000 + 137 * index + 59 * i) / (701 + 11 * i - 3 * index))
        for i, name in enumerate(names)
    }


def _equal(first: Tree, second: Tree, points: list[dict[str, Any]], digits: int) -> bool | None:
    compared = 0
    for point in points:
        a, b = _try(first, point), _try(second, point)
        if a is None and b is None:
            continue
        if a is None or b is None or abs(a - b) > max(abs(a), abs(b)) * mpf(10) ** (MARGIN - digits):
            return False
        compared += 1
    return True if compared else None


def _proportional(first: Tree, second: Tree, points: list[dict[str, Any]], digits: int) -> bool | None:
    ratios = []
    for point in points:
        sides = [_try(side, point) for side in (*first[1:], *second[1:])]
        if None in sides:
            continue
        a, b = sides[0] - sides[1], sides[2] - sides[3]
        if a == 0 or b == 0:
            return False
        ratios.append(a / b)
    if not ratios:
        return None
    return all(abs(ratio - ratios[0]) <= abs(ratios[0]) * mpf(10) ** (MARGIN - digits) for ratio in ratios)


def _try(tree: Tree, point: Mapping[str, Any]) -> Any:
    try:
        value = _evaluate(tree, point)
    except (ArithmeticError, ValueError, TypeError):
        return None
    return value if mp.isfinite(value) else None


def _evaluate(tree: Tree, point: Mapping[str, Any]) -> Any:
    kind = tree[0]
    if kind == "num":
        return mpf(tree[1].numerator) / tree[1].denominator
    if kind == "sym":
        return point[tree[1]]
    if kind == "const":
        return {"pi": mp.pi(), "e": mp.e(), "i": mpc(0, 1), "inf": mp.inf}[tree[1]]
    if kind == "fn":
        return _FUNCTIONS[tree[1]](*(_evaluate(part, point) for part in tree[2:]))
    parts = [_evaluate(part, point) for part in tree[1:]]
    return _OPERATIONS[kind](parts)


_OPERATIONS: dict[str, Any] = {
    "neg": lambda parts: -parts[0],
    "deg": lambda parts: parts[0] * mp.pi() / 180,
    "add": lambda parts: reduce(operator.add, parts),
    "mul": lambda parts: reduce(operator.mul, parts),
    "div": lambda parts: parts[0] / parts[1],
    "frac": lambda parts: parts[0] / parts[1],
    "pow": lambda parts: parts[0] ** parts[1],
}
_FUNCTIONS: dict[str, Any] = {
    "sin": mp.sin, "cos": mp.cos, "tan": mp.tan, "cot": mp.cot, "sec": mp.sec, "csc": mp.csc, "arcsin": mp.asin,
    "arccos": mp.acos, "arctan": mp.atan, "arccot": mp.acot, "sinh": mp.sinh, "cosh": mp.cosh, "tanh": mp.tanh,
    "ln": mp.log, "exp": mp.exp, "abs": abs, "floor": mp.floor, "ceil": mp.ceil, "factorial": mp.factorial,
    "binom": mp.binomial, "log": lambda x, base=10: mp.log(x) / mp.log(base), "root": lambda x, n: _root(x, n),
}  # fmt: skip


def _root(value: Any, index: Any) -> Any:
    """The real root of a real number where there is one, else the principal one."""
    if mp.im(value) == 0 and mp.re(value) < 0 and index == int(index) and int(index) % 2:
        return -((-mp.re(value)) ** (1 / index))
    return value ** (1 / index)
