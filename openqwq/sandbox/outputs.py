"""Is what a program printed what was expected? Decided outside the jail, on text.

Public: `same_output`, `has_decimals`. Numbers are compared as decimals, digit by digit, so that no length of them costs
more than reading it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest

_NUMBER = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{1,4}))?")
_NUMBER_IN_TEXT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
_DECIMAL_IN_TEXT = re.compile(r"[0-9]\.[0-9]|[^0-9]\.[0-9]|[0-9][eE]-[0-9]")
MAX_FLOAT_CHARACTERS = 400
"""Longer numbers are equal or not; no float tells them apart."""
FINE_DIGITS = 6
"""Digits behind the point from which on an expected number was rounded by nobody: its error may be relative."""


@dataclass(frozen=True, slots=True)
class _Number:
    """A decimal: its sign, its digits without zeros around, the place of the point before them, digits behind it."""

    negative: bool
    digits: str
    point: int
    fraction: int
    text: str

    @property
    def value(self) -> tuple[bool, str, int]:
        return self.negative, self.digits, self.point


def same_output(found: str, expected: str, tolerance: float = 0.0, *, decimals: bool = False) -> bool:
    """Whether two outputs have the same lines, blanks at their ends and blank lines around all of them left out.

    Lines of numbers are compared number by number: "1.50 2" is "1.5 2.0", "1e3" is "1000" (as LiveCodeBench has it).
    tolerance: the absolute error of a number where decimals are expected, and the relative one where they have six
               digits or more, in lines with words too; 0: none.
    decimals:  the task's numbers are real, so that 3 may be found as 2.9999999999.
    """
    pairs = zip_longest(_lines(found), _lines(expected))
    return all(one == other or _same_line(one, other, tolerance, decimals) for one, other in pairs)


def has_decimals(expected: str) -> bool:
    """Whether an expected output has a number that is no integer."""
    return _DECIMAL_IN_TEXT.search(expected) is not None


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.rstrip().split("\n")]
    first = next((i for i, line in enumerate(lines) if line), 0)
    return lines[first:]


def _same_line(found: str | None, expected: str | None, tolerance: float, decimals: bool) -> bool:
    if found is None or expected is None:
        return False
    ours, theirs = found.split(), expected.split()
    pairs = [(_read(one), _read(other)) for one, other in zip(ours, theirs, strict=False)]
    if ours and len(ours) == len(theirs) and all(one and other for one, other in pairs):
        return all(
            one.value == other.value or _close(one, other, tolerance, decimals) for one, other in pairs if one and other
        )
    return bool(tolerance) and _same_words(found, expected, tolerance)


def _same_words(found: str, expected: str, tolerance: float) -> bool:
    """Whether two lines with words are the same but for decimals that are close enough."""
    if _NUMBER_IN_TEXT.sub("0", found) != _NUMBER_IN_TEXT.sub("0", expected):
        return False
    for one, other in zip(_NUMBER_IN_TEXT.findall(found), _NUMBER_IN_TEXT.findall(expected), strict=True):
        number, wanted = _read(one), _read(other)
        if one != other and not (number and wanted and wanted.fraction and _close(number, wanted, tolerance, False)):
            return False
    return True


def _read(text: str) -> _Number | None:
    match = _NUMBER.fullmatch(text) if text.isascii() else None
    if match is None:
        return None
    sign, whole, fraction, exponent = match[1], match[2], match[3] or "", int(match[4] or 0)
    if not whole + fraction:
        return None
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + exponent - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    negative = sign == "-" and digits != ""
    return _Number(negative, digits, point if digits else 0, max(0, len(fraction) - exponent), text)


def _close(found: _Number, expected: _Number, tolerance: float, decimals: bool) -> bool:
    if not tolerance or max(len(found.text), len(expected.text)) > MAX_FLOAT_CHARACTERS:
        return False
    if not expected.fraction and not (decimals and found.fraction):
        return False
    one, other = float(found.text), float(expected.text)
    scale = max(1.0, abs(other)) if expected.fraction >= FINE_DIGITS else 1.0
    return abs(one - other) <= tolerance * scale
