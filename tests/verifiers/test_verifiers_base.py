"""The contract: names, options, answer part, mixed batches."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from openqwq.errors import UserError
from openqwq.types import Message, Problem, Verdict
from openqwq.verifiers import Verifier, answer_part, get_verifier, verifier_of, verify_all
from openqwq.verifiers.registry import BUILT_IN


def make_problem(answer, verifier="math", name="p"):
    return Problem(id=name, source="s", kind="math", messages=(Message("user", "q"),), verifier=verifier, answer=answer)


def test_answer_part_is_what_follows_the_last_closing_tag():
    assert answer_part("a</think>b</think>c") == "c"
    assert answer_part("<think>a</think>\n\nb") == "\n\nb"


def test_unclosed_or_reopened_thinking_has_no_answer_part():
    assert answer_part("just text") is None
    assert answer_part("a</think>b<think>c") is None
    assert answer_part("just text", format_free=True) == "just text"


def test_unknown_verifier_names_the_nearest():
    with pytest.raises(UserError) as error:
        get_verifier("maths")
    assert "`math`" in error.value.hint


def test_unknown_option_names_the_nearest():
    with pytest.raises(UserError) as error:
        get_verifier("math", formatfree=True)
    assert "`format_free`" in error.value.hint


@pytest.mark.parametrize("options", [{"format_free": "yes"}, {"deadline_s": "3"}, {"num_workers": 1.5}])
def test_option_of_a_wrong_type_is_a_user_error(options):
    with pytest.raises(UserError, match="must be of type"):
        get_verifier("math", **options)


@pytest.mark.parametrize("name", ["format", "language", "repetition", "length"])
def test_format_free_may_be_given_to_verifiers_that_read_no_answer(name):
    assert type(get_verifier(name, format_free=True)) is type(get_verifier(name))
    with pytest.raises(UserError, match="must be of type bool"):
        get_verifier(name, format_free="yes")


def test_the_documentation_says_what_runs():
    text = (Path(__file__).parents[2] / "docs" / "verifiers.md").read_text(encoding="utf-8")
    first, own = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    namespace = {}
    exec(first, namespace)
    assert namespace["verdict"].status == "correct"
    exec(own, namespace)
    made = verifier_of(namespace["no_digits"], "no_digits")
    assert made(allowed=1)(make_problem(None), "12</think>3").status == "correct"
    assert made()(make_problem(None), "12</think>3").status == "wrong"
    table = set(re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE))
    assert {name for cell in table for name in re.findall(r"`(\w+)`", cell)} >= set(BUILT_IN)


def test_missing_required_option_is_a_user_error():
    with pytest.raises(UserError, match="needs the option `scorer`"):
        get_verifier("reward_model")


class ByName(Verifier):
    name = "by_name"

    def __init__(self, reason):
        super().__init__()
        self.reason = reason

    def __call__(self, problem, completion):
        return Verdict.wrong(f"{self.reason} {problem.id} {completion}")


def test_mixed_batch_keeps_its_order():
    verifiers = {"a": ByName("A"), "b": ByName("B")}
    pairs = [(make_problem(None, name, str(i)), f"c{i}") for i, name in enumerate("abbab")]
    reasons = [verdict.reason for verdict in verify_all(pairs, verifiers)]
    assert reasons == ["A 0 c0", "B 1 c1", "B 2 c2", "A 3 c3", "B 4 c4"]


def test_problem_without_its_verifier_at_hand_is_a_user_error():
    with pytest.raises(UserError, match="no verifier `code` at hand for problem `p`"):
        verify_all([(make_problem("1", "code"), "x")], {"math": get_verifier("math")})


def test_getting_verifiers_loads_no_heavy_library():
    code = (
        "import sys\nfrom openqwq.verifiers import get_verifier\n"
        "for name in 'math reasoning_gym instructions format language repetition'.split(): get_verifier(name)\n"
        "print([m for m in ('torch', 'sympy', 'numpy', 'reasoning_gym', 'math_verify') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
