"""Training sequences without padding: samples of unequal length laid end to end in micro-batches.

`Sample` is the per-token record that every algorithm writes and the trainer reads: ids, loss mask,
rollout log-prob, advantage, policy version. `pack` turns samples into `PackedBatch`es of at most
`tokens_per_microbatch` tokens. The gradient is the same for every split, because each trained token
carries its weight, with the denominator of the whole batch in it.
Letters: N packed tokens, M trained tokens, S sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openqwq.types import Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One training sequence, every field as long as `token_ids`.

    loss_mask: 1 for trained tokens; the first token has no predecessor and is never trained.
    The other streams are read where `loss_mask` is 1; empty where the algorithm has no use for them.
    """

    token_ids: Sequence[int]
    loss_mask: Sequence[int]
    rollout_logprobs: Sequence[float] = ()
    advantages: Sequence[float] = ()
    policy_versions: Sequence[int] = ()

    def __post_init__(self) -> None:
        streams = (self.loss_mask, self.rollout_logprobs, self.advantages, self.policy_versions)
        if any(len(s) not in (0, len(self.token_ids)) for s in streams) or len(self.loss_mask) == 0:
            raise ValueError(f"streams of lengths {[len(s) for s in streams]} for {len(self.token_ids)} tokens")
        if self.loss_mask[0]:
            raise ValueError("the first token of a sample cannot be trained")

    @property
    def trained_tokens(self) -> int:
        return sum(self.loss_mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """One micro-batch.

    input_ids:  [N]; lengths: of the S sequences that lie end to end in it.
    positions:  [M] places in input_ids of the trained tokens; each is predicted from the place before.
    targets:    [M] the trained tokens; weights, rollout_logprobs, advantages: [M] (zeros where not given).
    """

    input_ids: Tensor
    lengths: list[int]
    positions: Tensor
    targets: Tensor
    weights: Tensor
    rollout_logprobs: Tensor
    advantages: Tensor


def document_sample(token_ids: Sequence[int]) -> Sample:
    """A text of which every token but the first is trained."""
    return Sample(token_ids=token_ids, loss_mask=[0] + [1] * (len(token_ids) - 1))


def completion_sample(prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> Sample:
    """A prompt and a completion of which only the completion is trained."""
    return Sample(token_ids=[*prompt_ids, *completion_ids], loss_mask=[0] * len(prompt_ids) + [1] * len(completion_ids))


def rollout_sample(rollout: Rollout, advantage: float) -> Sample:
    """A rollout with one advantage for all of its sampled tokens; inserted tokens stay untrained."""
    prompt, length = len(rollout.prompt_ids), len(rollout.prompt_ids) + len(rollout.completion_ids)
    return Sample(
        token_ids=[*rollout.prompt_ids, *rollout.completion_ids],
        loss_mask=[0] * prompt + [int(m) for m in rollout.loss_mask],
        rollout_logprobs=[0.0] * prompt + list(rollout.rollout_logprobs),
        advantages=[advantage] * length,
        policy_versions=[0] * prompt + list(rollout.policy_versions),
    )


def split_microbatches(lengths: Sequence[int], tokens_per_microbatch: int) -> list[list[int]]:
    """Indices of the sequences of each micro-batch: longest first, each filled up to the bound.

    Neighbours have similar lengths, so attention that works on padded blocks wastes little.
    A sequence longer than the bound gets a micro-batch of its own.
    """
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not batches or lengths[index] > room:
            batches.append([])
            room = tokens_per_microbatch
        batches[-1].append(index)
        room -= lengths[index]
    return batches


def pack(
    samples: Sequence[Sample],
    weights: Sequence[float],
    *,
    tokens_per_microbatch: int,
    device: torch.device | str = "cpu",
) -> list[PackedBatch]:
    """Micro-batches of the samples that have a trained token.

    weights: each sample's weight per trained token, as `losses.sample_weights` makes them.
    """
    useful = [(s, w) for s, w in zip(samples, weights, strict=True) if s.trained_tokens]
    splits = split_microbatches([len(s.token_ids) for s, _ in useful], tokens_per_microbatch)
    return [_pack_one([useful[i] for i in split], device) for split in splits]


def _pack_one(samples: Sequence[tuple[Sample, float]], device: torch.device | str) -> PackedBatch:
    input_ids = _concatenate([s.token_ids for s, _ in samples], torch.long)
    positions = _concatenate([s.loss_mask for s, _ in samples], torch.bool).nonzero()[:, 0]  # [M]
    trained = torch.tensor([s.trained_tokens for s, _ in samples])

    def stream(name: str) -> Tensor:
        values = [getattr(s, name) or [0.0] * len(s.token_ids) for s, _ in samples]
        return _concatenate(values, torch.float32)[positions].to(device)

    return PackedBatch(
        input_ids=input_ids.to(device),
        lengths=[len(s.token_ids) for s, _ in samples],
        positions=positions.to(device),
        targets=input_ids[positions].to(device),
        weights=torch.tensor([w for _, w in samples]).repeat_interleave(trained).to(device),
        rollout_logprobs=stream("rollout_logprobs"),
        advantages=stream("advantages"),
    )


def _concatenate(rows: Sequence[Sequence], dtype: torch.dtype) -> Tensor:
    return torch.tensor([value for row in rows for value in row], dtype=dtype)
