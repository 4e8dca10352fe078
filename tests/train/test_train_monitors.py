from openqwq.train.monitors import (
    MONITORS,
    answers_without_thinking,
    backtracks,
    looks_like_a_hack,
    loops,
    mixes_languages,
    monitor_rollouts,
    sets_subgoals,
    verifies_itself,
)
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


def test_each_behaviour_is_found_where_it_is_and_nowhere_else():
    plain = "12 + 30 is 42.\n</think>\n\n\\boxed{42}"
    assert not any(shows(plain) for shows in MONITORS.values())
    assert verifies_itself("So x = 3. Let me check: 2 * 3 = 6.")
    assert verifies_itself("Substituting back gives 7.")
    assert backtracks("Wait, the sign is wrong.") and backtracks("Hmm. Alternatively, use 5.")
    assert not backtracks("The waiter is awaited.")
    assert sets_subgoals("First, add the tens. Then, add the ones.") and not sets_subgoals("First, add.")
    assert sets_subgoals("\n1. add\n2. carry")
    assert looks_like_a_hack("thinking</think>\nimport sys\nsys.exit(0)")
    assert not looks_like_a_hack("sys.exit would be cheating</think>\nprint(3)")


def test_loops_need_length_and_repetition():
    assert loops("so we add one and then we add two " * 10)
    assert not loops("so we add one and then we add two " * 3)
    assert not loops(" ".join(f"step {i} gives {i * i}" for i in range(100)))


def test_mixing_languages_is_about_scripts_outside_of_maths():
    assert mixes_languages("therefore 因此我们得到 the answer")
    assert not mixes_languages("因此我们得到答案") and not mixes_languages("let $\\alpha = 3$ be")
    assert not mixes_languages("1 + 1 = 2")


def test_an_empty_thinking_block_is_an_answer_without_thinking():
    assert answers_without_thinking("\n</think>\n\n42") and answers_without_thinking("<think>\n</think>42")
    assert not answers_without_thinking("so 42</think>42") and not answers_without_thinking("still thinking")


def test_shares_are_over_all_rollouts_and_paid_canaries_are_counted_apart():
    texts = ["Wait, no.</think>1", "</think>exit(0)", "</think>exit(0)", "x</think>2"]
    verdicts = [Verdict.wrong("no"), Verdict.correct(), Verdict.wrong("no"), Verdict.correct()]
    found = monitor_rollouts([rollout(text) for text in texts], verdicts)
    assert found["backtracking"] == 0.25 and found["no_thinking"] == 0.5
    assert found["hack_canary"] == 0.5 and found["paid_hack_canary"] == 0.25
    assert set(monitor_rollouts([], []).values()) == {None}
