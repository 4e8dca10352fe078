"""Combinations of an RL stage's fields that make no algorithm are refused with the way out."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from openqwq.config import (
    CurriculumConfig,
    KLConfig,
    LoRAConfig,
    RLStage,
    ValueConfig,
    load_recipe,
)
from openqwq.config.algorithm import check_algorithm
from openqwq.errors import UserError

RECIPE = """
name = "small"
[model]
preset = "tiny"
[source.chain_sum]
type = "reasoning_gym"
[stage.rl]
kind = "rl"
mix = { chain_sum = 1.0 }
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def test_the_defaults_are_an_algorithm():
    check_algorithm(RLStage(), "[stage.rl]")


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"advantage": "rloo", "advantage_scale": "std"}, "only groups have a deviation", "batch"),
        ({"kl": KLConfig(weight=0.1, estimator="k1")}, "gradient is 0 in expectation", "k2"),
        ({"reference": "teacher"}, "nothing is compared with it", "kl.weight"),
        ({"reward": "none"}, "nothing is learned", "distil"),
        ({"overlong_tokens": 200}, "more than `max_completion_tokens`", "quarter"),
        ({"lora": LoRAConfig(rank=4, targets=())}, "nothing to adapt", "q_proj"),
        ({"lora": LoRAConfig(rank=4, targets=("q_proj", "lm_head"))}, "`lm_head`, which is no linear layer", "o_proj"),
        ({"curriculum": CurriculumConfig(pool=8)}, "fewer problems than `prompts_per_step`", "many times"),
        ({"curriculum": CurriculumConfig(easy=0.2, hard=0.3)}, "not below `easy`", "between"),
        ({"advantage": "gae", "value": ValueConfig(warmup_steps=100)}, "never be trained", "smaller"),
    ],
)
def test_what_would_train_something_else_is_refused(changes, message, hint):
    with pytest.raises(UserError, match=message) as caught:
        check_algorithm(replace(RLStage(), **changes), "[stage.rl]")
    assert hint in caught.value.hint


def test_every_part_of_an_algorithm_can_be_set_from_the_command_line(file):
    values = {
        "advantage": "gae",
        "advantage_scale": "batch",
        "loss": "gspo",
        "kl.weight": 0.1,
        "kl.place": "reward",
        "value.gae_lambda": 0.95,
        "correction.mode": "mask",
        "lora.targets": '["q_proj"]',
        "trackers": '["tensorboard"]',
    }
    stage = load_recipe(file, [f"stage.rl.{key}={value}" for key, value in values.items()]).stage["rl"]
    assert (stage.advantage, stage.advantage_scale, stage.loss) == ("gae", "batch", "gspo")
    assert (stage.kl.weight, stage.kl.place, stage.value.gae_lambda) == (0.1, "reward", 0.95)
    assert (stage.correction.mode, stage.lora.targets, stage.trackers) == ("mask", ("q_proj",), ("tensorboard",))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("advantage=gea", "must be one of 'group', 'rloo', 'reinforce', 'gae'"),
        ("loss=grpo", "must be one of 'ppo', 'cispo', 'gspo'"),
        ("kl.estimator=k4", "must be one of 'k1', 'k2', 'k3'"),
        ("kl.weigth=1", "unknown key `weigth`"),
        ("value.gae_lambda=1.5", "must be between 0 and 1"),
        ("correction.high=0.5", "must be 1 or more"),
        ('trackers=["excel"]', "must be one of 'tensorboard', 'wandb', 'trackio'"),
        ("samples_per_prompt=0", "must be 1 or more"),
        ("demonstrations_file=absent.jsonl", "does not exist"),
    ],
)
def test_unknown_names_and_values_out_of_range_are_named(file, override, message):
    with pytest.raises(UserError, match=message):
        load_recipe(file, [f"stage.rl.{override}"])


def test_one_sample_a_prompt_is_enough_where_groups_are_not_compared(file):
    stage = load_recipe(file, ["stage.rl.samples_per_prompt=1", "stage.rl.advantage=reinforce"]).stage["rl"]
    assert stage.samples_per_prompt == 1
    with pytest.raises(UserError, match="group advantages need at least 2"):
        load_recipe(file, ["stage.rl.samples_per_prompt=1"])


def documented_algorithms():
    """(name, settings) of each row of the table in docs/rl.md."""
    text = (Path(__file__).parents[2] / "docs" / "rl.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ") and "`" in line]
    return [(name.strip(), re.findall(r"`([a-z_]+ = [^`]+)`", fields)) for name, fields in rows]


@pytest.mark.parametrize(("name", "settings"), documented_algorithms(), ids=lambda value: str(value)[:30])
def test_every_documented_algorithm_is_a_recipe_that_is_accepted(file, monkeypatch, name, settings):
    monkeypatch.chdir(file.parent)  # where paths given on the command line are relative to
    (file.parent / "FOLDER").mkdir()
    (file.parent / "chains.jsonl").touch()
    overrides = [f"stage.rl.{setting.replace(' = ', '=', 1)}" for setting in settings]
    recipe = load_recipe(file, overrides)
    assert recipe.stage["rl"] != load_recipe(file).stage["rl"], name


def test_the_documentation_lists_the_algorithms():
    assert len(documented_algorithms()) == 13
