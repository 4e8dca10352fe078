"""What one stage leaves to the next: evaluations see the weights of their own stage."""

import json
import subprocess
import sys

import pytest
from sums_recipe import BASE, SUMS

from openqwq.cli.main import main
from openqwq.config import load_recipe
from openqwq.log import read_jsonl
from openqwq.pipeline.materials import Materials
from openqwq.tokenizer import Tokenizer

RECIPE = f"""
name = "twice"
{SUMS}
[stage.first]
kind = "sft"
chains = {{ chain_sum = 16 }}
chains_per_step = 4
learning_rate = 3e-3

[stage.second]
kind = "sft"
chains = {{ chain_sum = 16 }}
chains_per_step = 4
chains_seed = 1
learning_rate = 3e-3

[eval]
families = ["chain_sum"]
problems_per_family = 6
max_completion_tokens = 24
show_problems = 0
"""


@pytest.mark.skipif(not BASE.is_dir(), reason="the base model is not in this checkout")
def test_an_evaluation_does_not_read_prompts_that_earlier_weights_have_cached(tmp_path):
    recipe = tmp_path / "twice.toml"
    recipe.write_text(RECIPE)
    seen = []
    for name, only in (("both", []), ("last", ["--set", 'eval.after=["second"]'])):
        assert main(["train", str(recipe), "--out", str(tmp_path / name), *only]) == 0
        seen.append([row["text"] for row in read_jsonl(tmp_path / name / "eval" / "second.jsonl")])
    assert seen[0] == seen[1]
    first = [row["text"] for row in read_jsonl(tmp_path / "both" / "eval" / "first.jsonl")]
    assert first != seen[0]


LATE = """
[stage.rl]
kind = "rl"
mix = { chain_sum = 1.0 }
"""


@pytest.mark.skipif(not BASE.is_dir(), reason="the base model is not in this checkout")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("source.chain_sum.verifier=mth", "ask for the verifier `mth`"),
        ("source.chain_sum.verifier_options={deadline=1.0}", "unknown option of verifier `reasoning_gym`: `deadline`"),
        ('stage.rl.trackers=["wandb"]', "names 'wandb', which is not installed"),
    ],
)
def test_what_only_a_later_stage_needs_is_missed_before_the_first_one_begins(
    tmp_path, monkeypatch, capsys, override, message
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    recipe = tmp_path / "late.toml"
    recipe.write_text(RECIPE.replace("[eval]", f"{LATE}\n[eval]"))
    assert main(["train", str(recipe), "--out", str(tmp_path / "run"), "--set", override]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "run_state").exists()


ROUNDED = """
[stage.rl]
kind = "rl"
mix = { chain_sum = 1.0 }
steps = 2
prompts_per_step = 3
samples_per_prompt = 4
source_samples_per_prompt = { chain_sum = 5 }
max_refills = 0
max_completion_tokens = 12
top_p = 0.9
top_k = 20
reward = "random"
learning_rate = 1e-5
temperature = 1.3
rollout_quantization = "int8"
rollout_kv_cache_dtype = "int8"
correction = { mode = "truncate" }
gate = { kinds = ["math"], max_drop = 1.0, every = 1, problems_per_family = 2 }
"""


@pytest.mark.skipif(not BASE.is_dir(), reason="the base model is not in this checkout")
def test_a_recipe_samples_cut_rollouts_from_rounded_weights(tmp_path):
    recipe = tmp_path / "rounded.toml"
    head, _, rest = RECIPE.partition("[stage.first]")
    recipe.write_text(head + ROUNDED + rest[rest.index("[eval]") :])
    assert main(["train", str(recipe), "--out", str(tmp_path / "run")]) == 0
    rows = [row for row in read_jsonl(tmp_path / "run" / "metrics.jsonl") if "updates" in row]
    assert [row["updates"] for row in rows] == [1, 1]
    assert all(row["sources"]["chain_sum"]["rollouts"] == 15 for row in rows)
    assert all(1e-5 < row["mismatch_max"] < 2 and abs(row["importance_mean"] - 1) < 0.2 for row in rows)
    assert rows[1]["gate"] is not None


FREED = """
import os, resource, torch
from openqwq.pipeline.machine import keep_freed_memory
torch.set_num_threads(1)
if not keep_freed_memory():
    os._exit(2)
faults = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MiB, 16384 pages
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
os._exit(0 if max(faults[-2:]) <= 5 else 1)  # fresh ones would be 32 huge pages at least
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_memory_that_was_freed_is_used_again_without_fresh_pages():
    """In a process of its own: what this one has mapped before would count as well."""
    code = subprocess.run([sys.executable, "-c", FREED], check=False).returncode
    if code == 2:
        pytest.skip("this C library has no mallopt")
    assert code == 0


def test_a_recipe_gives_a_model_qwqs_template(tmp_path):
    own = tmp_path / "own"
    tokenizer = Tokenizer.load(BASE)
    assert "assistant\\n<think>\\n" in tokenizer.chat_template
    plain = tokenizer.chat_template.replace("assistant\\n<think>\\n", "assistant\\n")
    Tokenizer(tokenizer.backend, config={**tokenizer.config, "chat_template": plain}).save(own)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    for index, (template, opens) in enumerate([("", False), ("qwq", True)]):
        settings = [f"tokenizer.path={own}", f'tokenizer.chat_template="{template}"']
        materials = Materials(load_recipe(tmp_path / "recipe.toml", settings), tmp_path / str(index))
        assert materials.opens_thinking is opens
        kept = Tokenizer.load(materials.tokenizer_files[0].parent)
        assert (kept.chat_template == tokenizer.chat_template) is opens


IDLE = f"""
name = "idle"
{SUMS}
[stage.rl]
kind = "rl"
mix = {{ chain_sum = 1.0 }}
steps = 2
prompts_per_step = 2
samples_per_prompt = 2
max_refills = 0
max_completion_tokens = 1
learning_rate = 1e-5
"""


@pytest.mark.skipif(not BASE.is_dir(), reason="the base model is not in this checkout")
def test_a_run_whose_stage_made_no_update_fails_and_says_why_and_can_be_extended(tmp_path, capsys):
    (tmp_path / "idle.toml").write_text(IDLE)
    command = ["train", str(tmp_path / "idle.toml"), "--out", str(tmp_path / "run")]
    assert main(command) == 1
    assert "stage `rl`: 0 of 2 steps made an update: no group has signal" in capsys.readouterr().err
    assert main([*command, "--resume", "--set", "stage.rl.steps=3"]) == 1
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["idle"] == {
        "rl": "0 of 3 steps made an update: no group has signal"
    }
    longer = ["stage.rl.steps=5", 'stage.rl.reward="random"']
    assert main([*command, "--resume", *(part for change in longer for part in ("--set", change))]) == 2
    assert "`stage.rl.reward`" in capsys.readouterr().err


@pytest.mark.skipif(not BASE.is_dir(), reason="the base model is not in this checkout")
def test_an_extended_stage_goes_on_from_its_last_step(tmp_path):
    (tmp_path / "r.toml").write_text(IDLE.replace("learning_rate", 'reward = "random"\nlearning_rate'))
    command = ["train", str(tmp_path / "r.toml"), "--out", str(tmp_path / "run")]
    assert main(command) == 0
    first = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert main([*command, "--resume", "--set", "stage.rl.steps=4"]) == 0
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert rows[:2] == first and [row["step"] for row in rows] == [0, 1, 2, 3]
    assert rows[2]["learning_rate"] == pytest.approx((1 - 2 / 3) * 1e-5)
