"""Losses per token: pure functions, no optimiser.

A loss here is one number per trained token. How tokens are averaged is a weight per token with a
denominator of the whole batch (`sample_weights`), so no loss depends on how a batch is cut into
micro-batches.

Departures from the papers: the clipped objective is PPO's (arXiv:1707.06347, eq. 7) with DAPO's
separate bounds (arXiv:2503.14476, eq. 10), and its old log-probs are the ones that the sampler recorded:
sampler and trainer are one module, so no second pass over the old policy is made.
Letters: M trained tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor


def clipped_policy_loss(
    policy_logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """Clipped policy-gradient loss of each token [M], and whether the clip took its gradient away [M].

    PPO's -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) with r = exp(policy - old)
    (arXiv:1707.06347, eq. 7; clip_high > clip_low is DAPO's clip-higher, arXiv:2503.14476, eq. 10).
    """
    ratio = (policy_logprobs - old_logprobs).exp()
    free = ratio * advantages
    bound = ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages
    return -torch.minimum(free, bound), (bound < free).detach()


def cispo_loss(
    policy_logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """CISPO's loss of each token [M], and whether its ratio was clipped [M] (arXiv:2506.13585, eq. 4 and 5).

    -sg(clip(r, 1 - clip_low, 1 + clip_high)) A log pi: the ratio is bounded and detached, so no token's gradient is
    ever taken away. (The paper leaves the lower bound open: clip_low near 1.)
    """
    ratio = (policy_logprobs - old_logprobs).exp().detach()
    bound = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    return -bound * advantages * policy_logprobs, bound != ratio


def gspo_loss(
    policy_logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    sequences: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[Tensor, Tensor]:
    """The clipped loss with one ratio a sequence, spread over its tokens: two [M] (arXiv:2507.18071, eq. 5 and 7).

    The ratio is the geometric mean exp(mean over tokens of policy - old). sequences: [M] number of each
    token's sequence. The paper's bounds are 3e-4 and 4e-4, its aggregation "sequence".
    """
    log_ratio = sequence_means(policy_logprobs - old_logprobs, sequences)
    return clipped_policy_loss(
        log_ratio, torch.zeros_like(log_ratio), advantages, clip_low=clip_low, clip_high=clip_high
    )


def sequence_sums(values: Tensor, sequences: Tensor) -> Tensor:
    """For each token [M] the sum of `values` [M] over the tokens of its sequence."""
    if not len(values):
        return values
    sums = values.new_zeros(int(sequences.max()) + 1).index_add(0, sequences, values)
    return sums[sequences]


def sequence_means(values: Tensor, sequences: Tensor) -> Tensor:
    """For each token [M] the mean of `values` [M] over the trained tokens of its sequence."""
    return sequence_sums(values, sequences) / sequence_sums(torch.ones_like(values), sequences)


def value_loss(values: Tensor, returns: Tensor, old_values: Tensor, *, clip: float) -> Tensor:
    """Half the squared error of each value [M], clipped as PPO's implementations do when `clip` is above 0.

    max((V - R)^2, (V_old + clamp(V - V_old, -clip, clip) - R)^2) / 2 (arXiv:2006.05990, appendix B.1).
    """
    errors = (values - returns).square()
    if clip > 0:
        held = old_values + (values - old_values).clamp(-clip, clip)
        errors = torch.maximum(errors, (held - returns).square())
    return errors / 2


def sample_weights(
    trained_tokens: Sequence[int], *, aggregation: Literal["token", "sequence", "constant"], longest: int = 0
) -> list[float]:
    """The weight of each token of each sequence, with one denominator for the whole batch.

    trained_tokens: how many tokens of each sequence are trained; sequences with none weigh 0 and do not count.
    "token":    1 / (all trained tokens): DAPO (arXiv:2503.14476, eq. 8).
    "sequence": 1 / (own trained tokens x sequences): GRPO (arXiv:2402.03300, eq. 3).
    "constant": 1 / (longest x sequences), whatever the lengths are: Dr. GRPO (arXiv:2503.20783, section 3.1);
                `longest` is the longest completion that may be sampled.
    """
    total, sequences = sum(trained_tokens), sum(1 for n in trained_tokens if n)
    if aggregation == "token":
        return [1.0 / total if n else 0.0 for n in trained_tokens]
    if aggregation == "sequence":
        return [1.0 / (n * sequences) if n else 0.0 for n in trained_tokens]
    if longest < 1:
        raise ValueError("constant aggregation needs the length of the longest completion")
    return [1.0 / (longest * sequences) if n else 0.0 for n in trained_tokens]


def preference_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Bradley-Terry loss of each pair: -log sigmoid(chosen - rejected) (arXiv:2203.02155, eq. 1)."""
    return -torch.nn.functional.logsigmoid(chosen - rejected)
