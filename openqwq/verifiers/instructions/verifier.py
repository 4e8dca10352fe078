"""Whether an answer follows every instruction of its problem.

`problem.answer` is `{"instructions": [{"id": "change_case:english_lowercase", "kwargs": {}}, ...]}`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from openqwq.errors import UserError
from openqwq.types import Problem, Verdict
from openqwq.verifiers.base import Verifier, answer_part
from openqwq.verifiers.instructions.checks import CHECKS, TaskError


class InstructionsVerifier(Verifier):
    """Correct when all instructions hold on the answer part (IFEval's strict prompt accuracy).

    loose:   an instruction also holds when it does without the first line, the last line or asterisks (IFEval's
             loose accuracy).
    partial: the score of a wrong answer is the share of its instructions that hold, instead of 0.
    Format-free judges the whole text where the thinking was never closed. An empty answer is wrong.
    """

    name: ClassVar[str] = "instructions"

    def __init__(self, *, format_free: bool = False, loose: bool = False, partial: bool = False):
        super().__init__(format_free=format_free)
        self.loose = loose
        self.partial = partial

    def __call__(self, problem: Problem, completion: str) -> Verdict:
        answer = answer_part(completion, format_free=self.format_free)
        if answer is None:
            return Verdict.wrong("no answer")
        text = answer.strip()
        if not text:
            return Verdict.wrong("empty answer")
        texts = _loose_variants(text) if self.loose else [text]
        try:
            rules = read_instructions(problem.answer)
            results = [any(CHECKS[name](variant, kwargs) for variant in texts) for name, kwargs in rules]
        except TaskError as error:
            return Verdict.unjudged(f"unreadable instructions: {error}")
        details = {"instructions": [{"id": r[0], "followed": ok} for r, ok in zip(rules, results, strict=True)]}
        if all(results):
            return Verdict.correct(extracted=text, details=details)
        score = sum(results) / len(results) if self.partial else 0.0
        return Verdict.wrong("instruction not followed", extracted=text, details=details, score=score)


def read_instructions(answer: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """Name and arguments of each instruction. Raises TaskError for none, an unknown one or another shape."""
    try:
        rules = [(rule["id"], rule.get("kwargs") or {}) for rule in answer["instructions"]]
    except (TypeError, KeyError, AttributeError) as error:
        raise TaskError("no list of instructions") from error
    if not rules:
        raise TaskError("the list is empty")
    for name, _ in rules:
        if name not in CHECKS:
            raise TaskError(f"unknown instruction `{name}`")
    return rules


def require_supported(names: Sequence[str]) -> None:
    """Raise UserError for an instruction that cannot be judged, naming the nearest one that can."""
    for name in names:
        if name not in CHECKS:
            nearest = difflib.get_close_matches(name, CHECKS, n=1)
            raise UserError(
                f"unknown instruction `{name}`",
                hint=f"did you mean `{nearest[0]}`?" if nearest else f"known: {', '.join(CHECKS)}",
            )


def _loose_variants(text: str) -> list[str]:
    """The text with and without its first line, its last line, both, each also without asterisks."""
    lines = text.split("\n")
    variants = [text, "\n".join(lines[1:]), "\n".join(lines[:-1]), "\n".join(lines[1:-1])]
    variants = [v.strip() for v in variants]
    return [v for v in (*variants, *(v.replace("*", "") for v in variants)) if v]
