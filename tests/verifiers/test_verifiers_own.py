"""Reward functions of the user's own: from a file and from Python, in every shape, and what goes wrong in them."""

import math
import os
import time

import pytest

from openqwq.errors import UserError
from openqwq.types import Message, Problem, Verdict
from openqwq.verifiers import get_verifier, given_verifiers, needs_answer, verifier_of, verify_all
from openqwq.verifiers.base import as_verdict

REWARDS = """
import asyncio
import os
import sys
import time
from dataclasses import dataclass

import helper_of_rewards
from openqwq.types import Verdict

@dataclass
class Bonus:
    size: float = 0.5

def number(problem, completion):
    return 3.5 if problem.answer in completion else -2

def any_names(p, c):
    return p.answer == c

def by_name(completion, level, answer, bonus=0.0):
    return {"answer": float(answer == completion), "level": level, "bonus": bonus}

def everything(problem, completion, **columns):
    return columns["level"]

def from_trl(prompts, completions, level, **columns):
    assert columns["answer"] == ["56"] * len(completions) and prompts == ["7 * 8?"] * len(completions)
    return [len(text) - min(map(len, completions)) for text in completions]

def for_messages(completions, **columns):
    return [float(len(turns[0]["content"])) for turns in completions]

def too_few(completions):
    return [1.0]

async def later(problem, completion):
    await asyncio.sleep(0)
    return Bonus().size

def a_verdict(problem, completion):
    return Verdict.wrong("too long", score=0.25, reward=-4.0, details={"n": 3})

def helped(problem, completion):
    return helper_of_rewards.VALUE

def uneven(completions):
    if "raise" in completions:
        raise ValueError("no")
    if "die" in completions:
        os._exit(7)
    return [1.0 for _ in completions]

def raises(problem, completion):
    value = {}
    return value["extra"]

def leaves(problem, completion):
    sys.exit(3)

def sleeps(problem, completion):
    time.sleep(60)

def spins(problem, completion):
    while True:
        pass

def dies(problem, completion):
    os._exit(9)

def reads(problem, completion):
    return len(sys.stdin.read())

def says(problem, completion):
    print("a line that is no answer")
    return 1

def wants(problem, completion, colour):
    return 1
"""


def line_of(text):
    """The number of the line of `REWARDS` that has this text."""
    return next(number for number, line in enumerate(REWARDS.splitlines(), 1) if text in line)


@pytest.fixture
def rewards(tmp_path):
    (tmp_path / "helper_of_rewards.py").write_text("VALUE = 0.75\n")
    (tmp_path / "rewards.py").write_text(REWARDS)
    return lambda name, **options: get_verifier(f"{tmp_path / 'rewards.py'}:{name}", **options)


def problem(**fields):
    messages = (Message("user", "7 * 8?"),)
    given = {"id": "1", "source": "s", "kind": "math", "messages": messages, "verifier": "x", "answer": "56"}
    return Problem(**{**given, "metadata": {"level": 2}, **fields})


@pytest.mark.parametrize(
    ("name", "completion", "expected"),
    [
        ("number", "it is 56", ("correct", 1.0, 3.5)),
        ("number", "it is 57", ("wrong", 0.0, -2.0)),
        ("any_names", "56", ("correct", 1.0, 1.0)),
        ("any_names", "5", ("wrong", 0.0, 0.0)),
        ("by_name", "56", ("correct", 1.0, 3.0)),
        ("everything", "56", ("correct", 1.0, 2.0)),
        ("later", "", ("wrong", 0.5, 0.5)),
        ("a_verdict", "", ("wrong", 0.25, -4.0)),
        ("helped", "", ("wrong", 0.75, 0.75)),
        ("says", "", ("correct", 1.0, 1.0)),
        ("reads", "", ("wrong", 0.0, 0.0)),
    ],
)
def test_a_function_in_a_file_judges_in_whatever_shape_it_has(rewards, name, completion, expected):
    verdict = rewards(name)(problem(), completion)
    assert (verdict.status, verdict.score, verdict.training_reward) == expected


def test_named_parts_are_kept_and_options_reach_the_function(rewards):
    verdict = rewards("by_name", bonus=0.5)(problem(), "5")
    assert {name: part["score"] for name, part in verdict.details["parts"].items()} == {
        "answer": 0.0,
        "level": 2.0,
        "bonus": 0.5,
    }
    assert verdict.training_reward == 2.5


def test_a_function_of_trl_gets_the_rollouts_of_one_problem_in_one_call(rewards):
    pairs = [(problem(), "a"), (problem(), "abc"), (problem(id="2"), "abcd"), (problem(id="2"), "ab")]
    assert [v.training_reward for v in rewards("from_trl").verify_many(pairs)] == [0.0, 2.0, 2.0, 0.0]


def test_a_function_of_trl_gets_messages_where_the_data_has_messages(rewards):
    talk = problem(metadata={"conversational": True})
    assert rewards("for_messages")(talk, "four").training_reward == 4.0


def test_one_bad_completion_leaves_the_others_of_its_group_judged(rewards):
    pairs = [(problem(), text) for text in ("a", "raise", "b", "die")]
    verdicts = rewards("uneven").verify_many(pairs)
    assert [v.status for v in verdicts] == ["correct", "unjudged", "correct", "unjudged"]
    assert verdicts[1].reason == f"uneven raised ValueError: no (rewards.py, line {line_of('ValueError')})"
    assert "ended its process (exit code 7)" in verdicts[3].reason


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("raises", f"raises raised KeyError: 'extra' (rewards.py, line {line_of('return value[')})"),
        ("leaves", f"leaves raised SystemExit: 3 (rewards.py, line {line_of('sys.exit')})"),
        ("sleeps", "rewards.py:sleeps took longer than 0.5 s"),
        ("spins", "rewards.py:spins took longer than 0.5 s"),
        ("dies", "rewards.py:dies ended its process (exit code 9)"),
        ("wants", "wants needs `colour`"),
    ],
)
def test_a_fault_of_the_function_is_unjudged_with_its_reason(rewards, name, reason):
    verdicts = rewards(name, timeout_s=0.5).verify_many([(problem(), "a"), (problem(), "b")])
    assert [v.status for v in verdicts] == ["unjudged", "unjudged"]
    assert all(reason in v.reason and math.isnan(v.training_reward) for v in verdicts)


def test_each_completion_is_asked_for_alone_where_the_list_is_too_short(rewards):
    verdicts = rewards("too_few").verify_many([(problem(), "a"), (problem(), "b")])
    assert [v.training_reward for v in verdicts] == [1.0, 1.0]  # each asked alone gets its one


@pytest.mark.parametrize("value", [math.nan, math.inf, "yes", None, [1.0, 2.0], {}, {"a": "b"}, {"a": math.nan}])
def test_what_is_no_finite_number_is_unjudged(value):
    assert as_verdict(value).status == "unjudged"


@pytest.mark.parametrize("verdict", [Verdict.correct(score=2.0), Verdict.wrong("x", reward=math.inf)])
def test_a_verdict_with_numbers_out_of_range_is_unjudged(verdict):
    assert as_verdict(verdict).status == "unjudged"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"format": 0.5, "answer": 1}, ("correct", 1.5)),
        ({"format": 0.5, "answer": 0}, ("wrong", 0.5)),
        ({"format": 1.0, "answer": 0, "correct": False}, ("wrong", 1.0)),
        ({"length": 812, "reward": 0.2, "correct": True}, ("correct", 0.2)),
        ({"correct": True}, ("correct", 1.0)),
    ],
)
def test_parts_are_summed_unless_they_name_the_reward(parts, expected):
    verdict = as_verdict(parts)
    assert (verdict.status, verdict.training_reward) == expected
    assert set(verdict.details["parts"]) == set(parts) - {"reward", "correct"}


def test_numbers_of_numpy_count():
    numpy = pytest.importorskip("numpy")
    assert as_verdict(numpy.float32(2.5)).training_reward == 2.5
    assert as_verdict(numpy.bool_(True)).status == "correct"
    assert as_verdict(numpy.zeros(3)).status == "unjudged"


def test_an_installed_function_may_pay_any_finite_number():
    made = verifier_of(lambda p, c: -7.5, "paid")()
    assert made(problem(), "a").training_reward == -7.5


def test_a_file_that_cannot_be_used_is_a_user_error(rewards, tmp_path):
    with pytest.raises(UserError, match="no function `nothing`; the file has number"):
        rewards("nothing")
    with pytest.raises(UserError, match=r"unknown option of verifier `rewards\.py:by_name`: `bonsu`"):
        rewards("by_name", bonsu=1)
    with pytest.raises(UserError, match="cannot read"):
        get_verifier(f"{tmp_path}/absent.py:score")
    (tmp_path / "broken.py").write_text("def score(p, c):\n    return 1 +\n")
    with pytest.raises(UserError, match=r"SyntaxError: .* \(broken\.py, line 2\)"):
        get_verifier(f"{tmp_path}/broken.py:score")
    (tmp_path / "raising.py").write_text("import no_such_module_of_mine\n")
    with pytest.raises(UserError, match=r"no_such_module_of_mine.*raising\.py, line 1"):
        get_verifier(f"{tmp_path}/raising.py:score")
    (tmp_path / "lonely.py").write_text("def score(completion_only_by_another_name):\n    return 1\n")
    with pytest.raises(UserError, match="is given"):
        get_verifier(f"{tmp_path}/lonely.py:score")


def test_an_edit_of_the_file_changes_nothing_of_a_verifier_that_was_made(tmp_path):
    file = tmp_path / "rewards.py"
    file.write_text("import os\ndef score(p, c):\n    return os._exit(1) if c == 'die' else 1.0\n")
    verifier = get_verifier(f"{file}:score")
    file.write_text("def score(p, c):\n    return 0.0\n")
    assert verifier(problem(), "die").status == "unjudged"  # the worker is a new one from here on
    assert verifier(problem(), "a").score == 1.0
    assert get_verifier(f"{file}:score")(problem(), "a").score == 0.0
    assert get_verifier(f"{file}:score").version != verifier.version


def test_functions_from_python_run_in_workers_that_die_alone():
    offset = 7

    def mine(problem, completion, bonus=0.0):
        if completion == "raise":
            raise KeyError("extra")
        if completion == "hang":
            time.sleep(60)
        if completion == "die":
            os._exit(9)
        return offset + bonus

    with given_verifiers({"mine": mine, "same": lambda p, c: c == p.answer, "maths": "math"}) as digests:
        assert set(digests) == {"mine", "same"}
        verifier = get_verifier("mine", bonus=0.5, timeout_s=0.5)
        verdicts = verifier.verify_many([(problem(), c) for c in ("a", "raise", "hang", "die", "b")])
        assert [v.status for v in verdicts] == ["correct", "unjudged", "unjudged", "unjudged", "correct"]
        assert verdicts[0].training_reward == 7.5 and "KeyError: 'extra'" in verdicts[1].reason
        assert get_verifier("same")(problem(), "56").status == "correct"
        assert get_verifier("maths").name == "math" and not needs_answer("mine") and needs_answer("maths")
    with pytest.raises(UserError, match="unknown verifier: `mine`"):
        get_verifier("mine")
    with given_verifiers({"mine": mine}):  # the workers of before are gone, and nothing of them is asked
        assert get_verifier("mine", timeout_s=0.5)(problem(), "a").training_reward == 7.0


def test_names_that_are_taken_and_values_that_are_no_verifiers_are_refused():
    with pytest.raises(UserError, match="there is a verifier `math` already"), given_verifiers({"math": print}):
        pass
    with pytest.raises(UserError, match="a function, a Verifier or a name"), given_verifiers({"mine": 3}):
        pass


def test_a_composite_pays_the_weighted_mean_of_its_parts_rewards(rewards, tmp_path):
    own = f"{tmp_path / 'rewards.py'}:number"
    made = get_verifier("composite", weights={"mine": 3, "format": 1}, parts={"mine": {"verifier": own}})
    verdict = made(problem(), "t\n</think>\n\n56")
    assert verdict.training_reward == pytest.approx((3 * 3.5 + 1) / 4)
    assert verdict.score == 1.0
    assert not needs_answer("composite", {"weights": {"format": 1}})
    assert needs_answer("composite", {"weights": {"format": 1, "math": 1}})


def test_verify_all_takes_functions_by_their_place(rewards, tmp_path):
    from openqwq.eval.judging import Judge

    own = f"{tmp_path / 'rewards.py'}:any_names"
    pairs = [(problem(verifier=own), "56"), (problem(verifier="math"), "</think>\\boxed{56}")]
    assert [v.status for v in verify_all(pairs, Judge().strict)] == ["correct", "correct"]
