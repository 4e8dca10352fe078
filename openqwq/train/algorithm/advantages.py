"""Advantages from rewards: pure functions, one per published estimator.

    recipe (`advantage`, `advantage_scale`)    published as
    group, none                                Dr. GRPO (arXiv:2503.20783, section 3.2)
    group, std                                 GRPO (arXiv:2402.03300, section 4.1.2)
    group, batch                               REINFORCE++ with a group baseline (arXiv:2501.03262)
    rloo, none                                 RLOO (arXiv:2402.14740, section 2.2)
    reinforce, batch                           REINFORCE++ (arXiv:2501.03262)
    gae, batch                                 PPO (arXiv:1707.06347); lambda = gamma = 1: arXiv:2503.24290

Departures: an unjudged rollout (NaN reward) takes part in nothing, where other systems score it 0; GRPO's
deviation has no 1e-4 added, because a group without spread has no signal and never reaches the division.
Letters: G rollouts of one problem, T trained tokens of one rollout, M trained tokens of many.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

# Rewards that are equal in exact arithmetic can differ in the last bit after mixing; this is not a signal.
_EQUAL = 1e-7


def group_advantages(rewards: Tensor, *, scale: Literal["none", "std"]) -> Tensor:
    """Reward minus the mean reward of the rollouts of one problem, as a [G] tensor.

    rewards: [G]; NaN where no verifier could judge: advantage 0, left out of the mean.
    scale:   "none" follows Dr. GRPO (arXiv:2503.20783, section 3.2), "std" the first GRPO
             (arXiv:2402.03300, section 4.1.2; the sample deviation, n - 1).
    Fewer than two judged rollouts, or all rewards equal: all zeros (no signal, never NaN).
    """
    judged = ~rewards.isnan()
    advantages = torch.zeros_like(rewards)
    values = rewards[judged]
    if len(values) < 2 or values.max() - values.min() <= _EQUAL:
        return advantages
    centred = values - values.mean()
    advantages[judged] = centred / values.std() if scale == "std" else centred
    return advantages


def rloo_advantages(rewards: Tensor) -> Tensor:
    """Reward minus the mean reward of the group's other rollouts, [G] (arXiv:2402.14740, section 2.2).

    That is n / (n - 1) times the distance to the mean of all n judged ones. NaN rewards and groups without spread
    as in `group_advantages`.
    """
    judged = int((~rewards.isnan()).sum())
    return group_advantages(rewards, scale="none") * (judged / max(judged - 1, 1))


def returns_to_go(rewards: Tensor, *, gamma: float = 1.0) -> Tensor:
    """The discounted sum of the rewards [T] from each token to the last, [T]."""
    returns, running = torch.empty_like(rewards), rewards.new_zeros(())
    for t in range(len(rewards) - 1, -1, -1):
        running = rewards[t] + gamma * running
        returns[t] = running
    return returns


def gae_advantages(rewards: Tensor, values: Tensor, *, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates [T] and the value targets [T] (arXiv:1506.02438, eq. 16).

    rewards: [T] paid after each token. values: [T] expected before each token; after the last one it is 0.
    A_t = sum over l of (gamma lambda)^l delta_{t+l} with delta_t = r_t + gamma V_{t+1} - V_t; targets are A + V.
    gamma = gae_lambda = 1 is the return minus the value.
    """
    following = torch.cat([values[1:], values.new_zeros(1)])
    deltas = rewards + gamma * following - values
    advantages = returns_to_go(deltas, gamma=gamma * gae_lambda)
    return advantages, advantages + values


def whiten(advantages: Tensor) -> Tensor:
    """Advantages [M] with mean 0 and deviation 1 (REINFORCE++, arXiv:2501.03262); zeros when all are equal.

    The population deviation: an advantage of one token is then 0, not NaN.
    """
    if not len(advantages) or advantages.max() - advantages.min() <= _EQUAL:
        return torch.zeros_like(advantages)
    return (advantages - advantages.mean()) / advantages.std(correction=0)
