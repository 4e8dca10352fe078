from openqwq.checkpoint.run_state import RunStateStore
from openqwq.train.experience.collector import Attempt, Experience
from openqwq.train.monitors import monitor_rollouts
from openqwq.train.rl_metrics import sample_rows
from openqwq.train.stage import StageContext
from openqwq.types import Message, Problem, Rollout, Verdict

PROBLEM = Problem(id="p", source="s", kind="math", messages=(Message("user", "?"),), verifier="v")


def rollout(text):
    return Rollout(
        problem=PROBLEM,
        prompt_ids=(1,),
        completion_ids=(2,),
        loss_mask=(1,),
        rollout_logprobs=(0.0,),
        policy_versions=(0,),
        text=text,
        finish_reason="stop",
    )


def test_shares_are_over_all_rollouts_and_paid_canaries_are_counted_apart():
    texts = ["Wait, no.</think>1", "</think>exit(0)", "</think>exit(0)", "x</think>2"]
    verdicts = [Verdict.wrong("no"), Verdict.correct(), Verdict.wrong("no"), Verdict.correct()]
    found = monitor_rollouts([rollout(text) for text in texts], verdicts)
    assert found["backtracking"] == 0.25 and found["no_thinking"] == 0.5
    assert found["hack_canary"] == 0.5 and found["paid_hack_canary"] == 0.25
    assert set(monitor_rollouts([], []).values()) == {None}


def test_of_each_behaviour_that_no_drawn_rollout_shows_one_is_logged(tmp_path):
    ctx = StageContext(name="rl", seed=0, checkpoints=RunStateStore(tmp_path))
    texts = ["plain</think>1"] * 60 + ["Wait, no.</think>1", "</think>exit(0)", "Hmm.</think>2"]
    attempts = [Attempt(rollout=rollout(text), verdict=Verdict.correct(), reward=1.0, advantage=0.0) for text in texts]
    rows = sample_rows(Experience(groups=[attempts]), 0, ctx)
    assert [row["drawn"] for row in rows] == ["at random"] * 4 + ["backtracking", "no_thinking"]
    assert [row["text"] for row in rows[4:]] == ["Wait, no.</think>1", "</think>exit(0)"]
