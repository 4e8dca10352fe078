"""The policy that a stage trains: whose weights it samples with, and in which mode both compute.

Public: TrainedPolicy, publish, trainer_checksum, check_agreement, adapters, invariance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from torch import nn

from openqwq.config import RLStage
from openqwq.errors import UserError
from openqwq.log import logger
from openqwq.model import Decoder, set_batch_invariant, weight_checksum
from openqwq.model.lora import add_lora, merge_lora, save_lora
from openqwq.rollout import SteppedPolicy

from .distributed import is_first
from .experience.staleness import Freshness
from .learner import Learned
from .stage import StageContext


class TrainedPolicy(SteppedPolicy, Protocol):
    """A policy that takes the trainer's weights, counts them as a version and knows their checksum.

    model: what it samples from, the trainer's own module or another one.
    """

    @property
    def model(self) -> nn.Module: ...
    @property
    def weight_checksums(self) -> Mapping[int, str]: ...
    def load_weights(self, source: nn.Module, *, version: int | None = None) -> None: ...


def publish(policy: TrainedPolicy, model: Decoder, freshness: Freshness, version: int) -> None:
    """Give the policy the model's weights under this version, and note which weights they are."""
    policy.load_weights(model, version=version)
    freshness.publish(version, trainer_checksum(policy, model))


def check_agreement(learned: Learned, step: int) -> None:
    """Raises RuntimeError unless the step's rollouts have the trainer's own log-probs, to the last bit."""
    largest = max((float(u.tokens["distance"].abs().max()) for u in learned.updates[:1]), default=0.0)
    if largest != 0.0:
        raise RuntimeError(
            f"step {step}: log-probs of sampler and trainer are up to {largest:.1e} apart, but in the batch-invariant "
            "mode they are the same numbers: one of the two is wrong"
        )


def trainer_checksum(policy: TrainedPolicy, model: Decoder) -> str:
    """Of the trainer's weights; where the sampler runs the very same module, what it has just computed."""
    return policy.weight_checksums[policy.version] if policy.model is model else weight_checksum(model)


@contextmanager
def adapters(model: Decoder, stage: RLStage, ctx: StageContext) -> Iterator[None]:
    """With `lora.rank`: only adapters are trained in this block; at its end they are saved and merged.

    They go to `adapters/STAGE` of the run folder, as PEFT reads them.
    """
    lora = stage.lora
    if not lora.rank:
        yield
        return
    add_lora(model, rank=lora.rank, alpha=lora.alpha, targets=lora.targets, seed=ctx.seed_for("lora"))
    yield
    if is_first():
        save_lora(model, ctx.checkpoints.run_folder / "adapters" / ctx.name, base=ctx.base_model)
    merge_lora(model)


@contextmanager
def invariance(model: Decoder, stage: RLStage) -> Iterator[None]:
    """With `batch_invariant`: the model, and so sampler and trainer, compute in that mode within this block."""
    before = model.batch_invariant
    try:
        set_batch_invariant(model, stage.batch_invariant != "off" or before)
    except UserError as error:
        if stage.batch_invariant == "on":
            raise
        logger.warning("%s: log-probs of sampler and trainer will differ by rounding", error.message)
    try:
        yield
    finally:
        set_batch_invariant(model, before)
