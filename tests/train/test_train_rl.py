import math
from dataclasses import replace

import pytest

from openqwq.config import GateConfig, LoRAConfig, RLStage
from openqwq.data.curriculum import DifficultyPool
from openqwq.errors import UserError
from openqwq.inference import Engine
from openqwq.model.lora import add_lora
from openqwq.train.algorithm.rewards import coin_rewards, verdict_rewards
from openqwq.train.experience.collector import Experience, judge, with_advantages
from openqwq.train.rl_run import record_curriculum
from openqwq.types import Completion, Message, Problem, Rollout, Verdict


class Scripted:
    """A policy that says, for prompt number i of all it ever got, `script[i]`: one text per sample."""

    version = 0

    def __init__(self, script):
        self.script, self.asked = script, []

    def generate(self, prompts, params):
        answers = []
        for prompt, own in zip(prompts, params, strict=True):
            texts = self.script[len(self.asked) % len(self.script)]
            self.asked.append((prompt, own))
            answers.append([self._completion(text) for text in texts])
        return answers

    def _completion(self, text):
        ids = tuple(int(c, 16) for c in text)
        return Completion(
            text=text,
            token_ids=ids,
            logprobs=(-1.0,) * len(ids),
            policy_versions=(0,) * len(ids),
            finish_reason="length" if text.endswith("0") else "abort" if text == "" else "stop",
            error="lost" if text == "" else "",
        )


def collector(world, tmp_path, stage, script):
    policy = Scripted(script)
    return policy, world.collector(tmp_path, stage, policy)


def test_groups_without_signal_are_replaced_by_new_problems(world, tmp_path):
    script = [["71", "11"], ["71", "72"], ["11", "12"], ["7", "2"], ["7", "7"], ["2", "7"]]
    stage = world.stage(prompts_per_step=3, samples_per_prompt=2)
    policy, ours = collector(world, tmp_path, stage, script)
    experience = ours.collect(0)
    # round 0 asks for 3 and finds 1 with signal; round 1 asks for the 2 missing and finds 1; round 2 asks for 1
    assert [len(group) for group in experience.groups] == [2] * 6
    assert len(experience.useful_groups) == 3
    assert experience.refills == 2
    assert len({prompt.token_ids for prompt, _ in policy.asked}) == 6


def test_refills_end_at_their_bound_and_the_step_goes_on_with_what_there_is(world, tmp_path):
    stage = world.stage(prompts_per_step=2, samples_per_prompt=2, max_refills=1)
    _, ours = collector(world, tmp_path, stage, [["7", "2"], ["7", "7"], ["2", "2"]])
    experience = ours.collect(0)
    assert (len(experience.groups), len(experience.useful_groups), experience.refills) == (3, 1, 1)


def test_an_unjudged_rollout_has_no_advantage_and_is_left_out_of_the_mean(world, tmp_path):
    stage = world.stage(prompts_per_step=1, samples_per_prompt=4)
    _, ours = collector(world, tmp_path, stage, [["7", "2", "e", ""]])
    (group,) = ours.collect(0).groups
    assert [a.advantage for a in group] == [0.5, -0.5, 0.0, 0.0]
    assert [a.verdict.status for a in group] == ["correct", "wrong", "unjudged", "unjudged"]
    assert math.isnan(group[2].reward)
    assert "lost" in group[3].verdict.reason


def test_every_request_has_a_seed_of_its_own_place_in_the_run(world, tmp_path):
    stage = world.stage(prompts_per_step=2, samples_per_prompt=2, max_refills=1)
    policy, ours = collector(world, tmp_path, stage, [["7", "7"]])
    ours.collect(0)
    ours.collect(1)
    first = [params.seed for _, params in policy.asked]
    assert len(set(first)) == 8
    again, theirs = collector(world, tmp_path, stage, [["7", "7"]])
    theirs.collect(1)
    assert [params.seed for _, params in again.asked] == first[4:]
    assert {(p.temperature, p.top_p, p.top_k, p.n, p.max_tokens) for _, p in policy.asked} == {(1.0, 1.0, 0, 2, 5)}


PLAIN = Rollout(
    problem=Problem(id="p", source="plain", kind="math", messages=(Message("user", "1"),), verifier="same_digit"),
    prompt_ids=(1,),
    completion_ids=(2, 3),
    loss_mask=(1, 1),
    rollout_logprobs=(0.0, 0.0),
    policy_versions=(0, 0),
    text="23",
    finish_reason="stop",
)


def rollout_of(source, **fields):
    return replace(PLAIN, problem=replace(PLAIN.problem, source=source), **fields)


def test_reward_model_is_mixed_in_for_its_sources_and_never_pays_for_a_wrong_answer():
    rollouts = [rollout_of("judged"), rollout_of("judged"), rollout_of("plain"), rollout_of("judged")]
    verdicts = [Verdict.correct(), Verdict.wrong("no"), Verdict.correct(), Verdict.unjudged("?")]
    stage = RLStage(reward_model_weight=0.4, reward_model_sources=("judged",))
    asked = []

    def scorer(sequences):
        asked.extend(sequences)
        return [math.log(3.0)] * len(sequences)  # sigmoid(log 3) = 3/4

    rewards = verdict_rewards(rollouts, verdicts, stage, scorer)
    assert rewards[:3] == pytest.approx([0.6 + 0.4 * 0.75, 0.0, 1.0])
    assert math.isnan(rewards[3])
    assert asked == [[1, 2, 3]]


def test_random_reward_is_a_fair_coin_that_ignores_the_verdict(world, tmp_path):
    ctx = world.context(tmp_path, "rl")
    coins = [c for step in range(200) for c in coin_rewards(20, ctx, step, 0)]
    assert set(coins) == {0.0, 1.0}
    assert sum(coins) / len(coins) == pytest.approx(0.5, abs=0.03)
    assert coins == [c for step in range(200) for c in coin_rewards(20, ctx, step, 0)]
    stage = world.stage(prompts_per_step=1, samples_per_prompt=16, reward="random")
    _, ours = collector(world, tmp_path, stage, [["7"] * 16])
    attempts = ours.collect(0).attempts
    assert {a.reward for a in attempts} == {0.0, 1.0}
    assert all(a.verdict.status == "correct" for a in attempts)


def test_a_failed_rollout_is_unjudged_without_asking_the_verifier(world):
    rollouts = [rollout_of("s", status="error", error="no prompt"), rollout_of("s", text="e")]
    verdicts = judge(rollouts, {"same_digit": world.SameDigit()})
    assert [v.status for v in verdicts] == ["unjudged", "unjudged"]
    assert "no prompt" in verdicts[0].reason


def test_training_raises_the_reward_of_what_it_rewards(world, tmp_path):
    stage = world.stage(steps=40, learning_rate=2e-2, max_refills=0)
    world.train_rl(tmp_path, stage)
    rows = world.rows(tmp_path)
    assert sum(row["reward"] for row in rows[:5]) / 5 < 0.2
    assert sum(row["reward"] for row in rows[-5:]) / 5 > 0.8


def test_sampler_and_trainer_agree_before_every_update(world, tmp_path):
    world.train_rl(tmp_path, world.stage(steps=10, temperature=0.8))
    rows = [row for row in world.rows(tmp_path) if row["updates"]]
    assert len(rows) >= 5
    assert all(row["mismatch_max"] < 1e-5 for row in rows)
    assert all(row["clip_share"] == 0 for row in rows)


def test_further_updates_of_a_batch_leave_the_policy_that_sampled_it(world, tmp_path):
    stage = world.stage(steps=4, updates_per_batch=3, learning_rate=0.05)
    world.train_rl(tmp_path, stage)
    rows = [row for row in world.rows(tmp_path) if row["updates"]]
    assert all(row["updates"] == 3 and row["mismatch_max"] < 1e-5 for row in rows)
    assert any(row["clip_share"] > 0 for row in rows)


def test_a_step_without_signal_makes_no_update_and_says_so(world, tmp_path, caplog):
    class AlwaysWrong(world.SameDigit):
        def __call__(self, problem, completion):
            return Verdict.wrong("always")

    model = world.model()
    before = world.weights(model)
    with caplog.at_level("INFO", logger="openqwq"):
        world.train_rl(tmp_path, world.stage(steps=2), model=model, verifier=AlwaysWrong())
    assert world.same_weights(world.weights(model), before)
    rows = world.rows(tmp_path)
    assert [(row["updates"], row["grad_norm"], row["groups_with_signal"]) for row in rows] == [(0, None, 0.0)] * 2
    assert "no group has signal" in caplog.text


def test_a_step_whose_rollouts_cannot_be_judged_says_what_the_verdicts_say(world, tmp_path, caplog):
    class Unreachable(world.SameDigit):
        def __call__(self, problem, completion):
            return Verdict.unjudged("the sandbox does not answer")

    with caplog.at_level("INFO", logger="openqwq"):
        world.train_rl(tmp_path, world.stage(steps=1), verifier=Unreachable())
    assert "no rollout could be judged (the sandbox does not answer), no update" in caplog.text
    assert world.rows(tmp_path)[0]["unjudged"] == 1.0


def test_every_row_has_the_same_keys_in_the_same_order_and_counts_add_up(world, tmp_path):
    world.train_rl(tmp_path, world.stage())
    rows = world.rows(tmp_path)
    assert len(rows) == 3
    assert len({tuple(row) for row in rows}) == 1
    for step, row in enumerate(rows):
        assert (row["stage"], row["step"]) == ("rl", step)
        assert sum(source["rollouts"] for source in row["sources"].values()) == row["groups_sampled"] * 8
        for name in ("unjudged", "completion_tokens_mean"):
            whole = sum(source["rollouts"] * source[name] for source in row["sources"].values())
            assert whole / (row["groups_sampled"] * 8) == pytest.approx(row[name])
        assert 0 < row["completion_tokens_max"] <= 5
    samples = world.rows(tmp_path, "samples.jsonl")
    assert len(samples) == 12
    assert {row["verdict"] for row in samples} <= {"correct", "wrong", "unjudged"}
    assert all(row["reason"] for row in samples if row["verdict"] != "correct")


def test_the_gate_takes_a_stage_back_to_its_last_good_weights(world, tmp_path):
    seen = []
    scores = iter([0.50, 0.49, 0.40])

    def evaluate():
        seen.append(world.weights(model))
        return {"math": next(scores), "code": 0.3, "other": 0.0}

    model = world.model()
    stage = world.stage(steps=10, gate=GateConfig(kinds=("math", "code"), every=2, max_drop=0.05))
    _, outcome = world.train_rl(tmp_path, stage, model=model, gate_evaluate=evaluate)
    assert outcome.steps == 4
    assert "math fell from 0.500 to 0.400" in outcome.gate_fell
    assert len(seen) == 3
    assert world.same_weights(world.weights(model), seen[1])
    assert not world.same_weights(seen[0], seen[1])
    assert [row["gate"] for row in world.rows(tmp_path)] == [
        {"math": 0.5, "code": 0.3}, None, {"math": 0.49, "code": 0.3}, None
    ]  # fmt: skip
    again, resumed = world.train_rl(
        tmp_path, stage, ctx=world.context(tmp_path, "rl", resume=True), gate_evaluate=evaluate
    )
    assert (resumed.steps, resumed.gate_fell) == (4, outcome.gate_fell)
    assert world.same_weights(world.weights(again), seen[1])


def test_a_gate_that_holds_lets_the_stage_end(world, tmp_path):
    stage = world.stage(gate=GateConfig(kinds=("math",), every=2, max_drop=0.05))
    _, outcome = world.train_rl(tmp_path, stage, gate_evaluate=lambda: {"math": 0.5})
    assert (outcome.steps, outcome.gate_fell, outcome.gate_scores) == (3, "", {"math": 0.5})


def test_the_policy_counts_updates_as_versions(world, tmp_path):
    model = world.model()
    engine = world.engine(model)
    world.train_rl(tmp_path, world.stage(steps=2, updates_per_batch=2), model=model, engine=engine)
    assert engine.version == sum(row["updates"] for row in world.rows(tmp_path)) == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples_per_prompt": 1}, "samples_per_prompt"),
        ({"max_staleness": 1}, "max_staleness"),
        ({"temperature": 0.0}, "temperature"),
        ({"reward_model_weight": 0.5}, "no reward model"),
        ({"reward_model_weight": 1.5}, "between 0 and 1"),
    ],
)
def test_invalid_settings_are_rejected_by_name(world, tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        world.train_rl(tmp_path, world.stage(**fields))


@pytest.mark.parametrize("lora", [LoRAConfig(), LoRAConfig(rank=2)], ids=["whole", "adapters"])
def test_a_sampler_that_does_not_take_the_weights_ends_the_run(world, tmp_path, lora):
    """A weight sync that silently does nothing: versions count on, the weights or the adapters stay."""

    class Deaf(Engine):
        def load_weights(self, source, *, version=None):
            super().load_weights(self.model, version=version)

    model, other = world.model(), world.model()
    if lora.rank:
        seed = world.context(tmp_path, "rl").seed_for("lora")
        add_lora(other, rank=lora.rank, alpha=lora.alpha, targets=lora.targets, seed=seed)
    deaf = Deaf(other, world.HexTokenizer(), max_num_seqs=64)
    with pytest.raises(RuntimeError, match="was sampled from weights"):
        world.train_rl(tmp_path, world.stage(reward="random", lora=lora), model=model, engine=deaf)
    assert [row["step"] for row in world.rows(tmp_path)] == [0]  # the first step's weights were the trainer's


@pytest.mark.parametrize(
    ("scores", "trained", "advantage", "expected"),
    [
        ((1, 0, None), (4, 4, 4), "group", [0.5, -0.5, 0.0]),
        ((1, 0, 0), (4, 4, 0), "group", [0.5, -0.5, 0.0]),
        ((1, 0, 1, 1), (4, 4, 0, 0), "group", [0.5, -0.5, 0.0, 0.0]),
        ((0, 0, 1), (4, 4, 0), "group", [0.0, 0.0, 0.0]),
        ((1, 0), (4, 0), "group", [0.0, 0.0]),
        ((None, None), (4, 4), "group", [0.0, 0.0]),
        ((1, 0, 1), (4, 4, 0), "rloo", [1.0, -1.0, 0.0]),
        ((1, 0, 1), (4, 4, 0), "reinforce", [1.0, 0.0, 0.0]),
        ((1, 0, 1), (4, 1, 1), "group", [1 / 3, -2 / 3, 1 / 3]),
    ],
)
@pytest.mark.parametrize("empty", [True, False])
def test_rollout_without_trained_tokens_is_excluded_from_the_baseline(scores, trained, advantage, expected, empty):
    def rollout(count):
        ids = (2, 3, 4, 5) if count or not empty else ()
        mask = tuple(int(place < count) for place in range(len(ids)))
        return rollout_of("plain", completion_ids=ids, loss_mask=mask)

    rollouts = [rollout(count) for count in trained]
    verdicts = [Verdict.unjudged("?") if s is None else Verdict.correct(score=s) for s in scores]
    rewards = [math.nan if s is None else float(s) for s in scores]
    stage = RLStage(advantage=advantage)
    [group] = with_advantages([len(scores)], rollouts, verdicts, rewards, stage)
    assert [attempt.advantage for attempt in group] == pytest.approx(expected)
    useful = Experience(groups=[group], needs_spread=advantage != "reinforce").useful_groups
    assert bool(useful) == (any(expected))


def test_a_rollout_without_trained_tokens_says_nothing_of_how_hard_a_problem_is():
    rollouts = [rollout_of("plain"), rollout_of("plain", loss_mask=(0, 0))]
    verdicts = [Verdict.wrong("no"), Verdict.correct()]
    groups = with_advantages([2], rollouts, verdicts, [0.0, 1.0], RLStage())
    pool = DifficultyPool([PLAIN.problem], easy=0.9, hard=0.1, rest_steps=5, seed=0)
    measured = record_curriculum(pool, Experience(groups=groups), 0)
    assert measured["curriculum"]["pass_rate"] == 0.0
