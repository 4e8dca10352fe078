"""Every algorithm that a recipe can name: trained for some steps, with what is particular to it."""

import json
import logging
import math
from dataclasses import replace

import pytest
import torch

from openqwq.checkpoint.huggingface import save_model
from openqwq.config import (
    CorrectionConfig,
    CurriculumConfig,
    EntropyConfig,
    KLConfig,
    LoRAConfig,
    ValueConfig,
)
from openqwq.data import Chain
from openqwq.errors import UserError
from openqwq.log import read_jsonl
from openqwq.train.algorithm.credit import Scored, assign_credit
from openqwq.train.experience.rollout_file import Replay, RolloutFile
from openqwq.train.packing import Sample


@pytest.fixture
def base(world):
    return world.stage(steps=2, samples_per_prompt=6, max_refills=0)


@pytest.fixture
def ppo(base):
    value = ValueConfig(learning_rate=2e-2, gae_lambda=0.95)
    return replace(base, advantage="gae", advantage_scale="batch", value=value)


def train(world, folder, stage, **options):
    model, _ = world.train_rl(folder, stage, **options)
    return model, world.rows(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "cispo", "updates_per_batch": 2, "clip_low": 0.01, "clip_high": 0.01},
        {"loss": "gspo", "loss_aggregation": "sequence"},
        {"loss_aggregation": "constant"},
        {"advantage": "rloo", "kl": KLConfig(weight=0.05, estimator="k1", place="reward")},
        {"advantage": "reinforce", "advantage_scale": "batch", "samples_per_prompt": 1},
        {"advantage_scale": "source"},
        {"correction": CorrectionConfig(mode="truncate", level="sequence", high=0.5)},
        {"entropy": EntropyConfig(weight=0.01)},
        {"overlong_tokens": 2, "truncated": "mask"},
        {"activation_checkpointing": "layer"},
    ],
    ids=lambda changes: "-".join(str(v) for v in changes.values())[:40],
)
def test_each_algorithm_changes_the_weights_in_its_own_way(world, tmp_path, changes, base):
    model, rows = train(world, tmp_path, replace(base, **changes))
    assert any(row["updates"] for row in rows)
    assert all(row["mismatch_max"] < 1e-5 and row["mismatch_k3"] < 1e-9 for row in rows if row["updates"])
    shared = {name: changes[name] for name in ("updates_per_batch", "clip_low", "clip_high") if name in changes}
    plain, _ = train(world, tmp_path / "plain", replace(base, **shared))
    same = world.same_weights(world.weights(model), world.weights(plain))
    assert same is ("activation_checkpointing" in changes)


def test_ppo_with_a_value_model_learns_and_its_values_explain_the_returns(world, tmp_path, ppo):
    _, rows = train(world, tmp_path, replace(ppo, steps=40, learning_rate=2e-2))
    assert sum(row["reward"] for row in rows[-5:]) / 5 > 0.5 > 0.2 > sum(row["reward"] for row in rows[:3]) / 3
    assert max(row["value_explained"] for row in rows[5:]) > 0.2


def test_policy_is_unchanged_during_value_model_warmup(world, tmp_path, ppo):
    stage = replace(ppo, value=ValueConfig(warmup_steps=1), steps=2)
    _, rows = train(world, tmp_path, stage)
    assert [row["updates"] for row in rows] == [0, 1]
    assert all(row["value_loss"] > 0 for row in rows)


def test_kl_penalty_moves_the_policy_towards_the_reference_and_is_logged(world, tmp_path, base):
    base = replace(base, steps=6, learning_rate=3e-2)
    _, free = train(world, tmp_path / "free", replace(base, kl=KLConfig(weight=1e-9)))
    _, held = train(world, tmp_path / "held", replace(base, kl=KLConfig(weight=3.0)))
    assert free[0]["kl"] == pytest.approx(0.0, abs=1e-9)
    assert held[-1]["kl"] < free[-1]["kl"] / 3


def test_distillation_without_any_reward_comes_near_the_teacher(world, tmp_path, base):
    teacher = world.model(seed=7)
    with torch.no_grad():
        teacher.model.embed_tokens.weight.mul_(8.0)
    save_model(teacher, tmp_path / "teacher")
    stage = replace(
        base,
        steps=12,
        reward="none",
        reference=str(tmp_path / "teacher"),
        kl=KLConfig(weight=1.0, estimator="k2"),
        max_grad_norm=10.0,
        learning_rate=3e-2,
    )
    _, rows = train(world, tmp_path, stage)
    assert rows[-1]["kl"] < rows[0]["kl"] / 2
    with pytest.raises(UserError, match="not a folder"):
        train(world, tmp_path / "other", replace(stage, reference=str(tmp_path / "absent")))


def test_demonstrations_are_imitated_beside_the_reward(world, tmp_path, monkeypatch, base):
    from openqwq.train import demonstrations

    monkeypatch.setattr(demonstrations, "render_training_turn", lambda tok, messages, *_: ([1, 2], [3, 9, 15]))
    problem = world.Digits().batch(0, 1)[0]
    file = tmp_path / "chains.jsonl"
    file.write_text(json.dumps(Chain(problem, "3", "9").to_dict()) + "\n")
    stage = replace(base, steps=40, learning_rate=2e-2, demonstrations_file=str(file), demonstrations_weight=1.0)
    model, _ = train(world, tmp_path, stage)
    likely = model(torch.tensor([[1, 2, 3, 9]]))[0].softmax(-1)
    assert likely[1, 3] > 0.5 and likely[2, 9] > 0.5
    file.write_text("{}\n")
    with pytest.raises(UserError, match=r"chains.jsonl:1 is no chain"):
        train(world, tmp_path / "other", stage)


def test_entropy_weight_follows_its_target(world, tmp_path, base):
    stage = replace(base, steps=3, entropy=EntropyConfig(weight=0.01, target=5.0, step=0.005))
    _, rows = train(world, tmp_path, stage)
    assert [row["entropy_weight"] for row in rows] == pytest.approx([0.01, 0.015, 0.02])


def test_adapters_train_alone_and_are_merged_at_the_end(world, tmp_path, base):
    untrained = world.weights(world.model())
    stage = replace(base, lora=LoRAConfig(rank=2, alpha=8.0, targets=("q_proj", "down_proj")))
    model, rows = train(world, tmp_path, stage, ctx=world.context(tmp_path, "rl", base_model="owner/model"))
    assert max(row["mismatch_max"] for row in rows if row["updates"]) < 1e-5
    trained = world.weights(model)
    changed = {name.split(".")[-2] for name in untrained if not torch.equal(untrained[name], trained[name])}
    assert changed == {"q_proj", "down_proj"}
    assert all(p.requires_grad for p in model.parameters())
    adapter = json.loads((tmp_path / "adapters" / "rl" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "owner/model" and adapter["use_rslora"] is False
    with pytest.raises(UserError, match="names `w_proj`, which is no linear layer"):
        train(world, tmp_path / "other", replace(stage, lora=LoRAConfig(rank=2, targets=("w_proj",))))


def test_lora_stage_ignores_gradients_of_the_previous_stage(world, tmp_path, base):
    """As in a resumed run, whose process never had them."""
    model, _ = train(world, tmp_path / "whole", base)
    fresh = world.model()
    fresh.load_state_dict(model.state_dict())
    stage = replace(base, lora=LoRAConfig(rank=2))
    after, rows = train(world, tmp_path / "after", stage, model=model)
    alone, expected = train(world, tmp_path / "alone", stage, model=fresh)
    assert rows == expected and any(row["updates"] for row in rows)
    assert world.same_weights(world.weights(after), world.weights(alone))


def test_curriculum_pauses_problems_without_signal(world, tmp_path, base):
    stage = replace(base, steps=4, curriculum=CurriculumConfig(pool=8, rest_steps=2))
    _, rows = train(world, tmp_path, stage)
    assert rows[0]["curriculum"]["tried"] == 4
    assert rows[-1]["curriculum"]["tried"] == 8
    assert any(row["curriculum"]["resting_hard"] for row in rows)


def test_every_rollout_of_an_overlong_or_truncated_kind_is_paid_as_the_recipe_says(world, tmp_path, base):
    stage = replace(base, overlong_tokens=4)
    attempts = world.collector(tmp_path, stage, world.engine(world.model())).collect(0).attempts
    assert {len(a.rollout.completion_ids) for a in attempts} >= {1, 5}
    for attempt in attempts:
        length = len(attempt.rollout.completion_ids)
        expected = attempt.verdict.score - max(0, length - 1) / 4
        assert attempt.reward == pytest.approx(expected) or attempt.verdict.status == "unjudged"


def test_a_replay_trains_as_the_run_that_its_rollouts_are_of(world, tmp_path, base):
    stage = replace(base, steps=1)
    first, _ = train(world, tmp_path / "first", stage)
    collector = world.collector(tmp_path / "dump", stage, world.engine(world.model()))
    file = tmp_path / "rollouts.jsonl"
    rollouts = RolloutFile(file, {})
    rollouts.append(collector.collect(0))
    assert (rollouts.steps, rollouts.rollouts) == (1, 24)
    file.write_text(file.read_text().replace('"text": "', '"text": "\u2028\x85'))
    replay = Replay(file, stage)
    assert replay.steps == 1
    again, _ = train(world, tmp_path / "again", stage, replay=replay)
    assert world.same_weights(world.weights(first), world.weights(again))


def test_a_file_that_is_no_replay_is_refused_with_its_line(tmp_path, base):
    file = tmp_path / "rollouts.jsonl"
    no_step = r"rollouts.jsonl:1 is not a trainable rollout.*: it has no 'step'"
    for text, message in (("", "no rollouts"), ("{}\n", no_step), ("[", "JSON lines")):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            Replay(file, base)


def sample(logprobs, ref, trained=3):
    return Sample(
        token_ids=[1] * (trained + 1),
        loss_mask=[0] + [1] * trained,
        rollout_logprobs=[0.0, *logprobs],
        ref_logprobs=[0.0, *ref],
        advantages=[0.5] * (trained + 1),
    )


def test_a_penalty_in_the_reward_is_paid_token_by_token_or_by_the_whole_rollout(base):
    far, near = sample([-1.0, -1.0, -1.0], [-2.0, -1.0, -3.0]), sample([-1.0] * 3, [-1.0] * 3)
    scored = [Scored(sample=s, group=0, source="a", reward=r) for s, r in ((far, 1.0), (near, 0.0))]
    kl = KLConfig(weight=0.1, estimator="k1", place="reward")
    # rewards 1 - 0.1 * (1 + 0 + 2) = 0.7 and 0: each minus the other
    found = assign_credit(scored, replace(base, advantage="rloo", kl=kl))
    assert [s.advantages[1] for s in found] == pytest.approx([0.7, -0.7])
    # penalties 0.1, 0, 0.2 and the reward of 1 after the last: sums from each token on
    found = assign_credit(scored, replace(base, advantage="reinforce", kl=kl))
    assert list(found[0].advantages) == pytest.approx([0.0, 0.7, 0.8, 0.8])
    assert list(found[1].advantages) == pytest.approx([0.0, 0.0, 0.0, 0.0])


def test_whitening_is_over_the_tokens_of_each_source(base):
    scored = [
        Scored(sample=replace(sample([-1.0] * n, [-1.0] * n, n), advantages=[a] * (n + 1)), group=i, source=s, reward=0)
        for i, (n, a, s) in enumerate([(3, 1.0, "a"), (1, -1.0, "a"), (2, 5.0, "b")])
    ]
    found = assign_credit(scored, replace(base, advantage_scale="source"))
    # source a: 1, 1, 1, -1: mean 0.5, deviation sqrt(0.75); source b has no spread
    root = math.sqrt(0.75)
    assert [s.advantages[1] for s in found] == pytest.approx([0.5 / root, -1.5 / root, 0.0])


def test_the_timeline_says_where_each_step_spent_its_time(world, tmp_path, base):
    train(world, tmp_path, base)
    rows = read_jsonl(tmp_path / "timeline.jsonl")
    assert [row["phase"] for row in rows if row["step"] == 0][-4:] == ["generate", "verify", "train", "sync"]
    assert {row["step"] for row in rows} == {0, 1}
    assert all(row["seconds"] >= 0 for row in rows)
    metrics = read_jsonl(tmp_path / "metrics.jsonl")[1]
    generate = sum(row["seconds"] for row in rows if row["step"] == 1 and row["phase"] == "generate")
    assert metrics["seconds_generate"] == pytest.approx(generate)
    assert metrics["seconds_idle"] >= 0


def test_a_step_in_which_nothing_is_updated_says_why(world, tmp_path, caplog, ppo):
    with caplog.at_level(logging.INFO, logger="openqwq"):
        train(world, tmp_path, replace(ppo, value=ValueConfig(warmup_steps=1)))
    assert "only the value model learns" in caplog.text
