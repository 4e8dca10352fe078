import sys
from types import ModuleType, SimpleNamespace

import pytest

from openqwq.config import RewardModelStage
from openqwq.errors import UserError
from openqwq.train.reward_model import run_reward_model
from openqwq.train.trackers import flat_numbers, open_trackers

ROW = {"stage": "rl", "step": 3, "reward": 0.5, "gate": None, "ok": True, "sources": {"low": {"reward": 0.25}}}


def test_rows_become_flat_numbers():
    assert flat_numbers(ROW) == {"step": 3.0, "reward": 0.5, "sources/low/reward": 0.25}


def test_wandb_and_trackio_are_given_every_row(tmp_path, monkeypatch, capsys):
    seen = []

    def log(row, step):
        assert "step" not in row
        print("logged")
        seen.append((step, row["reward"]))

    def init(**settings):
        seen.append((settings["name"], settings["config"]))
        return SimpleNamespace(log=log, finish=lambda: seen.append("finished"))

    for name in ("wandb", "trackio"):
        module = ModuleType(name)
        module.init, module.log, module.finish = init, log, lambda: seen.append("finished")
        monkeypatch.setitem(sys.modules, name, module)
    trackers = open_trackers(("wandb", "trackio"), tmp_path / "run", "rl", {"steps": 4}, first_step=3)
    trackers.log(ROW, 3)
    trackers.close()
    assert seen == [("run-rl", {"steps": 4})] * 2 + [(3, 0.5)] * 2 + ["finished"] * 2
    assert capsys.readouterr().out == ""


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="'wandb', which is not installed"):
        open_trackers(("wandb",), tmp_path, "rl", {})


def test_tensorboard_is_left_out_where_it_is_not_installed(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level("INFO", logger="openqwq"):
        trackers = open_trackers(("tensorboard",), tmp_path, "rl", {})
    trackers.log(ROW, 3)
    trackers.close()
    assert "tensorboard is not installed" in caplog.text and not list(tmp_path.iterdir())


def broken_module(monkeypatch, **functions):
    module = ModuleType("trackio")
    module.init = module.log = module.finish = lambda *a, **k: None
    for name, function in functions.items():
        setattr(module, name, function)
    monkeypatch.setitem(sys.modules, "trackio", module)


def test_tracker_that_fails_to_start_is_a_user_error(tmp_path, monkeypatch):
    def init(**_):
        raise RuntimeError("no key")

    broken_module(monkeypatch, init=init)
    with pytest.raises(UserError, match="'trackio' could not start: no key") as error:
        open_trackers(("trackio",), tmp_path, "rl", {})
    assert "WANDB_MODE=offline" in error.value.hint


def test_tracker_that_fails_later_is_disabled_and_the_run_continues(tmp_path, monkeypatch, caplog):
    calls = []

    def log(row, step):
        calls.append(step)
        raise OSError("disk full")

    broken_module(monkeypatch, log=log, finish=lambda: calls.append("finished"))
    trackers = open_trackers(("trackio",), tmp_path, "rl", {})
    for step in (0, 1):
        trackers.log(ROW, step)
    trackers.close()
    assert calls == [0] and "trackio failed and is left out from here on: disk full" in caplog.text


def test_tensorboard_files_hold_the_numbers(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = open_trackers(("tensorboard",), tmp_path, "rl", {})
    for step, reward in ((3, 0.5), (4, 0.75)):
        trackers.log({**ROW, "reward": reward}, step)
    trackers.close()
    events = EventAccumulator(str(tmp_path / "trackers" / "tensorboard" / "rl"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward")] == [(3, 0.5), (4, 0.75)]


def test_a_resumed_stage_leaves_each_step_once_in_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, steps in ((0, (0, 1, 2, 3)), (2, (2, 3, 4))):
        trackers = open_trackers(("tensorboard",), tmp_path, "rl", {}, first_step=first)
        for step in steps:
            trackers.log({"reward": float(10 * first + step)}, step)
        trackers.close()
    events = EventAccumulator(str(tmp_path / "trackers" / "tensorboard" / "rl"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward")] == [
        (0, 0.0),
        (1, 1.0),
        (2, 22.0),
        (3, 23.0),
        (4, 24.0),
    ]


def test_every_kind_of_stage_sends_its_numbers(world, tmp_path, monkeypatch):
    seen = []
    broken_module(monkeypatch, log=lambda row, step: seen.append((step, row["loss"])))
    pairs = [([1, 2, n % 5, 7], [3, 4, n % 7]) for n in range(8)]
    stage = RewardModelStage(pairs_per_step=4, trackers=("trackio",))
    ctx = world.context(tmp_path, "judge")
    run_reward_model(stage, model=world.model(), pairs=pairs, held_out=[], ctx=ctx)
    rows = world.rows(tmp_path)
    assert seen == [(row["step"], row["loss"]) for row in rows] and len(rows) == 2
