r"""Units behind (or before) a number: what they are and when two of them are the same.

Public: `split_unit`, `Unit`, `NO_UNIT`, `fit`. A unit is a factor and powers of base units: `km/h` is 5/18 of m/s, a
dollar 100 cents; percent, option words, directions and counted things (`apples`, `profit`) are base units of their own.
Amounts whose conversion is not exact, or not agreed on, have bases of their own: degrees Celsius, megabytes, months.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from .spelling import FUNCTIONS

_ONE = Fraction(1)
_INCH = Fraction(254, 10_000)
_GALLON = 231 * _INCH**3
_POUND = Fraction(45_359_237, 100_000)

_KNOWN: list[tuple[str, Fraction, str]] = [
    ("m meter metre", _ONE, "m"), ("in inch inches", _INCH, "m"), ("ft foot feet", 12 * _INCH, "m"),
    ("yd yard", 36 * _INCH, "m"), ("mi mile", 63_360 * _INCH, "m"), ("g gram gramme", _ONE, "g"),
    ("lb lbs", _POUND, "g"), ("pound", _POUND, "g pound"), ("oz ounce", _POUND / 16, "g"),
    ("t tonne", Fraction(10**6), "g"), ("ton", _ONE, "ton"),
    ("s sec second", _ONE, "s"), ("min minute mins", Fraction(60), "s"), ("h hr hour", Fraction(3600), "s"),
    ("day", Fraction(86_400), "s"), ("week wk", Fraction(604_800), "s"), ("month mo", _ONE, "month"),
    ("year yr", Fraction(12), "month"), ("decade", Fraction(120), "month"), ("century", Fraction(1200), "month"),
    ("l L liter litre", Fraction(1, 1000), "m3"), ("gal gallon", _GALLON, "m3"), ("qt quart", _GALLON / 4, "m3"),
    ("pt pint", _GALLON / 8, "m3"), ("cup", _GALLON / 16, "m3"), ("tbsp tablespoon", _GALLON / 256, "m3"),
    ("tsp teaspoon", _GALLON / 768, "m3"), ("cc", Fraction(1, 10**6), "m3"), ("ha hectare", Fraction(10**4), "m2"),
    ("acre", _ONE, "acre"), ("mph", 63_360 * _INCH / 3600, "m s-1"), ("kmh kph kmph", Fraction(5, 18), "m s-1"),
    ("mps", _ONE, "m s-1"), ("fps", 12 * _INCH, "m s-1"), ("knot", Fraction(1852, 3600), "m s-1"),
    ("n newton N", Fraction(1000), "g m s-2"), ("J joule", Fraction(1000), "g m2 s-2"),
    ("W watt", Fraction(1000), "g m2 s-3"), ("Wh", Fraction(3_600_000), "g m2 s-2"),
    ("Pa pascal", Fraction(1000), "g m-1 s-2"), ("bar", Fraction(10**8), "g m-1 s-2"), ("atm atmosphere", _ONE, "atm"),
    ("V volt", Fraction(1000), "g m2 s-3 A-1"), ("A amp ampere", _ONE, "A"), ("C coulomb", _ONE, "A s"),
    ("\\Omega ohm", Fraction(1000), "g m2 s-3 A-2"), ("F farad", Fraction(1, 1000), "A2 s4 g-1 m-2"),
    ("H henry", Fraction(1000), "g m2 s-2 A-2"), ("T tesla", Fraction(1000), "g s-2 A-1"),
    ("Wb weber", Fraction(1000), "g m2 s-2 A-1"), ("Hz hertz", _ONE, "Hz"), ("rpm", _ONE, "rpm"),
    ("K kelvin", _ONE, "K"), ("celsius", _ONE, "degree celsius"), ("fahrenheit", _ONE, "degree fahrenheit"),
    ("mol mole", _ONE, "mol"), ("M molar", Fraction(1000), "mol m-3"), 
    ("cal calorie", Fraction(4184), "g m2 s-2"),
    ("eV electronvolt", _ONE, "eV"), ("cd candela", _ONE, "cd"), ("lm lumen", _ONE, "lm"), ("dB decibel", _ONE, "dB"),
    ("B byte", _ONE, "B"), ("bit", _ONE, "bit"), ("u amu", _ONE, "amu"),
    ("\\% percent pct", _ONE, "percent"), ("^\\circ degree deg", _ONE, "degree"), ("rad radian", _ONE, "rad"),
    ("arcminute arcmin ' prime", Fraction(1, 60), "degree"), ("arcsecond arcsec ''", Fraction(1, 3600), "degree"),
    ("revolution rev", Fraction(360), "degree"), ("sr steradian", _ONE, "sr"),
    ("\\$ dollar buck usd USD US\\$", Fraction(100), "cent"), ("cent ¢", _ONE, "cent"), 
    ("quarter", Fraction(25), "cent"),
    ("dime", Fraction(10), "cent"), ("nickel", Fraction(5), "cent"), ("penny pennies", _ONE, "cent"),
    ("€ euro eur EUR", _ONE, "euro"), ("£ gbp GBP sterling", _ONE, "gbp"), ("¥ yen yuan rmb RMB", _ONE, "yen"),
    ("₹ rupee inr INR Rs rs", _ONE, "rupee"), ("unit", _ONE, "unit"), ("north", _ONE, "north"),
    ("south", _ONE, "south"), ("east", _ONE, "east"), ("west", _ONE, "west"), ("BC BCE B.C. B.C.E. bc bce", _ONE, "bc"),
    ("AD CE A.D. C.E. ad ce", _ONE, "ad"), ("sq", _ONE, ""),
]  # fmt: skip
_PREFIXED = "m g s L l N J W Wh Pa V A C \\Omega F H T Hz eV cal mol K M cd B bit"
_NAMED = """
    meter metre gram liter litre newton joule watt pascal volt amp ampere coulomb ohm farad hertz calorie mole byte bit
    hectare
"""
_PREFIXES = [
    ("n", "nano", -9), ("u", "micro", -6), ("\\mu", "micro", -6), ("m", "milli", -3), ("c", "centi", -2),
    ("d", "deci", -1), ("k", "kilo", 3), ("M", "mega", 6), ("G", "giga", 9), ("T", "tera", 12),
]  # fmt: skip
_SCALES = {
    "hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "quadrillion": 15,
}  # fmt: skip
_POWERS = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "cu": 3, "cu.": 3}
_POWERS_AFTER = {"squared": 2, "cubed": 3}
_FILLERS = frozenset(
    ["of", "the", "a", "an", "each", "total", "about", "approximately", "and", "or", "so", "is", "are"]
)
_SENSES = frozenset(["north", "south", "east", "west", "bc", "ad", "celsius", "fahrenheit", "pound"])
"""Parts of a unit that may be left out by themselves: `5^\\circ` for `5^\\circ C`."""
_COMPASS = {"N": "north", "S": "south", "E": "east", "W": "west"}


@dataclass(frozen=True, slots=True)
class Unit:
    """scale: of the number, for "million". factor: how much of the base units. powers: of the known base units.
    things: of words that say what is counted, or which way."""

    scale: Fraction = _ONE
    factor: Fraction = _ONE
    powers: tuple[tuple[str, int], ...] = ()
    things: tuple[tuple[str, int], ...] = ()


NO_UNIT = Unit()


def _build_table() -> dict[str, tuple[Fraction, dict[str, int]]]:
    table: dict[str, tuple[Fraction, dict[str, int]]] = {}
    for names, factor, bases in _KNOWN:
        powers = {}
        for base in bases.split():
            name, power = re.fullmatch(r"([A-Za-z]+?)(-?\d*)", base).groups()  # type: ignore[union-attr]
            powers[name] = int(power or 1)
        table |= dict.fromkeys(names.split(), (factor, powers))
    for symbol, word, exponent in _PREFIXES:
        for names, prefix in ((_PREFIXED, symbol), (_NAMED, word)):
            for name in names.split():
                base_factor, powers = table[name]
                entry = (base_factor * Fraction(10) ** exponent, powers)
                if "B" in powers or "bit" in powers:  # 1000 or 1024: not agreed on
                    entry = (_ONE, {f"{word}{next(iter(powers))}": 1})
                table.setdefault(f"{prefix}{name}" if not prefix.startswith("\\") else f"{prefix} {name}", entry)
    return table


_TABLE = _build_table()


def _look_up(word: str) -> tuple[Fraction, dict[str, int]] | None:
    """The known unit that a word names, in singular or plural, whatever its capitals where it is a whole word."""
    for spelling in (word, word.rstrip("."), word.rstrip(".").lower()):
        if len(spelling) == 1 and spelling != word.rstrip("."):
            return None
        for singular in (spelling, spelling.removesuffix("s") if len(spelling) > 2 else spelling):
            if singular in _TABLE:
                return _TABLE[singular]
    return None


_TOKEN = re.compile(
    r"(?P<kilo>\\text\{[kMm]\}\s*\\Omega)|\\text\{(?P<word>[^{}]*)\}|(?P<sign>\^\\circ|\\%|\\\$|[€£¥₹¢]|'+|\\Omega(?![A-Za-z])|\\mu(?![A-Za-z]))"
    r"|(?P<power>\^\s*(?:\{\s*-?\d+\s*\}|-?\d))|(?P<operator>/|\\cdot(?![A-Za-z])|\*|\(|\))"
    r"|\\(?P<command>[A-Za-z]+|.)|(?P<bare>[A-Za-z]+\.?)|(?P<space>\s+)|(?P<other>.)",
    re.DOTALL,
)
_UNITS_ONLY = r"((?:\\text\{[^{}]*\}|[\s^\d]|\\cdot|\^\{-?\d\})+)"
_UNIT_FRACTION = re.compile(rf"\\frac\s?\{{{_UNITS_ONLY}\}}\s?\{{{_UNITS_ONLY}\}}\s?\Z")
_CURRENCY = re.compile(
    r"(?P<sign>[+-]?\s*)(?:US|\\text\{US\})?\s*(?P<unit>\\\$|[€£¥₹])\s*(?P<amount>(?!\\\$)[-\d.\\{(].*)", re.DOTALL
)


@lru_cache(maxsize=4096)
def split_unit(text: str, *, letters: bool = False) -> tuple[str, Unit] | None:
    r"""The amount's text and its unit; None where no unit stands behind or before it.

    letters: single letters that are not set as text count as units too: `5m`, where the other answer has a unit.
    """
    if currency := _CURRENCY.fullmatch(text):
        rest = split_unit(currency["amount"]) or (currency["amount"], NO_UNIT)
        unit = _multiply(_read_unit([("sign", currency["unit"])]), rest[1])
        return (currency["sign"].strip() + rest[0], unit) if unit else None
    text = _UNIT_FRACTION.sub(r"\1/(\2)", text)
    tokens = [(match.lastgroup or "other", match[0], match) for match in _TOKEN.finditer(text)]
    start = _unit_start(tokens, letters)
    if start is None:
        return None
    body = text[: tokens[start][2].start()].strip()
    if body.endswith("(") and text.endswith(")"):
        body = body[:-1].rstrip()
    unit = _read_unit([(kind, match[kind] if kind == "word" else token) for kind, token, match in tokens[start:]])
    return (body, unit) if body and unit else None


def _unit_start(tokens: list[tuple[str, str, re.Match[str]]], letters: bool) -> int | None:
    """Where the unit begins that reaches to the end; None when there is none."""
    start: int | None = None
    at = len(tokens) - 1
    while at >= 0:
        kind, _, match = tokens[at]
        if kind == "bare":
            if not _is_bare_unit(tokens, at, letters, start is not None):
                break
            start = at
        elif kind == "word":
            if match["word"].lower() in ("and", "or", "to"):
                break
            start = at
        elif kind in ("sign", "kilo"):
            start = at
        elif kind not in ("space", "power", "operator"):
            break
        at -= 1
    return start


def _is_bare_unit(tokens: list[tuple[str, str, re.Match[str]]], at: int, letters: bool, more: bool) -> bool:
    """Whether letters that are not marked as text are a unit: a known one of two letters, or a word behind a blank."""
    word = tokens[at][1]
    known = _look_up(word) is not None
    if len(word.rstrip(".")) == 1:
        by_slash = any(0 <= i < len(tokens) and tokens[i][1] == "/" for i in (at - 1, at + 1))
        behind = at > 0 and tokens[at - 1][0] == "space"
        temperature = word in "CFNSEW" and any(t[1] == "^\\circ" for t in tokens[max(at - 2, 0) : at])
        return temperature or (known and (letters or (by_slash and (behind or tokens[at - 1][1] == "/"))))
    if known or word.lower() in _SCALES or word.lower() in _POWERS or word.lower() == "per":
        return True
    lowered = word.lower()
    apart = at > 0 and tokens[at - 1][0] == "space" and lowered not in ("and", "or", "to") and word not in FUNCTIONS
    return apart and len(word) > 3 - more and any(token[0] == "other" and token[1].isdigit() for token in tokens[:at])


def _read_unit(tokens: list[tuple[str, str]]) -> Unit | None:
    """The unit that tokens say; None where they are no unit."""
    unit: Unit | None = NO_UNIT
    side, grouped, power, mu = 1, False, 1, False
    last: Unit = NO_UNIT
    for kind, token in tokens:
        if kind == "kilo":
            token = re.sub(r"\\text|[{}\s]", "", token)
        if kind == "space" or token.lower() in _FILLERS:
            continue
        if token in ("(", ")"):
            grouped, side = (token == "(" and side < 0), side if token == "(" else 1
        elif token in ("/", "per", "Per"):
            side = -1
        elif kind == "operator":
            continue
        elif kind == "power":
            exponent = int(re.sub(r"[^\d-]", "", token))
            unit = _multiply(unit, _raise(last, exponent - 1))
        elif token.lower() in _POWERS:
            power = _POWERS[token.lower()]
        elif token.lower() in _POWERS_AFTER:
            unit = _multiply(unit, _raise(last, _POWERS_AFTER[token.lower()] - 1))
        elif token == "\\mu":
            mu = True
        else:
            if kind in ("command", "other"):
                return None
            last = _raise(_single(f"\\mu {token}" if mu else token, last), power * side)
            unit = _multiply(unit, last)
            side, power, mu = side if grouped else 1, 1, False
    return unit if unit != NO_UNIT else None


def _single(word: str, before: Unit) -> Unit:
    if dict(before.powers) == {"degree": 1} and word.rstrip(".") in (*_COMPASS, "C", "F"):
        name = {"C": "celsius", "F": "fahrenheit"}.get(word.rstrip("."), _COMPASS.get(word.rstrip("."), ""))
        return Unit(things=((name, 1),))
    if word.lower() in _SCALES:
        return Unit(scale=Fraction(10 ** _SCALES[word.lower()]))
    if word.lower().removesuffix("s") == "dozen":
        return Unit(scale=Fraction(12))
    found = _look_up(word)
    if found:
        powers = tuple(sorted((name, power) for name, power in found[1].items() if name not in _SENSES))
        things = tuple(sorted((name, power) for name, power in found[1].items() if name in _SENSES))
        return Unit(factor=found[0], powers=powers, things=things)
    return Unit(things=((_singular(word.lower().strip(".")), 1),))


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return f"{word[:-3]}y"
    if word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


def _raise(unit: Unit, exponent: int) -> Unit:
    if abs(exponent) > 20:
        return NO_UNIT
    powers = tuple((name, power * exponent) for name, power in unit.powers if exponent)
    things = tuple((name, power * exponent) for name, power in unit.things if exponent)
    return Unit(unit.scale**exponent, unit.factor**exponent, powers, things)


def _multiply(first: Unit | None, second: Unit | None) -> Unit | None:
    if first is None or second is None:
        return None
    return Unit(
        first.scale * second.scale,
        first.factor * second.factor,
        _combine(first.powers, second.powers),
        _combine(first.things, second.things),
    )


def _combine(first: tuple[tuple[str, int], ...], second: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    total = dict(first)
    for name, power in second:
        total[name] = total.get(name, 0) + power
    return tuple(sorted((name, power) for name, power in total.items() if power))


def fit(gold: Unit, unit: Unit) -> bool:
    """Whether two units may stand for each other: the same dimension, or one of them left out."""
    if not (gold.powers or gold.things) or not (unit.powers or unit.things):
        return True
    if gold.powers and unit.powers and gold.powers != unit.powers:
        return False
    things, other = set(gold.things), set(unit.things)
    share = (gold.powers and unit.powers) or (things & other)
    return bool(share) and (things <= other or other <= things)
