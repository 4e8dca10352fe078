"""One evaluation's results: every completion judged twice, and what a family of problems makes of it.

Strictly (thinking closed, answer well-formed, not cut off) and format-free (the answer stands anywhere),
so that learning a format is not sold as learning to reason. What cannot be judged is left out and counted.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from openqwq.types import Status, Verdict

from .intervals import Interval, wilson_interval

Decoding = Literal["sampled", "greedy"]
Scores = dict[str, dict[str, float]]
"""Family -> problem id -> mean strict score of the problem's samples, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What is kept of a verdict beside a completion."""

    status: Status
    score: float
    reason: str = ""

    @classmethod
    def of(cls, verdict: Verdict) -> Mark:
        return cls(verdict.status, verdict.score, verdict.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredCompletion:
    """One completion of one held-out problem with both marks: a line of `OUT/eval/<stage>.jsonl`.

    id:     the problem's id, unique within the family.
    sample: number of the completion among those of its problem.
    tokens: sampled tokens, the end token included.
    thinking_opened: whether the prompt ended inside a thinking block; None: it was no chat prompt.
    """

    family: str
    kind: str
    id: str
    sample: int = 0
    decoding: Decoding = "sampled"
    prompt: str
    text: str
    thinking_opened: bool | None = None
    tokens: int
    finish_reason: str
    strict: Mark
    format_free: Mark

    def to_row(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ScoredCompletion:
        """Inverse of `to_row`. Raises KeyError or TypeError for a row of another shape."""
        return cls(**{**row, "strict": Mark(**row["strict"]), "format_free": Mark(**row["format_free"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyResult:
    """How a policy did on one family.

    n:           problems with at least one strictly judged sample.
    greedy:      strict score of greedy decoding, or None where it was not asked for.
    mean_tokens: mean length of the sampled completions, in tokens.
    truncated:   share of the sampled completions cut off at the token limit.
    unjudged:    sampled completions without a strict verdict; they count in no score.
    """

    kind: str
    n: int
    strict: Interval
    format_free: Interval
    greedy: Interval | None
    mean_tokens: float
    truncated: float
    unjudged: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarise(rows: Iterable[ScoredCompletion]) -> dict[str, FamilyResult]:
    """One result a family, in the order in which the families first occur."""
    by_family: dict[str, list[ScoredCompletion]] = {}
    for row in rows:
        by_family.setdefault(row.family, []).append(row)
    return {family: _summarise_family(completions) for family, completions in by_family.items()}


def strict_scores(rows: Iterable[ScoredCompletion]) -> Scores:
    """Each problem's mean strict score over its judged samples, greedy ones left out; for paired changes."""
    by_family: dict[str, list[ScoredCompletion]] = {}
    for row in rows:
        if row.decoding == "sampled":
            by_family.setdefault(row.family, []).append(row)
    return {family: problem_means([(r.id, r.strict) for r in kept]) for family, kept in by_family.items()}


def problem_means(marks: Sequence[tuple[str, Mark]]) -> dict[str, float]:
    """Mean score of each problem's judged marks; problems without one are absent."""
    scores: dict[str, list[float]] = {}
    for problem_id, mark in marks:
        if mark.status != "unjudged":
            scores.setdefault(problem_id, []).append(mark.score)
    return {problem_id: statistics.fmean(values) for problem_id, values in scores.items()}


def _summarise_family(rows: Sequence[ScoredCompletion]) -> FamilyResult:
    sampled = [row for row in rows if row.decoding == "sampled"]
    greedy = [row for row in rows if row.decoding == "greedy"]
    strict = problem_means([(row.id, row.strict) for row in sampled])
    format_free = problem_means([(row.id, row.format_free) for row in sampled])
    return FamilyResult(
        kind=rows[0].kind,
        n=len(strict),
        strict=wilson_interval(list(strict.values())),
        format_free=wilson_interval(list(format_free.values())),
        greedy=wilson_interval(list(problem_means([(r.id, r.strict) for r in greedy]).values())) if greedy else None,
        mean_tokens=statistics.fmean(row.tokens for row in sampled) if sampled else 0.0,
        truncated=statistics.fmean(row.finish_reason == "length" for row in sampled) if sampled else 0.0,
        unjudged=sum(row.strict.status == "unjudged" for row in sampled),
    )
