import sys
from types import ModuleType, SimpleNamespace

import pytest

from openqwq.errors import UserError
from openqwq.train.trackers import flat_numbers, open_trackers

ROW = {"stage": "rl", "step": 3, "reward": 0.5, "gate": None, "ok": True, "sources": {"low": {"reward": 0.25}}}


def test_rows_become_flat_numbers():
    assert flat_numbers(ROW) == {"step": 3.0, "reward": 0.5, "sources/low/reward": 0.25}


def test_wandb_and_trackio_are_given_every_row(tmp_path, monkeypatch):
    seen = []

    def log(row, step):
        seen.append((step, row["reward"]))

    def init(**settings):
        seen.append((settings["name"], settings["config"]))
        return SimpleNamespace(log=log, finish=lambda: seen.append("finished"))

    for name in ("wandb", "trackio"):
        module = ModuleType(name)
        module.init, module.log, module.finish = init, log, lambda: seen.append("finished")
        monkeypatch.setitem(sys.modules, name, module)
    trackers = open_trackers(("wandb", "trackio"), tmp_path / "run", "rl", {"steps": 4})
    trackers.log(ROW, 3)
    trackers.close()
    assert seen == [("run-rl", {"steps": 4})] * 2 + [(3, 0.5)] * 2 + ["finished"] * 2


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="'wandb', which is not installed"):
        open_trackers(("wandb",), tmp_path, "rl", {})


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
