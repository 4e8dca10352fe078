"""Supervised fine-tuning: next-token loss on completions only, every trained token weighing the same.

Documents that are replayed beside the chains are trained on whole: a few chains, seen often, otherwise push out
what pretraining taught (rehearsal; arXiv:2403.08763 measures it for language models).

Departures from common practice: packed without padding, each chain attending only to itself, and the
loss divided by the completion tokens of the whole step instead of a mean of micro-batch means.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from openqwq.config import SFTStage
from openqwq.errors import UserError
from openqwq.model import Decoder

from .algorithm.losses import sample_weights
from .optim.optimizer import build_optimizer, learning_rate
from .optim.update import next_token_objective, update
from .packing import Sample, completion_sample, document_sample, pack
from .stage import StageContext, StageRun

EncodedChain = tuple[Sequence[int], Sequence[int]]
"""Prompt ids and completion ids (the end token included)."""
Documents = Callable[[int], Iterator[Sequence[int]]]
"""Token ids of endless documents from number n on: `documents(n)` continues where a resumed run stands."""


def run_sft(
    stage: SFTStage,
    *,
    model: Decoder,
    chains: Sequence[EncodedChain],
    ctx: StageContext,
    documents: Documents | None = None,
) -> None:
    """Train the model in place on the chains for `stage.epochs` passes. Raises UserError for an empty set.

    documents: needed when `stage.replay_per_step` is not 0 (ValueError otherwise).
    """
    if not chains:
        raise UserError(f"stage `{ctx.name}` has no chains to train on", hint="name some under `chains`")
    if stage.replay_per_step and documents is None:
        raise ValueError(f"stage `{ctx.name}` replays {stage.replay_per_step} documents a step, but was given none")
    steps = max(1, round(stage.epochs * len(chains) / stage.chains_per_step))
    optimizer = build_optimizer(model, stage)
    with StageRun(ctx, stage, model, optimizer, steps=steps) as run:
        limit = stage.tokens_per_microbatch
        replayed = documents(run.step * stage.replay_per_step) if documents else iter(())
        for step in run.remaining_steps():
            indices = epoch_indices(len(chains), stage.chains_per_step, step, ctx)
            samples = [completion_sample(*chains[i]) for i in indices]
            samples += [document_sample(next(replayed)[:limit]) for _ in range(stage.replay_per_step)]
            with run.uninterrupted():
                run.finish(train_on_samples(run, samples, step))


def train_on_samples(run: StageRun[Any, Decoder], samples: Sequence[Sample], step: int) -> dict[str, Any]:
    """One optimiser step of next-token loss on the samples; gives the step's metrics row."""
    started, stage = time.perf_counter(), run.stage
    rate = learning_rate(stage, step, run.steps)
    weights = sample_weights([s.trained_tokens for s in samples], aggregation="token")
    batches = pack(samples, weights, tokens_per_microbatch=stage.tokens_per_microbatch, device=run.model.device)
    result = update(
        run.model,
        run.optimizer,
        batches,
        next_token_objective,
        learning_rate=rate,
        max_grad_norm=stage.max_grad_norm,
    )
    return {
        "stage": run.ctx.name,
        "step": step,
        "loss": result.loss,
        "entropy": float(result.tokens["entropy"].mean()),
        "grad_norm": result.grad_norm,
        "learning_rate": rate,
        "sequences": len(samples),
        "tokens_train": result.num_tokens,
        "tokens_loss": len(result.tokens["entropy"]),
        "seconds_train": time.perf_counter() - started,
    }


def epoch_indices(count: int, per_step: int, step: int, ctx: StageContext) -> list[int]:
    """The items of one step: consecutive items of endless epochs, each a fresh permutation of all items."""
    positions = range(step * per_step, (step + 1) * per_step)
    orders = {epoch: _permutation(count, ctx.seed_for("epoch", epoch)) for epoch in {p // count for p in positions}}
    return [orders[p // count][p % count] for p in positions]


def _permutation(count: int, seed: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
