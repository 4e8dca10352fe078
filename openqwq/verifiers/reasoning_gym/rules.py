"""How each data set of reasoning-gym is judged: by an exact rule of ours, by the library's scorer, or not at all.

Public: `RULES` (data set -> rule), `LIBRARY` (data set -> the shape an answer must have before the library sees
it), `REFUSED` (data set -> why), `TaskError`. A rule is `rule(answer, entry) -> bool`; it raises TaskError when
the entry, not the answer, is unreadable.

The library's own scores pay shotguns (the share of the answer that is the gold), lone tokens and near misses,
some raise on text, and several run `eval` on the answer. So every data set with one right answer is compared
here, and the library is asked only where many answers are right and its scorer gives 1.0 to right ones alone.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from ..answers import plain_number

Entry = Mapping[str, Any]
Rule = Callable[[str, Entry], bool]

_TEXT_COMMAND = re.compile(r"\\(?:text|texttt|mathrm|textbf)\{(.*)\}", re.DOTALL)
_FACTOR = re.compile(r"\s*(?:[×x*·]|\\times|\\cdot)\s*")
_LIST_ITEM = re.compile(r"[+-]?\d+(?:\.\d+)?")
_COMPLEX_PART = re.compile(r"([+-]?)(\d+(?:\.\d+)?|(?=[ij]))([ij]?)")
_ROLE = re.compile(r"([\w'-]+) is an? ([\w-]+)")
_ROLES = re.compile(rf"{_ROLE.pattern}(?:(?:, and|,| and) {_ROLE.pattern})*\.?")
_OPERATORS = str.maketrans({"×": "*", "÷": "/", "−": "-"})
_MAX_EXPRESSION = 300


class TaskError(Exception):
    """The entry holds no gold answer that this rule can read."""


def same_number(answer: str, entry: Entry) -> bool:
    """Exactly the gold number: `0.50` for `1/2`, never an unevaluated expression."""
    return plain_number(answer) == _gold_number(entry)


def same_text(answer: str, entry: Entry) -> bool:
    """The gold text up to the width of white space."""
    return _words(answer) == _words(_gold_text(entry))


def same_text_any_case(answer: str, entry: Entry) -> bool:
    """The gold text up to white space, case and a final full stop."""
    return _words(answer).rstrip(".").casefold() == _words(_gold_text(entry)).rstrip(".").casefold()


def same_number_or_text(answer: str, entry: Entry) -> bool:
    """By value where the gold is a number, else by text without case."""
    number = plain_number(_gold_text(entry))
    return same_text_any_case(answer, entry) if number is None else plain_number(answer) == number


def same_hexadecimal(answer: str, entry: Entry) -> bool:
    """The gold number, written in hexadecimal with its `0x`."""
    pattern = re.compile(r"([+-]?)0x([0-9a-f]+)")
    gold, given = (pattern.fullmatch(t.strip().lower()) for t in (_gold_text(entry), answer))
    if gold is None:
        raise TaskError("the gold answer is not hexadecimal")
    return given is not None and int(given[1] + given[2], 16) == int(gold[1] + gold[2], 16)


def same_number_within(tolerance: Fraction) -> Rule:
    """A rule for gold answers that are rounded: a relative tolerance, stated with the data set."""

    def rule(answer: str, entry: Entry) -> bool:
        gold, value = _gold_number(entry), plain_number(answer)
        return value is not None and abs(value - gold) <= tolerance * abs(gold)

    return rule


def same_numbers(answer: str, entry: Entry) -> bool:
    """The gold list of numbers, in order: `['1.50', '2']` for `[1.5, 2]`."""
    gold, given = _number_list(_gold_text(entry)), _number_list(answer)
    if gold is None:
        raise TaskError("the gold answer is not a list of numbers")
    return given == gold


def same_json(answer: str, entry: Entry) -> bool:
    """The gold JSON value; `1` and `1.0` are equal, `true` and `1` are not."""
    try:
        gold = json.loads(_gold_text(entry))
    except ValueError:
        return same_text(answer, entry)
    try:
        return _typed(json.loads(answer)) == _typed(gold)
    except (ValueError, RecursionError):
        return False


def same_fraction_as_written(answer: str, entry: Entry) -> bool:
    """The gold fraction in lowest terms: `2/4` is not the simplification of `4/8`."""
    gold, given = _written_fraction(_gold_text(entry)), _written_fraction(answer)
    if gold is None:
        raise TaskError("the gold answer is not a fraction")
    return given == gold


def same_factors(answer: str, entry: Entry) -> bool:
    """The gold prime factors with their multiplicities, in any order."""
    gold, given = _factors(_gold_text(entry)), _factors(answer)
    if gold is None:
        raise TaskError("the gold answer is not a product")
    return given == gold


def same_complex(answer: str, entry: Entry) -> bool:
    """The gold complex number, by value."""
    gold, given = _complex(_gold_text(entry)), _complex(answer)
    if gold is None:
        raise TaskError("the gold answer is not a complex number")
    return given == gold


def same_roots(answer: str, entry: Entry) -> bool:
    """As many numbers as the gold has, each within 0.001 of its own (the gold is rounded to 4 decimals)."""
    gold, given = ([plain_number(p) for p in t.split(",") if p.strip()] for t in (_gold_text(entry), answer))
    if not gold or None in gold:
        raise TaskError("the gold answer is not a list of numbers")
    if None in given or len(given) != len(gold):
        return False
    return all(abs(a - b) <= Fraction(1, 1000) for a, b in zip(sorted(given), sorted(gold), strict=True))  # type: ignore[type-var, operator]


def same_roles(answer: str, entry: Entry) -> bool:
    """The gold role of each inhabitant, in any order, in one sentence and with nothing around it."""
    gold, given = (_roles(text) for text in (_gold_text(entry), answer))
    if gold is None:
        raise TaskError("the gold answer names no roles")
    return given == gold


def one_of_valid_boards(answer: str, entry: Entry) -> bool:
    """Any of the boards that the entry lists as solutions."""
    try:
        boards = {_words(board) for board in entry["metadata"]["valid_answers"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise TaskError("the entry lists no valid boards") from error
    return _words(answer) in boards


def reaches_target(target: int | None) -> Rule:
    """A rule for arithmetic puzzles: each given number used once, value exactly the target (None: the entry's)."""

    def rule(answer: str, entry: Entry) -> bool:
        try:
            numbers = sorted(int(n) for n in entry["metadata"]["numbers"])
            goal = int(entry["metadata"]["target"]) if target is None else target
        except (KeyError, TypeError, ValueError) as error:
            raise TaskError("the entry lacks its numbers or target") from error
        used: list[int] = []
        return _evaluate(answer, used) == goal and sorted(used) == numbers

    return rule


def _evaluate(text: str, used: list[int]) -> Fraction | None:
    """The value of `+ - * /` over whole numbers, collecting them in `used`; None for anything else."""
    text = text.translate(_OPERATORS).replace("\\times", "*").replace("\\cdot", "*").replace("\\div", "/").strip()
    if len(text) > _MAX_EXPRESSION:
        return None
    try:
        return _value(ast.parse(text, mode="eval").body, used)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr, used: list[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, used)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, used), _value(node.right, used)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            return left / right
    raise ValueError("not arithmetic")


def _gold_text(entry: Entry) -> str:
    gold = entry.get("answer")
    if isinstance(gold, bool) or not isinstance(gold, str | int | float) or gold == "":
        raise TaskError("the entry has no gold answer")
    return str(gold)


def _gold_number(entry: Entry) -> Fraction:
    number = plain_number(_gold_text(entry))
    if number is None:
        raise TaskError("the gold answer is not a number")
    return number


def _words(text: str) -> str:
    text = text.strip()
    if match := _TEXT_COMMAND.fullmatch(text):
        text = match[1]
    return " ".join(text.split())


def _number_list(text: str) -> list[Fraction] | None:
    text = text.strip().removeprefix("\\")
    if not (text.startswith("[") and text.endswith("]")):
        return None
    items = [item.strip().strip("'\"").strip() for item in text[1:-1].split(",") if item.strip()]
    return [Fraction(item) for item in items] if all(_LIST_ITEM.fullmatch(item) for item in items) else None


def _typed(value: Any) -> Any:
    """A JSON value in which booleans differ from numbers."""
    if isinstance(value, list):
        return [_typed(v) for v in value]
    if isinstance(value, dict):
        return {k: _typed(v) for k, v in value.items()}
    return ("bool", value) if isinstance(value, bool) else value


def _written_fraction(text: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"\$?\s*(?:\\[dt]?frac\{(-?\d+)\}\{(\d+)\}|(-?\d+)\s*/\s*(\d+))\s*\$?", text.strip())
    return (int(match[1] or match[3]), int(match[2] or match[4])) if match else None


def _factors(text: str) -> list[int] | None:
    parts = _FACTOR.split(text.strip().strip("$"))
    return sorted(int(p) for p in parts) if all(re.fullmatch(r"\d{1,30}", p) for p in parts) else None


def _complex(text: str) -> tuple[Fraction, Fraction] | None:
    """Real and imaginary part of `a + bi`, `a` or `bi`."""
    compact = text.strip().strip("$").replace(" ", "").replace("−", "-")
    parts = list(_COMPLEX_PART.finditer(compact))
    if not 1 <= len(parts) <= 2 or "".join(p.group() for p in parts) != compact:
        return None
    if len(parts) == 2 and (parts[0][3] or not parts[1][3] or not parts[1][1]):
        return None
    values = [(bool(p[3]), Fraction(f"{p[1]}{p[2] or 1}")) for p in parts]
    return sum((v for i, v in values if not i), Fraction(0)), sum((v for i, v in values if i), Fraction(0))


def _roles(text: str) -> list[tuple[str, str]] | None:
    text = _words(text).casefold()
    return sorted(_ROLE.findall(text)) if _ROLES.fullmatch(text) else None


def _names(text: str) -> list[str]:
    return text.split()


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        _names(
            "aiw basic_arithmetic binary_alternation chain_sum circuit_logic count_bits count_primes "
            "decimal_arithmetic decimal_chain_sum dice gcd gsm_symbolic largest_island lcm leg_counting "
            "letter_counting maze number_sequence products rectangle_count rotten_oranges self_reference "
            "simple_equations simple_geometry"
        ),
        same_number,
    ),
    **dict.fromkeys(
        _names(
            "ab arc_1d arc_agi bf binary_matrix emoji_mystery figlet_font futoshiki letter_jumble manipulate_matrix "
            "mini_sudoku modulo_grid needle_haystack path_star rearc rotate_matrix sentence_reordering spell_backward "
            "spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo "
            "time_intervals tsumego word_sequence_reversal word_sorting caesar_cipher"
        ),
        same_text,
    ),
    **dict.fromkeys(
        _names(
            "acre base_conversion color_cube_rotation course_schedule family_relationships game_of_life_halting "
            "isomorphic_strings mahjong_puzzle ransom_note syllogism zebra_puzzles"
        ),
        same_text_any_case,
    ),
    **dict.fromkeys(_names("codeio game_of_life list_functions"), same_json),
    **dict.fromkeys(_names("number_sorting number_filtering"), same_numbers),
    "bitwise_arithmetic": same_hexadecimal,
    "calendar_arithmetic": same_number_or_text,
    "coin_flip": same_number_within(Fraction(1, 10**6)),  # the gold has 10 significant digits
    "complex_arithmetic": same_complex,
    "countdown": reaches_target(None),
    "fraction_simplification": same_fraction_as_written,
    "knights_knaves": same_roles,
    "n_queens": one_of_valid_boards,
    "number_format": same_number_within(Fraction(1, 10**12)),  # the gold carries a float's noise
    "polynomial_equations": same_roots,
    "power_function": same_number_within(Fraction(5, 1000)),  # 3 significant figures are asked for
    "prime_factorization": same_factors,
    "puzzle24": reaches_target(24),
}
"""Judged here, without the library."""

_JSON_ANSWER = r"[\[{].*[\]}]"
_NAME = r"(?<![A-Za-z])(?:[A-Za-z]|sin|cos|tan|exp|log|sqrt|pi)(?![A-Za-z])"
_ALGEBRA = rf"(?:{_NAME}|(?<=\d)\.(?=\d)|[\d\s+\-*/()])+"

LIBRARY: dict[str, str] = {
    "cryptarithm": r"[A-Z]\s*=\s*\d(?:\s*,\s*[A-Z]\s*=\s*\d)*",
    "graph_color": _JSON_ANSWER,
    "group_anagrams": _JSON_ANSWER,
    "jugs": _JSON_ANSWER,
    "kakurasu": r"[01\s]+",
    "knight_swap": rf"(?i:no)|{_JSON_ANSWER}",
    "palindrome_generation": r"[A-Za-z]+",
    "palindrome_partitioning": _JSON_ANSWER,
    "polynomial_multiplication": _ALGEBRA,
    "quantum_lock": r"[A-C](?:\s*→\s*[A-C])*",
    "rubiks_cube": r"[A-Za-z']+(?:\s+[A-Za-z']+)*",
    "shortest_path": r"[a-z]+(?:\s+[a-z]+)*",
    "simple_integration": _ALGEBRA,
    "sokoban": r"[UDLR]+",
    "tower_of_hanoi": r"Move disk \d+ from Peg \d+ to Peg \d+(?:\s+Move disk \d+ from Peg \d+ to Peg \d+)*",
    "word_ladder": r"[A-Za-z]+(?:\s*,\s*[A-Za-z]+)+",
}
"""Judged by the library's scorer in a worker, 1.0 or nothing, once the answer matches this pattern.

The pattern keeps prose around an answer and lists of guesses away from it. `worker.py` takes the place of the two
scorers of algebra, which end in `eval`.
"""

REFUSED: dict[str, str] = {
    "advanced_geometry": "its scorer rounds the gold differently for each task type",
    "boxnet": "it has no reference answer that would prove its scorer, which raises on text",
    "composite": "it is a mixture: use its parts as sources of their own",
    "intermediate_integration": "some of its gold answers are unevaluated integrals, so repeating the question is paid",
    "pool_matrix": "its gold answers are rounded differently from item to item",
    "propositional_logic": "it has no gold answer and its scorer pays for garbage",
    "rush_hour": "it has no reference answer that would prove its scorer",
}
"""Not judged: `require_supported` raises."""
