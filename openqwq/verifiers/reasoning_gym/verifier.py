r"""Answers to problems of the `reasoning-gym` library, judged all or nothing.

Public: `ReasoningGymVerifier`, `require_supported`. `problem.answer` is
`{"dataset": name, "entry": {question, answer, metadata}}`. The answer is read as in `math`: strict from the last
`\boxed{}` of the answer part; format-free also from "answer is ..." and the last number or line.
`gym_rules.py` says how each data set is judged; the library itself is only loaded in worker processes.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, ClassVar

from openqwq.errors import UserError
from openqwq.types import Problem, Verdict

from ..answers import MAX_ANSWER_CHARACTERS, final_answer, last_boxed
from ..base import answer_part, why_no_answer
from ..workers.verifier import WorkerVerifier
from .rules import LIBRARY, REFUSED, RULES, TaskError, same_number

_STATED = re.compile(r"answer\s*(?:is|:)\s*:?\s*([^\n]+)", re.IGNORECASE)


class ReasoningGymVerifier(WorkerVerifier):
    """Judges the final answer by the data set's rule, in a worker where the library scores it; score 1 or 0."""

    name: ClassVar[str] = "reasoning_gym"
    worker = "openqwq.verifiers.reasoning_gym.worker:judge"

    def __init__(self, *, format_free: bool = False, deadline_s: float = 5.0, num_workers: int = 0):
        super().__init__(format_free=format_free, deadline_s=deadline_s, num_workers=num_workers)

    def prepare(self, problem: Problem, completion: str) -> Verdict | list[Any]:
        """The verdict, or the job [data set, entry, extracted] for the library's scorer."""
        try:
            dataset, entry = problem.answer["dataset"], problem.answer["entry"]
            rule, gold = RULES.get(dataset), entry["answer"]
        except (TypeError, KeyError):
            return Verdict.unjudged("unreadable task")
        if rule is None and dataset not in LIBRARY:
            return Verdict.unjudged(f"data set {dataset} is not supported")
        if gold == "":
            return Verdict.unjudged("unreadable gold answer: it is empty")
        extracted = self._extract(completion, problem.thinking_opened, is_number=rule is same_number)
        if not extracted:
            return Verdict.wrong(why_no_answer(completion, opened=problem.thinking_opened))
        if len(extracted) > max(MAX_ANSWER_CHARACTERS, 2 * len(str(gold))):
            return Verdict.wrong("answer too long", extracted=extracted[:200])
        if rule is None:
            well_formed = re.fullmatch(LIBRARY[dataset], extracted, re.DOTALL)
            return [dataset, entry, extracted] if well_formed else _different(extracted)
        try:
            equal = rule(extracted, entry)
        except TaskError as error:
            return Verdict.unjudged(f"unreadable gold answer: {error}", extracted=extracted)
        return Verdict.correct(extracted=extracted) if equal else _different(extracted)

    def finish(self, result: Any, job: list[Any]) -> Verdict:
        extracted = job[-1]
        if result == "unreadable gold":
            return Verdict.unjudged("unreadable gold answer", extracted=extracted)
        return Verdict.correct(extracted=extracted) if result == "equal" else _different(extracted)

    def _extract(self, completion: str, opened: bool | None, *, is_number: bool) -> str | None:
        if is_number or not self.format_free:
            return final_answer(completion, format_free=self.format_free, opened=opened)
        text = answer_part(completion, opened=opened, format_free=True) or ""
        boxed = last_boxed(text)
        if boxed:
            return boxed
        stated = _STATED.findall(text)
        if stated:
            return stated[-1].strip().strip("*$ ").removesuffix(".")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else None


def _different(extracted: str) -> Verdict:
    return Verdict.wrong("wrong answer", extracted=extracted)


def require_supported(dataset: str) -> None:
    """Raise UserError for a data set that this verifier refuses or does not know."""
    if dataset in REFUSED:
        raise UserError(f"the reasoning-gym data set `{dataset}` is refused: {REFUSED[dataset]}")
    known = sorted([*RULES, *LIBRARY])
    if dataset not in known:
        nearest = difflib.get_close_matches(dataset, known, n=3)
        raise UserError(
            f"no rule to judge the reasoning-gym data set `{dataset}`",
            hint=f"did you mean {', '.join(nearest)}?" if nearest else f"judged data sets: {', '.join(known)}",
        )
