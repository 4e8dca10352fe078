import errno
import json
import logging
import os
import random
import resource

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from openqwq.checkpoint.run_state import RunState, RunStateStore, capture_rng, restore_rng
from openqwq.errors import UserError


def a_state(step: int = 3, size: int = 8) -> RunState:
    generator = torch.Generator().manual_seed(step)
    return RunState(
        stage="sft",
        step=step,
        model={"a.weight": torch.randn(size, size, generator=generator), "b": torch.arange(4.0)},
        tensors={"optimizer": {"a.weight:exp_avg": torch.randn(size, size, generator=generator)}, "empty": {}},
        rng=capture_rng(),
        values={"cursor": [7, 2], "baseline": {"math": 0.5}},
    )


def assert_same(found: RunState, expected: RunState) -> None:
    assert (found.stage, found.step, found.values) == (expected.stage, expected.step, expected.values)
    groups = {"model": (found.model, expected.model)}
    groups |= {name: (found.tensors[name], group) for name, group in expected.tensors.items()}
    for ours, theirs in groups.values():
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_a_saved_state_comes_back_bit_for_bit(tmp_path):
    store, state = RunStateStore(tmp_path), a_state()
    store.save(state)
    assert_same(RunStateStore(tmp_path).load_latest(), state)


def test_nothing_saved_is_none(tmp_path):
    assert RunStateStore(tmp_path).load_latest() is None


def test_newest_two_are_kept(tmp_path):
    store = RunStateStore(tmp_path)
    for step in range(5):
        store.save(a_state(step))
    assert sorted(p.name for p in store.folder.iterdir()) == ["00000004", "00000005"]
    assert store.load_latest().step == 4


def test_model_folder_holds_what_describes_the_model(tmp_path):
    folder = RunStateStore(tmp_path).save(
        a_state(), describe_model=lambda path: (path / "config.json").write_text("{}") and None
    )
    assert sorted(p.name for p in (folder / "model").iterdir()) == ["config.json", "model.safetensors"]
    assert load_file(folder / "model" / "model.safetensors").keys() == {"a.weight", "b"}


def cut_short(path):
    os.truncate(path, path.stat().st_size // 2)


def flip_last_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_short, flip_last_bit, os.remove])
@pytest.mark.parametrize("name", ["model/model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, caplog, name, damage):
    store = RunStateStore(tmp_path)
    store.save(a_state(1))
    newest = store.save(a_state(2))
    damage(newest / name)
    with caplog.at_level(logging.WARNING, logger="openqwq"):
        assert_same(store.load_latest(), a_state(1))
    assert str(newest) in caplog.text


def test_only_damaged_checkpoints_are_an_error_and_not_a_fresh_start(tmp_path):
    store = RunStateStore(tmp_path)
    cut_short(store.save(a_state(1)) / "state.json")
    with pytest.raises(UserError, match="can be read"):
        store.load_latest()


@pytest.mark.parametrize("limit_bytes", [0, 200, 3_000, 70_000])
def test_a_disk_that_takes_no_more_is_a_user_error_and_the_previous_stands(tmp_path, limit_bytes):
    store = RunStateStore(tmp_path)
    store.save(a_state(1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limits[1]))
    try:
        with pytest.raises(UserError, match="could not be written") as caught:
            store.save(a_state(2, size=256))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.hint
    assert [p.name for p in store.folder.iterdir()] == ["00000001"]
    assert_same(store.load_latest(), a_state(1))


def test_a_failed_sync_is_a_user_error_and_the_previous_stands(tmp_path, monkeypatch):
    store = RunStateStore(tmp_path)
    store.save(a_state(1))

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="No space left"):
        patch.setattr(os, "fsync", no_space)
        store.save(a_state(2))
    assert_same(store.load_latest(), a_state(1))


def test_what_a_killed_save_left_is_ignored_and_removed(tmp_path):
    store = RunStateStore(tmp_path)
    store.save(a_state(1))
    (store.folder / ".writing-1" / "model").mkdir(parents=True)
    assert store.load_latest().step == 1
    store.save(a_state(2))
    assert sorted(p.name for p in store.folder.iterdir()) == ["00000001", "00000002"]


def test_logs_are_rewound_to_the_save(tmp_path):
    metrics, samples = tmp_path / "metrics.jsonl", tmp_path / "samples.jsonl"
    metrics.write_text('{"step": 0}\n')
    store = RunStateStore(tmp_path)
    store.save(a_state())
    metrics.write_text('{"step": 0}\n{"step": 1}\n{"st')
    samples.write_text('{"step": 1}\n')
    store.rewind_logs(store.load_latest())
    assert (metrics.read_text(), samples.read_text()) == ('{"step": 0}\n', "")


def test_a_log_that_lost_rows_is_named(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    store = RunStateStore(tmp_path)
    store.save(a_state())
    os.remove(tmp_path / "metrics.jsonl")
    with caplog.at_level(logging.WARNING, logger="openqwq"):
        store.rewind_logs(store.load_latest())
    assert "metrics.jsonl" in caplog.text


def test_every_random_generator_continues_where_it_was():
    def draw():
        return random.random(), random.gauss(0, 1), np.random.rand(3).tolist(), torch.rand(3).tolist()

    random.gauss(0, 1)
    rng = json.loads(json.dumps(capture_rng()))
    expected = draw()
    restore_rng(rng)
    assert draw() == expected
