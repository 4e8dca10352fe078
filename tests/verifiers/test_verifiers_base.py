"""The contract: names, options, answer part, mixed batches."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from openqwq.errors import UserError
from openqwq.types import Message, Problem, Verdict
from openqwq.verifiers import Verifier, answer_part, get_verifier, verify_all
from openqwq.verifiers.registry import BUILT_IN


def make_problem(answer, verifier="math", name="p"):
    return Problem(id=name, source="s", kind="math", messages=(Message("user", "q"),), verifier=verifier, answer=answer)


def test_answer_part_is_what_follows_the_first_closing_tag():
    assert answer_part("a</think>b</think>c", opened=True) == "b</think>c"
    assert answer_part("<think>a</think>\n\nb", opened=None) == "b"


def test_unclosed_or_reopened_thinking_has_no_answer_part():
    assert answer_part("just text", opened=True) is None
    assert answer_part("just text", opened=None) is None
    assert answer_part("a</think>b\n<think>\nc", opened=True) is None
    assert answer_part("just text", opened=True, format_free=True) == "just text"


@pytest.mark.parametrize(
    "answer",
    [
        "The tags are <think> and </think>.",
        "re.sub(r'<think>.*', '', text)",
        '```python\nTAG = """\n<think>\n"""\n```',
        "<think>\nonce more\n</think>\n7",
    ],
)
def test_an_answer_may_speak_of_the_tags(answer):
    assert answer_part(f"so\n</think>\n\n{answer}", opened=True) == answer


def test_where_the_prompt_opens_no_thinking_a_text_without_tags_is_the_answer():
    assert answer_part(r"\boxed{56}", opened=False) == r"\boxed{56}"
    assert answer_part("<think>7 * 8</think>\n56", opened=False) == "56"
    assert answer_part("<think>7 * 8 is", opened=False) is None


@pytest.mark.parametrize(
    ("text", "opened", "status", "reason"),
    [
        (r"\boxed{56}", False, "correct", ""),
        (r"7 * 8 is \boxed{56}.", False, "correct", ""),
        ("<think>\n7 * 8\n</think>\n\n\\boxed{56}", False, "correct", ""),
        (r"\boxed{57}", False, "wrong", "wrong answer"),
        (r"<think>perhaps \boxed{56}", False, "wrong", "thinking not closed"),
        ("It is 56.", False, "wrong", "no answer"),
        (r"perhaps \boxed{56}", True, "wrong", "thinking not closed"),
        (r"perhaps \boxed{56}", None, "wrong", "thinking not closed"),
        ("</think>It is 56.", True, "wrong", "no answer"),
    ],
)
def test_the_prompt_tells_a_verifier_where_the_answer_begins(text, opened, status, reason):
    problem = replace(make_problem("56"), thinking_opened=opened)
    verdict = get_verifier("math", num_workers=1)(problem, text)
    assert (verdict.status, verdict.reason) == (status, reason)


@pytest.mark.parametrize(
    ("opened", "text", "reason"),
    [
        (True, "so</think>7", ""),
        (False, "<think>so</think>7", ""),
        (False, "so</think>7", "thinking not opened"),
        (False, "7", "thinking not closed"),
    ],
)
def test_format_asks_for_the_tag_that_the_prompt_has_not_written(opened, text, reason):
    assert get_verifier("format")(replace(make_problem("7"), thinking_opened=opened), text).reason == reason


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
    first, *others = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    namespace = {}
    exec(first, namespace)
    assert namespace["verdict"].status == "correct"
    for own in others:
        exec(own, namespace)
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
