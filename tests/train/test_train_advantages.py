import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openqwq.train.algorithm.advantages import (
    gae_advantages,
    group_advantages,
    returns_to_go,
    rloo_advantages,
    whiten,
)


def test_unscaled_advantages_are_rewards_minus_the_group_mean():
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


def test_rloo_compares_with_the_others_only():
    # 1 - mean(0, 0.5), 0 - mean(1, 0.5), 0.5 - mean(1, 0)
    assert rloo_advantages(torch.tensor([1.0, 0.0, 0.5])).tolist() == pytest.approx([0.75, -0.75, 0.0])
    assert rloo_advantages(torch.tensor([1.0, math.nan, 0.0])).tolist() == [1.0, 0.0, -1.0]
    assert rloo_advantages(torch.tensor([1.0, math.nan])).tolist() == [0.0, 0.0]


def test_returns_to_go_by_hand():
    assert returns_to_go(torch.tensor([1.0, 0.0, 2.0]), gamma=0.5).tolist() == [1.5, 1.0, 2.0]


def test_gae_without_discount_is_the_return_minus_the_value():
    advantages, returns = gae_advantages(
        torch.tensor([0.0, -0.5, 1.0]), torch.tensor([0.2, 0.4, 0.9]), gamma=1.0, gae_lambda=1.0
    )
    assert advantages.tolist() == pytest.approx([0.3, 0.1, 0.1])
    assert returns.tolist() == pytest.approx([0.5, 0.5, 1.0])


def test_gae_with_lambda_0_is_the_one_step_error():
    advantages, returns = gae_advantages(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.6]), gamma=0.9, gae_lambda=0.0)
    assert advantages.tolist() == pytest.approx([0.9 * 0.6 - 0.5, 1.0 - 0.6])
    assert returns.tolist() == pytest.approx([0.54, 1.0])


@given(st.integers(0, 10**6), st.integers(1, 9), st.floats(0.1, 1), st.floats(0, 1))
def test_gae_is_the_double_sum_of_its_definition(seed, length, gamma, gae_lambda):
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=length), rng.normal(size=length)
    following = np.append(values[1:], 0.0)
    expected = [
        sum((gamma * gae_lambda) ** (k - t) * (rewards[k] + gamma * following[k] - values[k]) for k in range(t, length))
        for t in range(length)
    ]
    found, returns = gae_advantages(torch.tensor(rewards), torch.tensor(values), gamma=gamma, gae_lambda=gae_lambda)
    assert found.tolist() == pytest.approx(expected, abs=1e-9)
    assert returns.tolist() == pytest.approx(np.array(expected) + values, abs=1e-9)


def test_whitened_advantages_have_mean_0_and_deviation_1_or_are_all_0():
    assert whiten(torch.tensor([3.0, 1.0, 1.0, 3.0])).tolist() == [1.0, -1.0, -1.0, 1.0]
    assert whiten(torch.tensor([0.3, 0.3])).tolist() == [0.0, 0.0]
    assert whiten(torch.tensor([])).tolist() == []
