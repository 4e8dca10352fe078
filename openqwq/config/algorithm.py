"""Combinations of an RL stage's fields that make no algorithm, each with the way out."""

from __future__ import annotations

from openqwq.errors import UserError

from .recipe import RLStage
from .rl_tables import LoRAConfig


def rounds(stage: RLStage) -> bool:
    """Whether rollouts come from rounded weights or a rounded cache, so that their log-probs are not the trainer's."""
    return stage.rollout_quantization != "none" or stage.rollout_kv_cache_dtype != "auto"


def check_algorithm(stage: RLStage, where: str) -> None:
    """Raise UserError for the first combination that would train something else than its names say."""
    if stage.samples_per_prompt < 2 and stage.advantage in ("group", "rloo") and stage.reward != "none":
        raise UserError(
            f"`samples_per_prompt` is {stage.samples_per_prompt} in {where}, but group advantages need at least 2",
            hint='set `samples_per_prompt = 8`, or `advantage = "reinforce"`',
        )
    for is_wrong, message, hint in _rules(stage):
        if is_wrong:
            raise UserError(f"{message} in {where}", hint=hint)


def _rules(stage: RLStage) -> list[tuple[bool, str, str]]:
    """(whether it applies, what is wrong, what to do)."""
    return [
        (
            stage.advantage_scale == "std" and stage.advantage != "group",
            f'`advantage_scale` is "std" with `advantage = "{stage.advantage}"`, but only groups have a deviation',
            'set `advantage_scale = "batch"`, or `advantage = "group"`',
        ),
        (
            stage.kl.weight > 0 and stage.kl.estimator == "k1" and stage.kl.place == "loss",
            '`kl.estimator` is "k1" in the loss, where its gradient is 0 in expectation',
            'set `kl.estimator = "k2"` or "k3", or `kl.place = "reward"`',
        ),
        (
            bool(stage.reference) and stage.kl.weight == 0,
            "`reference` is set, but `kl.weight` is 0, so nothing is compared with it",
            "set `kl.weight`, e.g. 0.04, or take `reference` out",
        ),
        (
            stage.reward == "none" and stage.kl.weight == 0 and not stage.demonstrations_file,
            '`reward` is "none", and neither `kl.weight` nor `demonstrations_file` is set: nothing is learned',
            "set `kl.weight = 1.0` and a `reference` to distil from",
        ),
        (
            stage.max_staleness > 0 and stage.correction.mode == "none",
            f'`max_staleness` is {stage.max_staleness}, but `correction.mode` is "none": older weights go uncorrected',
            'set `correction.mode = "truncate"`, or `max_staleness = 0`',
        ),
        (
            rounds(stage) and stage.correction.mode == "none",
            "rollouts are rounded (`rollout_quantization`, `rollout_kv_cache_dtype`), but `correction.mode` is "
            '"none": their log-probs stay uncorrected',
            'set `correction.mode = "truncate"`, or do not round',
        ),
        (
            rounds(stage) and stage.batch_invariant == "on",
            '`batch_invariant` is "on", but rollouts are rounded: their log-probs are not the trainer\'s',
            "leave one of the two out",
        ),
        (
            min(stage.source_samples_per_prompt.values(), default=2) < 2 and stage.advantage in ("group", "rloo"),
            "`source_samples_per_prompt` has a number below 2, but group advantages need at least 2",
            'raise it, or set `advantage = "reinforce"`',
        ),
        (
            stage.overlong_tokens > stage.max_completion_tokens,
            f"`overlong_tokens` is {stage.overlong_tokens}, more than `max_completion_tokens`",
            "a quarter of `max_completion_tokens` is usual",
        ),
        (
            stage.lora.rank > 0 and not stage.lora.targets,
            "`lora.targets` is empty, so there is nothing to adapt",
            'name layers, e.g. `targets = ["q_proj", "v_proj"]`',
        ),
        (
            bool(unknown := [name for name in stage.lora.targets if name not in LoRAConfig.targets]),
            f"`lora.targets` names `{'`, `'.join(unknown)}`, which is no linear layer within the decoder's layers",
            f"these are: {', '.join(LoRAConfig.targets)}",
        ),
        (
            0 < stage.curriculum.pool < stage.prompts_per_step,
            f"`curriculum.pool` is {stage.curriculum.pool}, fewer problems than `prompts_per_step`",
            "make the pool many times as large as `prompts_per_step`",
        ),
        (
            stage.curriculum.hard >= stage.curriculum.easy,
            f"`curriculum.hard` is {stage.curriculum.hard}, not below `easy`, {stage.curriculum.easy}",
            "problems between the two are trained on",
        ),
        (
            stage.value.warmup_steps >= stage.steps and stage.advantage == "gae",
            f"`value.warmup_steps` is {stage.value.warmup_steps}, so the policy would never be trained",
            "make it smaller than `steps`",
        ),
    ]
