r"""When two mathematical answers are equal.

Public: `same_answer` (True, False, or None when it takes algebra), `comparable` (a pair in one spelling), `same_value`
(of two values that `reading.py` read, given a way to compare formulas).

Where a strict reading has to choose, it chooses so:
- A tuple or interval `(1,2)` is no set `\{1,2\}`, and the other way round; a bare list `1,2` is a set.
- A number with a base `2516_8` equals only the same digits with the same base.
- A percent sign is a unit: `70\%` equals `70\%` and `70`, never `0.7`.
- Units may be left out, but not exchanged: `5\text{ cm}` equals `5`, `5 centimeters` and `50\text{ mm}`, never
  `5\text{ m}`; so with what is counted or which way: `10\text{ profit}` is no `10\text{ loss}`. An amount in several
  units (`2\text{ hours }30\text{ minutes}`) needs them.
- `12:30` beside `12:45` is a time; beside anything else a ratio.
- A sum or product left to the reader, `30+40`, is no answer where the gold is a plain number.
- Words (`\text{east}`) are compared as words.
- An inequality in one name, `2 \le x < 5`, is the interval `[2,5)`.
- Exact values are equal or not, however small they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any

from .exact import is_left_to_compute, rational, surely_differ, symbols_of
from .expression import Tree
from .reading import Value, as_words, read, read_choice
from .sets import Piece, interval_of, join
from .spelling import spell
from .units import Unit, fit

Same = Callable[[Tree, Tree], bool | None]
"""Whether two formulas are equal everywhere; None: cannot say. ("eq", left, right) stands for an equation."""

_ARITHMETIC = re.compile(r"(?:[\d\s.,+\-*/()]|\\times|\\cdot|\\div)+")
"""Digits and signs that are no formula, `1 2 7`: no library has to read them."""
NO_SCALE = Fraction(1)


def comparable(gold: str, answer: str) -> tuple[str, str]:
    """The pair in the one spelling."""
    return spell(gold), spell(answer)


def same_answer(gold: str, answer: str) -> bool | None:
    """Whether two answers are equal, or None when it takes algebra to say, or the library to read them."""
    gold, answer = comparable(gold, answer)
    value, other = read_pair(gold, answer)
    if value is not None and other is not None:
        return same_value(value, other, quickly_same)
    if value is not None and value[0] == "number" and rational(value[1]) is not None and _ARITHMETIC.fullmatch(answer):
        return False
    return None


def read_pair(gold: str, answer: str) -> tuple[Value | None, Value | None]:
    """The values of two answers in the one spelling, each read with an eye on the other."""
    value, other = read(gold), read(answer)
    if value is None:
        return None, other
    if value[0] == "choice":
        return value, read_choice(answer) or other
    if value[0] == "words" and other and other[0] != "words":
        return value, as_words(answer) or other
    if other and other[0] == "words" and value[0] == "number":
        return as_words(gold) or value, other
    if value[0] == "quantity" and (other is None or other[0] != "quantity"):
        other = _with_letters(answer, value) or other
    elif other and other[0] == "quantity" and value[0] != "quantity":
        value = _with_letters(gold, other) or value
    return value, other


def _with_letters(text: str, quantity: Value) -> Value | None:
    """The text read with single letters as units, where that gives the other answer's kind of quantity."""
    value = read(text, letters=True)
    return value if value and value[0] == "quantity" and value[2].powers == quantity[2].powers else None


def quickly_same(first: Tree, second: Tree) -> bool | None:
    """Whether two formulas are equal, as far as exact fractions and bounded floats say."""
    if first == second:
        return True
    if first[0] == "eq" or second[0] == "eq":
        return None
    value, other = rational(first), rational(second)
    if value is not None and other is not None:
        return value == other
    if surely_differ(first, second):
        return False
    names = sorted(symbols_of(first) | symbols_of(second))
    return True if names and _agree_at_points(first, second, names) else None


def _agree_at_points(first: Tree, second: Tree, names: Sequence[str]) -> bool:
    """Whether two rational functions agree at more points than chance allows."""
    for i in range(12):
        sign = -1 if i % 2 else 1
        values = {name: Fraction(sign * (1009 + 7919 * i + 104_729 * j), 31 + 2 * i) for j, name in enumerate(names)}
        value = rational(first, values)
        if value is None or value != rational(second, values):
            return False
    return True


def same_value(gold: Value, answer: Value, same: Same) -> bool | None:
    """Whether two values are equal; None when `same` cannot say or the kinds have no common reading."""
    if gold[0] == "equation" or answer[0] == "equation":
        return _same_equation(gold, answer, same)
    if gold[0] == "choice" or answer[0] == "choice":
        return _same_choice(gold, answer, same)
    if gold[0] == "quantity" or answer[0] == "quantity":
        return _same_quantity(gold, answer, same)
    if gold[0] == "congruence" or answer[0] == "congruence":
        return _same_congruence(gold, answer)
    if gold[0] == "time" or answer[0] == "time":
        return _same_time(gold, answer, same)
    if gold[0] == "ratio" or answer[0] == "ratio":
        return _same_ratio(gold, answer, same)
    if gold[0] == "reals" or answer[0] == "reals":
        return _same_reals(gold, answer, same)
    if gold[0] == answer[0]:
        return _SAME_KIND[gold[0]](gold, answer, same)
    if "set" in (gold[0], answer[0]):
        return _same_lone_item(gold, answer, same)
    return None if "matrix" in (gold[0], answer[0]) else False


def _same_number(gold: Value, answer: Value, same: Same) -> bool | None:
    if is_left_to_compute(answer[1]) and not is_left_to_compute(gold[1]) and rational(gold[1]) is not None:
        return False
    return same(gold[1], answer[1])


def _same_plain(gold: Value, answer: Value, same: Same) -> bool:
    del same
    return gold == answer


def _same_tuple(gold: Value, answer: Value, same: Same) -> bool | None:
    if (gold[1], gold[3]) != (answer[1], answer[3]) or len(gold[2]) != len(answer[2]):
        return False
    return _all(same_value(a, b, same) for a, b in zip(gold[2], answer[2], strict=True))


def _same_matrix(gold: Value, answer: Value, same: Same) -> bool | None:
    if [len(row) for row in gold[1]] != [len(row) for row in answer[1]]:
        return False
    pairs = [pair for rows in zip(gold[1], answer[1], strict=True) for pair in zip(*rows, strict=True)]
    return _all(same_value(a, b, same) for a, b in pairs)


def _same_set(gold: Value, answer: Value, same: Same) -> bool | None:
    """Whether each item has its like on the other side."""
    table = [[same_value(a, b, same) for b in answer[1]] for a in gold[1]]
    return _all(_any(line) for line in [*table, *zip(*table, strict=True)])


def _same_lone_item(gold: Value, answer: Value, same: Same) -> bool | None:
    """A set of one item is that item; a bare list may stand for a tuple."""
    if gold[0] == "set" and len(gold[1]) == 1:
        return same_value(gold[1][0], answer, same)
    if answer[0] == "set" and len(answer[1]) == 1:
        return same_value(gold, answer[1][0], same)
    listed, bracketed = (gold, answer) if gold[0] == "set" else (answer, gold)
    if bracketed[0] == "tuple" and bracketed[1] == "(" and not listed[2] and len(listed[1]) == len(bracketed[2]):
        items = (listed[1], bracketed[2]) if listed is gold else (bracketed[2], listed[1])
        return _all(same_value(a, b, same) for a, b in zip(*items, strict=True))
    return False


_SAME_KIND: dict[str, Callable[[Any, Any, Any], bool | None]] = {
    "number": _same_number, "words": _same_plain, "based": _same_plain, "tuple": _same_tuple,
    "set": _same_set, "matrix": _same_matrix,
}  # fmt: skip


def _same_equation(gold: Value, answer: Value, same: Same) -> bool | None:
    """`x = 5` is 5; two equations are equal where their values or their solutions are."""
    if gold[0] == answer[0]:
        alike = gold[1] == answer[1] or not (_is_short(gold[1]) and _is_short(answer[1]))
        if gold[1] and answer[1] and alike:
            return same_value(gold[3][-1], answer[3][-1], same)
        return _proportional(gold, answer, same)
    equation, other = (gold, answer) if gold[0] == "equation" else (answer, gold)
    if not equation[3]:
        return None if other[0] in ("reals", "matrix") else False
    last = equation[3][-1]
    checks = [same_value(last, other, same) if equation is gold else same_value(other, last, same)]
    values = [value[1] for value in equation[3] if value[0] == "number"]
    return _all([*checks, *(same(values[0], value) for value in values[1:])])


def _is_short(name: str) -> bool:
    return len(name) == 1 or name.startswith("\\") or "_" in name


def _proportional(gold: Value, answer: Value, same: Same) -> bool | None:
    """Whether two equations have the same solutions, up to a factor."""
    if len(gold[2]) != 2 or len(answer[2]) != 2 or None in gold[2] or None in answer[2]:
        return None
    return same(("eq", *gold[2]), ("eq", *answer[2]))


def _same_choice(gold: Value, answer: Value, same: Same) -> bool | None:
    if gold[0] == answer[0]:
        if gold[1] != answer[1] or gold[2] is None or answer[2] is None:
            return gold[1] == answer[1]
        return _same_text(gold[2], answer[2], same)
    choice, other = (gold, answer) if gold[0] == "choice" else (answer, gold)
    if other[0] == "number" and other[1][0] in ("sym", "const"):
        return other[1][1].casefold() == choice[1].casefold()
    if choice[2] is None:
        return same_value(("number", ("sym", choice[1])), other, same) if other[0] in ("number", "quantity") else False
    text = read(choice[2])
    if text is None:
        return None
    return same_value(text, other, same) if choice is gold else same_value(other, text, same)


def _same_text(gold: str, answer: str, same: Same) -> bool | None:
    if gold == answer:
        return True
    value, other = read(gold), read(answer)
    return None if value is None or other is None else same_value(value, other, same)


def _same_quantity(gold: Value, answer: Value, same: Same) -> bool | None:
    if gold[0] != "quantity" or answer[0] != "quantity":
        quantity, other = (gold, answer) if gold[0] == "quantity" else (answer, gold)
        if quantity[3] or other[0] in ("time", "words", "reals"):
            return False
        amount = _scaled(quantity[1], quantity[2].scale)
        return same_value(amount, other, same) if quantity is gold else same_value(other, amount, same)
    unit, other_unit = gold[2], answer[2]
    if not fit(unit, other_unit):
        angles = {(("degree", 1),): "degree", (("rad", 1),): "rad"}
        kinds = [angles.get(u.powers) if not u.things else None for u in (unit, other_unit)]
        return None not in kinds and _all([same(_radians(gold), _radians(answer))]) if kinds[0] != kinds[1] else False
    if (gold[3] or answer[3]) and not (unit.powers and other_unit.powers):
        return False
    if unit.powers and other_unit.powers and unit.factor != other_unit.factor:
        scales = [unit.scale * unit.factor, other_unit.scale * other_unit.factor]
    else:
        scales = [unit.scale, other_unit.scale]
    return same_value(_scaled(gold[1], scales[0]), _scaled(answer[1], scales[1]), same)


def _radians(quantity: Value) -> Tree:
    unit: Unit = quantity[2]
    if quantity[1][0] != "number":
        return ("sym", "")
    tree = ("mul", ("num", unit.scale * unit.factor), quantity[1][1])
    return ("deg", tree) if unit.powers[0][0] == "degree" else tree


def _scaled(value: Value, scale: Fraction) -> Value:
    """A value times a factor; its formulas keep their form where the factor is 1."""
    if scale == NO_SCALE:
        return value
    if value[0] == "number":
        exact = rational(value[1])
        return ("number", ("mul", ("num", scale), value[1]) if exact is None else ("num", exact * scale))
    if value[0] == "tuple":
        return ("tuple", value[1], tuple(_scaled(item, scale) for item in value[2]), value[3])
    if value[0] == "set":
        return ("set", tuple(_scaled(item, scale) for item in value[1]), value[2])
    return value


def _same_time(gold: Value, answer: Value, same: Same) -> bool | None:
    if gold[0] == answer[0]:
        clocks = [_clock(value) if value[4] else value[1:4] for value in (gold, answer)]
        if gold[4] and not answer[4]:
            return answer[1:4] in (gold[1:4], clocks[0])
        if answer[4] and not gold[4]:
            return gold[1:4] in (answer[1:4], clocks[1])
        return clocks[0] == clocks[1]
    time, other = (gold, answer) if gold[0] == "time" else (answer, gold)
    if time[4]:
        on_the_hour = ("number", ("num", Fraction(time[1])))
        return time[2:4] == (0, 0) and other[0] == "number" and same_value(on_the_hour, other, same)
    if not time[2] or time[3]:
        return False
    ratio = ("ratio", (("num", Fraction(time[1])), ("num", Fraction(time[2]))))
    return same_value(ratio, other, same) if time is gold else same_value(other, ratio, same)


def _clock(time: Value) -> tuple[int, int, int]:
    """Hours, minutes and seconds of a time with a.m. or p.m., on 24 hours."""
    return time[1] % 12 + (12 if time[4] == "pm" else 0), time[2], time[3]


def _same_congruence(gold: Value, answer: Value) -> bool | None:
    """Equal residues of one modulus; a bare number is the residue itself."""
    congruence, other = (gold, answer) if gold[0] == "congruence" else (answer, gold)
    residue, modulus = rational(congruence[2]), rational(congruence[3])
    if residue is None or not modulus:
        return True if gold == answer else None
    if other[0] == "number":
        return rational(other[1]) == residue
    if other[0] != "congruence" or rational(other[3]) != modulus:
        return False
    other_residue = rational(other[2])
    named_alike = gold[1] == answer[1] or not (gold[1] and answer[1])
    return named_alike and other_residue is not None and (residue - other_residue) % modulus == 0


def _same_ratio(gold: Value, answer: Value, same: Same) -> bool | None:
    if gold[0] == answer[0]:
        if len(gold[1]) != len(answer[1]):
            return False
        first, other = gold[1][0], answer[1][0]
        pairs = zip(gold[1][1:], answer[1][1:], strict=True)
        return _all(same(("mul", a, other), ("mul", b, first)) for a, b in pairs)
    ratio, other = (gold, answer) if gold[0] == "ratio" else (answer, gold)
    if len(ratio[1]) != 2 or other[0] != "number":
        return False
    return same(("div", *ratio[1]), other[1])


def _same_reals(gold: Value, answer: Value, same: Same) -> bool | None:
    side, other_side = _pieces(gold), _pieces(answer)
    if side is None or other_side is None:
        return None if {gold[0], answer[0]} & {"number", "matrix"} else False
    (name, pieces), (other_name, others) = side, other_side
    if (name and other_name and name != other_name) or len(pieces) != len(others):
        return False
    return _all(_same_piece(a, b, same) for a, b in zip(pieces, others, strict=True))


def _pieces(value: Value) -> tuple[str, tuple[Piece, ...]] | None:
    """A value as a set of reals; None where it is none."""
    if value[0] == "reals":
        return value[1], value[2]
    if value[0] == "tuple" and len(value[2]) == 2 and all(item[0] == "number" for item in value[2]):
        return "", interval_of(value[1], [item[1] for item in value[2]], value[3])
    if value[0] == "set" and all(item[0] == "number" for item in value[1]):
        return "", join([(item[1], True, item[1], True) for item in value[1]])
    return None


def _same_piece(gold: Piece, answer: Piece, same: Same) -> bool | None:
    if (gold[1], gold[3]) != (answer[1], answer[3]):
        return False
    return _all((same(gold[0], answer[0]), same(gold[2], answer[2])))


def _all(results: Iterable[bool | None]) -> bool | None:
    found = list(results)
    return False if False in found else None if None in found else True


def _any(results: Iterable[bool | None]) -> bool | None:
    found = list(results)
    return True if True in found else None if None in found else False
