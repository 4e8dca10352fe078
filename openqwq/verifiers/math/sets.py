r"""Sets of real numbers in their many spellings: intervals, inequalities, set-builders, `x \ne 2`, `|x| < 3`.

Public: `read_reals`, `interval_of`, `split_top`. Read as ("reals", name or "", pieces): each piece is (low, whether
closed, high, whether closed) with formulas as ends; pieces are in order and joined where they touch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from .exact import enclose, rational, symbols_of
from .expression import Tree, parse

Piece = tuple[Tree, bool, Tree, bool]
INFINITY: Tree = ("const", "inf")
LINE: Piece = (("neg", INFINITY), False, INFINITY, False)

_RELATION = re.compile(r"(\\le(?![A-Za-z])|<|\\ge(?![A-Za-z])|>)")
_OR = re.compile(r"\\text\{or\}|\bor\b|\\cup(?![A-Za-z])")
_AND = re.compile(r"\\text\{and\}|\band\b|\\cap(?![A-Za-z])")
_MINUS = re.compile(r"\\setminus(?![A-Za-z])|(?<=\})\s*-\s*(?=\\\{)")
_IN = re.compile(r"\\in(?![A-Za-z])")
_NOT_EQUAL = re.compile(r"\\ne(?![A-Za-z])")
_NAME = re.compile(r"(?:[A-Za-z]|\\[a-zA-Z]+)(?:\s*_\s*(?:\w|\{\w+\}))?")
_HINT = re.compile(r"<|>|\\(?:le|ge|ne|in|cup|cap|setminus|mathbb|emptyset)(?![A-Za-z])|^\s*\]|\[\s*$")
_SPLITTER = re.compile(r"\\[A-Za-z]+|\\.|[()\[\]{}]|[,;:]|.", re.DOTALL)


def split_top(text: str, separators: str) -> list[str]:
    """The parts of a text between separators that stand in no brackets."""
    parts, depth, start = [], 0, 0
    for match in _SPLITTER.finditer(text):
        token = match[0]
        if token in ("(", "[", "{", "\\{"):
            depth += 1
        elif token in (")", "]", "}", "\\}"):
            depth -= 1
        elif depth == 0 and token in separators:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    return [*parts, text[start:].strip()]


def read_reals(text: str) -> tuple[Any, ...] | None:
    """The set of real numbers that a text describes; None where it is no such set."""
    if not _HINT.search(text):
        return None
    names: set[str] = set()
    pieces = _alternatives(text, names)
    if pieces is None or len(names) > 1:
        return None
    return ("reals", names.pop() if names else "", pieces)


def interval_of(opening: str, ends: Sequence[Tree], closing: str) -> tuple[Piece, ...]:
    """The pieces of `[a,b)`, also written `[a,b[`."""
    return join([_piece(ends[0], opening == "[", ends[1], closing == "]")])


def _piece(low: Tree, low_closed: bool, high: Tree, high_closed: bool) -> Piece:
    return low, low_closed and low != LINE[0], high, high_closed and high != INFINITY


def _alternatives(text: str, names: set[str]) -> tuple[Piece, ...] | None:
    found: list[Piece] = []
    for part in _OR.split(text):
        pieces = _conditions(part.strip(), names)
        if pieces is None:
            return None
        found += pieces
    return join(found)


def _conditions(text: str, names: set[str]) -> tuple[Piece, ...] | None:
    result: tuple[Piece, ...] | None = None
    for part in _AND.split(text):
        pieces = _single(part.strip().strip(","), names)
        if pieces is None:
            return None
        result = pieces if result is None else _intersect(result, pieces)
        if result is None:
            return None
    return result


def _single(text: str, names: set[str]) -> tuple[Piece, ...] | None:
    text = text.strip()
    if text == "\\mathbb{R}":
        return (LINE,)
    if text == "\\emptyset":
        return ()
    builder = re.fullmatch(r"\\\{\s*(.+?)\s*(?:\||:)\s*(.+?)\s*\\\}", text, re.DOTALL)
    if builder and (condition := _builder_name(builder[1], names)) is not None:
        outer = _alternatives(builder[2], names)
        return None if outer is None else _intersect(condition, outer)
    for reader in (_difference, _membership, _inequality, _excluded, _points, _interval):
        pieces = reader(text, names)
        if pieces is not None:
            return pieces
    return None


def _builder_name(text: str, names: set[str]) -> tuple[Piece, ...] | None:
    """What stands before the bar of a set-builder: a name, or a name in a set."""
    if _NAME.fullmatch(text):
        names.add(text)
        return (LINE,)
    return _membership(text, names)


def _difference(text: str, names: set[str]) -> tuple[Piece, ...] | None:
    sides = _MINUS.split(text)
    if len(sides) < 2:
        return None
    result = _single(sides[0], names)
    for side in sides[1:]:
        removed = _single(side, names)
        rest = None if removed is None else _complement(removed)
        result = None if result is None or rest is None else _intersect(result, rest)
    return result


def _membership(text: str, names: set[str]) -> tuple[Piece, ...] | None:
    sides = _IN.split(text)
    if len(sides) != 2 or not _NAME.fullmatch(sides[0].strip()):
        return None
    names.add(sides[0].strip())
    return _single(sides[1], names)


def _excluded(text: str, names: set[str]) -> tuple[Piece, ...] | None:
    sides = [side.strip() for side in _NOT_EQUAL.split(text)]
    if len(sides) != 2 or not _NAME.fullmatch(sides[0]):
        return None
    names.add(sides[0])
    values = [parse(value) for value in split_top(sides[1], ",")]
    if any(value is None for value in values):
        return None
    return _complement(join([(value, True, value, True) for value in values if value]))


def _points(text: str, names: set[str]) -> tuple[Piece, ...] | None:
    del names
    if not (text.startswith("\\{") and text.endswith("\\}")):
        return None
    values = [parse(value) for value in split_top(text[2:-2], ",;")]
    return None if any(value is None for value in values) else join([(v, True, v, True) for v in values if v])


def _interval(text: str, names: set[str]) -> tuple[Piece, ...] | None:
    del names
    if len(text) < 5 or text[0] not in "([]" or text[-1] not in ")[]":
        return None
    ends = [parse(end) for end in split_top(text[1:-1], ",;")]
    if len(ends) != 2 or ends[0] is None or ends[1] is None:
        return None
    return interval_of(text[0], [ends[0], ends[1]], text[-1])


def _inequality(text: str, names: set[str]) -> tuple[Piece, ...] | None:
    """`2 \\le x < 5`, `x > 3`, `\\le 5`, `|x - 1| < 3`."""
    parts = [part.strip() for part in _RELATION.split(text)]
    terms, relations = parts[::2], parts[1::2]
    nameless = len(terms) == 2 and terms[0] == ""  # `\\le 5`
    terms = ["x", *terms[1:]] if nameless else terms
    if not 2 <= len(terms) <= 3 or not all(terms):
        return None
    if all(relation in (">", "\\ge") for relation in relations):
        terms, relations = terms[::-1], [{">": "<", "\\ge": "\\le"}[r] for r in relations[::-1]]
    elif any(relation in (">", "\\ge") for relation in relations):
        return None
    closed = [relation == "\\le" for relation in relations]
    at = [i for i, term in enumerate(terms) if _NAME.fullmatch(term) and term not in ("e", "\\pi", "\\infty")]
    trees = [parse(term) for term in terms]
    if any(tree is None for tree in trees):
        return None
    if len(terms) == 2 and (bound := _absolute(trees, closed[0], names)) is not None:
        return bound
    if len(terms) == 3 and 1 in at:
        at = [1]  # `a < x < b`
    if len(at) != 1 or (len(terms) == 3 and at != [1]):
        return None
    names.update([] if nameless else [terms[at[0]]])
    low, low_closed, high, high_closed = LINE
    if at[0] > 0:
        low, low_closed = trees[at[0] - 1] or low, closed[at[0] - 1]
    if at[0] < len(terms) - 1:
        high, high_closed = trees[at[0] + 1] or high, closed[at[0]]
    return join([_piece(low, low_closed, high, high_closed)])


def _absolute(trees: list[Tree | None], closed: bool, names: set[str]) -> tuple[Piece, ...] | None:
    """`|x - a| < c`, and the outside of it where the bars are on the greater side."""
    inside = [i for i, tree in enumerate(trees) if tree and tree[:2] == ("fn", "abs") and symbols_of(tree)]
    if len(inside) != 1:
        return None
    tree, bound = trees[inside[0]], trees[1 - inside[0]]
    radius = rational(bound) if bound else None
    line = _line(tree[2]) if tree else None
    if line is None or radius is None or radius < 0:
        return None
    name, factor, offset = line
    names.add(name)
    ends = sorted(((-offset - radius) / factor, (-offset + radius) / factor))
    within: Piece = (("num", ends[0]), closed, ("num", ends[1]), closed)
    if inside[0] == 0:
        return join([within])
    return _complement(join([(within[0], not closed, within[2], not closed)]))


def _line(tree: Tree) -> tuple[str, Fraction, Fraction] | None:
    """Name, factor and offset of a formula `a x + b` in one variable."""
    names = symbols_of(tree)
    if len(names) != 1:
        return None
    name = next(iter(names))
    values = [rational(tree, {name: Fraction(at)}) for at in (0, 1, 2, 7)]
    if any(value is None for value in values):
        return None
    a, b, c, d = (value for value in values if value is not None)
    factor = b - a
    return (name, factor, a) if factor and c == a + 2 * factor and d == a + 7 * factor else None


def _position(tree: Tree) -> float | None:
    if tree == LINE[0]:
        return float("-inf")
    ball = enclose(tree)
    return None if ball is None else ball[0]


def _positions(pieces: Sequence[Piece]) -> list[tuple[float, float]] | None:
    """The ends of pieces as floats; None where one is a letter."""
    ends = [(_position(piece[0]), _position(piece[2])) for piece in pieces]
    return (
        None
        if any(None in pair for pair in ends)
        else [(low, high) for low, high in ends if low is not None and high is not None]
    )


def join(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """The pieces in order, without empty ones, joined where they touch; as they stand where ends are letters."""
    ends = _positions(pieces)
    if ends is None:
        return tuple(pieces)
    joined: list[Piece] = []
    for (low, high), piece in sorted(zip(ends, pieces, strict=True), key=lambda item: (item[0][0], not item[1][1])):
        if low > high or (low == high and not (piece[1] and piece[3])):
            continue
        last = _position(joined[-1][2]) if joined else None
        if last is not None and (low < last or (low == last and (piece[1] or joined[-1][3]))):
            before = joined[-1]
            if high > last or (high == last and piece[3]):
                joined[-1] = (before[0], before[1], piece[2], piece[3])
        else:
            joined.append(piece)
    return tuple(joined)


def _complement(pieces: tuple[Piece, ...]) -> tuple[Piece, ...] | None:
    if len(pieces) > 1 and _positions(pieces) is None:
        return None
    gaps, low, low_closed = [], LINE[0], False
    for piece in pieces:
        gaps.append(_piece(low, low_closed, piece[0], not piece[1]))
        low, low_closed = piece[2], not piece[3]
    gaps.append(_piece(low, low_closed, INFINITY, False))
    return join([gap for gap in gaps if gap[0] != INFINITY and gap[2] != LINE[0]])


def _intersect(first: tuple[Piece, ...], second: tuple[Piece, ...]) -> tuple[Piece, ...] | None:
    if first == (LINE,):
        return second
    if second == (LINE,):
        return first
    if _positions(first) is None or _positions(second) is None:
        return None
    found = []
    for a in first:
        for b in second:
            low = max((a, b), key=lambda piece: (_position(piece[0]) or 0.0, not piece[1]))
            high = min((a, b), key=lambda piece: (_position(piece[2]) or 0.0, piece[3]))
            found.append((low[0], low[1], high[2], high[3]))
    return join(found)
