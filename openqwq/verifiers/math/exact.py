r"""What a formula's tree is worth: exactly where that is rational, else within bounds.

Public: `rational`, `enclose`, `symbols_of`, `is_defined`, `is_left_to_compute`, `surely_differ`. Microseconds and
bounded memory: this runs in the process that trains. What these cannot decide is left to `numeric.py` in a worker.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from fractions import Fraction

from .expression import Tree

MAX_BITS = 50_000
"""Exact values are worked out up to this size: `2^{2006}` is, a power tower is not."""
EPSILON = 2.0**-50
"""Relative error allowed for one operation on floats, four times what IEEE arithmetic makes."""
TINY = 1e-300
Ball = tuple[float, float]
"""A value and how far off it may be."""


def symbols_of(tree: Tree) -> frozenset[str]:
    """The names of a tree's variables."""
    if tree[0] == "sym":
        return frozenset((tree[1],))
    return frozenset().union(*(symbols_of(part) for part in tree[1:] if isinstance(part, tuple)))


def is_left_to_compute(tree: Tree) -> bool:
    r"""Whether a tree is a sum or product of plain numbers, `30+40`: the reader's work, not an answer.

    `7/2` and `-(5)` are numbers; powers, roots and `\frac` are how exact values are written.
    """
    while tree[0] == "neg":
        tree = tree[1]
    if tree[0] == "num" or (tree[0] == "div" and _literal(tree[1]) and _literal(tree[2])):
        return False
    return _is_arithmetic(tree)


def _literal(tree: Tree) -> bool:
    return tree[0] == "num" or (tree[0] == "neg" and tree[1][0] == "num")


def _is_arithmetic(tree: Tree) -> bool:
    return tree[0] == "num" or (tree[0] in ("add", "mul", "div", "neg") and all(map(_is_arithmetic, tree[1:])))


def rational(tree: Tree, values: Mapping[str, Fraction] | None = None) -> Fraction | None:
    """The exact value of a tree; None where it is not rational, not defined, too large or not found here.

    values: rational values of the variables.
    """
    try:
        value = _value(tree, values or {})
    except (_NotRational, ZeroDivisionError):
        return None
    return value


def is_defined(tree: Tree) -> bool:
    """Whether no exact division by zero stands in a formula without variables."""
    try:
        _value(tree, {})
    except ZeroDivisionError:
        return False
    except _NotRational:
        return True
    return True


class _NotRational(Exception):
    pass


def _value(tree: Tree, values: Mapping[str, Fraction]) -> Fraction:
    kind = tree[0]
    if kind == "num":
        return tree[1]
    if kind == "sym" and tree[1] in values:
        return values[tree[1]]
    if kind in ("sym", "const", "deg"):
        raise _NotRational
    if kind == "fn":
        return _function_value(tree[1], [_value(part, values) for part in tree[2:]])
    parts = [_value(part, values) for part in tree[1:]]
    if kind == "pow":
        return _power(parts[0], parts[1])
    result = parts[0] if kind != "neg" else -parts[0]
    for part in parts[1:]:
        if _bits(result) + _bits(part) > MAX_BITS:
            raise _NotRational
        result = result + part if kind == "add" else result * part if kind == "mul" else result / part
    return result


def _bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        if exponent.denominator > 64:
            raise _NotRational
        base, exponent = _exact_root(base, exponent.denominator), Fraction(exponent.numerator)
    if abs(exponent) * max(_bits(base), 1) > MAX_BITS:
        raise _NotRational
    if base == exponent == 0:
        raise _NotRational
    return Fraction(base ** int(exponent))


def _exact_root(value: Fraction, index: int) -> Fraction:
    if value < 0:
        raise _NotRational
    parts = [_integer_root(value.numerator, index), _integer_root(value.denominator, index)]
    return Fraction(parts[0], parts[1])


def _integer_root(number: int, index: int) -> int:
    if index == 2:
        root = math.isqrt(number)
    else:
        if number.bit_length() > 900:
            raise _NotRational
        root = round(number ** (1 / index))
    if root**index != number:
        raise _NotRational
    return root


def _function_value(name: str, arguments: list[Fraction]) -> Fraction:
    first = arguments[0]
    if name == "root" and arguments[1].denominator == 1 and 0 < arguments[1] <= 64:
        return _exact_root(first, int(arguments[1]))
    if name == "abs":
        return abs(first)
    if name in ("floor", "ceil"):
        return Fraction(math.floor(first) if name == "floor" else math.ceil(first))
    if name == "factorial" and first.denominator == 1 and 0 <= first <= 1000:
        return Fraction(math.factorial(int(first)))
    if name == "binom" and all(a.denominator == 1 and 0 <= a <= 2000 for a in arguments):
        return Fraction(math.comb(int(first), int(arguments[1])))
    raise _NotRational


def enclose(tree: Tree, values: Mapping[str, float] | None = None) -> Ball | None:
    """A real number and a bound of its error; None where a float cannot say it."""
    try:
        middle, radius = _ball(tree, values or {})
    except (_NotRational, ArithmeticError, ValueError):
        return None
    return None if math.isnan(middle) or math.isnan(radius) else (middle, radius)


def surely_differ(first: Tree, second: Tree) -> bool:
    """Whether two formulas have different values somewhere: at one point for all their variables, far apart."""
    points = {name: sample_point(name) for name in symbols_of(first) | symbols_of(second)}
    ball, other = enclose(first, points), enclose(second, points)
    if ball is None or other is None:
        return False
    (a, error), (b, other_error) = ball, other
    return a != b and (math.isinf(a) or math.isinf(b) or abs(a - b) > error + other_error)


def sample_point(name: str) -> float:
    """A fixed value between 1 and 2 for a variable."""
    return 1 + zlib.crc32(name.encode("utf-8", "replace")) / 2**32


def _ball(tree: Tree, values: Mapping[str, float]) -> Ball:
    kind = tree[0]
    if kind == "num":
        return _rounded(float(tree[1]), 0.0)
    if kind == "sym" and tree[1] in values:
        return values[tree[1]], 0.0
    if kind == "const" and tree[1] in _CONSTANTS:
        return _rounded(_CONSTANTS[tree[1]], 0.0)
    if kind == "deg":
        return _times(_ball(tree[1], values), (math.pi / 180, EPSILON))
    if kind == "fn":
        return _ball_function(tree, [_ball(part, values) for part in tree[2:]])
    if kind in ("sym", "const"):
        raise _NotRational
    result, *rest = (_ball(part, values) for part in tree[1:])
    if kind == "neg":
        return -result[0], result[1]
    for part in rest:
        result = _BALL_OPERATIONS[kind](result, part)
    return result


_CONSTANTS = {"pi": math.pi, "e": math.e, "inf": math.inf}


def _rounded(value: float, error: float) -> Ball:
    return (value, 0.0) if math.isinf(value) else (value, error + abs(value) * EPSILON + TINY)


def _plus(a: Ball, b: Ball) -> Ball:
    return _rounded(a[0] + b[0], a[1] + b[1])


def _times(a: Ball, b: Ball) -> Ball:
    return _rounded(a[0] * b[0], abs(a[0]) * b[1] + abs(b[0]) * a[1] + a[1] * b[1])


def _over(a: Ball, b: Ball) -> Ball:
    smallest = abs(b[0]) - b[1]
    if smallest <= 0:
        raise _NotRational
    return _rounded(a[0] / b[0], (a[1] + abs(a[0] / b[0]) * b[1]) / smallest)


def _to_power(a: Ball, b: Ball) -> Ball:
    base, exponent = a[0], b[0]
    if base == 0 or a[1] > abs(base) / 1000 or math.isinf(base) or math.isinf(exponent):
        raise _NotRational
    whole = abs(exponent - round(exponent)) <= b[1] and abs(exponent) < 10**6
    if base < 0 and not whole:
        raise _NotRational
    exponent = round(exponent) if whole else exponent
    value = base**exponent
    relative = 2 * abs(exponent) * a[1] / abs(base)
    relative += (0 if whole else b[1] * abs(math.log(base))) + EPSILON * (1 + abs(exponent * math.log(abs(base))))
    if relative > 0.1:
        raise _NotRational
    return _rounded(value, 2 * abs(value) * relative)


_BALL_OPERATIONS = {"add": _plus, "mul": _times, "div": _over, "frac": _over, "pow": _to_power}


def _ball_function(tree: Tree, arguments: list[Ball]) -> Ball:
    name, (x, error) = tree[1], arguments[0]
    if name in ("factorial", "binom", "floor", "ceil"):
        return _rounded(float(_value(tree, {})), 0.0)
    if name == "abs":
        return abs(x), error
    if name == "root":
        if x < 0:
            raise _NotRational
        return _to_power((x, error), _over((1.0, 0.0), arguments[1]))
    if name in ("ln", "log"):
        result = _logarithm(x, error)
        if name == "ln":
            return result
        base = arguments[1] if len(arguments) > 1 else (10.0, 0.0)
        return _over(result, _logarithm(*base))
    if name == "exp":
        return _to_power(_rounded(math.e, 0.0), (x, error))
    if name in ("sin", "cos", "arctan") and abs(x) < 1e6:
        value = {"sin": math.sin, "cos": math.cos, "arctan": math.atan}[name](x)
        return value, 2 * error + EPSILON * (1 + abs(x))
    if name == "tan" and abs(x) < 1e6:
        return _over(*(_ball_function(("fn", part), [(x, error)]) for part in ("sin", "cos")))
    raise _NotRational


def _logarithm(x: float, error: float) -> Ball:
    if x <= 0 or error > x / 1000:
        raise _NotRational
    return _rounded(math.log(x), 2 * error / x + EPSILON)
