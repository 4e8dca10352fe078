r"""QwQ-32B's own evaluation of mathematics, judgement for judgement, with its leniencies; for comparable scores only.

Public: `answer_of`, `normalise`, `same_number`. After QwenLM/QwQ eval/eval/math_opensource*.py (620a5ea). What it
accepts and a trainer should not pay for: text of an unfinished thought, the last number where no answer is marked,
a relative error of 1e-4, a hundredth and a hundred times the gold number, units of any kind.
`math_qwq_worker.py` has the part that takes algebra.
"""

from __future__ import annotations

import re

from ..answers import MAX_ANSWER_CHARACTERS

_LAST_NUMBER = re.compile(r"-?\d*\.?\d+")
_CHOICE = re.compile(r"\b([A-E])\b")
_CHOICES = frozenset("ABCDE")

_UNITS = """
    east|degree|mph|kmph|ft|m sqaure| m east|sq m|deg|mile|q .|monkey|prime|ratio|profit of rs|rd|o|gm|p . m|lb|tile|
    per|dm|lt|gain|ab|way|west|a .|b .|c .|d .|e .|f .|g .|h .|t|a|h|no change|men|soldier|pie|bc|excess|st|inches|
    noon|percent|by|gal|kmh|c|acre|rise|a . m|th|π r 2|sq|mark|l|toy|coin|sq . m|gallon|° f|profit|minw|yr|women|feet|
    am|pm|hr|cu cm|square|v â € ™|are|rupee|rounds|cubic|cc|mtr|s|ohm|number|kmph|day|hour|minute|min|second|man|woman|
    sec|cube|mt|sq inch|mp|∏ cm ³|hectare|more|sec|unit|cu . m|cm 2|rs .|rs|kg|g|month|km|m|cm|mm|apple|liter|loss|
    yard|pure|year|increase|decrease|d|less|Surface|litre|pi sq m|s .|metre|meter|inch
"""
_UNIT_NAMES = re.sub(r"\n\s*", "", _UNITS).split("|")
_UNIT_PATTERNS = [
    ("" if "." in unit else unit, re.compile(rf"(^|\W){unit}($|\W)"))
    for unit in [*_UNIT_NAMES, *(f"{u}s" for u in _UNIT_NAMES)]
]
"""Each with the literal that a text must hold for it to match; a full stop in a unit stands for any character."""

_SMALL = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_NUMBER_WORDS = {word: value for value, word in enumerate(f"{_SMALL} seventeen eighteen nineteen".split())}
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_NUMBER_WORDS |= {word: 10 * tens for tens, word in enumerate(_TENS.split(), 2)}
_NUMBER_WORDS |= {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_SCALES = ("billion", "million", "thousand")


def answer_part(completion: str) -> str:
    """What follows the first closed thought; the whole text when there is none."""
    return completion.partition("\n</think>\n\n")[2] if "\n</think>\n\n" in completion else completion


def answer_of(completion: str, gold: str) -> str | None:
    """The normalised answer of a completion, None for runaway text; `gold` is normalised, and tells a choice."""
    found = extract(answer_part(completion))
    if len(found) > MAX_ANSWER_CHARACTERS:
        return None
    answer = normalise(normalise(found))
    if gold in _CHOICES and answer not in _CHOICES:
        return clean_choice(answer)
    if not set(gold) - _CHOICES and set(answer) - _CHOICES:
        return "".join(letter for letter in answer if letter in _CHOICES)
    return answer


def extract(text: str) -> str:
    """The marked answer: the last box, else what follows "answer is", else the last number."""
    text = text.replace("\u043a\u0438", "")
    if "final answer is $" in text and "$. I hope" in text:
        found = text.split("final answer is $", 1)[1].split("$. I hope", 1)[0].strip()
    elif "boxed" in text:
        found = _last_box(text.split("boxed")[-1])
    elif "he answer is" in text:
        found = text.split("he answer is")[-1].strip()
    elif "final answer is" in text:
        found = text.split("final answer is")[-1].strip()
    else:
        found = (_LAST_NUMBER.findall(text.replace(",", "")) or [""])[-1]
    return re.sub(r"\n\s*", "", found).removeprefix(":").removesuffix(".").removesuffix("/")


def _last_box(text: str) -> str:
    """The balanced content at the text's head; the rest of the text where a brace is left open."""
    if not text.startswith("{"):
        return text.split("$")[0].strip()
    depth = 1
    for position, character in enumerate(text[1:], 1):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return text[1:position]
    return text[1:]


def normalise(text: str) -> str:
    """The official spelling of an answer, bugs included: it is applied to the gold and twice to the candidate's."""
    text = text.strip().replace("\n", "").rstrip(".").replace("\\!", "")
    text = re.sub(r"\\begin\{array\}\{.*?\}", r"\\begin{pmatrix}", text)
    text = re.sub(r"\\end\{array\}", r"\\end{pmatrix}", text)
    for old, new in _SPELLINGS:
        text = text.replace(old, new)
    text = re.sub(r"\\text{.*?}$", "", text).strip() or text
    text = _without_units(text)
    for noise in ("^{\\circ}", "^\\circ", "\\$", "$", "\\(", "\\)"):
        text = text.replace(noise, "")
    text = re.sub(r"\\text\{(.*?)\}", r"\1", _number_from_words(text))
    for name in ("x=", "y=", "z=", "x\\in", "y\\in", "z\\in", "x\\to", "y\\to", "z\\to"):
        text = text.replace(name, "")
    for old, new in _SYMBOLS:
        text = text.replace(old, new)
    text = text.replace("infinity", "\\infty")
    text = text if "\\infty" in text else text.replace("inf", "\\infty")
    text = re.sub(r"\\mbox{.*?}", "", text.replace("and", "").replace("\\mathbf", ""))
    if "j" in text and "i" not in text:
        text = text.replace("j", "i")
    if "." in text:  # else the patterns would only search, in quadratic time
        text = re.sub(r"(\d+)\.0*$", r"\1", re.sub(r"(\d+)\.0*([^\d])", r"\1\2", text))
    return _normalise_fractions(text) if text else text


_SPELLINGS = [
    ("bmatrix", "pmatrix"), ("tfrac", "frac"), ("dfrac", "frac"), ("\\neq", "\\ne"), ("\\leq", "\\le"),
    ("\\geq", "\\ge"), ("\\left", ""), ("\\right", ""), ("\\{", "{"), ("\\}", "}"),
]  # fmt: skip
_SYMBOLS = [
    ("\\emptyset", "{}"), ("(-\\infty,\\infty)", "\\mathbb{R}"), ("\\%", ""), ("%", ""), (" .", " 0."), ("{.", "{0."),
]  # fmt: skip


def _without_units(text: str) -> str:
    for literal, pattern in _UNIT_PATTERNS * 2:
        if literal in text:
            text = pattern.sub(r"\1\2", text) or text
    return text


def _normalise_fractions(text: str) -> str:
    if text[0] == ".":
        text = "0" + text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = re.sub(r"\\sqrt(\w+)", r"\\sqrt{\1}", text).replace(" ", "")
    return _slash_as_fraction(_brace_fractions(text))


def _brace_fractions(text: str) -> str:
    r"""`\frac12` and `\frac1{72}` as `\frac{1}{2}` and `\frac{1}{72}`; the text as it is where one ends early."""
    first, *rest = text.split("\\frac")
    parts = [first]
    for part in rest:
        if part.startswith("{"):
            parts.append(part)
        elif len(part) < 2:
            return text
        else:
            denominator = part[1] if part[1] == "{" else f"{{{part[1]}}}"
            parts.append(f"{{{part[0]}}}{denominator}{part[2:]}")
    return "\\frac".join(parts)


def _slash_as_fraction(text: str) -> str:
    match = re.fullmatch(r"([^/]*)/([^/]*)", text, re.DOTALL)
    if not match or not all("sqrt" in side or _is_plain_integer(side) for side in match.groups()):
        return text
    return f"\\frac{{{match[1]}}}{{{match[2]}}}"


def _is_plain_integer(text: str) -> bool:
    try:
        return str(int(text)) == text
    except ValueError:
        return False


def clean_choice(text: str) -> str:
    """The option letter of an answer to a multiple choice, the last where there are many."""
    first_lines = text.strip("\n")
    if any(first_lines.count(trigger) > 1 for trigger in ("choice is", "answer is")):
        first_lines = first_lines.split("\n\n")[0]
    claims = re.split("choice is|answer is", first_lines)
    text = claims[-1].strip("\n").rstrip(".").rstrip("/").strip(" ").lstrip(":")
    letters = _CHOICE.findall(text.upper())
    if letters:
        return letters[0] if len(claims) > 1 else letters[-1]
    return text.strip().strip(".").rstrip(".").rstrip("/")


def simple_choice(text: str) -> str:
    """The last option letter of an answer, as the comparison reads it; the trimmed answer where there is none."""
    text = text.strip("\n").rstrip(".").rstrip("/").strip(" ").lstrip(":")
    return (_CHOICE.findall(text.upper()) or [text.strip().strip(".")])[-1].rstrip(".").rstrip("/")


def read_number(text: str) -> float | None:
    """A float, commas left out; a percentage as its hundredth."""
    text = text.replace(",", "")
    value = _float(text)
    if value is None and text.endswith("%"):
        value = _float(text[:-1].removesuffix("\\"))
        return None if value is None else value / 100
    return value


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def same_number(answer: str, gold: str) -> bool | None:
    """Whether both are numbers within 1e-4 of each other, up to a factor of 100; None unless both are numbers."""
    number, reference = read_number(answer), read_number(gold)
    if number is None or reference is None:
        return None
    return any(is_close(number, value) for value in (reference / 100, reference, reference * 100))


def is_close(first: float, second: float) -> bool:
    """As `math.isclose` with a relative tolerance of 1e-4: equal infinities are close, NaN is not."""
    if first == second:
        return True
    if abs(first) == float("inf") or abs(second) == float("inf"):
        return False
    return abs(first - second) <= 1e-4 * max(abs(first), abs(second))


def _number_from_words(text: str) -> str:
    """Number words as digits (all other words are dropped then), digits without leading zeros."""
    lowered = text.replace("-", " ").lower()
    if lowered.isdigit():
        return str(int(lowered)) if lowered.isdecimal() else text
    words = [word for word in lowered.split() if word in _NUMBER_WORDS or word == "point"]
    if not words or any(words.count(word) > 1 for word in (*_SCALES, "point")):
        return text
    whole, decimals = words, []
    if "point" in words:
        point = words.index("point")
        whole, decimals = words[:point], words[point + 1 :]
    try:
        return str(_value_of_words(whole) + _value_of_decimals(decimals))
    except (IndexError, ValueError):
        return text


def _value_of_words(words: list[str]) -> int:
    """Raises IndexError or ValueError where a scale has no number before it or scales are out of order."""
    if len(words) <= 1:
        return sum(_NUMBER_WORDS[word] for word in words)
    scales = [scale for scale in _SCALES if scale in words]
    positions = [words.index(scale) for scale in scales]
    if positions != sorted(positions):
        raise ValueError("scales out of order")
    total, start = 0, 0
    for scale, position in zip(scales, positions, strict=True):
        total += _NUMBER_WORDS[scale] * _below_thousand(words[start:position])
        start = position + 1
    tails = [position + 1 for position in reversed(positions) if position + 1 < len(words)]
    if tails or not scales:  # after "one million two thousand" the official reader adds "two thousand" once more
        total += _below_thousand(words[tails[0] if tails else 0 :])
    return total


def _below_thousand(words: list[str]) -> int:
    values = [_NUMBER_WORDS[word] for word in words]
    if len(values) == 4:
        return values[0] * values[1] + values[2] + values[3]
    if len(values) == 3:
        return values[0] * values[1] + values[2]
    if len(values) == 2:
        return values[0] * values[1] if 100 in values else values[0] + values[1]
    return values[0]


def _value_of_decimals(words: list[str]) -> float:
    digits = [_NUMBER_WORDS.get(word, 10) for word in words]
    return float("0." + "".join(map(str, digits))) if digits and max(digits) < 10 else 0
