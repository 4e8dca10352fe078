"""The run folder: who may write into it, what a resume accepts, how time and progress are counted."""

import json
import re
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from openqwq.config import ModelConfig, PretrainStage, Recipe, SourceConfig
from openqwq.errors import UserError
from openqwq.eval.families import FamilyResult
from openqwq.eval.intervals import UNKNOWN, Interval
from openqwq.log import logger
from openqwq.pipeline.extend import check_change, differing_keys
from openqwq.pipeline.folder import StageClock, disk_use, json_value, open_run_folder
from openqwq.pipeline.machine import physical_cores
from openqwq.pipeline.progress import BarDisplay, Countdown, LineDisplay, describe_step, format_bytes, results_table


def recipe(**changes):
    fields = {
        "name": "r",
        "model": ModelConfig(preset="tiny"),
        "source": {"corpus": SourceConfig(type="corpus")},
        "stage": {"pretrain": PretrainStage(mix={"corpus": 1.0})},
    }
    return Recipe(**{**fields, **changes})


def test_a_new_folder_gets_the_resolved_recipe(tmp_path):
    open_run_folder(tmp_path / "run", recipe(), resume=False).close()
    saved = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert saved["stage"]["pretrain"]["tokens"] == 1_000_000


def test_a_run_is_not_overwritten_without_resume(tmp_path):
    open_run_folder(tmp_path, recipe(), resume=False).close()
    with pytest.raises(UserError, match="already holds a run") as error:
        open_run_folder(tmp_path, recipe(), resume=False)
    assert "--resume" in error.value.hint
    open_run_folder(tmp_path, recipe(), resume=True).close()


def test_resuming_with_another_recipe_names_what_differs(tmp_path):
    open_run_folder(tmp_path, recipe(), resume=False).close()
    other = recipe(seed=1, stage={"pretrain": PretrainStage(mix={"corpus": 1.0}, tokens=5)})
    with pytest.raises(UserError, match=r"`seed`, `stage\.pretrain\.tokens`"):
        open_run_folder(tmp_path, other, resume=True)


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds no run"):
        open_run_folder(tmp_path, recipe(), resume=False)
    with pytest.raises(UserError, match="is a file"):
        open_run_folder(tmp_path / "thesis.tex", recipe(), resume=False)


def test_resuming_nothing_starts_at_the_beginning(tmp_path):
    open_run_folder(tmp_path / "new", recipe(), resume=True).close()
    assert (tmp_path / "new" / "recipe.json").exists()


def test_two_writers_are_refused(tmp_path):
    first = open_run_folder(tmp_path, recipe(), resume=False)
    with pytest.raises(UserError, match="another process"):
        open_run_folder(tmp_path, recipe(), resume=True)
    first.close()


def test_differing_keys_are_dotted_and_see_additions():
    assert differing_keys({"a": {"b": 1, "c": [1]}}, {"a": {"b": 2, "c": [1]}, "d": None, "e": 1}) == ["a.b", "e"]


def test_the_clock_goes_on_where_an_earlier_process_stopped(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("openqwq.pipeline.folder.time", SimpleNamespace(monotonic=lambda: now[0]))
    first = StageClock(tmp_path)
    first.start("sft")
    now[0] += 2.5
    first.tick(write=True)
    now[0] += 1000.0
    second = StageClock(tmp_path)
    assert second.seconds == {"sft": 2.5}
    now[0] += 10.0
    second.start("sft")
    now[0] += 0.25
    second.tick(write=True)
    assert StageClock(tmp_path).seconds == {"sft": 2.75}


def test_json_has_null_for_what_was_not_measured():
    assert json_value({"a": (float("nan"), 1.0), "b": [float("inf")]}) == {"a": [None, 1.0], "b": [None]}


def test_time_left_is_a_rate_times_the_steps_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("openqwq.pipeline.progress.time", SimpleNamespace(monotonic=lambda: now[0]))
    countdown = Countdown()
    now[0] += 3.0
    # the first call sees step 5 as the first one timed: five more take five times as long
    assert countdown.left(5, 10) == pytest.approx(15.0)
    assert countdown.left(10, 10) == 0


def test_a_step_is_described_by_the_numbers_of_its_row():
    row = {"stage": "rl", "reward": 0.25, "accuracy": None, "mismatch_max": 3e-6, "seconds_train": 1.0}
    assert describe_step(row) == "reward 0.250  mismatch 3.0e-06  train 1.00s"


def test_an_rl_step_shows_kl_gradient_and_signal_and_no_loss():
    row = {"stage": "rl", "loss": 0.0, "reward": 0.25, "kl": 0.0012, "grad_norm": 0.5, "groups_sampled": 16}
    assert describe_step(row | {"groups_with_signal": 3 / 16}) == "reward 0.250  kl 0.0012  grad 0.50  signal 3/16"
    assert describe_step({"stage": "sft", "loss": 2.0, "grad_norm": 1.5}) == "loss 2.000  grad 1.50"


def test_a_long_step_says_now_and_then_that_it_goes_on(caplog, monkeypatch):
    caplog.set_level("INFO", logger="openqwq")
    monkeypatch.setattr(logger, "propagate", True)
    display = LineDisplay(heartbeat_s=0.05)
    display.stage("rl")
    display.step({"stage": "rl", "reward": 0.5}, 3, 9)
    deadline = time.monotonic() + 20
    while not any("so far" in line for line in caplog.messages) and time.monotonic() < deadline:
        time.sleep(0.01)
    display.close()
    assert any(line.startswith("rl: step 4 of 9 has taken ") for line in caplog.messages)
    count = len(caplog.messages)
    time.sleep(0.2)
    assert len(caplog.messages) == count


def test_the_closing_table_has_a_row_a_family_and_dashes_for_what_is_not_there():
    result = FamilyResult(
        kind="math", n=4, strict=Interval(0.5, 0.25, 0.75), format_free=Interval(0.6, 0.3, 0.8),
        greedy=Interval(1.0, 0.9, 1.0), mean_tokens=9.0, truncated=0.0, unjudged=0,
    )  # fmt: skip
    lines = results_table({"sft": {}, "rl": {"sums": result}}, ["sft", "rl"]).splitlines()
    assert lines[0].split() == ["family", "sft", "rl", "greedy"]
    assert lines[2].split() == ["sums", "-", "50.0", "25.0-75.0", "60.0", "100.0"]
    assert UNKNOWN.mean != UNKNOWN.mean


def test_there_is_at_least_one_core():
    assert physical_cores() >= 1


def test_a_bar_fits_into_a_terminal_of_80_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(Countdown, "left", lambda *_: 605.0)
    display = BarDisplay()
    display.stage("rl_math_code")
    row = {"stage": "rl_math_code", "loss": 0.0123, "reward": 0.5, "accuracy": 0.5, "completion_tokens_mean": 31.25}
    row |= {"entropy": 0.1, "mismatch_max": 1e-5, "seconds_generate": 1.0}
    display.step(row, 2, 150)
    display.close()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert re.search(r"rl_math_code \S+ +2/150 reward 0.50  accuracy 0.50  length 31  10:05 left", shown)
    assert "…" not in shown


PLAN = {
    "seed": 0,
    "stage": {
        "cold": {"kind": "sft", "epochs": 1.0},
        "rl": {"kind": "rl", "steps": 5, "checkpoint_every": 0, "top_p": 1.0},
    },
    "eval": {"families": ["a"], "problems_per_family": 8, "temperature": 0.6},
    "target": [],
}


def changed_plan(key, value):
    plan = json.loads(json.dumps(PLAN))
    *tables, name = key.split(".")
    place = plan
    for table in tables:
        place = place[table]
    place[name] = value
    return plan


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("stage.rl.steps", 8, "5 -> 8; the learning rate's schedule is stretched"),
        ("stage.rl.checkpoint_every", 2, "0 -> 2"),
        ("stage.rl.trackers", ["wandb"], "None -> ['wandb']"),
        ("eval.temperature", 1.0, "stay as they were made"),
        ("target", [{"what": "x"}], "target"),
    ],
)
def test_a_resumed_run_may_go_on_longer_and_be_saved_and_judged_otherwise(key, value, said):
    notes = check_change("runs/x", PLAN, changed_plan(key, value), current="rl")
    assert list(notes) == [key] and said in notes[key]


@pytest.mark.parametrize(
    "key", ["seed", "stage.rl.top_p", "stage.rl.kind", "eval.problems_per_family", "eval.families"]
)
def test_a_resumed_run_changes_nothing_that_finished_steps_depend_on(key):
    with pytest.raises(UserError, match=f"it differs in `{key}`"):
        check_change("runs/x", PLAN, changed_plan(key, 7), current="rl")


@pytest.mark.parametrize(("current", "refused"), [("rl", True), ("cold", False), ("", False)])
def test_a_stage_is_not_extended_once_a_later_one_has_begun(current, refused):
    given = changed_plan("stage.cold.epochs", 2.0)
    if refused:
        with pytest.raises(UserError, match="has gone on to stage `rl` since"):
            check_change("runs/x", PLAN, given, current=current)
    else:
        assert "1.0 -> 2.0" in check_change("runs/x", PLAN, given, current=current)["stage.cold.epochs"]


def test_an_extended_stage_is_evaluated_anew(tmp_path):
    short = recipe()
    open_run_folder(tmp_path / "run", short, resume=False).close()
    [name] = short.stage
    longer = replace(short, stage={name: replace(short.stage[name], tokens=3_000_000)})
    folder = open_run_folder(tmp_path / "run", short, resume=True)
    folder.evaluation_file(name).parent.mkdir()
    folder.evaluation_file(name).write_text("")
    folder.close()
    open_run_folder(tmp_path / "run", longer, resume=True).close()
    assert not folder.evaluation_file(name).exists()
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["stage"][name]["tokens"] == 3_000_000


def test_what_a_run_takes_of_the_disk_counts_shared_files_once(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "final").mkdir()
    (tmp_path / "checkpoints" / "a").write_bytes(b"x" * 100)
    (tmp_path / "final" / "a").hardlink_to(tmp_path / "checkpoints" / "a")
    (tmp_path / "final" / "b").write_bytes(b"x" * 7)
    (tmp_path / "metrics.jsonl").write_bytes(b"xx")
    assert disk_use(tmp_path) == {"checkpoints": 100, "final": 7, "metrics.jsonl": 2}


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (3_700_000, "3.7 MB"), (999_600, "1 MB"), (1_234_000_000, "1.23 GB")],
)
def test_bytes_are_said_in_three_digits(size, text):
    assert format_bytes(size) == text
