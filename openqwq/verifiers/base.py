"""What a verifier is: a pure function of (problem, completion) with a name, a version and typed options.

Public: `Verifier` (subclass it and write `__call__`), `answer_part` (the text that is judged),
`verify_all` (a mixed batch, in order),
`verifier_of` (a verifier from a plain function). `registry.py` finds verifiers by name.

Two modes for every verifier that reads an answer. Strict, for training and scores: the thinking is
closed and the answer well-formed. Format-free: an answer is looked for anywhere, so that learning
a format is not sold as learning to reason.
"""

from __future__ import annotations

import inspect
import math
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar

from openqwq.errors import UserError
from openqwq.tokenizer import answer_start
from openqwq.types import Problem, Verdict

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


class Verifier(ABC):
    """Judges completions; options are keyword-only arguments of `__init__`, with defaults and plain types.

    name, version: recorded beside every verdict; a change of judgement is a new version.
    needs_answer:  whether a problem without `answer` cannot be judged; False where only the text is looked at.
    format_free:   look for an answer anywhere instead of asking for the format.
    """

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    needs_answer: ClassVar[bool] = True

    def __init__(self, *, format_free: bool = False):
        self.format_free = format_free

    @abstractmethod
    def __call__(self, problem: Problem, completion: str) -> Verdict:
        """The verdict on one completion; never raises for what a model wrote.

        Unreadable `problem.answer` is "unjudged": the task's fault, not the candidate's.
        """

    def missing_columns(self, problem: Problem) -> list[str]:
        """Names of columns that the verifier needs and the problem's row lacks; ours need none."""
        return []

    def verify_many(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """One verdict for each pair, in order; verifiers with workers judge the pairs in parallel."""
        return [self(problem, completion) for problem, completion in pairs]


def verifier_of(function: Callable[..., Any], name: str) -> type[Verifier]:
    """A verifier class around a plain function of (problem, completion); its options are the function's own keywords.

    What the function may return: see `as_verdict`. Whatever it raises makes the completion unjudged: a fault of the
    verifier's.
    """

    def initialise(self: Verifier, **options: Any) -> None:
        Verifier.__init__(self)
        self.options = options  # type: ignore[attr-defined]

    def judge(self: Verifier, problem: Problem, completion: str) -> Verdict:
        try:
            return as_verdict(function(problem, completion, **self.options))  # type: ignore[attr-defined]
        except Exception as error:  # a stranger's code: its faults are data, the batch goes on
            return Verdict.unjudged(f"{type(error).__name__}: {error}"[:500])

    parameters = list(inspect.signature(function).parameters.values())[2:]
    hints = typing.get_type_hints(function)
    initialise.__annotations__ = {p.name: hints[p.name] for p in parameters if p.name in hints}
    made = type(
        name, (Verifier,), {"name": name, "__init__": initialise, "__call__": judge, "__doc__": function.__doc__}
    )
    made.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    )
    return made


def as_verdict(judged: Any) -> Verdict:
    """The verdict that a plain function's value stands for.

    A Verdict is taken as it is. A bool is correct or wrong. A finite number is the reward; from 1 on the completion
    counts as correct, and the score is the reward cut to [0, 1]. A table of named numbers or bools is a reward in
    parts: its `reward` if it has that name, else the sum; `correct` (a bool) decides what counts as correct.
    Anything else is unjudged, with the value in the reason.
    """
    if isinstance(judged, Verdict):
        return _checked(judged)
    if isinstance(judged, Mapping):
        return _of_parts(judged)
    value = _plain(judged)
    if isinstance(value, bool):
        return Verdict.correct() if value else Verdict.wrong("wrong answer")
    if value is None:
        return Verdict.unjudged(f"the verifier returned {judged!r}, which is not a finite number"[:500])
    return _paid(value, value >= 1)


def _paid(reward: float, is_correct: bool, **details: Any) -> Verdict:
    score = min(max(reward, 0.0), 1.0)
    paid = None if reward == score else reward
    if is_correct:
        return Verdict.correct(score=score, reward=paid, **details)
    return Verdict.wrong("below the full score", score=score, reward=paid, **details)


def _of_parts(judged: Mapping[Any, Any]) -> Verdict:
    values = {str(name): _plain(value) for name, value in judged.items()}
    if not values or (bad := [name for name, value in values.items() if value is None]):
        what = f"`{bad[0]}` as {judged[bad[0]]!r}" if values else "an empty table"
        return Verdict.unjudged(f"the verifier returned {what}, which is not a finite number"[:500])
    is_correct = values.pop("correct", None)
    reward = values.pop("reward", None)
    numbers = {name: float(value) for name, value in values.items()}  # type: ignore[arg-type]
    if reward is None and not numbers:
        reward = is_correct
    total = math.fsum(numbers.values()) if reward is None else float(reward)
    parts = {
        name: {"status": "correct" if value >= 1 else "wrong", "score": value, "reason": ""}
        for name, value in numbers.items()
    }
    return _paid(total, total >= 1 if is_correct is None else bool(is_correct), details={"parts": parts})


def _plain(value: Any) -> float | bool | None:
    """A bool or a finite float, out of whatever library's number; None for anything else."""
    if not isinstance(value, Real) and callable(item := getattr(value, "item", None)):
        try:
            value = item()  # a number of NumPy's or torch's
        except (TypeError, ValueError, RuntimeError):  # of several numbers
            return None
    if isinstance(value, bool):
        return value
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None


def _checked(verdict: Verdict) -> Verdict:
    """The verdict, unless its numbers are none that the trainer can use."""
    score, reward = _plain(verdict.score), _plain(verdict.reward)
    if score is None or not 0 <= score <= 1:
        return Verdict.unjudged(f"the verifier returned a Verdict with score {verdict.score!r}, outside [0, 1]"[:500])
    if verdict.reward is not None and reward is None:
        return Verdict.unjudged(f"the verifier returned a Verdict with reward {verdict.reward!r}"[:500])
    return verdict


def answer_part(completion: str, *, opened: bool | None, format_free: bool = False) -> str | None:
    """The text behind the thinking, or None when the thinking was never closed, or reopened and left open.

    opened:      `problem.thinking_opened`. None, where no prompt is known: read as behind QwQ's, which opens it, so
                 that truncated thinking is never taken for an answer.
    format_free: the whole text instead of None.
    Behind the first `</think>` all text is answer, tags that it speaks of included; a `<think>` that begins a line
    outside of fenced code, and is not closed, reopens the thinking.
    """
    start = answer_start(completion, opened is not False)
    if start is not None and not _is_reopened(completion[start:]):
        return completion[start:]
    return completion if format_free else None


def why_no_answer(completion: str, *, opened: bool | None) -> str:
    """The reason of a verdict on a completion in which no answer was found."""
    unclosed = answer_part(completion, opened=opened) is None
    return "thinking not closed" if unclosed else "no answer"


def _is_reopened(answer: str) -> bool:
    if THINK_OPEN not in answer:
        return False
    fenced = reopened = False
    for line in answer.splitlines():
        text = line.strip()
        if text.startswith(("```", "~~~")):
            fenced = not fenced
        reopened = (reopened or (text.startswith(THINK_OPEN) and not fenced)) and THINK_CLOSE not in text
    return reopened


def verify_all(pairs: Sequence[tuple[Problem, str]], verifiers: Mapping[str, Verifier]) -> list[Verdict]:
    """One verdict for each pair, in order; each pair goes to `verifiers[problem.verifier]`.

    Raises UserError for a problem whose verifier is not among `verifiers`.
    """
    by_name: dict[str, list[int]] = {}
    for i, (problem, _) in enumerate(pairs):
        by_name.setdefault(problem.verifier, []).append(i)
    if unknown := sorted(name for name in by_name if name not in verifiers):
        raise UserError(
            f"no verifier `{unknown[0]}` at hand for problem `{pairs[by_name[unknown[0]][0]][0].id}`",
            hint=f"the verifiers handed in are: {', '.join(sorted(verifiers)) or 'none'}",
        )
    verdicts: list[Verdict | None] = [None] * len(pairs)
    for name, indices in by_name.items():
        for i, verdict in zip(indices, verifiers[name].verify_many([pairs[i] for i in indices]), strict=True):
            verdicts[i] = verdict
    return [v for v in verdicts if v is not None]
