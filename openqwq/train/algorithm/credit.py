"""From rewards to one advantage for each trained token: what `advantages.py` defines, over a whole batch.

Where only a group's own rewards count, nothing is done here: `experience.py` has the advantages already.
Letters: T trained tokens of one rollout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from openqwq.config import RLStage

from ..packing import Sample, spread
from .advantages import gae_advantages, group_advantages, returns_to_go, rloo_advantages, whiten
from .kl import kl_estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A sample with what its advantages are made of.

    group: number of its problem in the batch. values: before each trained token, where there is a value model.
    """

    sample: Sample
    group: int
    source: str
    reward: float
    values: Sequence[float] = ()


def outcome_advantages(rewards: Tensor, stage: RLStage) -> Tensor:
    """One advantage for each rollout of a group [G] from the group's rewards alone; 0 where unjudged (NaN)."""
    if stage.advantage == "group":
        return group_advantages(rewards, scale="std" if stage.advantage_scale == "std" else "none")
    if stage.advantage == "rloo":
        return rloo_advantages(rewards)
    return rewards.nan_to_num(0.0)


def assign_credit(scored: Sequence[Scored], stage: RLStage) -> list[Sample]:
    """The samples with their final advantages (and returns, with a value model), in order."""
    penalised = stage.kl.weight > 0 and stage.kl.place == "reward"
    if stage.advantage in ("reinforce", "gae"):
        samples = [_token_level(one, stage, penalised) for one in scored]
    else:
        samples = _sequence_level(scored, stage) if penalised else [one.sample for one in scored]
    if stage.advantage_scale == "batch":
        return _whitened(samples, [""] * len(samples))
    if stage.advantage_scale == "source":
        return _whitened(samples, [one.source for one in scored])
    return samples


def _penalties(sample: Sample, stage: RLStage) -> Tensor:
    """The KL penalty [T] of each trained token, the policy at the rollout's time against the reference."""
    policy, ref = (_trained(sample, name) for name in ("rollout_logprobs", "ref_logprobs"))
    return stage.kl.weight * kl_estimate(policy, ref, stage.kl.estimator)


def _sequence_level(scored: Sequence[Scored], stage: RLStage) -> list[Sample]:
    """Group advantages of the reward minus the rollout's whole penalty, as RLOO has it."""
    rewards = torch.tensor([one.reward - float(_penalties(one.sample, stage).sum()) for one in scored])
    advantages = torch.zeros(len(scored))
    for group in sorted({one.group for one in scored}):
        own = torch.tensor([i for i, one in enumerate(scored) if one.group == group])
        advantages[own] = outcome_advantages(rewards[own], stage)
    pairs = zip(scored, advantages.tolist(), strict=True)
    return [replace(one.sample, advantages=[a] * len(one.sample.token_ids)) for one, a in pairs]


def _token_level(one: Scored, stage: RLStage, penalised: bool) -> Sample:
    """The reward is paid after the last token, the penalty at each: returns to go, or GAE with a value model."""
    sample = one.sample
    if not sample.trained_tokens:
        return sample
    rewards = -_penalties(sample, stage) if penalised else torch.zeros(sample.trained_tokens)
    rewards[-1] += one.reward
    if stage.advantage == "reinforce":
        return replace(sample, advantages=spread(returns_to_go(rewards).tolist(), sample.loss_mask))
    advantages, returns = gae_advantages(
        rewards, torch.tensor(one.values), gamma=stage.value.gamma, gae_lambda=stage.value.gae_lambda
    )
    return replace(
        sample,
        advantages=spread(advantages.tolist(), sample.loss_mask),
        values=spread(one.values, sample.loss_mask),
        returns=spread(returns.tolist(), sample.loss_mask),
    )


def _whitened(samples: Sequence[Sample], scopes: Sequence[str]) -> list[Sample]:
    """Advantages whitened over all trained tokens of each scope."""
    result = list(samples)
    for scope in sorted(set(scopes)):
        own = [i for i, name in enumerate(scopes) if name == scope]
        parts = [_trained(samples[i], "advantages") for i in own]
        pieces = whiten(torch.cat(parts)).split([len(part) for part in parts])
        for i, piece in zip(own, pieces, strict=True):
            result[i] = replace(samples[i], advantages=spread(piece.tolist(), samples[i].loss_mask))
    return result


def _trained(sample: Sample, stream: str) -> Tensor:
    values = getattr(sample, stream)
    return torch.tensor([v for v, m in zip(values, sample.loss_mask, strict=True) if m], dtype=torch.float32)
