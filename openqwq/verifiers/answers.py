r"""Finding the final answer in a completion, and reading plain numbers exactly.

Public: `final_answer` (strict: the last `\boxed{}` of the answer part; format-free: an answer anywhere),
`last_boxed`, `boxes_together`, `answer_field`, `plain_number`. Pure Python, microseconds: tiny models need
thousands of them a step.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from .base import answer_part

MAX_ANSWER_CHARACTERS = 4000
"""Longer "answers" are runaway text; grading them is how others froze a training run."""

_BOXED = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*(?P<brace>\{)?")
_PLACEHOLDER = re.compile(
    r"(?:\s|~|\.|…|_|\?|\\(?:[,;:! ]|l?dots|cdots|quad|phantom\{[^{}]*\}|square))*"
    r"|(?:\\text\{)?\s*<?(?:your |the |final )*(?:answer|result)(?: here)?>?\s*\}?",
    re.IGNORECASE,
)
_JOINT = re.compile(r"[^.!?]{0,40}", re.DOTALL)
"""What stands between boxes that are one answer: a few characters without the end of a sentence."""
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_ANSWER_IS = re.compile(r"answer\s*(?:is|=|:)\s*:?\s*([^\n]+)", re.IGNORECASE)
_ANSWER_FIELD = re.compile(r"""["']answer["']\s*:\s*["']\(?([A-Z])\)?["']""")
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)")
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?|[-+]?\.\d+")

_INTEGER = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_GROUPED = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_POWER_OF_TEN = re.compile(r"(.+?)\s*(?:\\times|\\cdot|×|\*)\s*10\s*\^\s*(?:\{\s*([+-]?[0-9]{1,3})\s*\}|([0-9]))")
_REPEATING = re.compile(r"([+-]?)([0-9]*)\.([0-9]*)\\overline\{([0-9]+)\}")
_QUOTIENT = re.compile(r"([+-]?)([0-9]+)\s*/\s*([0-9]+)")
_LATEX_FRACTION = re.compile(
    r"([+-]?)\s*\\[dt]?frac\s*(?:\{\s*([+-]?[0-9]+)\s*\}|([0-9]))\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))"
)
_LATEX_SPACE = re.compile(r"\\[!,;: ]|\{,\}|~|\\(?:left|right)(?![a-zA-Z])")


def final_answer(completion: str, *, format_free: bool, opened: bool | None = None) -> str | None:
    r"""The text of the final answer, or None when there is none.

    Strict: the thinking is closed, and the last `\boxed{` of the answer part has its closing brace.
    Format-free: in the answer part, else in the whole text: the last box, else what follows "answer is",
    else the last number.
    opened: as for `answer_part`.
    """
    answer = answer_part(completion, opened=opened, format_free=format_free)
    if not format_free:
        return None if answer is None else last_boxed(answer)
    found = _find_anywhere(answer or "")
    return _find_anywhere(completion) if found is None and answer != completion else found


def last_boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{...}` or `\fbox{...}` that has content; None without one.

    A box that is only spoken of counts for nothing: `\boxed` without a brace, `\boxed{}`, `\boxed{...}`. One that the
    text ends in is no answer, whatever came before: the candidate did not end on the earlier one.
    """
    boxes = all_boxed(text)
    return boxes[-1][1] if boxes else None


def all_boxed(text: str) -> list[tuple[int, str, int]]:
    """Where each box with content begins, the content, and where it ends; nothing where the text ends inside one."""
    found: list[tuple[int, str, int]] = []
    position = 0
    while opening := _BOXED.search(text, position):
        position = opening.end()
        if opening["brace"] is None:
            if position == len(text.rstrip()):
                return []
            continue
        closing = _closing_brace(text, position)
        if closing is None:
            return []
        content = text[position:closing].strip()
        if not _PLACEHOLDER.fullmatch(content):
            found.append((opening.start(), content, closing + 1))
        position = closing + 1
    return found


def boxes_together(text: str) -> list[str]:
    r"""The contents of the last boxes that stand close together: `x = \boxed{2}` or `x = \boxed{3}`."""
    boxes = all_boxed(text)
    first = len(boxes) - 1
    while first > 0 and _JOINT.fullmatch(text, boxes[first - 1][2], boxes[first][0]):
        first -= 1
    return [content for _, content, _ in boxes[max(first, 0) :]]


def _closing_brace(text: str, position: int) -> int | None:
    depth = 1
    for brace in _BRACE.finditer(text, position):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.start()
    return None


def answer_field(text: str) -> str | None:
    """The last `"answer": "C"` of a text: an option letter, as QwQ's prompt for multiple choice asks for it."""
    found = _ANSWER_FIELD.findall(text)
    return found[-1] if found else None


def _find_anywhere(text: str) -> str | None:
    boxed = last_boxed(text)
    if boxed:
        return boxed
    stated = _ANSWER_IS.findall(text)
    if stated:
        claim = _SENTENCE_END.split(stated[-1].strip().strip("*$ "), maxsplit=1)[0].strip().strip("*$ ")
        number = _NUMBER.match(claim)
        return (number.group() if number else claim) or None
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


@lru_cache(maxsize=65536)
def plain_number(text: str) -> Fraction | None:
    r"""The exact value of an integer, a decimal, `a/b` or `\frac{a}{b}`; None for anything else.

    Decimals: `1.5`, `1.5e3`, `1.5 \times 10^3`, `0.\overline{3}`.
    Thousands separators, LaTeX spaces, dollar signs around and one full stop at the end are noise.
    """
    text = text.strip()
    if len(text) > MAX_ANSWER_CHARACTERS:
        return None
    if _INTEGER.fullmatch(text):
        return Fraction(int(text))
    text = " ".join(strip_noise(text).split())
    if _DECIMAL.fullmatch(text):
        return Fraction(text)
    if _GROUPED.fullmatch(text):
        return Fraction(text.replace(",", ""))
    if match := _QUOTIENT.fullmatch(text):
        return _quotient(match[1], match[2], match[3])
    if match := _LATEX_FRACTION.fullmatch(text):
        return _quotient(match[1], match[2] or match[3], match[4] or match[5])
    if (match := _POWER_OF_TEN.fullmatch(text)) and _DECIMAL.fullmatch(match[1]):
        return Fraction(match[1]) * Fraction(10) ** int(match[2] or match[3])
    if match := _REPEATING.fullmatch(text):
        return _repeating(*match.groups())
    return None


def _repeating(sign: str, whole: str, fixed: str, period: str) -> Fraction:
    value = Fraction(
        int(whole + fixed + period) - int((whole + fixed) or 0), (10 ** len(period) - 1) * 10 ** len(fixed)
    )
    return -value if sign == "-" else value


def strip_noise(text: str) -> str:
    """The text without LaTeX spacing, a final full stop and surrounding dollars."""
    text = _LATEX_SPACE.sub("", text).replace("−", "-").strip()
    if text.endswith(".") and not text.endswith("\\."):
        text = text[:-1].rstrip()
    return text.strip("$").strip()


def _quotient(sign: str, numerator: str, denominator: str) -> Fraction | None:
    if int(denominator) == 0:
        return None
    value = Fraction(int(numerator), int(denominator))
    return -value if sign == "-" else value
