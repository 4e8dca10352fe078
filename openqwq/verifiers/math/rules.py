r"""When two mathematical answers are equal without algebra, or must differ although a library would accept them.

Public: `same_answer` (True, False, or None when it takes algebra), `comparable` (a pair spelt alike).

Rules that are ours, decided before the library is asked (it accepts all of these):
- A tuple or interval `(1,2)` is no set `\{1,2\}`, and the other way round; a bare list `1,2` is a set.
- A number with a base `2516_8` equals only the same digits with the same base.
- A percent sign is a unit: `70\%` equals `70\%` and `70`, never `0.7`.
- Units may be left out, but not exchanged: `5\text{ cm}` equals `5` and `5 centimeters`, never `5\text{ m}`.
- A sum or product left to the reader, `30+40`, is no answer where the gold is a plain number.
- Words (`\text{east}`) are compared as words.
- An inequality in one name, `2 \le x < 5`, is the interval `[2,5)`.
"""

from __future__ import annotations

import re

from ..answers import plain_number, strip_noise

_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|operatorname|mbox)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"\(?[A-Za-z][A-Za-z' -]*\)?")
_BASE = re.compile(r"([0-9A-Za-z]+)\s*_\s*(?:\{\s*)?(?:\\text\{\s*)?([0-9]+|[a-z]+)(?:\s*\})*")
_PERCENT = re.compile(r"([^%]*?)\s*(?:\\?%\s*)+")
_ARITHMETIC = re.compile(r"(?:[\d\s.+\-*/×÷·()]|\\times|\\cdot|\\div)+")
_ASSIGNMENT = re.compile(r"[A-Za-z]\s*=\s*(?!.*=)(.+)", re.DOTALL)


_UNITS = """
    mm millimeter millimetre|cm centimeter centimetre|m meter metre|km kilometer kilometre|in inch inches|ft foot feet|
    yd yard|mi mile|mg milligram|g gram|kg kilogram|lb pound|oz ounce|ml milliliter millilitre|l liter litre|
    s sec second|min minute|h hr hour|day|week|month|yr year|mph|kmh kmph|dollar|cent|unit|degree deg|radian rad|percent
"""
_UNIT_OF = {
    name: group.split()[0] for group in _UNITS.split("|") for word in group.split() for name in (word, f"{word}s")
}
_UNIT_AT_END = re.compile(
    r"(?P<body>.*?[\d})])\s*(?:\\(?:text|textrm|mathrm|mbox|operatorname)\s*\{\s*(?P<marked>[A-Za-z. ]+?)\s*\}"
    r"|(?P<bare>[A-Za-z][A-Za-z. ]+?))\s*(?:\^\s*\{?\s*(?P<power>\d+)\s*\}?)?\.?",
    re.DOTALL,
)
_POWER_WORDS = {"square": "2", "sq": "2", "sq.": "2", "cubic": "3", "cu": "3"}

_COMPARED = re.compile(r"(\\leq(?:slant)?|\\le|≤|<=|\\lt|<|\\geq(?:slant)?|\\ge|≥|>=|\\gt|>)(?![A-Za-z])")
_OR = re.compile(r"\\text\s*\{\s*or\s*\}|\bor\b|\\lor(?![A-Za-z])|\\cup(?![A-Za-z])")
_INTERVAL = re.compile(r"\\left\s*[(\[].*|[(\[].*,.*[)\]]", re.DOTALL)


def comparable(gold: str, answer: str) -> tuple[str, str]:
    """The pair with inequalities in one name written as intervals, where that makes them comparable."""
    sides = [_as_interval(text) for text in (gold, answer)]
    if sides[0] and sides[1]:
        return (sides[0][1], sides[1][1]) if sides[0][0] == sides[1][0] else (gold, answer)
    if sides[0] and _INTERVAL.fullmatch(answer.strip()):
        return sides[0][1], answer
    if sides[1] and _INTERVAL.fullmatch(gold.strip()):
        return gold, sides[1][1]
    return gold, answer


def _as_interval(text: str) -> tuple[str, str] | None:
    """The name and the interval of `2 \\le x < 5`, `x > 3` or several of them joined by "or"."""
    found = [_single_interval(part) for part in _OR.split(strip_noise(text))]
    names = {interval[0] for interval in found if interval}
    if None in found or len(names) != 1:
        return None
    return names.pop(), " \\cup ".join(interval[1] for interval in found if interval)


def _single_interval(text: str) -> tuple[str, str] | None:
    parts = [part.strip() for part in _COMPARED.split(text)]
    terms, relations = parts[::2], parts[1::2]
    names = [i for i, term in enumerate(terms) if re.fullmatch(r"[A-Za-z]|\\(?:theta|alpha|lambda)", term)]
    if len(names) != 1 or not all(terms) or not 2 <= len(terms) <= 3 or (len(terms) == 3 and names != [1]):
        return None
    if any(_points_up(relation) for relation in relations):
        if not all(_points_up(relation) for relation in relations):
            return None
        terms, relations, names = terms[::-1], relations[::-1], [len(terms) - 1 - names[0]]
    name = names[0]
    low, high = "(-\\infty", "\\infty)"
    if name > 0:
        low = ("[" if _is_closed(relations[name - 1]) else "(") + terms[name - 1]
    if name < len(terms) - 1:
        high = terms[name + 1] + ("]" if _is_closed(relations[name]) else ")")
    return terms[name], f"{low},{high}"


def _points_up(relation: str) -> bool:
    return relation.startswith((">", "≥", "\\g"))


def _is_closed(relation: str) -> bool:
    return "=" in relation or "e" in relation or relation in "≤≥"


def _split_unit(text: str) -> tuple[str, str] | None:
    """The amount and the unit, spelt alike: `("5", "cm2")` for `5\\text{ square centimeters}`; None without a unit.

    One letter is a unit inside a text command only: `5m` may be algebra.
    """
    match = _UNIT_AT_END.fullmatch(" ".join(text.split()))
    if not match:
        return None
    words = (match["marked"] or match["bare"]).lower().split()
    power = match["power"] or ""
    if len(words) == 2 and words[0] in _POWER_WORDS and not power:
        power = _POWER_WORDS[words.pop(0)]
    unit = _UNIT_OF.get(words[0].rstrip(".")) if len(words) == 1 else None
    return (match["body"], unit + power) if unit else None


def same_answer(gold: str, answer: str) -> bool | None:
    """Whether two answers are equal, or None when it takes algebra to say."""
    gold_number, number = plain_number(gold), plain_number(answer)
    if gold_number is not None and number is not None:
        return gold_number == number
    gold_quantity, quantity = _split_unit(gold), _split_unit(answer)
    if gold_quantity and quantity and gold_quantity[1] != quantity[1]:
        return False
    if gold_quantity or quantity:
        return same_answer(gold_quantity[0] if gold_quantity else gold, quantity[0] if quantity else answer)
    gold, answer = _canonical(gold), _canonical(answer)
    if gold == answer:
        return True
    gold_bare, bare = _without_name(gold, answer), _without_name(answer, gold)
    if gold_bare != gold or bare != answer:
        return same_answer(gold_bare, bare)
    for rule in (_percent_rule, _base_rule, _words_rule, _brackets_rule):
        decided = rule(gold, answer)
        if decided is not None:
            return decided
    if gold_number is not None and _ARITHMETIC.fullmatch(answer):
        return False
    return None


def _canonical(text: str) -> str:
    """Spelling differences that never matter: noise, \\dfrac, text commands around words, spaces at commas."""
    text = " ".join(strip_noise(text).split()).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = _TEXT_COMMAND.sub(lambda match: f" {match[1].strip()} ", text)
    text = re.sub(r"\s*([,(){}\[\]])\s*", r"\1", text)
    return " ".join(text.split())


def _without_name(text: str, other: str) -> str:
    """`5` for `x = 5` where the other side has no equation."""
    match = _ASSIGNMENT.fullmatch(text)
    return match[1].strip() if match and "=" not in other else text


def _percent_rule(gold: str, answer: str) -> bool | None:
    gold_percent, percent = _PERCENT.fullmatch(gold), _PERCENT.fullmatch(answer)
    if not gold_percent and not percent:
        return None
    return same_answer(gold_percent[1] if gold_percent else gold, percent[1] if percent else answer)


def _base_rule(gold: str, answer: str) -> bool | None:
    gold_base, base = _BASE.fullmatch(gold), _BASE.fullmatch(answer)
    if gold_base and gold_base[1].isalnum() and gold_base[1][0].isdigit():
        return base is not None and gold_base.groups() == base.groups()
    if base and base[1][0].isdigit() and plain_number(gold) is not None:
        return False
    return None


def _words_rule(gold: str, answer: str) -> bool | None:
    """Decides where the gold is words or one option letter, or the answer is words and the gold a number."""
    if _WORDS.fullmatch(gold) and (len(gold) > 3 or gold.strip("()").isupper()):
        return gold.strip("()").casefold() == answer.strip("()").casefold()
    if plain_number(gold) is not None and _WORDS.fullmatch(answer):
        return False
    return None


def _brackets_rule(gold: str, answer: str) -> bool | None:
    kinds = {_bracket_kind(gold), _bracket_kind(answer)}
    return False if kinds == {"set", "tuple"} else None


def _bracket_kind(text: str) -> str | None:
    if "," in text and text.startswith("\\{") and text.endswith("\\}"):
        return "set"
    inside = text[1:-1]
    if "," in text and text[:1] in "([" and text[-1:] in ")]" and not any(c in inside for c in "()[]"):
        return "tuple"
    return None
