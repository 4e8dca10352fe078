r"""Mathematical answers: read by one reader, decided at once where that is safe, else in a killable worker.

Public: `MathVerifier`. `problem.answer` is the gold answer: LaTeX or text as it would stand inside `\boxed{}`.
Where the gold is one option letter, `"answer": "C"` counts as a box too (QwQ's prompt for multiple choice asks for it).
`reading.py` reads an answer into a value, `rules.py` says when two are equal; what the reader does not know goes to
math-verify in the worker. `qwq.py` has the official evaluation's rules.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from openqwq.errors import UserError
from openqwq.types import Problem, Verdict

from ..answers import MAX_ANSWER_CHARACTERS, answer_field, boxes_together, final_answer
from ..base import answer_part, why_no_answer
from ..workers.verifier import WorkerVerifier
from . import qwq as math_qwq
from .reading import read
from .rules import comparable, same_answer
from .sets import split_top
from .spelling import spell

WORKERS = {"strict": "openqwq.verifiers.math.worker:judge", "qwq": "openqwq.verifiers.math.qwq_worker:judge"}


class MathVerifier(WorkerVerifier):
    """Judges the final answer against `problem.answer`; score 1 or 0.

    protocol: "strict" for training; "qwq" judges as QwQ-32B's published evaluation does, leniencies included, and
              looks for an answer anywhere by itself.
    """

    name: ClassVar[str] = "math"
    version: ClassVar[str] = "3"

    def __init__(
        self,
        *,
        format_free: bool = False,
        deadline_s: float = 3.0,
        num_workers: int = 0,
        protocol: str = "strict",
    ):
        super().__init__(format_free=format_free, deadline_s=deadline_s, num_workers=num_workers)
        if protocol not in WORKERS:
            raise UserError(f"option `protocol` of verifier `math` is {protocol!r}", hint="it takes `strict` or `qwq`")
        self.protocol = protocol
        self.worker = WORKERS[protocol]

    def prepare(self, problem: Problem, completion: str) -> Verdict | list[Any]:
        """The verdict, or the job [gold, answer, extracted] that takes algebra."""
        gold = read_gold(problem.answer)
        if gold is None:
            return Verdict.unjudged("unreadable gold answer")
        if self.protocol == "qwq":
            return _prepare_qwq(math_qwq.normalise(gold), completion)
        extracted = self._extract(gold, completion, problem.thinking_opened)
        if not extracted:  # a gold that this reader does not know may be unreadable whatever the answer
            missing = why_no_answer(completion, opened=problem.thinking_opened)
            return Verdict.wrong(missing) if read(spell(gold)) else [gold, "", missing, ""]
        if len(extracted) > MAX_ANSWER_CHARACTERS:
            return Verdict.wrong("answer too long", extracted=extracted[:200])
        extracted = self._with_boxes_beside(extracted, gold, completion, problem.thinking_opened)
        gold, answer = comparable(gold, extracted)
        equal = same_answer(gold, answer)
        if equal is None:
            return [gold, answer, extracted]
        return _VERDICTS["equal" if equal else "different"](extracted)

    def finish(self, result: Any, job: list[Any]) -> Verdict:
        if result == "unreadable" and not job[-1]:
            return Verdict.wrong(job[-2])
        verdict = _VERDICTS[result](job[-1])
        return verdict if verdict.status == "unjudged" else replace(verdict, details={"stage": "candidate"})

    def _extract(self, gold: str, completion: str, opened: bool | None) -> str | None:
        found = final_answer(completion, format_free=self.format_free, opened=opened)
        value = read(spell(gold)) if found is None else None
        if value and value[0] == "choice":
            return answer_field(answer_part(completion, opened=opened, format_free=self.format_free) or "")
        return found

    def _with_boxes_beside(self, extracted: str, gold: str, completion: str, opened: bool | None) -> str:
        """The last boxes joined, where several stand side by side and the gold has several values."""
        value = read(spell(gold))
        if not value or value[0] not in ("set", "tuple") or len(split_top(spell(extracted), ",;")) > 1:
            return extracted
        boxes = boxes_together(answer_part(completion, opened=opened, format_free=self.format_free) or "")
        return ", ".join(boxes) if len(boxes) > 1 and boxes[-1] == extracted else extracted


def _prepare_qwq(gold: str, completion: str) -> Verdict | list[Any]:
    answer = math_qwq.answer_of(completion, gold)
    if answer is None:
        return Verdict.wrong("answer too long")
    if answer.strip().lower() == gold.strip().lower():
        return Verdict.correct(extracted=answer)
    if not answer:
        return Verdict.wrong("no answer")
    equal = math_qwq.same_number(answer, gold)
    if equal is None:
        return [gold, answer, answer]
    return _VERDICTS["equal" if equal else "different"](answer)


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
