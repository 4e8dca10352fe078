"""The results of a benchmark run, from its folder alone: the score with two intervals, or bounds where samples miss.

Public: `summarise_run`, `Results`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from openqwq.types import Problem

from ..intervals import Interval
from .benchmark import Benchmark
from .folder import BenchmarkFolder
from .run import Plan
from .statistics import Comparison, Tally, compare, new_problems, noise, pass_at, same_problems, samples_needed

TWO_POINTS = 0.02


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a run shows; scores are shares of 1.

    expected, sampled, judged: samples.
    low, high:      the score if everything that misses were wrong, or right; equal where nothing misses.
    score:          None where samples miss or are unjudged: then only the bounds hold.
    same, new:      the two intervals (`statistics.py`), over what is judged.
    pass_at:        k -> pass@k, for k below the number of samples.
    shares:         outcome -> share of the sampled ones.
    without_bad:    the score without problems that are known to be bad; None where there are none, or no score.
    budgets:        token limit -> score had it been the limit (a cut-off answer is the beginning of a whole one).
    tokens_mean, tokens_p95: of samples whose tokens are counted; None without any.
    cut_early:      samples cut off well below the protocol's limit: by the model's window or the server's own limit.
    without_thinking: samples without a thinking block.
    needed:         samples a problem that tell two models 2 points apart on these problems.
    """

    benchmark: str
    protocol: str
    problems: int
    samples_per_problem: int
    expected: int
    sampled: int
    judged: int
    score: float | None
    low: float
    high: float
    same: Interval
    new: Interval
    pass_at: dict[int, float]
    shares: dict[str, float]
    unjudged_reasons: dict[str, int]
    known_bad: int
    without_bad: float | None
    budgets: dict[int, float]
    tokens_mean: float | None
    tokens_p95: int | None
    cut_early: int
    without_thinking: int
    noise: float | None
    needed: int | None
    comparison: Comparison | None

    @property
    def is_whole(self) -> bool:
        """Whether every expected sample is there and judged."""
        return self.judged == self.expected

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: no NaN."""
        return _plain(asdict(self))


def summarise_run(
    plan: Plan,
    folder: BenchmarkFolder,
    *,
    expect: float | None = None,
    margin: float = 2.0,
) -> Results:
    """The results of the plan's problems and samples. expect: a score in points to compare with."""
    problems, n = plan.asked, plan.protocol.samples
    wanted = [(problem.id, index) for problem in problems for index in range(n)]
    rows = [folder.samples[key] for key in wanted if key in folder.samples]
    verdicts = {key: folder.verdicts[key] for key in wanted if key in folder.verdicts and key in folder.samples}
    judged = {key: row for key, row in verdicts.items() if row["outcome"] != "unjudged"}
    tallies = _tallies(problems, n, {key: row["score"] for key, row in judged.items()})
    low, high = _bounds(problems, n, judged)
    whole = len(judged) == len(wanted)
    good = [tally for tally in tallies if tally.key not in plan.benchmark.known_bad]
    num_bad = sum(problem.id in plan.benchmark.known_bad for problem in problems)
    tokens = sorted(row["tokens"] for row in rows if row["tokens"] is not None)
    return Results(
        benchmark=plan.benchmark.name,
        protocol=plan.protocol.name,
        problems=len(problems),
        samples_per_problem=n,
        expected=len(wanted),
        sampled=len(rows),
        judged=len(judged),
        score=same_problems(tallies).mean if whole else None,
        low=low,
        high=high,
        same=same_problems(tallies),
        new=new_problems(tallies),
        pass_at={k: value for k in _powers(n) if (value := pass_at(k, tallies)) is not None},
        shares=_shares(verdicts, len(rows)),
        unjudged_reasons=dict(Counter(v["reason"] for v in verdicts.values() if v["outcome"] == "unjudged")),
        known_bad=num_bad,
        without_bad=same_problems(good).mean if whole and num_bad and good else None,
        budgets=_budgets(plan, folder, judged) if whole and len(tokens) == len(rows) else {},
        tokens_mean=math.fsum(tokens) / len(tokens) if tokens else None,
        tokens_p95=tokens[math.ceil(0.95 * len(tokens)) - 1] if tokens else None,
        cut_early=sum(_is_cut_early(row, plan.protocol.max_tokens) for row in rows),
        without_thinking=sum(not row["thinking_opened"] and "</think>" not in row["text"] for row in rows),
        noise=noise(tallies),
        needed=samples_needed(TWO_POINTS, tallies),
        comparison=None
        if expect is None
        else compare(
            tallies,
            expect,
            margin,
            expected_samples=_published_samples(plan.benchmark, expect),
            low=low,
            high=high,
        ),
    )


def _tallies(problems: Sequence[Problem], n: int, scores: Mapping[tuple[str, int], float]) -> list[Tally]:
    """One for each problem with a judged sample."""
    tallies = []
    for problem in problems:
        found = [scores[problem.id, index] for index in range(n) if (problem.id, index) in scores]
        if found:
            tallies.append(Tally(problem.id, str(problem.metadata["group"]), len(found), math.fsum(found)))
    return tallies


def _bounds(problems: Sequence[Problem], n: int, judged: Mapping[tuple[str, int], Mapping[str, Any]]) -> Any:
    total = math.fsum(row["score"] for row in judged.values())
    expected = len(problems) * n
    return total / expected, (total + expected - len(judged)) / expected


def _shares(verdicts: Mapping[Any, Mapping[str, Any]], sampled: int) -> dict[str, float]:
    counts = Counter(row["outcome"] for row in verdicts.values())
    return {
        outcome: counts[outcome] / sampled if sampled else 0.0
        for outcome in ("correct", "wrong", "no answer", "cut off", "unjudged")
    }


def _budgets(plan: Plan, folder: BenchmarkFolder, judged: Mapping[tuple[str, int], Mapping[str, Any]]) -> Any:
    """The score under halved token limits; problems have equal numbers of samples, so it is the mean of all."""
    limits = [limit for i in range(1, 6) if (limit := plan.protocol.max_tokens >> i) > 0]
    return {
        limit: math.fsum(row["score"] for key, row in judged.items() if folder.samples[key]["tokens"] <= limit)
        / len(judged)
        for limit in limits
    }


def _is_cut_early(row: Mapping[str, Any], max_tokens: int) -> bool:
    return row["finish_reason"] == "length" and row["tokens"] is not None and row["tokens"] < max_tokens


def _published_samples(benchmark: Benchmark, score: float) -> int | None:
    """Samples a problem of the published run with that score; None where it is none, or does not say."""
    return next((p.samples for p in benchmark.published if p.score == score and p.samples), None)


def _powers(n: int) -> list[int]:
    return [k for k in (2, 4, 8, 16, 32, 64, 128, 256) if k < n]


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
