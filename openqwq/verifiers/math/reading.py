r"""What an answer says, read into a value: gold answers and candidates alike.

Public: `read`, `read_choice`, `as_words`, `trees_of`, `is_prose`, `Value`. A value is a nested tuple; its first item is
its kind: ("number", tree), ("quantity", value, unit, whether the unit is needed), ("words", text), ("choice", letter,
text), ("time", hours, minutes, seconds, "am" | "pm" | ""), ("ratio", trees), ("based", digits, base),
("tuple", opening, items, closing), ("set", items, whether it has braces), ("reals", name, pieces),
("equation", name or "", trees, values), ("congruence", name or "", residue, modulus), ("matrix", rows).
None: this reader does not know the form.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Any

from .exact import is_defined, rational, symbols_of
from .expression import Tree, parse
from .sets import read_reals, split_top
from .units import Unit, split_unit

Value = tuple[Any, ...]

MAX_NESTING = 30
"""Deeper brackets are no answer; readers call each other once a level, far from the interpreter's limit."""

_INTEGER = re.compile(r"-?\d+")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_LETTER = r"\(?\s*(?:\\text\{)?\s*([A-Z])\s*\}?\s*"
_OPTION = r"(?:(?:\\text\{)?(?i:option|choice|answer)\}?\s*)?"
_LONE_LETTER = re.compile(rf"{_OPTION}{_LETTER}\)?")
_CHOICE = re.compile(rf"{_OPTION}{_LETTER}(?:\)\s*[.:-]?(?!\s*,)|[.:](?=\s|$)|:)\s*(?P<rest>.*)", re.DOTALL)
_DASHED_CHOICE = re.compile(
    rf"{_OPTION}{_LETTER}(?<=\s)(?:-\s|=)?\s*(?P<rest>(?!\\text\{{(?:and|or)|and\b|or\b|[-+),;]).+)", re.DOTALL
)
_OTHER_LETTERS = re.compile(
    r"(?:[^A-Za-z]|\\text|\\quad|\b(?:and|or|[A-Z])\b)*[A-Z](?:[^A-Za-z]|\b(?:and|or|[A-Z])\b)*"
)
_HALF = re.compile(r"\s*(?:\\text\{)?\s*([ap])\.?\s?m\.?\s*\}?(?:\\text\{m\.?\})?\s*", re.IGNORECASE)
_TIME = re.compile(r"(\d{1,2})(?:\s*:\s*(\d\d))?(?:\s*:\s*(\d\d))?")
_CONGRUENCE = re.compile(r"(?:(.+?)\\equiv)?([^=]+?)\(?\s*\\(?:pmod|bmod|mod|text\{mod\})(?![A-Za-z])([^()]+)\)?")
_BASED = re.compile(r"([+-]?[0-9][0-9A-Za-z]*)\s*_\s*(?:\{\s*)?(?:\\text\{\s*)?([0-9]+|[a-z]+)(?:\s*\})*")
_WORDS = re.compile(r"\(?[^\W\d_]+(?:['-][^\W\d_]+)*(?: [^\W\d_]+(?:['-][^\W\d_]+)*)*\)?")
_LIST_WORD = re.compile(r"\\text\{(?:or|and)\}|(?<![A-Za-z])(?:or|and)(?![A-Za-z])")
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
_MATRIX = re.compile(r"\\begin\{([pbBsv]?(?:small)?matrix|array)\}(?:\{[clr|]+\})?(.*)\\end\{\1\}", re.DOTALL)
_NAME = re.compile(
    r"(?:[A-Za-z]|\\[A-Za-z]+)(?:\s*_\s*(?:\w|\{[^{}]*\}))?(?:\s*\^\s*\{\s*-1\s*\})?'*(?:\s*\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])*\s*\))?"
    r"|(?:\\text\{[^{}]*\}\s*)+|[A-Z]{2,3}|\\angle\s*[A-Z]{1,3}|[A-Z]\s*\([^=]*\)"
    r"|\(\s*[A-Za-z](?:_\d)?(?:\s*,\s*[A-Za-z](?:_\d)?)+\s*\)|(?:\\overline)\{[A-Z]{2}\}"
)
_AMOUNT = (
    r"(?:\d[\d,]*(?:\.\d+)?(?:\s*\\frac\s*(?:\d|\{\d+\})\s*(?:\d|\{\d+\})|\s+\d+/\d+)?|\\frac\s*\{\d+\}\s*\{\d+\})"
)
_PART = re.compile(
    rf"\s*(?:,|\\text\{{and\}}|and\b)?\s*({_AMOUNT})\s*"
    r"((?:\\text\{[^{}]*\}|[A-Za-z]+\.?|\^\\circ|'{1,2}|\\\$|¢)(?:\s*\\text\{(?!and\})[^{}]*\})*)\s*"
)
_LABEL = re.compile(
    r"(?:\\text\{[^{}]{2,}\}|(?<![\\A-Za-z])[A-Za-z]{3,})(?:\s*(?:\\text\{[^{}]+\}|\b[A-Za-z]{2,}))*\s*:(?=\s*\S)"
)
_SENTENCE = re.compile(
    r"(?:\\text\{)?(?:there|it|this|that|they|we|she|he|is|are|was|will|be|have|has|get|the|total|of|so|equals|"
    r"exactly|about|approximately|value|answer|number)(?![A-Za-z])\}?\s*",
    re.IGNORECASE,
)
_OPENING = re.compile(rf"(?:\s*(?:{_LABEL.pattern}|{_SENTENCE.pattern}))+", re.IGNORECASE)
_LETTERS = re.compile(r"\\text\{([^{}]*)\}|(?<![\\A-Za-z{])([A-Za-z]{2,})(?![A-Za-z}])")
_COMMON_WORDS_TEXT = """
    the is are was has have had and of for with each there this that we they he she
"""
_COMMON_WORDS = frozenset(_COMMON_WORDS_TEXT.split())
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_EMPTY_WORDS = frozenset(
    ("no solution", "no solutions", "no real solution", "no real solutions", "empty set", "the empty set")
)
_LINE_WORDS = frozenset(
    ("all real numbers", "all reals", "the real numbers", "real numbers", "the set of real numbers")
)


@lru_cache(maxsize=4096)
def read(text: str, *, letters: bool = False) -> Value | None:
    """The value of an answer in the one spelling.

    letters: single letters behind a number count as units too (`5m`, where the other answer has a unit).
    """
    if _INTEGER.fullmatch(text):
        number = ("num", Fraction(text.lstrip("-")))
        return ("number", ("neg", number) if text.startswith("-") else number)
    if not text or _nesting(text) > MAX_NESTING:
        return None
    for reader in (
        _lone_letter,
        _time,
        _words,
        _choice,
        _reals,
        _list,
        _brackets,
        _matrix,
        _equation,
        _ratio,
        _congruence,
        _based,
    ):
        if (value := reader(text)) is not None:
            return value
    return _signs(text) or _quantity(text, letters) or _number(text) or _sentence(text)


def as_words(text: str) -> Value | None:
    """Letters and blanks as words, however few: where the other answer is words, `red` is no product."""
    plain = " ".join(_TEXT.sub(r" \1 ", text).split())
    return ("words", plain.casefold()) if _WORDS.fullmatch(plain) else None


def _nesting(text: str) -> int:
    """How deep the brackets of a text are nested; 0 where they are few."""
    if sum(map(text.count, "([{")) <= MAX_NESTING:
        return 0
    depth, deepest = 0, 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


def read_choice(text: str) -> Value | None:
    """The option that an answer picks where the gold is a letter: also `D - 24`, `D = 24` and `D 24`."""
    value = _lone_letter(text) or _choice(text)
    if value is None and (match := _DASHED_CHOICE.fullmatch(text)) and not _OTHER_LETTERS.fullmatch(match["rest"]):
        return ("choice", match[1], match["rest"])
    return value


def _lone_letter(text: str) -> Value | None:
    match = _LONE_LETTER.fullmatch(text)
    return ("choice", match[1], None) if match else None


def _choice(text: str) -> Value | None:
    match = _CHOICE.fullmatch(text)
    if (
        not match
        or not match["rest"].strip()
        or _CHOICE.match(match["rest"])
        or _OTHER_LETTERS.fullmatch(match["rest"])
    ):
        return None
    return ("choice", match[1], match["rest"].strip())


def _time(text: str) -> Value | None:
    half = _HALF.search(text) if text[-1:] in ".}mM" else None
    if half and half.end() != len(text):
        half = None
    clock = _TIME.fullmatch(text[: half.start()].strip() if half else text)
    if not clock or not (half or clock[2]):
        return None
    hours, minutes, seconds = (int(part or 0) for part in clock.groups())
    if hours > (12 if half else 24) or minutes > 59 or seconds > 59 or (half and not hours):
        return None
    return ("time", hours, minutes, seconds, f"{half[1].lower()}m" if half else "")


def _words(text: str) -> Value | None:
    if any(character.isdigit() for character in text):
        return None
    marked = _TEXT.search(text)
    plain = " ".join(_TEXT.sub(r" \1 ", text).split()).rstrip("!? ")
    longest = max(map(len, re.findall(r"[^\W\d_]+", plain)), default=0)
    if not _WORDS.fullmatch(plain) or longest < (2 if marked else 3) or (not marked and len(plain) < 4):
        return None
    if _LIST_WORD.search(text) and all(len(part.strip()) == 1 for part in _LIST_WORD.split(plain)):
        return None
    if re.match(r"[A-Za-z]\s*\\text", text):
        return None  # `x\text{ cm}`
    return _meaning(plain.strip("()").casefold())


def _meaning(words: str) -> Value:
    if words in _EMPTY_WORDS:
        return ("reals", "", ())
    if words in _LINE_WORDS:
        return read_reals("\\mathbb{R}") or ("words", words)
    return ("number", ("const", "inf")) if words in ("infinity", "infinite") else ("words", words)


def _reals(text: str) -> Value | None:
    return read_reals(text)


def _list(text: str) -> Value | None:
    thousands = sum(number.count(",") for number in _THOUSANDS.findall(text))
    pieces = split_top(text, ",;")
    if thousands and thousands == text.count(",") and len(pieces) == thousands + 1:
        pieces = [text]
    elif thousands:
        pieces = re.split(r"[,;]\s", text)
    parts = [part.strip() for piece in pieces for part in _LIST_WORD.split(piece)]
    if len(parts) < 2 or _compound(text):
        return None
    return _items([part for part in parts if part], braces=False)


def _items(parts: list[str], *, braces: bool) -> Value | None:
    found: list[Value] = []
    for part in parts:
        value = read(part)
        if value is None:
            return None
        found += value[1] if value[0] == "set" and not value[2] else [value]
    return ("set", tuple(found), braces)


def _brackets(text: str) -> Value | None:
    if text.startswith("\\{") and text.endswith("\\}"):
        inside = text[2:-2].strip()
        return _items(split_top(inside, ",;"), braces=True) if inside else ("reals", "", ())
    if len(text) < 5 or text[0] not in "([" or text[-1] not in ")]" or len(split_top(text, "+-/*=")) > 1:
        return None
    parts = split_top(text[1:-1], ",;")
    if len(parts) < 2:
        value = read(text[1:-1].strip()) if text[0] + text[-1] == "()" else None
        return value if value and value[0] == "quantity" else None
    items = [read(part) for part in parts]
    return None if None in items else ("tuple", text[0], tuple(items), text[-1])


def _matrix(text: str) -> Value | None:
    match = _MATRIX.fullmatch(text)
    if not match or match[1].startswith("v"):
        return None
    rows = [row for row in match[2].split("\\\\") if row.strip()]
    cells = tuple(tuple(read(cell.strip()) for cell in row.split("&")) for row in rows)
    return None if any(None in row for row in cells) else ("matrix", cells)


def _equation(text: str) -> Value | None:
    if text.count("\\approx") == 1:
        exact, _, rounded = text.partition("\\approx")
        return read(rounded.strip()) if _NAME.fullmatch(exact.strip()) else read(exact.strip())
    sides = [side.strip() for side in text.split("=")]
    if len(sides) < 2 or not all(sides) or any(mark in text for mark in ("\\equiv", ":=")):
        return None
    trees = tuple(parse(side) for side in sides)
    if _NAME.fullmatch(sides[0]) or (trees[0] and trees[0][0] == "sym"):
        values = tuple(read(side) for side in sides[1:])
        return None if None in values else ("equation", sides[0].replace(" ", ""), trees, values)
    if None in trees:
        return None
    constants = not any(symbols_of(tree) for tree in trees if tree)
    return ("equation", "", trees, tuple(("number", tree) for tree in trees) if constants else ())


def _ratio(text: str) -> Value | None:
    parts = re.split(r":|\\text\{to\}|(?<![A-Za-z])to(?![A-Za-z])", text)
    if len(parts) < 2 or _LABEL.match(text):
        return None
    trees = tuple(parse(part.strip()) for part in parts)
    return None if None in trees else ("ratio", trees)


def _congruence(text: str) -> Value | None:
    r"""`x \equiv 3 \pmod 7`, also without a name."""
    match = _CONGRUENCE.fullmatch(text) if text.count("mod") == 1 and text.count("\\equiv") < 2 else None
    if not match:
        return None
    name, residue, modulus = (match[1] or "").replace(" ", ""), parse(match[2].strip()), parse(match[3].strip())
    return None if residue is None or modulus is None else ("congruence", name, residue, modulus)


def _based(text: str) -> Value | None:
    match = _BASED.fullmatch(text)
    return ("based", match[1].casefold(), match[2]) if match else None


def _signs(text: str) -> Value | None:
    r"""Both values of an answer with `\pm`."""
    if not re.search(r"\\[pm][pm](?![A-Za-z])", text):
        return None
    readings = []
    for plus, minus in (("+", "-"), ("-", "+")):
        readings.append(read(text.replace("\\pm", plus).replace("\\mp", minus)))
    if readings[0] is None or readings[1] is None:
        return None
    items = [item for value in readings if value for item in (value[1] if value[0] == "set" else [value])]
    return ("set", tuple(items), False)


def _quantity(text: str, letters: bool) -> Value | None:
    if (compound := _compound(text)) is not None:
        return compound
    split = split_unit(text, letters=letters)
    if split is None:
        return None
    value = read(split[0])
    if ("degree", 1) in split[1].powers and _TRIGONOMETRIC.search(split[0]):
        return None
    if value is None or value[0] not in ("number", "tuple", "set", "ratio", "quantity"):
        return None
    return ("quantity", value, split[1], False)


def _compound(text: str) -> Value | None:
    """`2 hours 30 minutes` as one amount in base units; such an amount has no number without its units."""
    parts, position = [], 0
    while match := _PART.match(text, position):
        parts.append((match[1], match[2].strip()))
        position = match.end()
    if len(parts) < 2 or position != len(text):
        return None
    if all(set(unit) == {"'"} for _, unit in parts):
        parts = [(amount, "\\text{ft}" if unit == "'" else "\\text{in}") for amount, unit in parts]
    split = [split_unit(f"{amount} {unit}", letters=True) for amount, unit in parts]
    units = [found[1] for found in split if found]
    values = [rational(tree) if found and (tree := parse(found[0])) else None for found in split]
    if len(units) < len(parts) or None in values or len({unit.powers for unit in units}) > 1 or not units[0].powers:
        return None
    factors = [unit.scale * unit.factor for unit in units]
    if any(later >= earlier for earlier, later in pairwise(factors)):
        return None
    total = sum(
        (value * factor for value, factor in zip(values, factors, strict=True) if value is not None), Fraction(0)
    )
    things = tuple(sorted({thing for unit in units for thing in unit.things}))
    return ("quantity", ("number", ("num", total)), Unit(powers=units[0].powers, things=things), True)


def _number(text: str) -> Value | None:
    tree = None if is_prose(text) else parse(text)
    return None if tree is None or not is_defined(tree) else ("number", tree)


def _sentence(text: str) -> Value | None:
    """The number of a short sentence (`There are 7 apples`), or words with a number in them (`June 20`)."""
    match = _OPENING.match(text)
    if match and len(text) > match.end():
        return read(text[match.end() :].strip())
    plain = " ".join(_TEXT.sub(r" \1 ", text).split())
    if _TEXT.match(text.strip()) and re.fullmatch(
        r"[^\W\d_]+\.?(?:[ ,]+(?:\d+(?:st|nd|rd|th)?|[^\W\d_]+)){1,2}", plain
    ):
        return ("words", plain.casefold().replace(",", ""))
    return None


def is_prose(text: str) -> bool:
    """Whether a text has a common word, or two long ones: what is made of its letters is no formula."""
    words = [match[1] or match[2] for match in _LETTERS.finditer(text)]
    return any(word.lower() in _COMMON_WORDS for word in words) or sum(len(word) > 3 for word in words) > 1


def trees_of(value: Value) -> Iterator[Tree]:
    """The formulas of a value; an equation as ("eq", left, right)."""
    kind = value[0]
    if kind == "number":
        yield value[1]
    elif kind == "quantity":
        yield from trees_of(value[1])
    elif kind in ("tuple", "set"):
        for item in value[2] if kind == "tuple" else value[1]:
            yield from trees_of(item)
    elif kind == "matrix":
        for row in value[1]:
            for cell in row:
                yield from trees_of(cell)
    elif kind == "congruence":
        yield from value[2:]
    elif kind == "ratio":
        yield from value[1]
    elif kind == "reals":
        for piece in value[2]:
            yield from (piece[0], piece[2])
    elif kind == "equation":
        yield from (tree for tree in value[2] if tree)
