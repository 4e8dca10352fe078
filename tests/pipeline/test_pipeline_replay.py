"""Half a stage at a time, and the offline pass-rate filter, by their commands."""

import json

import pytest
from sums_recipe import BASE, SUMS

from openqwq.cli.main import main
from openqwq.log import read_jsonl
from openqwq.train.experience.collector import Collector

RECIPE = f"""
name = "half"
{SUMS}
[stage.rl]
kind = "rl"
mix = {{ chain_sum = 1.0 }}
steps = 2
prompts_per_step = 3
samples_per_prompt = 4
max_refills = 0
max_completion_tokens = 12
advantage = "reinforce"
temperature = 1.5
reward = "random"
batch_invariant = "auto"

[stage.rl.correction]
mode = "truncate"
"""

pytestmark = pytest.mark.skipif(not BASE.is_dir(), reason="the base model is not in this checkout")


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "half.toml"
    file.write_text(RECIPE)
    return str(file)


def test_rollouts_are_written_and_trained_on_apart(recipe, tmp_path, capsys):
    out, rollouts = str(tmp_path / "run"), tmp_path / "rollouts.jsonl"
    assert main(["train", recipe, "--out", out, "--rollout-only", str(rollouts)]) == 0
    assert "(24)" in capsys.readouterr().out
    rows = read_jsonl(rollouts)
    assert [(row["step"], row["group"]) for row in rows] == [(s, g) for s in (0, 1) for g in range(3) for _ in range(4)]
    assert all(len(row["rollout_logprobs"]) == len(row["completion_ids"]) <= 12 for row in rows)
    assert main(["train", recipe, "--out", out, "--replay", str(rollouts)]) == 0
    metrics = read_jsonl(tmp_path / "run" / "replay" / "metrics.jsonl")
    assert [row["updates"] for row in metrics] == [1, 1]
    assert metrics[0]["mismatch_max"] == 0 < 5e-5 < metrics[1]["mismatch_max"]
    assert (tmp_path / "run" / "replay" / "final" / "model.safetensors").exists()
    assert main(["train", recipe, "--out", out, "--replay", str(rollouts)]) == 2
    assert "holds a replay already" in capsys.readouterr().err


@pytest.mark.parametrize(("pool", "mode"), [(0, "off"), (16, "auto")])
def test_rollouts_that_were_interrupted_end_like_unbroken_ones(recipe, tmp_path, monkeypatch, capsys, pool, mode):
    command = ["train", recipe, "--out", str(tmp_path / "run"), "--set", f"stage.rl.curriculum.pool={pool}"]
    command += ["--set", f"stage.rl.batch_invariant={mode}", "--set", "stage.rl.steps=3", "--rollout-only"]
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "some where" / "broken.jsonl"
    assert main([*command, str(whole)]) == 0
    assert "rl 3/3" in capsys.readouterr().err

    collect = Collector.collect

    def interrupted(self, step):
        if step == 2:
            raise KeyboardInterrupt
        return collect(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Collector, "collect", interrupted)
        assert main([*command, str(broken)]) == 130
    assert f"--rollout-only '{broken}' --resume" in capsys.readouterr().err
    assert {row["step"] for row in read_jsonl(broken)} == {0, 1}
    assert main([*command, str(broken)]) == 2
    assert "exists already" in (said := capsys.readouterr().err) and "policy:" not in said
    with open(broken, "a") as torn:
        torn.write(whole.read_text().splitlines()[-1][:-7])
    assert main([*command, str(broken), "--resume"]) == 0
    assert "(36)" in capsys.readouterr().out
    assert broken.read_bytes() == whole.read_bytes()
    assert main([*command, str(broken), "--resume"]) == 0  # nothing is left to do
    assert broken.read_bytes() == whole.read_bytes()


def test_rollout_file_of_another_recipe_is_not_resumed(recipe, tmp_path, capsys):
    file = tmp_path / "r.jsonl"
    command = ["train", recipe, "--out", str(tmp_path / "run"), "--rollout-only", str(file), "--resume"]
    assert main(command) == 0
    assert "nothing to resume" in capsys.readouterr().err
    whole = file.read_bytes()
    for extra, message in (
        (["--set", "seed=1"], "was begun with another recipe"),
        (["--set", "stage.rl.temperature=0.9"], "was begun with another recipe"),
    ):
        assert main([*command, *extra]) == 2
        assert message in capsys.readouterr().err
    assert file.read_bytes() == whole
    file.write_bytes(whole[:-9])
    assert main(command) == 2
    assert "has lost rollouts" in capsys.readouterr().err
    (tmp_path / "r.jsonl.state.json").write_text("{}")
    assert main(command) == 2
    assert "is not the state of a rollout file" in capsys.readouterr().err
    (tmp_path / "r.jsonl.state.json").unlink()
    assert main(command) == 2
    assert "has no r.jsonl.state.json next to it" in capsys.readouterr().err
    assert file.read_bytes() == whole[:-9]


def test_rollouts_of_a_difficulty_pool_are_of_its_problems_and_trained_on(recipe, tmp_path):
    out, rollouts = str(tmp_path / "run"), tmp_path / "rollouts.jsonl"
    command = ["train", recipe, "--out", out, "--set", "stage.rl.curriculum.pool=4"]
    assert main([*command, "--rollout-only", str(rollouts)]) == 0
    assert len({row["problem"]["messages"][0]["content"] for row in read_jsonl(rollouts)}) <= 4
    # a file's problems need not be those of the pool
    assert main([*command[:4], "--set", "stage.rl.curriculum.pool=3", "--replay", str(rollouts)]) == 0


def test_a_half_of_a_stage_that_is_not_there_is_explained(recipe, tmp_path, capsys):
    command = ["train", recipe, "--out", str(tmp_path / "run"), "--rollout-only", str(tmp_path / "r.jsonl")]
    assert main([*command, "--stage", "rl2"]) == 2
    assert "no RL stage `rl2`" in capsys.readouterr().err
    assert main(["train", recipe, "--stage", "rl"]) == 2
    assert "`--stage` only works" in capsys.readouterr().err


def test_the_filter_drops_what_teaches_nothing_or_is_in_an_evaluation_set(tmp_path, capsys):
    problems, output, avoid = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "eval.jsonl"
    rows = [{"question": f"What is {i} plus {i}?", "answer": str(2 * i)} for i in range(12)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    avoid.write_text(json.dumps({"question": "what is 3 plus 3"}) + "\n")
    command = ["filter", str(BASE), "--input", str(problems), "--output", str(output), "--avoid", str(avoid)]
    command += ["--samples", "2", "--max-tokens", "4", "--json"]
    # four tokens close no thinking: every attempt is wrong
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == {"kept": 0, "dropped, overlap": 1, "dropped, too hard": 11}
    measured = read_jsonl(tmp_path / "out.rates.jsonl")
    assert [row["pass_rate"] for row in measured] == [0.0] * 11
    assert main([*command, "--min", "0"]) == 0
    assert json.loads(capsys.readouterr().out) == {"kept": 11, "dropped, overlap": 1}
    assert read_jsonl(tmp_path / "out.rates.jsonl") == measured
    assert len(read_jsonl(output)) == 11
    assert main([*command, "--min", "0.5", "--max", "0.4"]) == 2
