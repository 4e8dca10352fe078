"""Advantages from rewards: pure functions, one per published estimator.

Departures: an unjudged rollout (NaN reward) takes part in nothing, where other systems score it 0.
Letters: G rollouts of one problem.
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
