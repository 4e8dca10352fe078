"""The offline pass-rate filter: rates by hand, an interrupted call goes on, other settings are not mixed in."""

import pytest

from openqwq.errors import UserError
from openqwq.log import read_jsonl
from openqwq.pipeline.pass_rates import measure_pass_rates, why_dropped
from openqwq.types import Completion, Message, Problem, SamplingParams, Verdict
from openqwq.verifiers import Verifier

PARAMS = SamplingParams(n=4, max_tokens=8)


class Says(Verifier):
    """Correct when the completion is the answer; cannot judge "?"."""

    name = "says"

    def __call__(self, problem, completion):
        if completion == "?":
            return Verdict.unjudged("unreadable")
        return Verdict.correct() if completion == problem.answer else Verdict.wrong("other")


class Answers:
    """A policy that gives each problem the texts written for it, and counts how often it is asked."""

    version = 0

    def __init__(self, texts):
        self.texts, self.asked = texts, 0

    def generate(self, prompts, params):
        self.asked += len(prompts)
        return [
            [
                Completion(text=t, token_ids=(1,), logprobs=(0.0,), policy_versions=(0,), finish_reason="stop")
                for t in self.texts[prompt.messages[-1].content]
            ]
            for prompt in prompts
        ]


class Ids:
    def encode_chat(self, messages):
        return [1]

    def opens_thinking(self, prompt_ids):
        return True


def problem(text, answer="a"):
    return Problem(id=text, source="s", kind="k", messages=(Message("user", text),), verifier="says", answer=answer)


TEXTS = {"easy": "aaaa", "half": "aabb", "hard": "bbbb", "torn": "a??b", "dark": "????"}
PROBLEMS = [problem(text) for text in TEXTS]


def measure(policy, output, problems=PROBLEMS, **settings):
    return measure_pass_rates(problems, policy, Ids(), {"says": Says()}, PARAMS, output, settings=settings)


def test_rates_are_over_what_could_be_judged_and_decide_what_stays(tmp_path):
    rates = measure(Answers(TEXTS), tmp_path / "r.jsonl")
    assert rates == [1.0, 0.5, 0.0, 0.5, None]
    reasons = [why_dropped(rate, low=0.1, high=0.9) for rate in rates]
    assert reasons == ["too easy", "", "too hard", "", "unjudged"]


def test_a_call_goes_on_where_a_killed_one_stopped(tmp_path):
    file = tmp_path / "r.jsonl"
    measure(Answers(TEXTS), file, PROBLEMS[:3], model="m")
    with open(file, "a") as log:
        log.write('{"prompt": "torn", "pass')
    policy = Answers(TEXTS)
    assert measure(policy, file, model="m") == [1.0, 0.5, 0.0, 0.5, None]
    assert policy.asked == 2
    assert [row["pass_rate"] for row in read_jsonl(file)] == [1.0, 0.5, 0.0, 0.5, None]


def test_rates_of_other_problems_or_another_model_are_not_taken(tmp_path):
    file = tmp_path / "r.jsonl"
    measure(Answers(TEXTS), file, PROBLEMS[:2], model="m")
    with pytest.raises(UserError, match="measured with model m, not n"):
        measure(Answers(TEXTS), file, model="n")
    with pytest.raises(UserError, match="rates of other problems"):
        measure(Answers(TEXTS), file, PROBLEMS[1:], model="m")
