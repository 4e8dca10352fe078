"""SIGKILL at random points of a run with everything that a stage can carry along; then resume."""

import os
import random
import signal

import pytest
import torch

from openqwq.config import (
    CorrectionConfig,
    CurriculumConfig,
    EntropyConfig,
    KLConfig,
    LoRAConfig,
    ValueConfig,
)
from openqwq.train import stage as stage_module

KILLS = 21
FULL = {
    "steps": 5,
    "prompts_per_step": 3,
    "samples_per_prompt": 4,
    "updates_per_batch": 2,
    "max_completion_tokens": 4,
    "max_refills": 1,
    "learning_rate": 3e-2,
    "checkpoint_every": 1,
    "keep_every": 2,
    "kl": KLConfig(weight=0.05),
    "curriculum": CurriculumConfig(pool=12, rest_steps=1),
}
STAGES = {
    "value model": FULL
    | {
        "advantage": "gae",
        "advantage_scale": "batch",
        "value": ValueConfig(learning_rate=1e-2, gae_lambda=0.9),
        "entropy": EntropyConfig(weight=0.01, target=2.0),
    },
    "adapters": FULL
    | {
        "lora": LoRAConfig(rank=2, targets=("q_proj", "down_proj")),
        "correction": CorrectionConfig(mode="mask", level="geometric"),
    },
    "overlapped": FULL
    | {
        "max_staleness": 2,
        "max_completion_tokens": 12,
        "correction": CorrectionConfig(mode="truncate"),
    },
}


def count_events(patch, engine, verifier, happen):
    """`happen` is called within sampling, verification, updating, logging and saving."""

    def before(function):
        def wrapped(*args, **kwargs):
            happen()
            return function(*args, **kwargs)

        return wrapped

    for owner, name in (
        (os, "fsync"),
        (os, "replace"),
        (stage_module, "append_jsonl"),
        (torch.optim.AdamW, "step"),
        (engine, "step"),
        (verifier, "verify_many"),
    ):
        patch.setattr(owner, name, before(getattr(owner, name)))


def run(world, folder, stage, *, resume=False, happen=lambda: None):
    """The stage; its weights at the end."""
    model, verifier = world.model(), world.SameDigit()
    engine = world.engine(model)
    with pytest.MonkeyPatch.context() as patch:
        count_events(patch, engine, verifier, happen)
        ctx = world.context(folder, "rl", resume=resume)
        world.train_rl(folder, world.stage(**stage), model=model, engine=engine, verifier=verifier, ctx=ctx)
    return world.weights(model)


def run_until_killed(world, folder, stage, kill_at):
    """A child process runs the stage and kills itself, as a power cut would, at event number `kill_at`."""
    child = os.fork()
    if child == 0:
        left = iter(range(kill_at))
        run(world, folder, stage, happen=lambda: next(left, None) is None and os.kill(os.getpid(), signal.SIGKILL))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", STAGES)
def test_a_run_killed_at_random_points_ends_like_the_unbroken_one(world, tmp_path, name):
    stage, events = STAGES[name], []
    weights = run(world, tmp_path / "unbroken", stage, happen=lambda: events.append(None))
    rows, samples = world.rows(tmp_path / "unbroken"), world.rows(tmp_path / "unbroken", "samples.jsonl")
    assert len(rows) == 5 and sum(row["updates"] for row in rows) >= 5
    for kill_at in random.Random(name).sample(range(len(events)), KILLS // len(STAGES)):
        folder = tmp_path / f"killed-{kill_at}"
        run_until_killed(world, folder, stage, kill_at)
        found = run(world, folder, stage, resume=True)
        assert world.same_weights(found, weights), f"killed at event {kill_at} of {len(events)}"
        assert world.rows(folder) == rows
        assert world.rows(folder, "samples.jsonl") == samples


def test_checkpoints_of_every_second_step_stay_and_the_newest_two(world, tmp_path):
    run(world, tmp_path, FULL | {"steps": 7})
    saved = sorted((tmp_path / "run_state").iterdir())
    # one at the start, one after each step: numbers 1 to 8; kept are those after steps 2, 4, 6 and the last two
    assert [int(folder.name) for folder in saved] == [3, 5, 7, 8]


def test_the_policy_of_a_checkpoint_with_adapters_is_a_plain_model(world, tmp_path):
    from safetensors.torch import load_file

    run(world, tmp_path, STAGES["adapters"])
    newest = sorted((tmp_path / "run_state").iterdir())[-1]
    assert load_file(newest / "model" / "model.safetensors").keys() == world.weights(world.model()).keys()
    assert len(load_file(newest / "adapters.safetensors")) == 2 * 2 * 2
