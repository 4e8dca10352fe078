"""What a recipe's types cannot say: ranges, and names that must stand elsewhere in it.

Public: check_recipe, check_files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from openqwq.errors import UserError

from .algorithm import check_algorithm
from .build import suggest
from .own_names import is_own, own_files, split_own
from .recipe import TEXT_TYPES, PretrainStage, Recipe, RewardModelStage, RLStage, SFTStage, Stage, TargetConfig

Range = tuple[Callable[[float], bool], str]

POSITIVE: Range = (lambda x: x > 0, "above 0")
AT_LEAST_0: Range = (lambda x: x >= 0, "0 or more")
AT_LEAST_1: Range = (lambda x: x >= 1, "1 or more")
SHARE: Range = (lambda x: 0 <= x <= 1, "between 0 and 1")
BELOW_1: Range = (lambda x: 0 <= x < 1, "at least 0 and below 1")
OPEN_SHARE: Range = (lambda x: 0 < x < 1, "between 0 and 1, both excluded")
TOP_K: Range = (lambda x: x >= -1, "a count, or 0 or -1 for off")
TOP_P: Range = (lambda x: 0 < x <= 1, "above 0 and at most 1")

STAGE_RANGES = {
    "learning_rate": POSITIVE,
    "final_learning_rate": SHARE,
    "warmup_steps": AT_LEAST_0,
    "weight_decay": AT_LEAST_0,
    "beta1": BELOW_1,
    "beta2": BELOW_1,
    "max_grad_norm": POSITIVE,
    "tokens_per_microbatch": AT_LEAST_1,
    "checkpoint_every": AT_LEAST_0,
    "checkpoint_seconds": AT_LEAST_0,
}
KIND_RANGES: dict[type[Stage], dict[str, Range]] = {
    PretrainStage: {
        "tokens": AT_LEAST_1,
        "tokens_per_step": AT_LEAST_1,
        "sequence_length": (lambda x: x >= 2, "2 or more"),
    },
    SFTStage: {
        "epochs": POSITIVE,
        "chains_per_step": AT_LEAST_1,
        "brief_share": SHARE,
        "replay_per_step": AT_LEAST_0,
    },
    RewardModelStage: {"held_out_pairs": AT_LEAST_0, "epochs": POSITIVE, "pairs_per_step": AT_LEAST_1},
    RLStage: {
        "steps": AT_LEAST_1,
        "prompts_per_step": AT_LEAST_1,
        "updates_per_batch": AT_LEAST_1,
        "max_completion_tokens": AT_LEAST_1,
        "temperature": POSITIVE,
        "top_p": TOP_P,
        "top_k": TOP_K,
        "min_p": BELOW_1,
        "clip_low": OPEN_SHARE,
        "clip_high": POSITIVE,
        "max_refills": AT_LEAST_0,
        "max_staleness": AT_LEAST_0,
        "thinking_budget": AT_LEAST_0,
        "reward_model_weight": SHARE,
        "overlong_tokens": AT_LEAST_0,
        "demonstrations_per_step": AT_LEAST_1,
        "demonstrations_weight": AT_LEAST_0,
        "keep_every": AT_LEAST_0,
    },
}
GATE_RANGES = {"max_drop": SHARE, "every": AT_LEAST_1, "problems_per_family": AT_LEAST_1}
RL_TABLE_RANGES: dict[str, dict[str, Range]] = {
    "gate": GATE_RANGES,
    "kl": {"weight": AT_LEAST_0},
    "entropy": {"weight": AT_LEAST_0, "target": AT_LEAST_0, "step": POSITIVE},
    "correction": {"low": (lambda x: 0 < x <= 1, "above 0 and at most 1"), "high": AT_LEAST_1},
    "value": {
        "learning_rate": POSITIVE,
        "gamma": SHARE,
        "gae_lambda": SHARE,
        "clip": AT_LEAST_0,
        "warmup_steps": AT_LEAST_0,
    },
    "lora": {"rank": AT_LEAST_0, "alpha": POSITIVE},
    "curriculum": {"pool": AT_LEAST_0, "easy": SHARE, "hard": SHARE, "rest_steps": AT_LEAST_1},
}
EVAL_RANGES = {
    "problems_per_family": AT_LEAST_1,
    "temperature": AT_LEAST_0,
    "top_p": TOP_P,
    "top_k": TOP_K,
    "max_completion_tokens": AT_LEAST_1,
    "show_problems": AT_LEAST_0,
}
# Names of stages become folders of the run.
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def check_recipe(recipe: Recipe, file: str) -> None:
    """Raise UserError for the first value that is out of range or names something that is not there."""
    _check_names(recipe, file)
    _check_ranges(recipe, {"threads": AT_LEAST_0, "seed": AT_LEAST_0}, file)
    _check_model(recipe, file)
    for name, stage in recipe.stage.items():
        _check_stage(recipe, name, stage, f"[stage.{name}] of {file}")
    _check_eval(recipe, f"[eval] of {file}")
    for number, target in enumerate(recipe.target):
        _check_target(recipe, target, f"[[target]] {number + 1} of {file}")


def check_files(recipe: Recipe, file: str, *, only_source: str = "") -> None:
    """Raise UserError for the first local file or folder that the recipe names and that is not there.

    only_source: of the sources only this one is looked at; empty: all.
    """
    named = [("path", "model", recipe.model.path), ("path", "tokenizer", recipe.tokenizer.path)]
    sources = {n: s for n, s in recipe.source.items() if not only_source or n == only_source}
    for name, source in sources.items():
        named += [("path", f"source.{name}", source.path), ("held_out_path", f"source.{name}", source.held_out_path)]
        own = [source.verifier, source.verifier_options]
        named += [("verifier", f"source.{name}", str(path)) for path in own_files(own)]
    named += [
        (key, f"stage.{name}", getattr(stage, key))
        for name, stage in recipe.stage.items()
        if isinstance(stage, RLStage)
        for key in ("reference", "demonstrations_file")
    ]
    named += [
        ("chains_file", f"stage.{name}", stage.chains_file)
        for name, stage in recipe.stage.items()
        if isinstance(stage, SFTStage)
    ]
    for key, table, path in named:
        path = str(split_own(path)[0]) if is_own(path) else path
        if os.path.isabs(path) and not os.path.exists(path):
            raise UserError(f"`{key}` in [{table}] of {file} is {path}, which does not exist")


def _check_names(recipe: Recipe, file: str) -> None:
    for what, name in [("name", recipe.name), *(("stage", name) for name in recipe.stage)]:
        if not _FOLDER_NAME.fullmatch(name):
            raise UserError(
                f"`{name}` cannot be a {what} in {file}: it names a folder",
                hint="use letters, digits, `_`, `-` and `.`",
            )
    if not recipe.stage:
        raise UserError(f"{file} has no stages", hint='add a table like [stage.rl] with `kind = "rl"`')


def _check_model(recipe: Recipe, file: str) -> None:
    model, tokenizer = recipe.model, recipe.tokenizer
    if bool(model.preset) == bool(model.path):
        given = "both `preset` and `path` are" if model.preset else "neither `preset` nor `path` is"
        raise UserError(f"{given} set in [model] of {file}", hint='set one of them, e.g. `preset = "tiny"`')
    if model.path and model.overrides:
        raise UserError(
            f"`overrides` in [model] of {file} change the shape of a preset, but the model is loaded from `path`",
            hint="remove `overrides`, or start from a `preset`",
        )
    _check_ranges(tokenizer, {"vocab_size": AT_LEAST_1, "train_characters": AT_LEAST_1}, f"[tokenizer] of {file}")


def _check_stage(recipe: Recipe, name: str, stage: Stage, where: str) -> None:
    _check_ranges(stage, STAGE_RANGES, where)
    _check_ranges(stage, KIND_RANGES[type(stage)], where)
    if isinstance(stage, PretrainStage):
        _check_shares(recipe, "mix", stage.mix, where)
        _check_text_sources(recipe, "mix", stage.mix, where)
    elif isinstance(stage, SFTStage):
        if bool(stage.chains) == bool(stage.chains_file):
            both = "both `chains` and `chains_file` are" if stage.chains else "neither `chains` nor `chains_file` is"
            raise UserError(f"{both} set in {where}", hint="set one of them")
        _check_counts(recipe, "chains", stage.chains, where)
        _check_replay(recipe, stage, where)
    elif isinstance(stage, RewardModelStage):
        if not stage.pairs:
            raise UserError(f"`pairs` is empty in {where}", hint="add a count for a source: `pairs = {words = 2000}`")
        _check_counts(recipe, "pairs", stage.pairs, where)
    elif isinstance(stage, RLStage):
        _check_rl(recipe, name, stage, where)


def _check_replay(recipe: Recipe, stage: SFTStage, where: str) -> None:
    if bool(stage.replay) != bool(stage.replay_per_step):
        given, missing = ("replay", "replay_per_step") if stage.replay else ("replay_per_step", "replay")
        raise UserError(
            f"`{given}` is set in {where}, but `{missing}` is not",
            hint="set both, e.g. `replay = {corpus = 1.0}` and `replay_per_step = 2`, or neither",
        )
    if stage.replay:
        _check_shares(recipe, "replay", stage.replay, where)
        _check_text_sources(recipe, "replay", stage.replay, where)


def _check_rl(recipe: Recipe, name: str, stage: RLStage, where: str) -> None:
    _check_ranges(stage, {"samples_per_prompt": AT_LEAST_1}, where)
    if stage.updates_per_batch > stage.prompts_per_step:
        raise UserError(
            f"`updates_per_batch` is {stage.updates_per_batch} in {where}, but a batch has only "
            f"{stage.prompts_per_step} groups to share out",
            hint="set `updates_per_batch = 1`, or raise `prompts_per_step`",
        )
    _check_shares(recipe, "mix", stage.mix, where)
    _check_problem_sources(recipe, "mix", stage.mix, where)
    for key, allowed in (("source_samples_per_prompt", AT_LEAST_1), ("source_weights", AT_LEAST_0)):
        _check_known(key, getattr(stage, key), stage.mix, "a source of `mix`", where)
        _check_values(key, getattr(stage, key), allowed, where)
    for table, ranges in RL_TABLE_RANGES.items():
        _check_ranges(getattr(stage, table), ranges, where.replace("]", f".{table}]", 1))
    check_algorithm(stage, where)
    _check_reward_model(recipe, name, stage, where)


def _check_reward_model(recipe: Recipe, name: str, stage: RLStage, where: str) -> None:
    if not stage.reward_model:
        if stage.reward_model_weight or stage.reward_model_sources:
            raise UserError(
                f"a weight or sources of a reward model are set in {where}, but `reward_model` is empty",
                hint='set `reward_model = "NAME"`, or the weight to 0 and the sources to []',
            )
        return
    earlier = list(recipe.stage)[: list(recipe.stage).index(name)]
    makers = [other for other in earlier if isinstance(recipe.stage[other], RewardModelStage)]
    if stage.reward_model not in makers:
        raise UserError(
            f"`reward_model` is {stage.reward_model!r} in {where}, but no earlier reward-model stage has that name",
            hint=suggest(stage.reward_model, makers) if makers else 'add a stage of `kind = "reward_model"` before it',
        )
    _check_known("reward_model_sources", stage.reward_model_sources, stage.mix, "a source of `mix`", where)


def _check_eval(recipe: Recipe, where: str) -> None:
    config = recipe.eval
    _check_ranges(config, EVAL_RANGES, where)
    _check_known("families", config.families, recipe.source, "a source", where)
    _check_problem_sources(recipe, "families", config.families, where)
    _check_known("after", config.after, recipe.stage, "a stage", where)
    _check_known("greedy_after", config.greedy_after, recipe.evaluated_stages, "a stage that is evaluated", where)


def _check_target(recipe: Recipe, target: TargetConfig, where: str) -> None:
    evaluated = recipe.evaluated_stages
    _check_known("stage", [target.stage], recipe.stage, "a stage", where)
    _check_known("over", [target.over], recipe.stage, "a stage", where)
    _check_known("stage", [target.stage], evaluated, "a stage that is evaluated", where)
    _check_known("over", [target.over], evaluated, "a stage that is evaluated", where)
    _check_known("families", target.families, recipe.eval.families, "one of `families` in [eval]", where)
    order = list(recipe.stage)
    if order.index(target.over) >= order.index(target.stage):
        raise UserError(
            f"`over` is {target.over!r} in {where}, but that stage is not before `stage`, {target.stage!r}",
            hint="`over` is the earlier stage of the two",
        )
    if not target.kinds:
        raise UserError(f"`kinds` is empty in {where}", hint='name at least one, e.g. `kinds = ["math"]`')
    if target.min_change is target.min_change_low is target.max_change is None:
        raise UserError(f"no bound is set in {where}", hint="set `min_change`, `min_change_low` or `max_change`")


def _check_shares(recipe: Recipe, key: str, mix: Mapping[str, float], where: str) -> None:
    if not any(mix.values()):
        raise UserError(f"`{key}` is empty in {where}", hint=f"add a source and its share: `{key} = {{NAME = 1.0}}`")
    _check_known(key, mix, recipe.source, "a source", where)
    _check_values(key, mix, AT_LEAST_0, where)


def _check_counts(recipe: Recipe, key: str, counts: Mapping[str, int], where: str) -> None:
    _check_known(key, counts, recipe.source, "a source", where)
    _check_values(key, counts, AT_LEAST_1, where)
    _check_problem_sources(recipe, key, counts, where)


def _check_text_sources(recipe: Recipe, key: str, names: Iterable[str], where: str) -> None:
    for name in names:
        kind = recipe.source[name].type
        if kind not in TEXT_TYPES:
            raise UserError(
                f"`{key}` names the source `{name}` in {where}, but a source of type {kind!r} has no texts",
                hint=f"texts come from sources of type {' or '.join(TEXT_TYPES)}",
            )


def _check_problem_sources(recipe: Recipe, key: str, names: Iterable[str], where: str) -> None:
    for name in names:
        kind = recipe.source[name].type
        if kind in TEXT_TYPES:
            raise UserError(
                f"`{key}` names the source `{name}` in {where}, but a source of type {kind!r} has no problems",
                hint="only pretraining draws from texts",
            )


def _check_known(key: str, names: Iterable[str], known: Iterable[str], what: str, where: str) -> None:
    options: Sequence[str] = list(known)
    for name in names:
        if name not in options:
            hint = suggest(name, options) if options else "there are none in this recipe"
            raise UserError(f"`{key}` names `{name}` in {where}, which is not {what}", hint=hint)


def _check_ranges(config: Any, ranges: Mapping[str, Range], where: str) -> None:
    _check_values("", {key: getattr(config, key) for key in ranges}, ranges, where)


def _check_values(table: str, values: Mapping[str, float], ranges: Range | Mapping[str, Range], where: str) -> None:
    for key, value in values.items():
        fits, allowed = ranges[key] if isinstance(ranges, Mapping) else ranges
        if not fits(value):
            name = f"{table}.{key}" if table else key
            raise UserError(f"`{name}` is {value} in {where}, but it must be {allowed}")
