"""A recipe under torchrun: two processes, one run folder, the numbers of one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sums_recipe import BASE, SUMS

from openqwq.cli.main import main
from openqwq.log import read_jsonl

ROOT = Path(__file__).parents[2]
RECIPE = f"""
name = "ranks"
{SUMS}
[source.instructions]
type = "instructions"

[stage.cold]
kind = "sft"
chains = {{ chain_sum = 16 }}
chains_per_step = 8

[stage.judge]
kind = "reward_model"
pairs = {{ instructions = 8 }}
held_out_pairs = 4
pairs_per_step = 4

[stage.rl]
kind = "rl"
mix = {{ chain_sum = 0.7, instructions = 0.3 }}
steps = 2
prompts_per_step = 3
samples_per_prompt = 4
max_refills = 1
max_completion_tokens = 12
reward_model = "judge"
reward_model_weight = 0.3
reward_model_sources = ["instructions"]
batch_invariant = "auto"
gate = {{ kinds = ["math"], max_drop = 1.0, every = 1, problems_per_family = 2 }}

[eval]
families = ["chain_sum"]
problems_per_family = 4
max_completion_tokens = 12
show_problems = 0
"""


@pytest.mark.skipif(not BASE.is_dir(), reason="the base model is not in this checkout")
def test_two_processes_make_one_run_as_one_process_does(tmp_path, capsys):
    recipe = tmp_path / "ranks.toml"
    recipe.write_text(RECIPE)
    # so few chains teach nothing: RL finds no signal, which either way of running the recipe says
    assert main(["train", str(recipe), "--out", str(tmp_path / "one")]) == 1
    idle = "stage `rl`: 0 of 2 steps made an update: no group has signal"
    assert idle in capsys.readouterr().err
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "openqwq"]
    done = subprocess.run(
        [*launch, "train", str(recipe), "--out", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1 and idle in done.stderr, done.stderr
    assert done.stdout.count("checkpoint:") == 1  # one rank speaks
    one, two = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [(row["stage"], row.get("step")) for row in two] == [(row["stage"], row.get("step")) for row in one]
    for ours, theirs in zip(two, one, strict=True):
        for key in ("loss", "grad_norm", "accuracy", "held_out_accuracy", "tokens_train", "strict"):
            if isinstance(theirs.get(key), int | float):
                assert ours[key] == pytest.approx(theirs[key], rel=1e-3, abs=1e-4), (theirs["stage"], key)
    for name in ("final/model.safetensors", "report.html", "results.json", "checkpoints/judge/score.safetensors"):
        assert (tmp_path / "two" / name).exists()
    capsys.readouterr()
    assert main(["train", str(recipe), "--out", str(tmp_path / "two"), "--resume"]) == 1  # by one process
