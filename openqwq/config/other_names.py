"""What algorithms and options are called elsewhere, and how a recipe says them here: hints for keys that are refused.

Public: hint_for_key, hint_for_value.
"""

from __future__ import annotations

from typing import Any

ALGORITHMS = {
    "grpo": 'GRPO is `advantage_scale = "std"`, `loss_aggregation = "sequence"`, `clip_high = 0.2`',
    "dr_grpo": 'Dr. GRPO is `advantage_scale = "none"`, `loss_aggregation = "constant"`',
    "dapo": 'DAPO is `advantage_scale = "std"`, `overlong_tokens = 32`, `truncated = "mask"`; the rest is the default',
    "rloo": 'RLOO is `advantage = "rloo"`, with `kl = { weight = 0.05, estimator = "k1", place = "reward" }`',
    "reinforce++": 'REINFORCE++ is `advantage = "reinforce"`, `advantage_scale = "batch"`',
    "ppo": 'PPO is `advantage = "gae"`, `advantage_scale = "batch"`, with a value model in `value = { ... }`',
    "gspo": 'GSPO is `loss = "gspo"`, `loss_aggregation = "sequence"`, `clip_low = 3e-4`, `clip_high = 4e-4`',
    "cispo": 'CISPO is `loss = "cispo"`, `clip_low = 0.99`',
}
ALIASES = {"drgrpo": "dr_grpo", "reinforce_plus_plus": "reinforce++", "reinforce": "reinforce++"}
SHORTHANDS = {
    "kl": "`kl = {{ weight = {0} }}`",
    "entropy": "`entropy = {{ weight = {0} }}`",
    "lora": "`lora = {{ rank = {0} }}`",
    "curriculum": "`curriculum = {{ pool = {0} }}`",
    "correction": "`correction = {{ mode = {0!r} }}`",
}
"""Tables of an RL stage that elsewhere are one value, and that value's place in the table."""
OPTIONS = {
    "algorithm": "an algorithm is named by its parts: `advantage`, `advantage_scale`, `loss`, `loss_aggregation`",
    "loss_type": "the loss is `loss`, and its averaging `loss_aggregation`",
    "beta": "the KL penalty is `kl = { weight = ... }`",
    "kl_coef": "the KL penalty is `kl = { weight = ... }`",
    "num_generations": "the group's size is `samples_per_prompt`",
    "group_size": "the group's size is `samples_per_prompt`",
    "rollout_n": "the group's size is `samples_per_prompt`",
    "max_completion_length": "the limit is `max_completion_tokens`",
    "max_response_length": "the limit is `max_completion_tokens`",
    "epsilon": "the clip bounds are `clip_low` and `clip_high`",
    "epsilon_high": "the clip bounds are `clip_low` and `clip_high`",
    "lr": "it is `learning_rate`",
    "max_steps": "it is `steps`",
    "num_train_epochs": "RL takes `steps`, SFT `epochs`",
    "train_batch_size": "the batch is `prompts_per_step` times `samples_per_prompt`",
    "per_device_train_batch_size": "memory is bounded by `tokens_per_microbatch`, the batch is `prompts_per_step`",
    "gradient_accumulation_steps": "memory is bounded by `tokens_per_microbatch`; the gradient does not depend on it",
    "reward_funcs": "rewards are the source's `verifier`",
}
DOCUMENT = "docs/rl.md has a table of algorithms"


def hint_for_key(key: str, value: Any) -> str:
    """How a recipe says what this unknown key says elsewhere; empty where that is not known."""
    if key in OPTIONS:
        told = _algorithm(value) if key in ("algorithm", "loss_type") else ""
        return f"{told or OPTIONS[key]} ({DOCUMENT})"
    return ""


def hint_for_value(key: str, value: Any) -> str:
    """How a recipe says what this refused value of a known key means; empty where that is not known."""
    if key in ("loss", "advantage", "advantage_scale", "kind") and (told := _algorithm(value)):
        begin = 'set `kind = "rl"`; ' if key == "kind" else ""
        return f"{begin}{told} ({DOCUMENT})"
    if key in SHORTHANDS and not isinstance(value, dict):
        return f"write it as {SHORTHANDS[key].format(value)}"
    return ""


def _algorithm(value: Any) -> str:
    name = str(value).lower().replace("-", "_").replace(" ", "_").replace(".", "")
    return ALGORITHMS.get(ALIASES.get(name, name), "")
