"""Training sequences without padding: samples of unequal length laid end to end in micro-batches.

`Sample` is the per-token record that every algorithm writes and the trainer reads: ids, loss mask,
rollout log-prob, advantage, policy version. `pack` turns samples into `PackedBatch`es of at most
`tokens_per_microbatch` tokens. The gradient is the same for every split, because each trained token
carries its weight, with the denominator of the whole batch in it.
Letters: N packed tokens, M trained tokens, S sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openqwq.types import Rollout

from .distributed import gather, own_share

STREAMS = ("rollout_logprobs", "advantages", "old_logprobs", "ref_logprobs", "values", "returns")
"""Fields of `Sample` that are numbers of each trained token in `PackedBatch`."""


SHARED_BELOW = 0.9
"""Prompts are shared where that leaves at most this share of the tokens to compute: gathering rows costs a little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One training sequence, every field as long as `token_ids`.

    loss_mask: 1 for trained tokens; the first token has no predecessor and is never trained.
    The other streams are read where `loss_mask` is 1; empty where the algorithm has no use for them.
    rollout_logprobs: the sampler's own; old_logprobs: the trainer's, before the batch's first update;
    ref_logprobs: the reference's. values: a value model's, before the update; returns: what it should have said.
    kept_ids: what each token was drawn from, where the sampler cut the vocabulary; empty where it did not.
    weight: factor of the sample's whole loss.
    """

    token_ids: Sequence[int]
    loss_mask: Sequence[int]
    rollout_logprobs: Sequence[float] = ()
    advantages: Sequence[float] = ()
    policy_versions: Sequence[int] = ()
    old_logprobs: Sequence[float] = ()
    ref_logprobs: Sequence[float] = ()
    values: Sequence[float] = ()
    returns: Sequence[float] = ()
    kept_ids: Sequence[Sequence[int]] = ()
    weight: float = 1.0

    def __post_init__(self) -> None:
        streams = [self.loss_mask, self.policy_versions, self.kept_ids, *(getattr(self, name) for name in STREAMS)]
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
    shared:     where prompts come more than once: [N] the row that computes each token, [R] each row's first token.
    targets:    [M] the trained tokens. sequences: [M] which of the S sequences each belongs to.
    kept:       where a sampler cut the vocabulary: [M] how many ids it left each token (0: all of them), and those
                ids, end to end.
    The others: [M] numbers of each trained token; zeros where the samples do not have them, but for
    old_logprobs, which then are the rollout_logprobs.
    """

    input_ids: Tensor
    lengths: list[int]
    positions: Tensor
    targets: Tensor
    sequences: Tensor
    weights: Tensor
    rollout_logprobs: Tensor
    advantages: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    returns: Tensor
    shared: tuple[Tensor, Tensor] | None = None
    kept: tuple[Tensor, Tensor] | None = None


def document_sample(token_ids: Sequence[int]) -> Sample:
    """A text of which every token but the first is trained."""
    return Sample(token_ids=token_ids, loss_mask=[0] + [1] * (len(token_ids) - 1))


def completion_sample(prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> Sample:
    """A prompt and a completion of which only the completion is trained."""
    return Sample(token_ids=[*prompt_ids, *completion_ids], loss_mask=[0] * len(prompt_ids) + [1] * len(completion_ids))


def rollout_sample(rollout: Rollout, advantage: float, *, weight: float = 1.0) -> Sample:
    """A rollout with one advantage for all of its sampled tokens; inserted tokens stay untrained."""
    prompt, length = len(rollout.prompt_ids), len(rollout.prompt_ids) + len(rollout.completion_ids)
    return Sample(
        token_ids=[*rollout.prompt_ids, *rollout.completion_ids],
        loss_mask=[0] * prompt + [int(m) for m in rollout.loss_mask],
        rollout_logprobs=[0.0] * prompt + list(rollout.rollout_logprobs),
        advantages=[advantage] * length,
        policy_versions=[0] * prompt + list(rollout.policy_versions),
        kept_ids=[()] * prompt + list(rollout.kept_ids) if rollout.kept_ids else (),
        weight=weight,
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
    """Micro-batches of the samples that have a trained token; of several ranks each packs its own share.

    weights: each sample's weight per trained token, as `losses.sample_weights` makes them; times `Sample.weight`.
    """
    useful = [(s, w * s.weight) for s, w in zip(samples, weights, strict=True) if s.trained_tokens]
    useful = [useful[i] for i in own_share([len(s.token_ids) for s, _ in useful])]
    splits = split_microbatches([len(s.token_ids) for s, _ in useful], tokens_per_microbatch)
    return [pack_one([useful[i] for i in split], device) for split in splits]


def pack_one(samples: Sequence[tuple[Sample, float]], device: torch.device | str = "cpu") -> PackedBatch:
    """One micro-batch of (sample, weight of each of its trained tokens), in this order."""
    input_ids = _concatenate([s.token_ids for s, _ in samples], torch.long)
    positions = _concatenate([s.loss_mask for s, _ in samples], torch.bool).nonzero()[:, 0]  # [M]
    trained = torch.tensor([s.trained_tokens for s, _ in samples])

    def stream(name: str) -> Tensor:
        if not any(getattr(s, name) for s, _ in samples):
            return torch.zeros(len(positions), device=device)
        values = [getattr(s, name) or [0.0] * len(s.token_ids) for s, _ in samples]
        return _concatenate(values, torch.float32)[positions].to(device)

    streams = {name: stream(name) for name in STREAMS}
    if not any(s.old_logprobs for s, _ in samples):
        streams["old_logprobs"] = streams["rollout_logprobs"]
    return PackedBatch(
        input_ids=input_ids.to(device),
        lengths=[len(s.token_ids) for s, _ in samples],
        positions=positions.to(device),
        targets=input_ids[positions].to(device),
        sequences=torch.arange(len(samples)).repeat_interleave(trained).to(device),
        weights=torch.tensor([w for _, w in samples]).repeat_interleave(trained).to(device),
        shared=_shared_rows([s for s, _ in samples], device),
        kept=_kept([s for s, _ in samples], device),
        **streams,
    )


def _kept(samples: Sequence[Sample], device: torch.device | str) -> tuple[Tensor, Tensor] | None:
    """`PackedBatch.kept` of the samples' trained tokens."""
    if not any(sample.kept_ids for sample in samples):
        return None
    lists = [
        sample.kept_ids[place] if sample.kept_ids else ()
        for sample in samples
        for place, trained in enumerate(sample.loss_mask)
        if trained
    ]
    counts = torch.tensor([len(ids) for ids in lists])
    return counts.to(device), _concatenate(lists, torch.long).to(device)


def _shared_rows(samples: Sequence[Sample], device: torch.device | str) -> tuple[Tensor, Tensor] | None:
    """Rows in which each prompt is computed once, for `PackedBatch.shared`; None where that would not pay."""
    known: dict[tuple[int, ...], int] = {}
    pieces, count = [], 0
    for sample in samples:
        length = len(sample.token_ids)
        untrained = next((place for place, trained in enumerate(sample.loss_mask) if trained), length)
        prompt = tuple(sample.token_ids[:untrained])
        first = known.setdefault(prompt, count)
        if first == count:
            pieces.append(np.arange(count, count + length))
            count += length
        else:
            own = length - len(prompt)
            pieces += [np.arange(first, first + len(prompt)), np.arange(count, count + own)]
            count += own
    rows = np.concatenate(pieces)
    if count > SHARED_BELOW * len(rows):
        return None
    firsts = np.unique(rows, return_index=True)[1]
    return torch.from_numpy(rows).to(device), torch.from_numpy(firsts).to(device)


def spread(values: Sequence[float], loss_mask: Sequence[int]) -> list[float]:
    """One number for every token of a sample from one for each trained token; zeros between."""
    rest = iter(values)
    return [next(rest) if trained else 0.0 for trained in loss_mask]


@torch.no_grad()
def token_scores(
    samples: Sequence[Sample],
    score: Callable[[PackedBatch], Tensor],
    *,
    tokens_per_microbatch: int,
    device: torch.device | str = "cpu",
) -> list[list[float]]:
    """What `score` gives for each trained token ([M] of a micro-batch), one list for each sample, in order.

    Of several ranks each computes its own share, and all know the whole.
    """
    results: list[list[float]] = [[] for _ in samples]
    trained = [i for i, sample in enumerate(samples) if sample.trained_tokens]
    scored = [trained[i] for i in own_share([len(samples[i].token_ids) for i in trained])]
    for part in split_microbatches([len(samples[i].token_ids) for i in scored], tokens_per_microbatch):
        own = [scored[i] for i in part]
        values = score(pack_one([(samples[i], 1.0) for i in own], device)).tolist()
        for i in own:
            results[i], values = values[: samples[i].trained_tokens], values[samples[i].trained_tokens :]
    for found in gather({i: results[i] for i in scored}):
        for i, scores in found.items():
            results[i] = scores
    return results


def _concatenate(rows: Sequence[Sequence], dtype: torch.dtype) -> Tensor:
    return torch.tensor([value for row in rows for value in row], dtype=dtype)
