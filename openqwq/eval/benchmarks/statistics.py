"""Scores of problems with several samples each, and how sure they are.

Two intervals. Of the SAME problems: would another run of them give this score? Its variance is that of sampling alone.
Of NEW problems: would others of their kind? Its variance is that between problems, clustered by group (Miller 2024,
arXiv:2411.00640). Both are Wilson's interval with the effective number of draws, mean * (1 - mean) / variance, which
keeps its coverage near 0 and 1 and for few problems, where the normal one does not.

Public: `Tally`, `same_problems`, `new_problems`, `pass_at`, `noise`, `samples_needed`, `compare`, `Comparison`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..intervals import UNKNOWN, Z95, Interval

POWER = 7.85
"""(1.96 + 0.84)^2: a two-sided test at 5% that finds the difference in 4 of 5 runs."""


@dataclass(frozen=True, slots=True)
class Tally:
    """A problem's judged samples: how many, and the sum of their scores; at least one."""

    key: str
    group: str
    n: int
    total: float

    @property
    def mean(self) -> float:
        return self.total / self.n


def same_problems(tallies: Sequence[Tally]) -> Interval:
    """The mean over problems with the 95% interval in which another run of the same problems falls.

    A problem's variance is p(1-p)/(n-1), which is unbiased for scores of 0 and 1; with a single sample it is bounded by
    that of the mean score. Where no problem's samples differ the draws count as independent.
    """
    if not tallies:
        return UNKNOWN
    mean = _mean(tallies)
    return _wilson(mean, _sampling_variance(tallies, mean), sum(tally.n for tally in tallies))


def new_problems(tallies: Sequence[Tally]) -> Interval:
    """The mean over problems with the 95% interval for problems of the same kind, clustered by group."""
    if not tallies:
        return UNKNOWN
    mean = _mean(tallies)
    groups: dict[str, float] = {}
    for tally in tallies:
        groups[tally.group] = groups.get(tally.group, 0.0) + tally.mean - mean
    if len(groups) < 2:
        return Interval(mean, 0.0, 1.0)
    correction = len(groups) / (len(groups) - 1)
    variance = correction * math.fsum(total**2 for total in groups.values()) / len(tallies) ** 2
    return _wilson(mean, variance, len(groups))


def pass_at(k: int, tallies: Sequence[Tally]) -> float | None:
    """Mean over problems of the unbiased chance that one of k samples is right, 1 - C(n-c, k) / C(n, k).

    Chen et al. 2021, arXiv:2107.03374. None where some problem has fewer than k judged samples.
    """
    if not tallies or any(tally.n < k for tally in tallies):
        return None
    chances = [1 - math.comb(t.n - round(t.total), k) / math.comb(t.n, k) for t in tallies]
    return math.fsum(chances) / len(chances)


def noise(tallies: Sequence[Tally]) -> float | None:
    """Mean over problems of p(1-p), unbiased; None where no problem has two samples."""
    several = [tally for tally in tallies if tally.n > 1]
    if not several:
        return None
    return math.fsum(t.mean * (1 - t.mean) * t.n / (t.n - 1) for t in several) / len(several)


def samples_needed(difference: float, tallies: Sequence[Tally]) -> int | None:
    """Samples of each problem that tell two models apart on these problems, 4 times of 5 at 5%.

    difference: of their scores, in [0, 1]. None where the noise is not known, or no problem's samples differ.
    """
    w = noise(tallies)
    if not w:
        return None
    return max(1, math.ceil(2 * w * POWER / (len(tallies) * difference**2)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Our score against an expected one, in points of 100.

    verdict: "consistent" where the whole interval of the difference lies within the margin, "not consistent" where
             none of it does, else "cannot tell".
    """

    expected: float
    margin: float
    expected_samples: int | None
    difference: Interval
    verdict: str


def compare(
    tallies: Sequence[Tally], expected: float, margin: float, *, expected_samples: int | None, low: float, high: float
) -> Comparison:
    """Compare with a published score of the same problems.

    expected, margin: points. expected_samples: per problem in the published run, whose sampling error is taken to be
    that of ours; None: the expected score is exact. low, high: our score's bounds, apart where samples are missing.
    """
    if not tallies:
        return Comparison(
            expected=expected,
            margin=margin,
            expected_samples=expected_samples,
            difference=UNKNOWN,
            verdict="cannot tell",
        )
    ours = same_problems(tallies)
    theirs = 0.0
    if expected_samples:
        w = noise(tallies)
        w = ours.mean * (1 - ours.mean) if w is None else w
        theirs = Z95 * math.sqrt(w / (len(tallies) * expected_samples))
    below = 100 * math.hypot(ours.mean - ours.low, theirs)
    above = 100 * math.hypot(ours.high - ours.mean, theirs)
    interval = Interval(100 * ours.mean - expected, 100 * low - below - expected, 100 * high + above - expected)
    if interval.low > margin or interval.high < -margin:
        verdict = "not consistent"
    elif interval.low >= -margin and interval.high <= margin:
        verdict = "consistent"
    else:
        verdict = "cannot tell"
    return Comparison(
        expected=expected,
        margin=margin,
        expected_samples=expected_samples,
        difference=interval,
        verdict=verdict,
    )


def _mean(tallies: Sequence[Tally]) -> float:
    return math.fsum(tally.mean for tally in tallies) / len(tallies)


def _sampling_variance(tallies: Sequence[Tally], mean: float) -> float:
    parts = [t.mean * (1 - t.mean) / (t.n - 1) if t.n > 1 else mean * (1 - mean) for t in tallies]
    return math.fsum(parts) / len(tallies) ** 2


def _wilson(mean: float, variance: float, draws: int) -> Interval:
    """Wilson's interval with the effective number of draws; `draws` where the variance says nothing."""
    spread = max(0.0, mean * (1 - mean))
    n = spread / variance if variance > 0 and spread > 0 else float(draws)
    z2 = Z95 * Z95
    centre = (mean + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(spread / n + z2 / (4 * n * n))
    return Interval(mean, min(mean, max(0.0, centre - half)), max(mean, min(1.0, centre + half)))
