"""Whether an answer follows every instruction of its problem.

`problem.answer` is `{"instructions": [{"id": "change_case:english_lowercase", "kwargs": {}}, ...]}`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from openqwq.errors import UserError
from openqwq.types import Problem, Verdict

from ..base import answer_part
from ..workers.verifier import WorkerVerifier
from .checks import CHECKS, TaskError
from .sentences import read_punkt

DETECTED = "language:response_language"
"""The one kind that takes a language detector, and so a worker, under either protocol."""


class InstructionsVerifier(WorkerVerifier):
    """Correct when all instructions hold on the answer part (IFEval's strict prompt accuracy).

    protocol: "strict" for training, microseconds; "ifeval" judges as the official checker does, in a worker: on the
              text after the first closed thought (the whole text when there is none), with a language detector.
    loose:    an instruction also holds when it does without the first line, the last line or asterisks (IFEval's
              loose accuracy).
    punkt:    for "ifeval", the folder of NLTK's English sentence model (nltk_data/tokenizers/punkt_tab/english), with
              which sentences are counted exactly as the official checker counts them; "": by a small model of ours.
    partial:  the score of a wrong answer is the share of its instructions that hold, instead of 0.
    Format-free judges the whole text where the thinking was never closed. An empty answer is wrong.
    """

    name: ClassVar[str] = "instructions"
    worker = "openqwq.verifiers.instructions.official:judge"

    def __init__(
        self,
        *,
        format_free: bool = False,
        loose: bool = False,
        partial: bool = False,
        protocol: str = "strict",
        punkt: str = "",
        deadline_s: float = 5.0,
        num_workers: int = 0,
    ):
        super().__init__(format_free=format_free, deadline_s=deadline_s, num_workers=num_workers)
        if protocol not in ("strict", "ifeval"):
            raise UserError(
                f"option `protocol` of verifier `instructions` is {protocol!r}", hint="it takes `strict` or `ifeval`"
            )
        if punkt:
            read_punkt(punkt)  # a folder that is none is told now, not by a worker
        self.punkt = punkt
        self.loose = loose
        self.partial = partial
        self.protocol = protocol

    def prepare(self, problem: Problem, completion: str) -> Verdict | list[Any]:
        """The verdict, or the job [protocol, rules, texts, punkt, text]."""
        text = self._text(completion, problem.thinking_opened)
        if text is None:
            return Verdict.wrong("thinking not closed")
        if not text.strip():
            return Verdict.wrong("empty answer")
        texts = _loose_variants(text) if self.loose else [text]
        try:
            rules = read_instructions(problem.answer)
            if self.protocol == "ifeval" or any(name == DETECTED for name, _ in rules):
                return [self.protocol, [[name, dict(kwargs)] for name, kwargs in rules], texts, self.punkt, text]
            followed = [any(CHECKS[name](variant, kwargs) for variant in texts) for name, kwargs in rules]
        except TaskError as error:
            return Verdict.unjudged(f"unreadable instructions: {error}")
        return self._verdict([name for name, _ in rules], followed, text)

    def finish(self, result: Any, job: list[Any]) -> Verdict:
        if "unreadable" in result:
            return Verdict.unjudged(f"unreadable instructions: {result['unreadable']}")
        return self._verdict([name for name, _ in job[1]], result["followed"], job[-1])

    def _text(self, completion: str, opened: bool | None) -> str | None:
        if self.protocol == "ifeval":
            thought, closed, answer = completion.partition("\n</think>\n\n")
            return answer if closed else thought
        part = answer_part(completion, opened=opened, format_free=self.format_free)
        return None if part is None else part.strip()

    def _verdict(self, names: list[str], followed: list[bool], text: str) -> Verdict:
        details = {"instructions": [{"id": n, "followed": ok} for n, ok in zip(names, followed, strict=True)]}
        if all(followed):
            return Verdict.correct(extracted=text, details=details)
        score = sum(followed) / len(followed) if self.partial else 0.0
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
    cut = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    variants = [text, *cut]
    return [v for v in (*variants, *(v.replace("*", "") for v in variants)) if v.strip()]
