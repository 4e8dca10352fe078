"""95% intervals: of a mean score, and of the change between two evaluations of the same problems."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Z95 = 1.959963984540054
"""The standard normal's 97.5% quantile."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95% interval; all NaN when nothing was judged."""

    mean: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return {"mean": self.mean, "low": self.low, "high": self.high}


UNKNOWN = Interval(math.nan, math.nan, math.nan)


def wilson_interval(scores: Sequence[float]) -> Interval:
    """The mean of independent scores in [0, 1] with Wilson's score interval.

    Exact in Wilson's sense (JASA 22, 1927, p. 209) for scores of 0 and 1. For scores between, such as
    the mean of several samples of one problem, it is too wide rather than too narrow: the variance of
    a variable on [0, 1] is at most mean * (1 - mean).
    """
    n = len(scores)
    if n == 0:
        return UNKNOWN
    mean = math.fsum(scores) / n
    z2 = Z95 * Z95
    centre = (mean + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(max(0.0, mean * (1 - mean)) / n + z2 / (4 * n * n))
    return Interval(mean, min(mean, max(0.0, centre - half)), max(mean, min(1.0, centre + half)))


def mean_interval(families: Mapping[str, Mapping[str, float]]) -> Interval:
    """The mean over families of their mean scores, with a normal interval within [0, 1].

    families: family -> problem -> score in [0, 1]. They weigh the same and are independent; empty ones are left out.
    """
    found = _combine([_mean_and_variance(list(scores.values())) for scores in families.values() if scores])
    return Interval(found.mean, max(0.0, found.low), min(1.0, found.high)) if found is not UNKNOWN else UNKNOWN


def independent_change(before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]) -> Interval:
    """As `paired_change`, for evaluations of different problems: their variances add up instead of cancelling."""
    changes = []
    for family in sorted(before.keys() & after.keys()):
        if before[family] and after[family]:
            (old, spread), (new, other) = (_mean_and_variance(list(s[family].values())) for s in (before, after))
            changes.append((new - old, spread + other))
    return _combine(changes)


def paired_change(before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]) -> Interval:
    """The change of the mean over families from `before` to `after`, with a paired normal interval.

    Both map family -> problem id -> score. Each family's change is the mean of its problems' differences,
    with the standard error of those differences (Miller 2024, arXiv:2411.00640, section 4.2: pairing removes
    the variance between problems); families weigh the same and are independent. A problem that is missing
    on one side (unjudged there) is left out of its pair.
    """
    changes = []
    for family in sorted(before.keys() & after.keys()):
        shared = sorted(before[family].keys() & after[family].keys())
        if shared:
            changes.append(_mean_and_variance([after[family][p] - before[family][p] for p in shared]))
    return _combine(changes)


def _combine(parts: Sequence[tuple[float, float]]) -> Interval:
    """The mean of independent estimates of equal weight. parts: (estimate, its variance)."""
    if not parts:
        return UNKNOWN
    mean = math.fsum(estimate for estimate, _ in parts) / len(parts)
    half = Z95 * math.sqrt(math.fsum(variance for _, variance in parts)) / len(parts)
    return Interval(mean, mean - half, mean + half)


def _mean_and_variance(values: Sequence[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    return mean, _variance_of_mean(values, mean)


def _variance_of_mean(values: Sequence[float], mean: float) -> float:
    """Sample variance over n; a single value says nothing about its spread, so the widest possible stands in."""
    if len(values) < 2:
        return 1.0
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)
