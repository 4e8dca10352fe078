"""What a verifier is: a pure function of (problem, completion) with a name, a version and typed options.

Public: `Verifier` (subclass it and write `__call__`), `answer_part` (the text that is judged),
`verify_all` (a mixed batch, in order). `registry.py` finds verifiers by name.

Two modes for every verifier that reads an answer. Strict, for training and scores: the thinking is
closed and the answer well-formed. Format-free: an answer is looked for anywhere, so that learning
a format is not sold as learning to reason.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from openqwq.errors import UserError
from openqwq.types import Problem, Verdict

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


class Verifier(ABC):
    """Judges completions; options are keyword-only arguments of `__init__`, with defaults and plain types.

    name, version: recorded beside every verdict; a change of judgement is a new version.
    format_free:   look for an answer anywhere instead of asking for the format.
    """

    name: ClassVar[str]
    version: ClassVar[str] = "1"

    def __init__(self, *, format_free: bool = False):
        self.format_free = format_free

    @abstractmethod
    def __call__(self, problem: Problem, completion: str) -> Verdict:
        """The verdict on one completion; never raises for what a model wrote.

        Unreadable `problem.answer` is "unjudged": the task's fault, not the candidate's.
        """

    def verify_many(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """One verdict for each pair, in order; verifiers with workers judge the pairs in parallel."""
        return [self(problem, completion) for problem, completion in pairs]


def answer_part(completion: str, *, format_free: bool = False) -> str | None:
    """The text after the last `</think>`, or None when the thinking was never closed (or reopened after it).

    format_free: the whole text instead of None.
    """
    _, closed, answer = completion.rpartition(THINK_CLOSE)
    if closed and THINK_OPEN not in answer:
        return answer
    return completion if format_free else None


def verify_all(pairs: Sequence[tuple[Problem, str]], verifiers: Mapping[str, Verifier]) -> list[Verdict]:
    """One verdict for each pair, in order; each pair goes to `verifiers[problem.verifier]`.

    Raises UserError for a problem whose verifier is not among `verifiers`.
    """
    by_name: dict[str, list[int]] = {}
    for i, (problem, _) in enumerate(pairs):
        by_name.setdefault(problem.verifier, []).append(i)
    if unknown := sorted(by_name.keys() - verifiers.keys()):
        raise UserError(
            f"no verifier `{unknown[0]}` at hand for problem `{pairs[by_name[unknown[0]][0]][0].id}`",
            hint=f"the verifiers handed in are: {', '.join(sorted(verifiers)) or 'none'}",
        )
    verdicts: list[Verdict | None] = [None] * len(pairs)
    for name, indices in by_name.items():
        for i, verdict in zip(indices, verifiers[name].verify_many([pairs[i] for i in indices]), strict=True):
            verdicts[i] = verdict
    return [v for v in verdicts if v is not None]
