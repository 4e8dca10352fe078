"""Sampling beside training: never too old, never lost, and nothing changes where it is off."""

import json
import time

import pytest
import torch

from openqwq.config import CorrectionConfig
from openqwq.errors import UserError
from openqwq.model import weight_checksum
from openqwq.rollout import GroupStream
from openqwq.train.learner import Learner
from openqwq.train.optim.optimizer import build_optimizer
from openqwq.train.stage import StageRun
from openqwq.types import SamplingParams

FIELDS = {
    "steps": 7,
    "prompts_per_step": 3,
    "samples_per_prompt": 4,
    "max_completion_tokens": 24,
    "learning_rate": 2e-2,
    "max_refills": 1,
    "updates_per_batch": 2,
    "reward": "random",
    "correction": CorrectionConfig(mode="truncate"),
}


def train(world, folder, *, verifier=None, **changes):
    model, _ = world.train_rl(folder, world.stage(**FIELDS | changes), verifier=verifier)
    return world.weights(model), world.rows(folder)


@pytest.mark.parametrize("bound", [1, 2, 3])
def test_no_token_is_older_than_the_bound_and_some_are_as_old(world, tmp_path, bound):
    seen = []

    class Watching(world.SameDigit):
        def verify_many(self, pairs):
            seen.append(len(pairs))
            return super().verify_many(pairs)

    _, rows = train(world, tmp_path, verifier=Watching(), max_staleness=bound)
    samples = world.rows(tmp_path, "samples.jsonl")
    assert rows[0]["staleness_max"] == 0
    ages = [row["staleness_max"] for row in rows]
    assert max(ages) == bound and all(age <= min(bound, step) for step, age in enumerate(ages))
    assert all(row["groups_sampled"] >= 3 and row["importance_mean"] for row in rows if row["updates"])
    mixed = [row for row in samples if len(row["policy_versions"]) > 1]
    assert bool(mixed) == (bound > 1)
    assert all(len(row["weight_checksums"]) == len(row["policy_versions"]) for row in samples)
    assert sum(seen) == sum(row["groups_sampled"] for row in rows) * 4  # nothing is judged twice or thrown away


def test_without_staleness_the_loop_is_the_synchronous_one(world, tmp_path):
    weights, rows = train(world, tmp_path / "loop", steps=4)
    assert {row["staleness_max"] for row in rows} == {0}
    model, stage = world.model(), world.stage(**FIELDS | {"steps": 4})
    policy, ctx = world.engine(model), world.context(tmp_path / "hand", "rl")
    collector = world.collector(tmp_path / "hand", stage, policy)
    with StageRun(ctx, stage, model, build_optimizer(model, stage), steps=4) as run:
        learner = Learner(stage, run, world.HexTokenizer())
        for step in range(4):
            learner.learn(collector.collect(step), step)
            policy.load_weights(model)
    assert world.same_weights(world.weights(model), weights)


@pytest.mark.parametrize("bound", [1, 3])
def test_overlapped_run_does_not_depend_on_timing(world, tmp_path, bound):
    """Two runs of the same stage, one of them with slow verdicts: same weights, same log."""
    one = train(world, tmp_path / "one", max_staleness=bound, steps=5)

    class Slow(world.SameDigit):
        def verify_many(self, pairs):
            time.sleep(0.02)
            return super().verify_many(pairs)

    other = train(world, tmp_path / "other", verifier=Slow(), max_staleness=bound, steps=5)
    assert world.same_weights(other[0], one[0])
    assert other[1] == one[1]


def test_exception_in_the_sampling_thread_ends_the_run(world, tmp_path):
    class Broken(world.SameDigit):
        calls = 0

        def verify_many(self, pairs):
            self.calls += 1
            if self.calls > 3:
                raise OSError("no more verdicts")
            return super().verify_many(pairs)

    with pytest.raises(OSError, match="no more verdicts"):
        train(world, tmp_path, verifier=Broken(), max_staleness=1)


def test_old_weights_without_correction_are_refused(world, tmp_path):
    with pytest.raises(UserError, match="`max_staleness` is 1"):
        train(world, tmp_path, max_staleness=1, correction=CorrectionConfig())


def test_tokens_after_a_weight_update_have_the_new_version_and_checksum(world):
    model, other = world.model(0), world.model(1)
    engine = world.engine(model)
    engine.load_weights(model, version=4)
    before = weight_checksum(model)
    params = SamplingParams(n=2, temperature=1.0, top_p=1.0, top_k=0, max_tokens=12, seed=1, ignore_eos=True)
    engine.add_request((1, 2), params, "a")
    for _ in range(6):
        engine.step()
    engine.load_weights(other, version=5)
    assert weight_checksum(model) == weight_checksum(other) != before
    (output,) = [output for _ in range(20) for output in engine.step()]
    for completion in output.outputs:
        old = completion.policy_versions.count(4)
        assert 4 <= old <= 6 and completion.policy_versions == (4,) * old + (5,) * (12 - old)
        assert completion.weight_checksums == {4: before, 5: weight_checksum(other)}


def test_a_checksum_changes_with_any_bit(world):
    model = world.model()
    names = {weight_checksum(model)}
    weight = model.model.layers[1].mlp.up_proj.weight.data
    for row, column in ((0, 0), (3, 7), (23, 15)):
        weight[row, column] = torch.nextafter(weight[row, column], torch.tensor(9.0))
        names.add(weight_checksum(model))
    swapped = weight[0].clone()
    weight[0], weight[1] = weight[1].clone(), swapped
    names.add(weight_checksum(model))
    assert len(names) == 5


def test_groups_in_flight_go_on_where_they_stopped_after_a_round_trip_through_json(world):
    """An open group that is saved, loaded into another engine and finished has the tokens of one never stopped."""
    params = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_tokens=20, seed=2, ignore_eos=True)
    problems = world.Digits().batch(0, 4)

    def stream():
        made = GroupStream(world.engine(world.model()), world.HexTokenizer(), 3)
        for problem, longest in zip(problems, (4, 20, 8, 20), strict=True):
            made.begin(problem, params.replace(max_tokens=longest), turn=0)
        return made

    whole = {g.problem.id: [r.completion_ids for r in g.rollouts] for g in stream().advance(4, due=0)}
    first = stream()
    done = first.advance(1, due=-1)
    assert [g.problem.id for g in done] == [problems[0].id]
    state = json.loads(json.dumps(first.state()))
    partial = [len(c["token_ids"]) for c in state["groups"][1]["completions"]]
    assert len(partial) == 3 and all(0 < n < 8 for n in partial)
    second = GroupStream(world.engine(world.model()), world.HexTokenizer(), 3)
    second.load_state(state)
    done += second.advance(1, due=-1)
    assert done[-1].problem.id == problems[2].id
    done += second.advance(2, due=0)
    assert {g.problem.id: [r.completion_ids for r in g.rollouts] for g in done} == whole


def test_tokens_of_before_a_restart_keep_the_checksums_of_their_weights(world):
    """An engine in a new process never had the weights that sampled them."""
    params = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_tokens=9, seed=2, ignore_eos=True)
    streams, names = [], {}
    for version in (4, 5):
        model = world.model(seed=version)
        engine = world.engine(model)
        engine.load_weights(model, version=version)
        names[version] = weight_checksum(model)
        streams.append(GroupStream(engine, world.HexTokenizer(), 2))
    first, second = streams
    for problem, longest in zip(world.Digits().batch(0, 2), (3, 9), strict=True):
        first.begin(problem, params.replace(max_tokens=longest), turn=0)
    first.advance(1, due=-1)
    second.load_state(json.loads(json.dumps(first.state())))
    (group,) = second.advance(1, due=0)
    for rollout in group.rollouts:
        assert set(rollout.policy_versions) == {4, 5} and rollout.weight_checksums == names
