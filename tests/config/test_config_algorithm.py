"""Combinations of an RL stage's fields that make no algorithm are refused with the way out."""

import json
import re
import tomllib
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
from openqwq.config.build import build_recipe
from openqwq.config.other_names import ALGORITHMS
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


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ('loss = "dapo"', 'DAPO is `advantage_scale = "std"`'),
        ('loss = "Dr. GRPO"', '`loss_aggregation = "constant"`'),
        ('advantage = "reinforce++"', '`advantage_scale = "batch"`'),
        ("kl = 0.04", "`kl = { weight = 0.04 }`"),
        ("lora = 16", "`lora = { rank = 16 }`"),
        ("beta = 0.04", "`kl = { weight = ... }`"),
        ('algorithm = "gspo"', 'GSPO is `loss = "gspo"`'),
        ("num_generations = 8", "`samples_per_prompt`"),
        ("step = 5", "did you mean `steps`?"),
    ],
)
def test_names_from_elsewhere_are_refused_with_the_recipes_own_words(line, hint):
    table = {"name": "r", "stage": {"rl": {"kind": "rl", **tomllib.loads(line)}}}
    with pytest.raises(UserError) as error:
        build_recipe(table, "r.toml")
    assert hint in error.value.hint


def test_an_algorithm_is_no_kind_of_stage():
    with pytest.raises(UserError) as error:
        build_recipe({"name": "r", "stage": {"rl": {"kind": "grpo"}}}, "r.toml")
    assert 'set `kind = "rl"`; GRPO is' in error.value.hint


def test_every_hinted_algorithm_is_a_recipe():
    for hint in ALGORITHMS.values():
        lines = [text for text in re.findall(r"`([^`]*=[^`]*)`", hint) if "..." not in text]
        stage = {"kind": "rl", **tomllib.loads("\n".join(lines))}
        assert build_recipe({"name": "r", "stage": {"rl": stage}}, "r.toml").stage["rl"].kind == "rl"


CONFIG = {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True}
SMOLLM = {**CONFIG, "hidden_size": 576, "num_hidden_layers": 30, "intermediate_size": 1536}
QWEN_7B = {
    **CONFIG,
    "hidden_size": 3584,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "intermediate_size": 18944,
}
TINY = {**CONFIG, "hidden_size": 9, "num_hidden_layers": 2, "intermediate_size": 32}


@pytest.mark.parametrize(("config", "sft", "rl"), [(TINY, 1e-3, 1e-3), (SMOLLM, 1e-4, 1e-5), (QWEN_7B, 1e-5, 1e-6)])
def test_an_unnamed_learning_rate_fits_the_models_size(tmp_path, config, sft, rl):
    (tmp_path / "config.json").write_text(json.dumps(config))
    stages = {"cold": {"kind": "sft"}, "rl": {"kind": "rl"}, "named": {"kind": "rl", "learning_rate": 0.5}}
    recipe = build_recipe({"name": "r", "model": {"path": str(tmp_path)}, "stage": stages}, "r.toml")
    assert [stage.learning_rate for stage in recipe.stage.values()] == [sft, rl, 0.5]


def test_adapters_of_a_large_model_learn_at_ten_times_the_rate(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SMOLLM))
    stages = {"rl": {"kind": "rl", "lora": {"rank": 8}}}
    recipe = build_recipe({"name": "r", "model": {"path": str(tmp_path)}, "stage": stages}, "r.toml")
    assert recipe.stage["rl"].learning_rate == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("name", "rate"),
    [("Qwen/Qwen2.5-0.5B", 2e-6), ("a/SmolLM2-135M-Instruct", 1e-5), ("Qwen/QwQ-32B", 1e-6), ("some/model2b7", 1e-6)],
)
def test_a_hub_models_size_is_read_from_its_name(name, rate):
    tables = {"name": "r", "model": {"path": name}, "stage": {"rl": {"kind": "rl"}}}
    assert build_recipe(tables, "r.toml").stage["rl"].learning_rate == rate
