"""From verdicts to rewards: the verifier's score, a reward model's share in it, or a coin as a control."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

from openqwq.config import RLStage
from openqwq.errors import UserError
from openqwq.types import Rollout, Verdict

from ..stage import StageContext

RewardScorer = Callable[[Sequence[Sequence[int]]], Sequence[float]]
"""Token ids of prompt and completion -> a reward model's raw score each, unbounded, 0 for an average one."""


def check_rewards(stage: RLStage, reward_scorer: RewardScorer | None) -> None:
    """Raise UserError when the stage asks for a reward model and none is at hand, or its share is not in [0, 1]."""
    if not 0.0 <= stage.reward_model_weight <= 1.0:
        raise UserError(f"`reward_model_weight` is {stage.reward_model_weight}, but must be between 0 and 1")
    if stage.reward_model_weight > 0 and reward_scorer is None:
        raise UserError(
            f"`reward_model_weight` is {stage.reward_model_weight}, but no reward model is there",
            hint="name the reward-model stage in `reward_model`",
        )


def verdict_rewards(
    rollouts: Sequence[Rollout], verdicts: Sequence[Verdict], stage: RLStage, reward_scorer: RewardScorer | None
) -> list[float]:
    """One reward for each rollout, what its verifier pays; NaN for an unjudged one.

    With a reward model of share w: reward * ((1 - w) + w * sigmoid(its score)), so that what the verifier
    calls wrong is never paid. Only for sources in `reward_model_sources`.
    """
    rewards = [verdict.training_reward for verdict in verdicts]
    share = stage.reward_model_weight
    if share == 0 or reward_scorer is None:
        return rewards
    mixed = [i for i, r in enumerate(rollouts) if rewards[i] > 0 and r.problem.source in stage.reward_model_sources]
    scores = reward_scorer([[*rollouts[i].prompt_ids, *rollouts[i].completion_ids] for i in mixed]) if mixed else []
    for i, score in zip(mixed, scores, strict=True):
        rewards[i] *= (1.0 - share) + share / (1.0 + math.exp(-min(max(score, -60.0), 60.0)))
    return rewards


def shape_by_length(rollouts: Sequence[Rollout], rewards: Sequence[float], stage: RLStage) -> list[float]:
    """The rewards minus DAPO's soft overlong penalty; NaN for truncated rollouts that the stage leaves out."""
    soft, longest, shaped = stage.overlong_tokens, stage.max_completion_tokens, []
    for rollout, reward in zip(rollouts, rewards, strict=True):
        if stage.truncated == "mask" and rollout.finish_reason == "length":
            shaped.append(math.nan)
        else:
            shaped.append(reward - overlong_penalty(len(rollout.completion_ids), longest=longest, soft_tokens=soft))
    return shaped


def overlong_penalty(length: int, *, longest: int, soft_tokens: int) -> float:
    """What is taken from the reward of a completion of `length` tokens, 0 to 1 (DAPO, arXiv:2503.14476, eq. 13).

    0 up to longest - soft_tokens, then rising linearly to 1 at `longest`; soft_tokens 0: always 0.
    """
    if soft_tokens <= 0:
        return 0.0
    return min(1.0, max(0.0, (length - (longest - soft_tokens)) / soft_tokens))


def coin_rewards(count: int, ctx: StageContext, *where: int) -> list[float]:
    """Fair coins in place of verdicts, the same ones for the same place (step, refill round) of the run."""
    coin = Random(ctx.seed_for("coin", *where))
    return [float(coin.random() < 0.5) for _ in range(count)]
