"""Recipes read from TOML: types, unknown keys, overrides, parents, paths, and what must fit together."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from openqwq.config import (
    PretrainStage,
    Recipe,
    RewardModelStage,
    RLStage,
    SFTStage,
    load_recipe,
    recipe_from_dict,
    recipe_to_dict,
)
from openqwq.errors import UserError

RECIPES = Path(__file__).parents[2] / "recipes"
RECIPE = """
name = "small"
seed = 3

[model]
preset = "tiny"
overrides = {hidden_size = 192}

[source.texts]
type = "text"
path = "data/texts.jsonl"

[source.chain_sum]
type = "reasoning_gym"
dataset = "chain_sum"
config = {min_terms = 2, nested = {deep = [1, 2]}}

[source.words]
type = "instructions"

[stage.pretrain]
kind = "pretrain"
mix = {texts = 1}

[stage.cold_start]
kind = "sft"
chains = {chain_sum = 100, words = 20}

[stage.rl]
kind = "rl"
learning_rate = 1e-4
mix = {chain_sum = 0.75, words = 0.25}
gate = {kinds = ["math"], max_drop = 0.1}

[stage.judge]
kind = "reward_model"
pairs = {words = 64}

[stage.general]
kind = "rl"
mix = {words = 1.0}
reward_model = "judge"
reward_model_weight = 0.5

[eval]
families = ["chain_sum", "words"]

[[target]]
what = "RL lifts sums"
stage = "rl"
over = "cold_start"
kinds = ["math"]
min_change = 20

[[target]]
what = "the second stage keeps them"
stage = "general"
over = "rl"
kinds = ["math"]
min_change = -2
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "texts.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "small.toml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def file(folder):
    return folder / "small.toml"


def error_of(file, *overrides):
    with pytest.raises(UserError) as caught:
        load_recipe(file, overrides)
    return caught.value


def test_stages_keep_their_order_and_take_their_class_from_kind(file):
    recipe = load_recipe(file)
    assert [(name, type(stage)) for name, stage in recipe.stage.items()] == [
        ("pretrain", PretrainStage),
        ("cold_start", SFTStage),
        ("rl", RLStage),
        ("judge", RewardModelStage),
        ("general", RLStage),
    ]


def test_values_come_typed_and_defaults_fill_the_rest(file):
    recipe = load_recipe(file)
    assert recipe.stage["rl"].mix == {"chain_sum": 0.75, "words": 0.25}
    assert type(recipe.stage["pretrain"].mix["texts"]) is float
    assert recipe.stage["rl"].gate.kinds == ("math",)
    assert recipe.stage["rl"].gate.every == 10
    assert recipe.source["chain_sum"].config == {"min_terms": 2, "nested": {"deep": [1, 2]}}
    assert (recipe.seed, recipe.threads, recipe.target[0].min_change) == (3, 0, 20.0)


def test_a_resolved_recipe_survives_json(file):
    recipe = load_recipe(file)
    tables = json.loads(json.dumps(recipe_to_dict(recipe)))
    assert recipe_from_dict(tables) == recipe
    assert tables["stage"]["rl"]["kind"] == "rl"
    assert set(tables) == {field.name for field in dataclasses.fields(Recipe)}


def test_overrides_are_toml_values_or_plain_text(file):
    recipe = load_recipe(
        file,
        [
            "stage.rl.learning_rate=3e-6",
            "source.chain_sum.config.max_terms = 4",
            "stage.rl.reward=random",
            'name="other"',
            "target.1.min_change=-3",
            "target.1.what=keeps = more",
            "eval.families=['words']",
            "stage.rl.mix={words = 2}",
        ],
    )
    assert recipe.stage["rl"].learning_rate == 3e-6
    assert recipe.source["chain_sum"].config["max_terms"] == 4
    assert (recipe.stage["rl"].reward, recipe.name) == ("random", "other")
    assert (recipe.target[1].min_change, recipe.target[1].what) == (-3.0, "keeps = more")
    assert recipe.target[0].min_change == 20.0
    assert recipe.eval.families == ("words",)
    assert recipe.stage["rl"].mix == {"chain_sum": 0.75, "words": 2.0}


def test_unknown_keys_name_the_nearest_and_where_they_stand(file):
    error = error_of(file, "stage.rl.learning_rat=1")
    assert error.message == f"unknown key `learning_rat` in [stage.rl] of {file}"
    assert error.hint == "did you mean `learning_rate`?"
    assert "[stage.rl.gate]" in error_of(file, "stage.rl.gate.kind=1").message
    assert f"unknown key `sed` in {file}" == error_of(file, "sed=1").message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stage.rl.steps=1.0", "`steps` is 1.0 in [stage.rl] of FILE, but it must be a whole number"),
        ("stage.rl.steps=true", "`steps` is True in [stage.rl] of FILE, but it must be a whole number"),
        ("stage.rl.steps=1O", "`steps` is '1O' in [stage.rl] of FILE, but it must be a whole number"),
        ("stage.rl.learning_rate=true", "`learning_rate` is True in [stage.rl] of FILE, but it must be a number"),
        ("stage.rl.learning_rate=nan", "`learning_rate` is nan in [stage.rl] of FILE, but it must be finite"),
        ("name=7", "`name` is 7 in FILE, but it must be a text in quotes"),
        ("eval.families=words", "`families` is 'words' in [eval] of FILE, but it must be a list, as in [...]"),
        ("eval.families=[1]", "`0` is 1 in [eval.families] of FILE, but it must be a text in quotes"),
        ("stage.rl.mix=[1]", "`mix` is [1] in [stage.rl] of FILE, but it must be a table"),
        (
            "stage.cold_start.chains.words=1.5",
            "`words` is 1.5 in [stage.cold_start.chains] of FILE, but it must be a whole number",
        ),
        (
            "stage.rl.advantage_scale=foo",
            "`advantage_scale` is 'foo' in [stage.rl] of FILE, but it must be one of 'none', 'std', 'batch', 'source'",
        ),
        ("model=3", "[model] of FILE is 3, but it must be a table"),
    ],
)
def test_types_are_strict(file, override, message):
    assert error_of(file, override).message == message.replace("FILE", str(file))


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("stage.general.samples_per_prompt=1", "`samples_per_prompt` is 1 in [stage.general] of"),
        ("stage.rl.max_staleness=1", "`max_staleness` is 1"),
        ("stage.rl.updates_per_batch=64", "has only 32 groups"),
        ("stage.rl.clip_low=1.0", "between 0 and 1, both excluded"),
        ("stage.rl.clip_high=0", "`clip_high` is 0.0"),
        ("stage.rl.temperature=0", "`temperature` is 0.0"),
        ("stage.rl.steps=-1", "`steps` is -1"),
        ("stage.rl.beta2=1", "`beta2` is 1.0"),
        ("stage.rl.gate.max_drop=2", "`max_drop` is 2.0 in [stage.rl.gate] of"),
        ("stage.cold_start.chains.words=-5", "`chains.words` is -5"),
        ("stage.pretrain.sequence_length=1", "2 or more"),
        ("eval.top_p=0", "`top_p` is 0.0"),
        ("threads=-1", "`threads` is -1"),
        ("stage.rl.mix.sums=1", "`mix` names `sums` in [stage.rl]"),
        ("stage.cold_start.chains.sums=1", "`chains` names `sums`"),
        ("stage.judge.pairs.sums=1", "`pairs` names `sums`"),
        ("eval.families=['sums']", "`families` names `sums`"),
        ("eval.after=['rk']", "`after` names `rk`"),
        ("eval.greedy_after=['judge']", "not a stage that is evaluated"),
        ("stage.rl.mix.texts=1", "has no problems"),
        ("eval.families=['texts']", "has no problems"),
        ("stage.pretrain.mix.words=1", "has no texts"),
        ("stage.rl.mix.chain_sum=-1", "`mix.chain_sum` is -1.0"),
        ("stage.general.mix.words=0", "`mix` is empty"),
        ("stage.general.mix.words=false", "`mix` is empty"),
        ("stage.cold_start.chains_file=data/texts.jsonl", "both `chains` and `chains_file`"),
        ("stage.cold_start.replay_per_step=2", "`replay_per_step` is set in [stage.cold_start]"),
        ("stage.cold_start.replay.texts=1", "`replay` is set in [stage.cold_start]"),
        ("stage.cold_start.replay={words=1}", "`replay` is set in [stage.cold_start]"),
        ("stage.cold_start.brief_share=1.5", "`brief_share` is 1.5"),
        ("model.path=Qwen/Qwen2.5-0.5B", "both `preset` and `path`"),
        ("model.preset=", "neither `preset` nor `path`"),
        ('model={preset = "", path = "Qwen/Qwen2.5-0.5B"}', "change the shape of a preset"),
        ("stage.general.reward_model=rl", "no earlier reward-model stage"),
        ("stage.general.reward_model=", "`reward_model` is empty"),
        ("stage.rl.reward_model=judge", "no earlier reward-model stage"),
        ("stage.general.reward_model_sources=['chain_sum']", "not a source of `mix`"),
        ("stage.judge=false", "no earlier reward-model stage"),
        ("stage.rl=false", "`stage` names `rl` in [[target]] 1"),
        ("target.0.over=general", "not before"),
        ("target.0.stage=judge", "not a stage that is evaluated"),
        ("target.0.kinds=[]", "`kinds` is empty"),
        ("target.0.families=['texts']", "not one of `families` in [eval]"),
        ("target.2.over=rl", "has 2 entries"),
        ("stage.rll.steps=1", "names a stage that is not there"),
        ("stage.rl.kind=ppo", "`kind` is 'ppo' in [stage.rl]"),
        ("name=a/b", "cannot be a name"),
        ("source.texts.path=gone.jsonl", "does not exist"),
        ("steps", "is not an assignment"),
    ],
)
def test_what_does_not_fit_together_is_refused(file, override, part):
    assert part in error_of(file, override).message


def test_a_group_of_one_is_explained(file):
    assert str(error_of(file, "stage.rl.samples_per_prompt=1")) == (
        f"error: `samples_per_prompt` is 1 in [stage.rl] of {file}, but group advantages need at least 2\n"
        'hint: set `samples_per_prompt = 8`, or `advantage = "reinforce"`'
    )


def test_a_child_merges_tables_and_replaces_lists(folder):
    (folder / "arms").mkdir()
    child = folder / "arms" / "random.toml"
    child.write_text(
        'extends = "../small.toml"\nseed = 4\n'
        '[stage.rl]\nreward = "random"\nmix = {words = false}\n[stage]\njudge = false\ngeneral = false\n'
        '[[target]]\nwhat = "no lift"\nstage = "rl"\nover = "cold_start"\nkinds = ["math"]\n'
        "min_change = -50\nmax_change = 5\n"
    )
    parent, recipe = load_recipe(folder / "small.toml"), load_recipe(child)
    assert list(recipe.stage) == ["pretrain", "cold_start", "rl"]
    assert recipe.stage["rl"] == dataclasses.replace(parent.stage["rl"], reward="random", mix={"chain_sum": 0.75})
    assert (recipe.name, recipe.seed) == ("random", 4)
    assert [target.what for target in recipe.target] == ["no lift"]
    assert recipe.source["texts"].path == str(folder / "data" / "texts.jsonl")
    assert recipe.source == parent.source


def test_a_target_without_a_bound_is_refused(folder):
    child = folder / "aimless.toml"
    child.write_text(
        'extends = "small.toml"\n[[target]]\nwhat = "lift"\nstage = "rl"\nover = "cold_start"\nkinds = ["math"]\n'
    )
    with pytest.raises(UserError, match="no bound is set"):
        load_recipe(child)


def test_a_stage_of_another_kind_replaces_its_parent_in_place(folder):
    child = folder / "sft_only.toml"
    child.write_text('extends = "small.toml"\ntarget = []\n[stage.rl]\nkind = "sft"\nchains = {chain_sum = 7}\n')
    recipe = load_recipe(child)
    assert list(recipe.stage)[2] == "rl"
    assert recipe.stage["rl"] == SFTStage(chains={"chain_sum": 7})


def test_parents_may_have_parents_but_no_circles(folder):
    (folder / "b.toml").write_text('extends = "small.toml"\nseed = 5\n')
    (folder / "c.toml").write_text('extends = "b.toml"\nthreads = 2\n')
    recipe = load_recipe(folder / "c.toml")
    assert (recipe.seed, recipe.threads, recipe.name) == (5, 2, "c")
    (folder / "b.toml").write_text('extends = "c.toml"\n')
    assert "extends itself" in error_of(folder / "c.toml").message
    (folder / "b.toml").write_text('extends = "gone.toml"\n')
    assert "gone.toml, which b.toml extends" in error_of(folder / "c.toml").message


def test_paths_are_relative_to_the_recipe_and_overrides_to_the_working_directory(folder, monkeypatch, tmp_path):
    monkeypatch.chdir("/")
    recipe = load_recipe(folder / "small.toml")
    assert recipe.source["texts"].path == str(folder / "data" / "texts.jsonl")
    monkeypatch.chdir(folder / "data")
    recipe = load_recipe(folder / "small.toml", ["source.texts.path=texts.jsonl"])
    assert recipe.source["texts"].path == str(folder / "data" / "texts.jsonl")


def test_hub_names_stay_and_local_models_become_absolute(folder):
    file = folder / "small.toml"
    tiny = 'preset = "tiny"\noverrides = {hidden_size = 192}'
    file.write_text(RECIPE.replace(tiny, 'path = "Qwen/QwQ-32B"'))
    assert load_recipe(file).model.path == "Qwen/QwQ-32B"
    (folder / "Qwen" / "QwQ-32B").mkdir(parents=True)
    assert load_recipe(file).model.path == str(folder / "Qwen" / "QwQ-32B")
    file.write_text(RECIPE.replace(tiny, 'path = "./base"'))
    assert "does not exist" in error_of(file).message


@pytest.mark.parametrize("file", sorted(RECIPES.rglob("*.toml")), ids=lambda file: file.stem)
def test_shipped_recipes_load_and_resolve(file):
    recipe = load_recipe(file)
    assert recipe_from_dict(json.loads(json.dumps(recipe_to_dict(recipe)))) == recipe


def test_unreadable_files_are_user_errors(folder):
    (folder / "bad.toml").write_text("name = small\n")
    assert "is not valid TOML" in error_of(folder / "bad.toml").message
    assert "cannot read the recipe" in error_of(folder / "gone.toml").message
    assert "cannot read the recipe" in error_of(folder).message
    (folder / "empty.toml").write_text('[model]\npreset = "tiny"\n')
    assert "has no stages" in error_of(folder / "empty.toml").message
    (folder / "dated.toml").write_text(RECIPE.replace("min_terms = 2", "min_terms = 2020-01-01"))
    assert "made of texts" in error_of(folder / "dated.toml").message
    (folder / "untyped.toml").write_text(RECIPE.replace('type = "instructions"', 'kind = "x"'))
    assert "`type` is missing in [source.words]" in error_of(folder / "untyped.toml").message


def test_reading_recipes_brings_no_torch():
    code = "import sys, openqwq.config; print(sorted({'torch', 'transformers', 'tokenizers'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "[]\n"
