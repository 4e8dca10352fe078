"""The policy's loss per token as the recipe names it: ratio, correction, distance from the reference.

Departure from the papers: without a correction the old log-probs are the ones that the sampler recorded; sampler
and trainer are one module, so no second pass over the old policy is made, and `mismatch_max` shows it.
Letters: M trained tokens.
"""

from __future__ import annotations

from torch import Tensor

from openqwq.config import RLStage

from ..packing import PackedBatch
from .importance import importance_weights
from .kl import kl_estimate
from .losses import cispo_loss, clipped_policy_loss, gspo_loss


def policy_objective(stage: RLStage, logprobs: Tensor, batch: PackedBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of each trained token [M], with what the log wants to see of it.

    distance: policy - rollout log-prob, of which the mismatch is made; clipped: whether the ratio was;
    importance and kl: only where the recipe asks for them.
    """
    losses, clipped = _ratio_loss(stage, logprobs, batch)
    seen = {"clipped": clipped.float(), "distance": logprobs - batch.rollout_logprobs}
    if stage.correction.mode != "none":
        weights = importance_weights(
            batch.old_logprobs,
            batch.rollout_logprobs,
            batch.sequences,
            mode=stage.correction.mode,
            level=stage.correction.level,
            low=stage.correction.low,
            high=stage.correction.high,
        )
        losses = losses * weights
        seen["importance"] = weights
    if stage.kl.weight:
        distance = kl_estimate(logprobs, batch.ref_logprobs, stage.kl.estimator)
        seen["kl"] = distance
        if stage.kl.place == "loss":
            losses = losses + stage.kl.weight * distance
    return losses, seen


def _ratio_loss(stage: RLStage, logprobs: Tensor, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    bounds = {"clip_low": stage.clip_low, "clip_high": stage.clip_high}
    if stage.loss == "cispo":
        return cispo_loss(logprobs, batch.old_logprobs, batch.advantages, **bounds)
    if stage.loss == "gspo":
        return gspo_loss(logprobs, batch.old_logprobs, batch.advantages, batch.sequences, **bounds)
    return clipped_policy_loss(logprobs, batch.old_logprobs, batch.advantages, **bounds)
