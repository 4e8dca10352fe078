"""The experiments' figures by hand, their recipes, their resumable jobs, and the page that quotes their tables."""

import json
import re
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from openqwq.config import load_recipe
from openqwq.model import preset

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "evidence.md"
EXPERIMENTS = ("ablation", "size", "generalisation", "thinking")


@pytest.fixture(autouse=True)
def beside_the_benchmarks(monkeypatch):
    """The scripts import each other by name, as they do when one of them is run."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def family(marks, tokens, kind="math"):
    return {
        "kind": kind,
        "marks": marks,
        "tokens": tokens,
        "completions": sum(map(len, marks)),
        "behaviours": {"loops": 1},
        "truncated": 0,
        "examples": [],
    }


def test_pass_at_k_counts_the_draws_without_a_correct_sample():
    from experiment_figures import pass_at_k

    assert pass_at_k([1, 0, 0, 0], 1) == 0.25
    assert pass_at_k([1, 0, 0, 0], 2) == 0.5  # 3 of the 6 pairs hold the correct one
    assert pass_at_k([1, 0, None, 0, 0], 4) == 1.0
    assert pass_at_k([0, 0], 2) == 0.0
    assert pass_at_k([1, None], 2) is None


def test_tokens_per_correct_answer_include_those_of_wrong_ones():
    from experiment_figures import tokens_per_correct

    found = tokens_per_correct({"sums": family([[1, 0], [1, 1]], [[10, 20], [5, 10]])})
    assert found["mean"] == 15.0
    assert found["low"] == 7.5 and found["high"] == 30.0  # one problem alone, drawn twice
    assert tokens_per_correct({"sums": family([[0]], [[10]])}) == {"mean": None, "low": None, "high": None}


def test_intervals_over_seeds_are_students():
    from experiment_figures import COUNT, PERCENT, over_seeds

    runs = [{"mean": mean, "low": 0.0, "high": 9.0} for mean in (1.0, 2.0, 3.0)]
    found = over_seeds(runs, COUNT)
    assert found["mean"] == 2.0 and found["over"] == "seeds"
    assert found["high"] - found["mean"] == pytest.approx(4.303 / 3**0.5)
    assert over_seeds(runs[:1], COUNT) == {**runs[0], "over": "problems", "by_seed": [1.0]}
    assert over_seeds([{"mean": None}, runs[0]], COUNT)["mean"] is None
    high = over_seeds([{"mean": mean} for mean in (70.0, 90.0, 98.0)], PERCENT)
    assert high["high"] == 100.0 and high["low"] == pytest.approx(86 - 4.303 * 208**0.5 / 3**0.5)
    assert over_seeds([{"mean": mean} for mean in (0.0, 0.0, 3.0)], PERCENT)["low"] == 0.0


def test_the_mean_of_kinds_counts_each_once_and_is_over_seeds():
    from experiment_figures import COUNT, mean_of_kinds

    found = mean_of_kinds([{"by_seed": [10.0, 20.0, 30.0]}, {"by_seed": [30.0, 24.0, 18.0]}], COUNT)
    assert found["by_seed"] == [20.0, 22.0, 24.0] and found["mean"] == 22.0
    assert found["high"] - found["mean"] == pytest.approx(4.303 * 2 / 3**0.5)
    assert mean_of_kinds([{"by_seed": [1.0]}, {"by_seed": [3.0]}], COUNT)["low"] is None
    assert mean_of_kinds([{"by_seed": [None]}, {"by_seed": [3.0]}], COUNT)["mean"] is None


def make_run(folder):
    """A run of 10 parameters: 3 SFT steps, and 2 RL steps with a value model."""
    (folder / "final").mkdir(parents=True)
    save_file({"a": torch.zeros(2, 4), "b": torch.zeros(2)}, folder / "final" / "model.safetensors")
    stages = {"cold_start": {"kind": "sft"}, "rl_general": {"kind": "rl", "advantage": "gae"}}
    (folder / "recipe.json").write_text(json.dumps({"name": "ablation-full", "seed": 0, "stage": stages}))
    shares = {"loops": 0.5, "language_mixing": 0.0, "no_thinking": 0.0}
    rl = {"truncated": 0.25, "accuracy": 0.5, "updates": 4, "entropy": 1.0, "behaviours": shares}
    rows = [{"stage": "cold_start", "step": step, "tokens_train": 100} for step in range(3)]
    rows += [
        {"stage": "rl_general", "step": step, "tokens_train": 50, "tokens_generate": 70, **rl} for step in range(2)
    ]
    rows.append({"stage": "rl_general", "event": "evaluation", "family": "sums"})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_compute_counts_training_sampling_and_the_value_model(tmp_path):
    from experiment_figures import rl_behaviours, run_compute

    make_run(tmp_path)
    found = run_compute(tmp_path, until="rl_general")
    assert found["parameters"] == 10 and found["is_whole"]
    assert found["teraflop"] * 1e12 == pytest.approx(10 * (6 * 300 + 14 * 100 + 2 * 140))
    before = run_compute(tmp_path, until="cold_start")
    assert before["teraflop"] * 1e12 == pytest.approx(10 * 6 * 300) and not before["is_whole"]
    assert rl_behaviours(tmp_path)["rl_general"]["loops"] == 50.0


def test_collected_rows_hold_means_over_seeds(tmp_path):
    from experiment_results import collect

    for seed, mark in ((0, 1), (1, 0)):
        make_run(tmp_path / "runs" / f"ablation-full-{seed}")
        folder = tmp_path / "runs" / "evals" / f"ablation-full-{seed}"
        folder.mkdir(parents=True)
        families = {"sums": family([[mark, 1] * 16], [[2, 4] * 16])}
        (folder / "rl_general.pass.json").write_text(json.dumps({"families": families}))
        fewer = {"sums": family([[0, 0] * 16], [[2, 4] * 16])}
        (folder / "cold_start.pass.json").write_text(json.dumps({"families": fewer}))
        (folder / "cost.json").write_text(json.dumps({"train": 90.0}))
    collect(tmp_path / "runs", tmp_path, tmp_path / "none.md")
    report = json.loads((tmp_path / "ablation.json").read_text())
    before, row = report["rows"]
    assert before["tokens_per_correct"]["mean"] is None and not before["is_last"]
    assert row["seeds"] == [0, 1] and row["core_minutes"] == 1.5
    assert row["kinds"]["math"]["pass@1"]["by_seed"] == [100.0, 50.0]
    assert row["kinds"]["math"]["pass@32"]["mean"] == 100.0
    assert before["against_yardstick"]["math"]["by_seed"] == [-100.0, -50.0]
    assert not (tmp_path / "size.json").exists()


def test_evaluated_stages_stand_in_their_recipes():
    from experiments import ABLATION, SIZE

    families = load_recipe(ROOT / "recipes" / "tiny.toml").eval.families
    for name, stages in {**ABLATION, **SIZE}.items():
        recipe = load_recipe(ROOT / "recipes" / "experiments" / f"{name}.toml")
        assert recipe.name == name and set(stages) <= set(recipe.policy_stages)
        assert recipe.eval.families == families


def test_unseen_families_are_in_no_stage_but_pretraining():
    recipe = load_recipe(ROOT / "recipes" / "experiments" / "generalisation.toml")
    trained = {name for stage in recipe.stage.values() for name in getattr(stage, "mix", {})}
    trained |= {name for stage in recipe.stage.values() for name in getattr(stage, "chains", {})}
    assert trained and not trained & set(recipe.eval.families)


def test_the_large_model_has_20_times_the_parameters_of_the_small_one():
    """Counted from the shapes: attention with biases on q, k and v, MLP, norms, tied embeddings."""

    def count(name):
        config = preset("tiny").replace(**load_recipe(ROOT / "recipes" / "experiments" / name).model.overrides)
        hidden, kv = config.hidden_size, config.hidden_size * config.num_key_value_heads // config.num_attention_heads
        attention = 2 * hidden * hidden + 2 * hidden * kv + hidden + 2 * kv
        layer = attention + 3 * hidden * config.intermediate_size + 2 * hidden
        return config.vocab_size * hidden + hidden + config.num_hidden_layers * layer

    assert count("size-large.toml") / count("size-small.toml") == pytest.approx(20, rel=0.1)


def test_a_checkpoint_is_sampled_family_by_family_and_not_twice(tmp_path, monkeypatch):
    import experiment_evals

    base, recipe = ROOT / "recipes" / "base" / "tiny", ROOT / "recipes" / "experiments" / "generalisation.toml"
    options = {"samples": 2, "problems": 3, "max_tokens": 16, "thinking_budget": 4, "seed": 0}
    first = experiment_evals.measure(base, recipe, tmp_path / "e.json", families=["lcm"], **options)
    assert [len(own) for own in first["families"]["lcm"]["marks"]] == [2, 2, 2]
    both = experiment_evals.measure(base, recipe, tmp_path / "e.json", families=["lcm", "gcd_hard"], **options)
    assert both["families"]["lcm"] == first["families"]["lcm"] and len(both["families"]) == 2
    monkeypatch.setattr(experiment_evals, "Engine", None)
    again = experiment_evals.measure(base, recipe, tmp_path / "e.json", families=["lcm", "gcd_hard"], **options)
    assert again == both
    with pytest.raises(SystemExit, match="was sampled with"):
        experiment_evals.measure(base, recipe, tmp_path / "e.json", families=["lcm"], **{**options, "seed": 1})


def writes(file, text="x"):
    return lambda: [sys.executable, "-c", f"import pathlib; pathlib.Path({str(file)!r}).write_text({text!r})"]


def test_a_job_skips_what_is_done_and_goes_on_after_time_was_up(tmp_path):
    from experiment_jobs import Job, Step, Workers, read_costs

    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("kept")
    done = Step(what="train", command=writes(first), is_done=first.exists)
    job = Job(
        name="a-0",
        folder=tmp_path / "a-0",
        steps=[done, Step(what="b", command=lambda: ["sleep", "60"], is_done=lambda: False)],
    )
    assert Workers(1, time.monotonic() + 0.5).run([job]) == [job]
    assert first.read_text() == "kept"
    quick = Step(what="evaluate", command=writes(second), is_done=second.exists)
    whole = Job(name="a-0", folder=tmp_path / "a-0", steps=[done, quick])
    assert Workers(2, None).run([whole]) == []
    assert read_costs(tmp_path / "a-0")["evaluate"] >= 0.0
    broken = Step(what="train", command=lambda: [sys.executable, "-c", "raise SystemExit(2)"], is_done=lambda: False)
    with pytest.raises(SystemExit, match="ended with 2"):
        Workers(1, None).run([Job(name="a-0", folder=tmp_path / "a-0", steps=[broken])])


def test_the_page_has_the_tables_of_the_result_files():
    from experiment_results import fill_page

    text = PAGE.read_text(encoding="utf-8")
    assert any((RESULTS / f"{name}.json").exists() for name in EXPERIMENTS)
    assert fill_page(text, RESULTS) == text


def test_decimals_in_the_pages_prose_stand_in_its_tables():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    decimals = re.compile(r"(?<![\d.,:/])\d+\.\d+(?![\d.])")
    tables = {number for line in lines if line.startswith("|") for number in decimals.findall(line)}
    prose = {number for line in lines if not line.startswith("|") for number in decimals.findall(line)}
    assert tables and prose <= tables
