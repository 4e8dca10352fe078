"""Scores with intervals: closed forms, slow references, and coverage by simulation."""

import itertools
import math
import random
import statistics

import pytest

from openqwq.eval.benchmarks.statistics import (
    Tally,
    compare,
    new_problems,
    noise,
    pass_at,
    same_problems,
    samples_needed,
)
from openqwq.eval.intervals import wilson_interval


def tallies(*counts, n, groups=None):
    return [Tally(str(i), str(groups[i] if groups else i), n, float(c)) for i, c in enumerate(counts)]


def test_mean_weighs_problems_alike_whatever_their_number_of_samples():
    found = [Tally("a", "a", 4, 4.0), Tally("b", "b", 1, 0.0)]
    assert same_problems(found).mean == new_problems(found).mean == 0.5


def test_single_samples_of_the_same_problems_are_wilsons_interval():
    found = same_problems(tallies(1, 1, 1, 0, n=1))
    assert (found.low, found.high) == pytest.approx(
        (wilson_interval([1, 1, 1, 0]).low, wilson_interval([1, 1, 1, 0]).high)
    )


def test_same_problem_variance_is_that_of_sampling_alone():
    """Half of four: p(1-p)/(n-1) = 1/12 each, of two problems 1/24; so 1/4 over 1/24 is 6 effective draws."""
    found, want = same_problems(tallies(2, 2, n=4)), wilson_interval([1, 1, 1, 0, 0, 0])
    assert (found.low, found.high) == pytest.approx((want.low, want.high))


def test_new_problem_variance_is_that_between_problems():
    """Means 1, 1, 0, 0: sum of squares 1, over 16, times 4/3, is 1/12; so 3 effective draws."""
    found = new_problems(tallies(8, 8, 0, 0, n=8))
    z2 = 1.959963984540054**2
    half = math.sqrt(z2) / (1 + z2 / 3) * math.sqrt(0.25 / 3 + z2 / 36)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert same_problems(tallies(8, 8, 0, 0, n=8)).low > found.low


def test_problems_of_one_group_count_as_less():
    apart = new_problems(tallies(1, 1, 0, 0, 1, 1, 0, 0, n=1))
    alike = new_problems(tallies(1, 1, 0, 0, 1, 1, 0, 0, n=1, groups=[0, 0, 1, 1, 2, 2, 3, 3]))
    assert alike.low < apart.low and alike.high > apart.high
    assert (new_problems(tallies(1, 0, n=1, groups=[0, 0])).low, new_problems(tallies(1, n=1)).high) == (0.0, 1.0)


@pytest.mark.parametrize("counts", [(4, 4, 4), (0, 0, 0)])
def test_interval_of_a_perfect_score_is_not_empty(counts):
    for interval in (same_problems(tallies(*counts, n=4)), new_problems(tallies(*counts, n=4))):
        assert interval.mean == counts[0] / 4
        assert interval.high - interval.low > 0.1


def test_pass_at_k_counts_all_choices_of_samples():
    for right in range(6):
        samples = [1] * right + [0] * (5 - right)
        for k in (1, 2, 4):
            choices = list(itertools.combinations(samples, k))
            want = statistics.fmean(any(choice) for choice in choices)
            assert pass_at(k, tallies(right, n=5)) == pytest.approx(want)
    assert pass_at(8, tallies(1, n=5)) is None
    assert pass_at(1, []) is None


def test_noise_is_unbiased_and_unknown_for_single_samples():
    exact = 0.3 * 0.7
    draws = random.Random(0)
    found = [noise(tallies(sum(draws.random() < 0.3 for _ in range(3)), n=3)) for _ in range(20_000)]
    assert statistics.fmean(found) == pytest.approx(exact, abs=0.005)
    assert noise(tallies(1, 0, n=1)) is None


def test_samples_needed_is_the_power_formula():
    """w = 1/3 for halves of four; 2 w 7.85 / (N d^2) with N = 30 and d = 0.02."""
    assert samples_needed(0.02, tallies(*[2] * 30, n=4)) == math.ceil(2 / 3 * 7.85 / (30 * 0.0004))
    assert samples_needed(0.02, tallies(*[4] * 30, n=4)) is None
    assert samples_needed(0.02, tallies(1, n=1)) is None


@pytest.mark.parametrize(("problems", "n", "mean"), [(30, 8, 0.8), (200, 4, 0.95), (100, 1, 0.5)])
def test_intervals_cover_as_often_as_they_say(problems, n, mean):
    """Of 1,500 runs about 95% hold the truth: 3 points of slack for the approximation and the simulation's error."""
    draws = random.Random(1)
    chances = [draws.betavariate(2 * mean, 2 * (1 - mean)) for _ in range(problems)]
    same = new = 0
    for _ in range(1500):
        run = tallies(*(sum(draws.random() < p for _ in range(n)) for p in chances), n=n)
        same += same_problems(run).low <= statistics.fmean(chances) <= same_problems(run).high
        fresh = [draws.betavariate(2 * mean, 2 * (1 - mean)) for _ in range(problems)]
        run = tallies(*(sum(draws.random() < p for _ in range(n)) for p in fresh), n=n)
        new += new_problems(run).low <= mean <= new_problems(run).high
    assert same / 1500 > 0.92
    assert 0.92 < new / 1500 < 0.98
    if n > 1:
        assert same / 1500 < 0.98


def judged(score, expected, margin=2.0, samples=None, problems=1000, low=None, high=None):
    found = tallies(*[round(score / 100 * 100)] * problems, n=100)
    mean = round(score / 100 * 100) / 100
    return compare(
        found,
        expected,
        margin,
        expected_samples=samples,
        low=mean if low is None else low,
        high=mean if high is None else high,
    )


def test_verdict_follows_from_the_whole_interval_of_the_difference():
    assert judged(80, 80.5).verdict == "consistent"
    assert judged(80, 85).verdict == judged(80, 75).verdict == "not consistent"
    assert judged(80, 82).verdict == "cannot tell"
    assert judged(80, 80, problems=2).verdict == "cannot tell"
    assert judged(80, 80, low=0.5, high=0.9).verdict == "cannot tell"
    assert compare([], 80, 2, expected_samples=None, low=0, high=1).verdict == "cannot tell"


def test_published_run_of_few_samples_has_its_own_error():
    exact, single = judged(80, 80), judged(80, 80, samples=1)
    assert single.difference.high > exact.difference.high
    half = 100 * 1.959963984540054 * math.sqrt(0.8 * 0.2 * 100 / 99 / 1000)
    ours = exact.difference.high
    assert single.difference.high == pytest.approx(math.hypot(half, ours), rel=1e-6)
