"""Importance correction for rollouts that the trainer's own weights did not sample: pure functions.

The policy gradient's expectation is over the trainer's policy at the batch's start (`old_logprobs`), its tokens come
from the sampler (`rollout_logprobs`): weights old / rollout correct that, bounded in one of two ways at one of
three levels.

    truncate, token        TIS (F. Yao et al., "Your efficient RL framework secretly brings you off-policy RL", 2025)
    mask, token            IcePop (arXiv:2510.18855)
    mask, sequence         MIS (J. Liu et al., "When speed kills stability", 2025)
    mask, geometric        the same with the geometric mean, whose spread does not grow with the length

Departure: masked tokens stay in the loss's denominator, so the other tokens' gradients do not depend on them.
Letters: M trained tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .losses import sequence_means, sequence_sums

# exp of this is 5e8, far above every bound, and finite in half precision's successors and float32 alike.
_MAX_LOG = 20.0


def importance_weights(
    old_logprobs: Tensor,
    rollout_logprobs: Tensor,
    sequences: Tensor,
    *,
    mode: Literal["truncate", "mask"],
    level: Literal["token", "sequence", "geometric"],
    low: float,
    high: float,
) -> Tensor:
    """The weight of each token [M], detached.

    sequences: [M] number of each token's sequence. "truncate" caps weights at `high`; "mask" sets those
    outside [low, high] to 0.
    """
    log_ratio = (old_logprobs - rollout_logprobs).detach()
    if level == "sequence":
        log_ratio = sequence_sums(log_ratio, sequences)
    elif level == "geometric":
        log_ratio = sequence_means(log_ratio, sequences)
    weights = log_ratio.clamp(-_MAX_LOG, _MAX_LOG).exp()
    if mode == "truncate":
        return weights.clamp(max=high)
    return torch.where((weights >= low) & (weights <= high), weights, 0.0)
