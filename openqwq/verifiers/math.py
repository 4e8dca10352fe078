r"""Mathematical answers: exact for plain numbers, math-verify in a killable worker for everything else.

Public: `MathVerifier`. `problem.answer` is the gold answer: LaTeX or text as it would stand inside `\boxed{}`.

Rules that are ours, decided before the library is asked (it accepts all of these):
- A tuple or interval `(1,2)` is no set `\{1,2\}`, and the other way round; a bare list `1,2` is a set.
- A number with a base `2516_8` equals only the same digits with the same base.
- A percent sign is a unit: `70\%` equals `70\%` and `70`, never `0.7`.
- A sum or product left to the reader, `30+40`, is no answer where the gold is a plain number.
- Words (`\text{east}`) are compared as words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from openqwq.types import Problem, Verdict
from openqwq.verifiers.answers import MAX_ANSWER_CHARACTERS, final_answer, plain_number, strip_noise
from openqwq.verifiers.base import Verifier
from openqwq.verifiers.workers import fault_verdict, shared_pool

WORKER = "openqwq.verifiers.math_worker:judge"

_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|operatorname|mbox)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"\(?[A-Za-z][A-Za-z' -]*\)?")
_BASE = re.compile(r"([0-9A-Za-z]+)\s*_\s*(?:\{\s*)?(?:\\text\{\s*)?([0-9]+|[a-z]+)(?:\s*\})*")
_PERCENT = re.compile(r"(.*?)\s*\\?%")
_ARITHMETIC = re.compile(r"(?:[\d\s.+\-*/×÷·()]|\\times|\\cdot|\\div)+")
_ASSIGNMENT = re.compile(r"[A-Za-z]\s*=\s*(?!.*=)(.+)", re.DOTALL)


class MathVerifier(Verifier):
    """Judges the final answer against `problem.answer`; score 1 or 0.

    deadline_s:  CPU seconds of the worker for the gold answer and for the candidate's, each.
    num_workers: processes for what the exact path cannot decide; 0: one a core, at most 8.
    """

    name: ClassVar[str] = "math"

    def __init__(self, *, format_free: bool = False, deadline_s: float = 3.0, num_workers: int = 0):
        super().__init__(format_free=format_free)
        self.deadline_s = deadline_s
        self.num_workers = num_workers

    def __call__(self, problem: Problem, completion: str) -> Verdict:
        return self.verify_many([(problem, completion)])[0]

    def verify_many(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        verdicts: dict[int, Verdict] = {}
        undecided: dict[tuple[str, str], list[int]] = {}
        for i, (problem, completion) in enumerate(pairs):
            verdict = self._judge_fast(problem.answer, completion)
            if isinstance(verdict, Verdict):
                verdicts[i] = verdict
            else:
                undecided.setdefault(verdict, []).append(i)
        if undecided:
            pool = shared_pool(WORKER, deadline_s=self.deadline_s, num_workers=self.num_workers)
            for key, outcome in zip(undecided, pool.run(list(undecided)), strict=True):
                verdict = _VERDICTS[outcome.result](key[1]) if outcome.how == "ok" else fault_verdict(outcome, key[1])
                verdicts.update(dict.fromkeys(undecided[key], verdict))
        return [verdicts[i] for i in range(len(pairs))]

    def _judge_fast(self, answer: Any, completion: str) -> Verdict | tuple[str, str]:
        """The verdict, or the pair (gold, extracted) that only the worker can decide."""
        gold = read_gold(answer)
        if gold is None:
            return Verdict.unjudged("unreadable gold answer")
        extracted = final_answer(completion, format_free=self.format_free)
        if not extracted:
            return Verdict.wrong("no answer")
        if len(extracted) > MAX_ANSWER_CHARACTERS:
            return Verdict.wrong("answer too long", extracted=extracted[:200])
        equal = same_answer(gold, extracted)
        if equal is None:
            return gold, extracted
        return _VERDICTS["equal" if equal else "different"](extracted)


_VERDICTS = {
    "equal": lambda extracted: Verdict.correct(extracted=extracted),
    "different": lambda extracted: Verdict.wrong("wrong answer", extracted=extracted),
    "unreadable": lambda extracted: Verdict.wrong("unreadable answer", extracted=extracted),
    "unreadable gold": lambda extracted: Verdict.unjudged("unreadable gold answer", extracted=extracted),
}


def read_gold(answer: Any) -> str | None:
    """The gold answer as text; None when it is neither a non-empty text nor a number."""
    if isinstance(answer, str):
        return answer if answer.strip() and len(answer) <= MAX_ANSWER_CHARACTERS else None
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        return str(answer)
    return None


def same_answer(gold: str, answer: str) -> bool | None:
    """Whether two answers are equal, or None when it takes algebra to say."""
    gold_number, number = plain_number(gold), plain_number(answer)
    if gold_number is not None and number is not None:
        return gold_number == number
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
    text = strip_noise(text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
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
