"""Sampling and judging families with a scripted policy: what is marked how, and what the seeds depend on."""

import pytest

from openqwq.eval.evaluate import evaluate, mean_by_kind, problem_seed
from openqwq.eval.families import summarise
from openqwq.eval.judging import Judge, VerifierPool
from openqwq.types import Completion, Message, Problem, SamplingParams

ANSWERS = {
    "right": ("1+1=2\n</think>\n\n\\boxed{2}", "stop"),
    "wrong": ("1+1=3\n</think>\n\n\\boxed{3}", "stop"),
    "formless": ("the answer is 2", "stop"),
    "cut": ("1+1=2\n</think>\n\n\\boxed{2}", "length"),
    "failed": ("", "abort"),
}


class CharTokenizer:
    def encode_plain(self, text):
        return [ord(c) for c in text]

    def opens_thinking(self, prompt_ids):
        return True

    def encode_chat(self, messages):
        return self.encode_plain(f"<user>{messages[-1].content}<assistant>")


class ScriptedPolicy:
    """Answers by the question's first word and keeps what it was asked."""

    version = 0

    def __init__(self):
        self.calls = []

    def generate(self, prompts, params):
        self.calls.append((prompts, params))
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else params
        return [[self._answer(prompt)] * own.n for prompt, own in zip(prompts, each, strict=True)]

    def _answer(self, prompt):
        text, reason = ANSWERS[prompt.messages[-1].content.split()[0]]
        return Completion(
            text=text, token_ids=(7,) * 5, logprobs=(0.0,) * 5, policy_versions=(0,) * 5, finish_reason=reason
        )


def problem(word, kind="math"):
    return Problem(
        id=word, source="f", kind=kind, messages=(Message("user", f"{word} 1+1"),), verifier="math", answer="2"
    )


@pytest.fixture(scope="module")
def judge():
    return Judge()


def run(judge, words, **options):
    policy = ScriptedPolicy()
    rows = evaluate(policy, CharTokenizer(), {"f": [problem(w) for w in words]}, SamplingParams(), judge, **options)
    return policy, rows


def test_every_completion_is_judged_strictly_and_format_free(judge):
    _, rows = run(judge, ["right", "wrong", "formless", "cut", "failed"])
    marks = {row.id: (row.strict.status, row.format_free.status) for row in rows}
    assert marks == {
        "right": ("correct", "correct"),
        "wrong": ("wrong", "wrong"),
        "formless": ("wrong", "correct"),
        "cut": ("wrong", "correct"),
        "failed": ("unjudged", "unjudged"),
    }
    result = summarise(rows)["f"]
    assert (result.n, result.strict.mean, result.format_free.mean, result.unjudged) == (4, 0.25, 0.75, 1)
    assert result.truncated == pytest.approx(0.2)


def test_greedy_rows_are_sampled_without_noise_and_kept_apart(judge):
    policy, rows = run(judge, ["right"], greedy=True)
    assert [row.decoding for row in rows] == ["sampled", "greedy"]
    assert policy.calls[1][1][0].temperature == 0.0
    assert summarise(rows)["f"].greedy.mean == 1.0


def test_all_families_share_one_call_and_each_problem_has_its_own_seed(judge):
    policy = ScriptedPolicy()
    families = {"f": [problem("right"), problem("wrong")], "g": [problem("right")]}
    evaluate(policy, CharTokenizer(), families, SamplingParams(), judge, samples_per_problem=3)
    ((prompts, params),) = policy.calls
    assert len(prompts) == 3 and {p.n for p in params} == {3}
    assert len({p.seed for p in params}) == 3
    assert params[0].seed == problem_seed(0, "f", problem("right"))


def test_the_plain_template_states_the_question_and_stops_at_a_blank_line(judge):
    policy, _ = run(judge, ["right"], template="plain")
    prompts, params = policy.calls[0]
    assert "".join(map(chr, prompts[0].token_ids)) == "right 1+1\nAnswer:"
    assert params[0].stop == ("\n\n",)


def test_kinds_are_means_over_families(judge):
    families = {"f": [problem("right")], "g": [problem("wrong"), problem("right"), problem("formless")]}
    rows = evaluate(ScriptedPolicy(), CharTokenizer(), families, SamplingParams(), judge)
    assert mean_by_kind(rows) == {"math": pytest.approx((1 + 1 / 3) / 2)}


def test_a_pool_makes_each_verifier_once_with_its_options():
    pool = VerifierPool(format_free=True)
    assert pool["math"] is pool["math"]
    assert pool["math"].format_free
    assert "no such verifier" not in pool
