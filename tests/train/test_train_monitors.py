from openqwq.train.monitors import monitor_rollouts
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
