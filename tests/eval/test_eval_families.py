"""Scores of families from scored completions, and the recipe's targets."""

import math

import pytest

from openqwq.config.recipe import TargetConfig
from openqwq.errors import UserError
from openqwq.eval.families import Mark, ScoredCompletion, strict_scores, summarise
from openqwq.eval.targets import check_targets, goal_text

RIGHT, WRONG, UNJUDGED = Mark("correct", 1.0), Mark("wrong", 0.0, "other number"), Mark("unjudged", 0.0, "deadline")


def scored(id, strict, free=RIGHT, *, family="sums", kind="math", sample=0, decoding="sampled", tokens=10, cut=False):
    return ScoredCompletion(
        family=family, kind=kind, id=id, sample=sample, decoding=decoding, prompt="?", text="!", tokens=tokens,
        finish_reason="length" if cut else "stop", strict=strict, format_free=free,
    )  # fmt: skip


def test_a_family_result_counts_what_it_says():
    rows = [
        scored("a", RIGHT, tokens=4),
        scored("b", WRONG, RIGHT, tokens=8, cut=True),
        scored("c", UNJUDGED, UNJUDGED, tokens=12),
        scored("a", WRONG, WRONG, decoding="greedy", tokens=1000),
    ]
    result = summarise(rows)["sums"]
    assert (result.kind, result.n, result.unjudged) == ("math", 2, 1)
    assert result.strict.mean == 0.5
    assert result.format_free.mean == 1.0
    assert result.greedy is not None and result.greedy.mean == 0.0
    assert result.mean_tokens == 8.0
    assert result.truncated == pytest.approx(1 / 3)


def test_several_samples_of_a_problem_are_one_score():
    rows = [scored("a", RIGHT), scored("a", WRONG, sample=1), scored("b", WRONG), scored("b", UNJUDGED, sample=1)]
    assert strict_scores(rows) == {"sums": {"a": 0.5, "b": 0.0}}
    assert summarise(rows)["sums"].n == 2


def test_rows_survive_a_round_trip_through_json():
    row = scored("a", WRONG, RIGHT, cut=True)
    assert ScoredCompletion.from_row(row.to_row()) == row


def target(**changes):
    fields = {"what": "lift", "stage": "rl", "over": "sft", "kinds": ("math",), "min_change": 20.0}
    return TargetConfig(**{**fields, **changes})


def scores(share, n=100, family="sums"):
    return {family: {str(i): float(i < share * n) for i in range(n)}}


def test_a_target_is_met_or_missed_by_mean_and_by_low_end():
    stages = {"sft": scores(0.2), "rl": scores(0.45)}
    kinds = {"sums": "math", "poems": "instruction"}
    (easy,) = check_targets([target()], stages, kinds)
    assert easy.met and easy.got.mean == pytest.approx(25.0)
    (steep,) = check_targets([target(min_change=26.0)], stages, kinds)
    assert not steep.met
    # standard error of 25 ones among 100 is sqrt(0.25 * 0.75 / 99): low end 16.5 points
    assert easy.got.low == pytest.approx(25 - 100 * 1.959964 * math.sqrt(0.1875 / 99), abs=1e-4)
    (strict,) = check_targets([target(min_change_low=17.0)], stages, kinds)
    assert not strict.met


def test_a_control_arm_must_not_lift():
    stages = {"sft": scores(0.2), "rl": scores(0.45)}
    (control,) = check_targets([target(min_change=None, max_change=5.0)], stages, {"sums": "math"})
    assert not control.met
    assert "change <= +5.0" in control.goal


def test_goal_text_names_every_bound():
    assert goal_text(target(min_change_low=10.0)) == "change >= +20.0, low end >= +10.0"


def test_targets_average_only_their_families():
    stages = {
        "sft": {**scores(0.0, family="sums"), **scores(0.0, family="gcd")},
        "rl": {**scores(1.0, family="sums"), **scores(0.0, family="gcd")},
    }
    kinds = {"sums": "math", "gcd": "math"}
    (both,) = check_targets([target()], stages, kinds)
    (one,) = check_targets([target(families=("gcd",))], stages, kinds)
    assert (both.got.mean, one.got.mean) == (50.0, 0.0)


def test_a_target_without_families_is_the_users_mistake():
    with pytest.raises(UserError, match="no evaluated family"):
        check_targets([target(kinds=("code",))], {"sft": scores(0.1), "rl": scores(0.2)}, {"sums": "math"})


def test_a_target_measured_on_nothing_is_missed():
    (result,) = check_targets([target()], {"sft": {"sums": {}}, "rl": {"sums": {}}}, {"sums": "math"})
    assert not result.met
