import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openqwq.train.advantages import group_advantages


def test_mean_is_taken_off_and_nothing_else():
    advantages = group_advantages(torch.tensor([1.0, 0.0, 0.0, 0.0]), scale="none")
    assert advantages.tolist() == [0.75, -0.25, -0.25, -0.25]


def test_std_divides_by_the_sample_deviation():
    # mean 0.25, squared deviations 0.5625 + 3 * 0.0625 = 0.75, over n - 1 = 3: 0.25, root 0.5
    advantages = group_advantages(torch.tensor([1.0, 0.0, 0.0, 0.0]), scale="std")
    assert advantages.tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5])


def test_unjudged_rollout_is_left_out_of_the_mean_and_gets_zero():
    advantages = group_advantages(torch.tensor([1.0, math.nan, 0.0]), scale="none")
    assert advantages.tolist() == [0.5, 0.0, -0.5]


@pytest.mark.parametrize("scale", ["none", "std"])
@pytest.mark.parametrize(
    "rewards", [[1.0, 1.0], [0.0, 0.0, 0.0], [math.nan, 1.0], [math.nan, math.nan], [0.3, 0.3 + 1e-9], [0.5]]
)
def test_no_signal_is_zero_and_never_nan(rewards, scale):
    assert group_advantages(torch.tensor(rewards), scale=scale).tolist() == [0.0] * len(rewards)


@given(st.lists(st.one_of(st.just(math.nan), st.floats(0, 1, width=32)), min_size=1, max_size=12))
def test_judged_advantages_sum_to_zero_and_keep_the_order_of_rewards(rewards):
    advantages = group_advantages(torch.tensor(rewards), scale="none").tolist()
    assert sum(advantages) == pytest.approx(0.0, abs=1e-5)
    judged = sorted((r, a) for r, a in zip(rewards, advantages, strict=True) if not math.isnan(r))
    assert [a for _, a in judged] == sorted(a for _, a in judged)
