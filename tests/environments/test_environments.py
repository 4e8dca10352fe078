"""The shipped environments: sound, with bounds that hold, and a check that finds what is not."""

import json
import os
from typing import ClassVar

import pytest

from openqwq.agents import Step, play
from openqwq.cli.main import main
from openqwq.environments import ENVIRONMENTS, Calc, Fix, Guess, check, get_environment
from openqwq.environments.fix import FACTORS, INPUTS, SUMMANDS
from openqwq.errors import UserError
from openqwq.types import ToolCall


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_shipped_environment_is_sound(name):
    findings = check(get_environment(name), episodes=8 if name == "fix" else 100)
    assert [finding for finding in findings if not finding.holds] == []


def test_hidden_answers_leave_guessing_at_five_of_thirty_one():
    def in_order(seed):
        return lambda seen: ToolCall("guess", {"n": 1 + 6 * len(seen)})

    blind = Guess(feedback=False)
    observed = {play(blind, {"number": n}, in_order(0)).verdict.status for n in (1, 7, 13, 19, 25)}
    assert observed == {"correct"}
    found = [play(blind, {"number": n}, in_order(0)).verdict.status for n in range(1, 32)]
    assert found.count("correct") == 5
    assert not any("low" in o or "high" in o for o in play(blind, {"number": 31}, in_order(0)).observations)


def test_one_example_of_fix_fits_several_programs_and_two_fit_one():
    points = [(a, b, x) for a in FACTORS for b in SUMMANDS for x in INPUTS]
    fitting = [sum(p * x + q == a * x + b for p in FACTORS for q in SUMMANDS) for a, b, x in points]
    one = sum(1 / n for n in fitting) / len(points)
    two = sum(min(1, 2 / n) for n in fitting) / len(points)
    assert (round(one, 2), round(two, 2)) == (0.38, 0.69)


def test_bisection_finds_every_number_up_to_thirty_one():
    game = Guess()
    for number in range(1, 32):
        task = {"number": number}
        assert play(game, task, lambda seen, task=task: game.reference(task, seen)).verdict.status == "correct"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("\\boxed{60}", "correct"),
        ("so \\boxed{ 60 }.", "correct"),
        ("60", "wrong"),
        ("\\boxed{61}", "wrong"),
        ("\\boxed{60} or \\boxed{61}", "wrong"),
        ("", "wrong"),
    ],
)
def test_calc_wants_one_boxed_number(answer, status):
    game = Calc()
    assert play(game, {"terms": [10, 20, 30]}, lambda seen: answer).verdict.status == status


def test_calc_without_its_tool_tells_nothing():
    game = Calc(available=False)
    played = play(game, game.task(0), lambda seen: ToolCall("add", {"a": 1, "b": 2}))
    assert set(played.observations) == {"unavailable"} and len(played.moves) == game.max_turns


def test_fix_shows_another_example_and_takes_a_second_try():
    game = Fix()
    task = {"a": 2, "b": 3, "x": 4, "other": 5}
    first, second = "def f(x):\n    return x + 7", "def f(x):\n    return 2 * x + 3"
    played = play(game, task, lambda seen: ToolCall("submit", {"code": second if seen else first}))
    assert played.observations == ("failed: f(5) = 13", "passed") and played.verdict.status == "correct"
    blind = play(Fix(feedback=False), task, lambda seen: ToolCall("submit", {"code": first}))
    assert blind.observations == ("failed", "failed") and blind.verdict.status == "wrong"


@pytest.mark.parametrize("code", ["def f(x", "import time\ntime.sleep(60)", "raise SystemExit", "x = 1"])
def test_programs_that_fail_are_wrong_never_unjudged(code):
    game = Fix(max_turns=1)
    assert play(game, game.task(0), lambda seen: ToolCall("submit", {"code": code})).verdict.status == "wrong"


class Impure(Guess):
    """Changes the state that it is given."""

    def step(self, state, call):
        state["guesses"].append(call.arguments["n"])
        return super().step(state, call)


class Leaky(Guess):
    """Keeps a descriptor a step."""

    kept: ClassVar[list[int]] = []

    def step(self, state, call):
        self.kept.append(os.open("/dev/null", os.O_RDONLY))
        return super().step(state, call)


class Generous(Guess):
    """Is passed by whoever does nothing."""

    def verdict(self, state, answer):
        return super().verdict({**state, "found": True}, answer)


class Raising(Guess):
    """Cannot be stepped."""

    def step(self, state, call):
        raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("kind", "finding"),
    [
        (Impure, "steps are pure, and states JSON"),
        (Leaky, "nothing is left behind"),
        (Generous, "an empty policy fails"),
        (Raising, "the reference passes"),
    ],
)
def test_check_finds_what_is_unsound(kind, finding):
    failing = {found.name for found in check(kind(), episodes=5) if not found.holds}
    while Leaky.kept:
        os.close(Leaky.kept.pop())
    assert finding in failing


def test_call_that_the_machine_failed_leaves_an_episode_unjudged():
    class Faulty(Guess):
        def step(self, state, call):
            return Step(state, "the jail is gone", failed=True)

    game = Faulty()
    assert play(game, game.task(0), lambda seen: ToolCall("guess", {"n": 1})).verdict.status == "unjudged"


def test_wrong_arguments_cost_a_turn_and_are_told():
    game = Guess()
    played = play(game, {"number": 3}, lambda seen: ToolCall("guess", {"n": 3 if len(seen) == 1 else "x"}))
    assert played.observations[0].startswith("error: `n`") and played.verdict.status == "correct"


def test_env_verb_lists_plays_and_checks(capsys):
    assert main(["env", "list", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["guess", "calc", "fix"]
    assert main(["env", "play", "calc", "--reference", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "correct"
    assert main(["env", "check", "guess", "--episodes", "5"]) == 0
    assert "FAILS" not in capsys.readouterr().out


def test_unknown_environment_is_refused_with_the_near_one(capsys):
    assert main(["env", "check", "gues"]) == 2
    assert "did you mean `guess`" in capsys.readouterr().err
    with pytest.raises(UserError):
        get_environment("none")
