"""Groups from a policy that is a few lines of Python, and from the engine."""

import pytest

from openqwq.rollout import sample_groups
from openqwq.types import Completion, Message, Problem, SamplingParams

PARAMS = SamplingParams(temperature=1.0, seed=3)


class Tokenizer:
    """Renders the last turn as its characters' numbers; refuses empty turns."""

    def encode_chat(self, messages):
        if not messages[-1].content:
            raise ValueError("nothing to say")
        return [ord(character) for character in messages[-1].content]

    def opens_thinking(self, prompt_ids):
        return prompt_ids[-1] == ord(">")


class Echo:
    """Completes each prompt with its own ids and the sample's number; gives up on prompts that hold an "x"."""

    version = 5

    def __init__(self):
        self.calls = []

    def generate(self, prompts, params):
        self.calls.append((prompts, params))
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else params
        return [[self.complete(p.token_ids, i) for i in range(own.n)] for p, own in zip(prompts, each, strict=True)]

    def complete(self, ids, sample):
        gives_up = ord("x") in ids and sample == 1
        return Completion(
            text="" if gives_up else f"answer {sample}",
            token_ids=() if gives_up else (*ids, sample),
            logprobs=() if gives_up else (-0.5,) * (len(ids) + 1),
            policy_versions=() if gives_up else (self.version,) * (len(ids) + 1),
            finish_reason="abort" if gives_up else "stop",
            error="lost" if gives_up else "",
        )


def make_problem(text):
    return Problem(id=f"t/{text}", source="t", kind="math", messages=(Message("user", text),), verifier="math")


def test_each_problem_gets_its_group_with_the_sampled_ids_as_they_are():
    problems = [make_problem("ab"), make_problem("c")]
    groups = sample_groups(Echo(), Tokenizer(), problems, 3, PARAMS)
    assert [group.problem for group in groups] == problems
    assert [len(group.rollouts) for group in groups] == [3, 3]
    rollout = groups[0].rollouts[2]
    assert rollout.problem is problems[0]
    assert rollout.prompt_ids == (97, 98)
    assert rollout.completion_ids == (97, 98, 2)
    assert rollout.loss_mask == (1, 1, 1)
    assert rollout.rollout_logprobs == (-0.5, -0.5, -0.5)
    assert rollout.policy_versions == (5, 5, 5)
    assert (rollout.text, rollout.finish_reason, rollout.status) == ("answer 2", "stop", "ok")


def test_a_completion_that_was_given_up_is_an_error_and_its_siblings_go_on():
    [group] = sample_groups(Echo(), Tokenizer(), [make_problem("xy")], 3, PARAMS)
    assert [r.status for r in group.rollouts] == ["ok", "error", "ok"]
    assert group.rollouts[1].error == "lost" and group.rollouts[1].loss_mask == ()


def test_a_problem_that_cannot_be_rendered_is_a_group_of_errors_among_the_others():
    policy = Echo()
    groups = sample_groups(policy, Tokenizer(), [make_problem("a"), make_problem(""), make_problem("b")], 2, PARAMS)
    assert [[r.status for r in g.rollouts] for g in groups] == [["ok"] * 2, ["error"] * 2, ["ok"] * 2]
    assert "nothing to say" in groups[1].rollouts[0].error
    assert [p.token_ids for p in policy.calls[0][0]] == [(97,), (98,)]
    [only] = sample_groups(policy, Tokenizer(), [make_problem("")], 2, PARAMS)
    assert len(only.rollouts) == 2 and len(policy.calls) == 1


def test_params_may_be_one_for_each_problem():
    policy = Echo()
    problems = [make_problem("a"), make_problem(""), make_problem("b")]
    sample_groups(policy, Tokenizer(), problems, 4, [PARAMS.replace(seed=seed) for seed in (10, 11, 12)])
    assert [(p.seed, p.n) for p in policy.calls[0][1]] == [(10, 4), (12, 4)]
    with pytest.raises(ValueError, match="1 params for 3 problems"):
        sample_groups(policy, Tokenizer(), problems, 4, [PARAMS])


def test_each_problem_may_have_a_group_size_of_its_own():
    policy = Echo()
    problems = [make_problem("a"), make_problem(""), make_problem("b")]
    groups = sample_groups(policy, Tokenizer(), problems, [3, 2, 5], PARAMS)
    assert [len(group.rollouts) for group in groups] == [3, 2, 5]
    assert [p.n for p in policy.calls[0][1]] == [3, 5]
    with pytest.raises(ValueError, match="2 group sizes for 3 problems"):
        sample_groups(policy, Tokenizer(), problems, [3, 2], PARAMS)


def test_the_policy_sees_the_messages_beside_the_ids():
    policy = Echo()
    sample_groups(policy, Tokenizer(), [make_problem("a")], 1, PARAMS)
    assert policy.calls[0][0][0].messages == (Message("user", "a"),)


def test_rollouts_need_no_torch():
    import subprocess
    import sys

    code = "import sys, openqwq.rollout; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_a_rollout_tells_its_verifier_whether_the_prompt_opened_the_thinking():
    groups = sample_groups(Echo(), Tokenizer(), [make_problem("ab"), make_problem("ab<think>")], 1, PARAMS)
    judged = [group.rollouts[0].judged_pair for group in groups]
    assert [(problem.thinking_opened, text) for problem, text in judged] == [(False, "answer 0"), (True, "answer 0")]
