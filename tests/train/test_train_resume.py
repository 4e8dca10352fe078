"""A run that is killed anywhere and resumed ends with the weights and the log of one that was not."""

import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from openqwq.config import CorrectionConfig, GateConfig, PretrainStage, RewardModelStage, SFTStage
from openqwq.data import Mixture
from openqwq.data.sources.finite import FiniteSource
from openqwq.errors import UserError
from openqwq.train import stage as stage_module
from openqwq.train.pretrain import run_pretrain
from openqwq.train.reward_model import run_reward_model
from openqwq.train.sft import run_sft

CHAINS = [([i % 13, 1], [7, i % 11, 15]) for i in range(24)]
PAIRS = [([1, 2, i % 13, 7], [1, 2, i % 13, 3]) for i in range(24)]
STAGES = {
    "pretrain": PretrainStage(tokens=300, tokens_per_step=50, learning_rate=1e-2, checkpoint_every=2),
    "sft": SFTStage(chains_per_step=8, epochs=2, learning_rate=1e-2, checkpoint_every=4),
    "replay": SFTStage(
        chains_per_step=8, epochs=2, replay={"text": 1.0}, replay_per_step=2, learning_rate=1e-2, checkpoint_every=4
    ),
    "rl": {
        "steps": 5,
        "prompts_per_step": 3,
        "samples_per_prompt": 4,
        "max_completion_tokens": 4,
        "learning_rate": 3e-2,
        "checkpoint_every": 2,
        "gate": GateConfig(kinds=("math",), every=3, max_drop=1.0),
    },
    "reward_model": RewardModelStage(pairs_per_step=8, epochs=2, learning_rate=1e-2, checkpoint_every=4),
}


class Killed(BaseException):
    """Nothing catches this, as nothing catches SIGKILL."""


class Events:
    """Counts what happens in a run, and kills it at one of the events."""

    def __init__(self, kill_at=-1, error=Killed):
        self.count, self.kill_at, self.error = 0, kill_at, error
        self.names = []

    def happen(self, name):
        self.names.append(name)
        self.count += 1
        if self.count - 1 == self.kill_at:
            raise self.error

    def before(self, name, function):
        def wrapped(*args, **kwargs):
            self.happen(name)
            return function(*args, **kwargs)

        return wrapped


def documents(start):
    while True:
        yield [start % 16] * (start % 5 + 2)
        start += 1


def run_stage(world, folder, name, events, patch, *, resume=False):
    """One stage with events in sampling, verification, updating, logging and saving."""
    ctx = world.context(folder, name, resume=resume, progress=lambda *_: events.happen("progress"))
    patch.setattr(os, "fsync", events.before("fsync", os.fsync))
    patch.setattr(os, "replace", events.before("rename", os.replace))
    patch.setattr(stage_module, "append_jsonl", events.before("log", stage_module.append_jsonl))
    patch.setattr(torch.optim.AdamW, "step", events.before("update", torch.optim.AdamW.step))
    model, stage = world.model(), STAGES[name]
    if name == "pretrain":
        run_pretrain(stage, model=model, documents=documents, ctx=ctx)
    elif name in ("sft", "replay"):
        run_sft(stage, model=model, chains=CHAINS, documents=documents if name == "replay" else None, ctx=ctx)
    elif name == "reward_model":
        model = run_reward_model(stage, model=model, pairs=PAIRS, held_out=PAIRS, ctx=ctx)
    else:
        verifier, engine = world.SameDigit(), world.engine(model)
        verifier.verify_many = events.before("verify", verifier.verify_many)
        engine.generate = events.before("generate", engine.generate)
        gate = {"gate_evaluate": lambda: {"math": float(model.model.norm.weight.detach().sum())}}
        world.train_rl(folder, world.stage(**stage), model=model, engine=engine, verifier=verifier, ctx=ctx, **gate)
    return world.weights(model)


@pytest.fixture
def unbroken(world, tmp_path, monkeypatch):
    def run(name):
        events = Events()
        with monkeypatch.context() as patch:
            weights = run_stage(world, tmp_path / "unbroken", name, events, patch)
        rows = world.rows(tmp_path / "unbroken")
        samples = world.rows(tmp_path / "unbroken", "samples.jsonl") if name == "rl" else []
        return SimpleNamespace(weights=weights, rows=rows, samples=samples, events=events)

    return run


# Kills per stage: spread over all of its events, so that each kind of event is hit.
KILLS = [("pretrain", 5), ("sft", 6), ("replay", 4), ("rl", 11), ("reward_model", 5)]


@pytest.mark.parametrize(("name", "kills"), KILLS)
def test_killed_anywhere_and_resumed_is_the_unbroken_run(world, tmp_path, monkeypatch, unbroken, name, kills):
    whole = unbroken(name)
    assert len(whole.rows) >= 5
    hit = set()
    for kill in range(kills):
        kill_at = (2 * kill + 1) * whole.events.count // (2 * kills)
        hit.add(whole.events.names[kill_at])
        folder = tmp_path / f"killed-{kill_at}"
        with monkeypatch.context() as patch, pytest.raises(Killed):
            run_stage(world, folder, name, Events(kill_at), patch)
        with monkeypatch.context() as patch:
            weights = run_stage(world, folder, name, Events(), patch, resume=True)
        assert world.same_weights(weights, whole.weights), f"killed at {whole.events.names[kill_at]} {kill_at}"
        assert world.rows(folder) == whole.rows
        if name == "rl":
            assert world.rows(folder, "samples.jsonl") == whole.samples
    assert len(hit) >= 2


def test_killed_again_and_again_still_ends_like_the_unbroken_run(world, tmp_path, monkeypatch, unbroken):
    whole, folder = unbroken("rl"), tmp_path / "killed"
    weights, lives = None, 0
    while weights is None:
        lives += 1
        with monkeypatch.context() as patch:
            try:
                weights = run_stage(world, folder, "rl", Events(kill_at=31 + 3 * lives), patch, resume=lives > 1)
            except Killed:
                assert lives < 20
    assert lives >= 3
    assert world.same_weights(weights, whole.weights)
    assert world.rows(folder) == whole.rows


@pytest.mark.parametrize("bound", [0, 2])
def test_a_resumed_run_goes_on_in_its_epoch_of_a_file(world, tmp_path, bound):
    """Which problem comes next depends on how many were taken, refills among them."""
    problems = [replace(p, id=f"p/{i}", source="low") for i, p in enumerate(world.Digits().batch(0, 11))]
    stage = world.stage(steps=6, checkpoint_every=1, max_refills=2, max_staleness=bound, mix={"low": 1.0},
                        correction=CorrectionConfig(mode="truncate"))  # fmt: skip

    def run(folder, progress, *, resume=False):
        source = FiniteSource("low", "math", "same_digit", {"train": problems})
        mixture = Mixture({"low": source}, {"low": 1.0}, seed=0, stage="rl")
        ctx = world.context(folder, "rl", resume=resume, progress=progress)
        return world.train_rl(folder, stage, mixture=mixture, ctx=ctx)[0]

    def killed_after_step_3(row, done, total):
        if done == 3:
            raise Killed

    whole = run(tmp_path / "whole", lambda *_: None)
    with pytest.raises(Killed):
        run(tmp_path / "killed", killed_after_step_3)
    found = run(tmp_path / "killed", lambda *_: None, resume=True)
    assert world.same_weights(world.weights(found), world.weights(whole))
    assert world.rows(tmp_path / "killed") == world.rows(tmp_path / "whole")


@pytest.mark.parametrize("event", ["generate", "verify", "update"])
def test_ctrl_c_saves_where_it_stands_and_raises(world, tmp_path, monkeypatch, unbroken, event):
    whole = unbroken("rl")
    places = [i for i, name in enumerate(whole.events.names) if name == event]
    kill_at = places[len(places) * 3 // 4]
    folder = tmp_path / "interrupted"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        run_stage(world, folder, "rl", Events(kill_at, KeyboardInterrupt), patch)
    done = len(world.rows(folder))
    assert 1 <= done < 5
    saved = world.context(folder, "rl", resume=True).resume
    assert saved.step == done if event != "update" else saved.step <= done
    with monkeypatch.context() as patch:
        weights = run_stage(world, folder, "rl", Events(), patch, resume=True)
    assert world.same_weights(weights, whole.weights)
    assert world.rows(folder) == whole.rows


def test_a_signal_during_an_update_waits_until_the_step_is_whole(world, tmp_path, monkeypatch):
    def interrupt_once(row, done, total):
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    ctx = world.context(tmp_path, "sft", progress=interrupt_once)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_sft(STAGES["sft"], model=world.model(), chains=CHAINS, ctx=ctx)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(world.rows(tmp_path)) == 3
    assert world.context(tmp_path, "sft", resume=True).resume.step == 3


def test_a_finished_stage_is_not_trained_again(world, tmp_path, monkeypatch, unbroken):
    whole = unbroken("sft")
    events = Events()
    with monkeypatch.context() as patch:
        weights = run_stage(world, tmp_path / "unbroken", "sft", events, patch, resume=True)
    assert world.same_weights(weights, whole.weights)
    assert events.names == []
    assert world.rows(tmp_path / "unbroken") == whole.rows


def test_random_states_continue_across_a_resume(world, tmp_path):
    torch.manual_seed(3)
    run_sft(STAGES["sft"], model=world.model(), chains=CHAINS, ctx=world.context(tmp_path, "sft"))
    expected = torch.rand(3)
    torch.manual_seed(4)
    ctx = world.context(tmp_path, "sft", resume=True)
    run_sft(STAGES["sft"], model=world.model(), chains=CHAINS, ctx=ctx)
    assert torch.equal(torch.rand(3), expected)


def test_a_checkpoint_of_a_longer_stage_or_another_model_is_refused(world, tmp_path):
    run_sft(STAGES["sft"], model=world.model(), chains=CHAINS, ctx=world.context(tmp_path, "sft"))
    with pytest.raises(UserError, match="6 steps"):
        run_sft(SFTStage(), model=world.model(), chains=CHAINS, ctx=world.context(tmp_path, "sft", resume=True))
    ctx = world.context(tmp_path, "sft", resume=True)
    ctx.resume.model.pop("model.norm.weight")
    with pytest.raises(UserError, match="other names or shapes"):
        run_sft(STAGES["sft"], model=world.model(), chains=CHAINS, ctx=ctx)
    with pytest.raises(ValueError, match="sft"):
        run_sft(STAGES["sft"], model=world.model(), chains=CHAINS, ctx=_renamed(ctx))


def _renamed(ctx):
    ctx.name = "other"
    return ctx


def test_a_disk_that_fails_within_a_run_leaves_a_checkpoint_to_resume_from(world, tmp_path, monkeypatch, unbroken):
    whole, folder = unbroken("sft"), tmp_path / "full"
    syncs = [i for i, name in enumerate(whole.events.names) if name == "fsync"]
    full = OSError(28, "No space left on device")
    with monkeypatch.context() as patch, pytest.raises(UserError, match="No space left"):
        run_stage(world, folder, "sft", Events(syncs[len(syncs) // 2], full), patch)
    with monkeypatch.context() as patch:
        weights = run_stage(world, folder, "sft", Events(), patch, resume=True)
    assert world.same_weights(weights, whole.weights)
    assert world.rows(folder) == whole.rows


def test_a_stage_counts_its_policy_versions_from_0_whatever_the_engine_did_before(world, tmp_path):
    stage = world.stage()
    world.train_rl(tmp_path / "fresh", stage)
    model = world.model()
    engine = world.engine(model)
    engine.load_weights(model, version=3)
    world.train_rl(tmp_path / "used", stage, model=model, engine=engine)
    assert world.rows(tmp_path / "used") == world.rows(tmp_path / "fresh")
