"""Intervals against values worked by hand and against coverage by simulation."""

import math
import random

import pytest

from openqwq.eval.intervals import paired_change, wilson_interval


def test_wilson_matches_the_textbook_values():
    half = wilson_interval([1.0, 0.0] * 5)
    assert (half.mean, half.low, half.high) == pytest.approx((0.5, 0.2366, 0.7634), abs=1e-4)
    none = wilson_interval([0.0] * 10)
    assert (none.mean, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(1.959964**2 / (10 + 1.959964**2), abs=1e-6)
    assert wilson_interval([1.0] * 10).low == pytest.approx(1 - none.high, abs=1e-12)


def test_wilson_of_nothing_is_unknown():
    assert math.isnan(wilson_interval([]).mean)


def test_wilson_covers_the_truth_about_95_times_in_100():
    draw = random.Random(1)
    hits = 0
    for _ in range(2000):
        interval = wilson_interval([float(draw.random() < 0.1) for _ in range(60)])
        hits += interval.low <= 0.1 <= interval.high
    assert 0.93 <= hits / 2000 <= 0.98


def test_paired_change_is_worked_by_hand():
    before = {"sums": {"a": 0.0, "b": 0.0, "c": 1.0, "d": 1.0}}
    after = {"sums": {"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.0}}
    change = paired_change(before, after)
    # differences 1, 1, 0, -1: mean 0.25, sample variance 2.75/3, standard error sqrt(2.75/12)
    assert change.mean == pytest.approx(0.25)
    assert change.high - change.mean == pytest.approx(1.959964 * math.sqrt(2.75 / 12), abs=1e-5)


def test_families_weigh_the_same_whatever_their_size():
    before = {"big": {str(i): 0.0 for i in range(100)}, "small": {"a": 0.0, "b": 0.0}}
    after = {"big": {str(i): 0.0 for i in range(100)}, "small": {"a": 1.0, "b": 1.0}}
    assert paired_change(before, after).mean == pytest.approx(0.5)


def test_a_problem_unjudged_on_one_side_is_left_out_of_the_pairs():
    change = paired_change({"f": {"a": 0.0, "b": 1.0}}, {"f": {"a": 0.0, "b": 1.0, "c": 1.0}})
    assert change.mean == 0.0


def test_pairing_narrows_the_interval_when_the_same_problems_are_hard():
    before = {"f": {str(i): float(i % 2) for i in range(200)}}
    after = {"f": {str(i): float(i % 2 or i % 20 == 0) for i in range(200)}}
    paired = paired_change(before, after)
    first, second = wilson_interval(list(before["f"].values())), wilson_interval(list(after["f"].values()))
    unpaired_half = math.hypot((first.high - first.low) / 2, (second.high - second.low) / 2)
    assert (paired.high - paired.low) / 2 < 0.4 * unpaired_half


def test_nothing_in_common_is_unknown():
    assert math.isnan(paired_change({"f": {"a": 1.0}}, {"g": {"a": 1.0}}).mean)


def test_a_single_pair_claims_no_precision():
    change = paired_change({"f": {"a": 0.0}}, {"f": {"a": 1.0}})
    assert change.low < 0 < 1 < change.high
