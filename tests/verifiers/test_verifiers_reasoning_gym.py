"""Answers to reasoning-gym problems: exact rules, closed scoring holes, the library behind a pattern."""

import json

import pytest
import reasoning_gym
from hypothesis import given, settings
from hypothesis import strategies as st
from reasoning_gym.factory import DATASETS

from openqwq.errors import UserError
from openqwq.types import Message, Problem
from openqwq.verifiers import get_verifier
from openqwq.verifiers.reasoning_gym.rules import LIBRARY, REFUSED, RULES
from openqwq.verifiers.reasoning_gym.verifier import require_supported

STRICT = get_verifier("reasoning_gym", num_workers=1, deadline_s=2.0)
FREE = get_verifier("reasoning_gym", num_workers=1, format_free=True)
SLOW_TO_GENERATE = {
    "arc_agi",
    "cryptarithm",
    "group_anagrams",
    "futoshiki",
    "knight_swap",
    "puzzle24",
    "sokoban",
    "sudoku",
    "zebra_puzzles",
    "countdown",
}


def make_problem(dataset, answer, **metadata):
    entry = {"question": "q", "answer": answer, "metadata": metadata}
    return problem_of(dataset, entry)


def problem_of(dataset, entry):
    answer = json.loads(json.dumps({"dataset": dataset, "entry": entry}))
    message = (Message("user", "q"),)
    return Problem(id="p", source=dataset, kind="math", messages=message, verifier="reasoning_gym", answer=answer)


def judge(problem, answer, verifier=STRICT):
    return verifier(problem, f"37+48=85\n</think>\n\n\\boxed{{{answer}}}").status


def test_every_data_set_of_the_library_is_ruled_delegated_or_refused():
    assert set(RULES) | set(LIBRARY) | set(REFUSED) == set(DATASETS)
    assert not set(RULES) & set(LIBRARY)


@pytest.mark.parametrize("dataset", sorted({*RULES, *LIBRARY} - SLOW_TO_GENERATE))
def test_gold_passes_and_shotguns_fail(dataset):
    data = reasoning_gym.create_dataset(dataset, size=2, seed=11)
    for entry in data:
        metadata = entry["metadata"]
        gold = entry["answer"] or metadata.get("example_correct_answer") or json.dumps(metadata.get("possible_answer"))
        problem = problem_of(dataset, entry)
        assert judge(problem, gold) == "correct", gold
        for wrong in ("", "garbage", "None", "{}", "[]", f"The answer is {gold}", f"{gold} or 5", f"5, {gold}"):
            assert judge(problem, wrong) == "wrong", wrong


@pytest.mark.parametrize(
    ("dataset", "gold", "answer", "status"),
    [
        ("chain_sum", "73", "73", "correct"), ("chain_sum", "73", "37+36", "wrong"), ("chain_sum", "-4", "4", "wrong"),
        ("decimal_chain_sum", "1.50", "1.5", "correct"), ("number_sorting", "['-4.0', '2']", "[-4, 2]", "correct"),
        ("number_sorting", "['-4.0', '2']", "[2, -4]", "wrong"), ("base_conversion", "3a0", "3A0", "correct"),
        ("spell_backward", "hsig", "hsgi", "wrong"), ("fraction_simplification", "$2/3$", r"\frac{2}{3}", "correct"),
        ("fraction_simplification", "$2/3$", "4/6", "wrong"),
        ("prime_factorization", "2 × 2 × 3", "3 x 2 x 2", "correct"),
        ("prime_factorization", "2 × 2 × 3", "4 × 3", "wrong"), ("prime_factorization", "7", "seven", "wrong"),
        ("game_of_life_halting", "False", "True", "wrong"), ("game_of_life_halting", "False", "False", "correct"),
        ("complex_arithmetic", "6.00i", "6i", "correct"), ("complex_arithmetic", "8.0 + 3.0i", "8 - 3i", "wrong"),
        ("polynomial_equations", "-0.04, 0.0", "0, -0.04", "correct"), ("polynomial_equations", "0.0", "0, 1", "wrong"),
        ("calendar_arithmetic", "Tuesday", "tuesday", "correct"), ("calendar_arithmetic", "14", "14.0", "correct"),
        ("bitwise_arithmetic", "-0x1f", "-0x1F", "correct"), ("bitwise_arithmetic", "0x1f", "31", "wrong"),
        ("codeio", '{"a": 1}', '{"a": true}', "wrong"), ("coin_flip", "3.051757812e-05", "0.00003051757812", "correct"),
        ("coin_flip", "3.051757812e-05", "0", "wrong"),
        ("knights_knaves", "Al is a knave, and Bo is a knight.", "Bo is a knight, and Al is a knave", "correct"),
        ("knights_knaves", "Al is a knave, and Bo is a knight.", "Al is a knave", "wrong"),
    ],
)  # fmt: skip
def test_own_rules(dataset, gold, answer, status):
    assert judge(make_problem(dataset, gold), answer) == status


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("(3 + 5) * 4", "correct"), ("4 * (5+3)", "correct"), (r"(3+5) \times 4", "correct"), ("(3+5)*4 = 32", "wrong"),
        ("32", "wrong"), ("3+5", "wrong"), ("8*4", "wrong"), ("(3+5)*4*1", "wrong"), ("4**5-992+3-3", "wrong"),
        ("__import__('os')", "wrong"), ("(" * 250, "wrong"), ("3/0", "wrong"), ("None", "wrong"),
    ],
)  # fmt: skip
def test_countdown_takes_any_expression_that_uses_each_number_once(answer, status):
    assert judge(make_problem("countdown", "(3+5)*4", numbers=[3, 4, 5], target=32), answer) == status


def test_puzzle24_must_use_the_given_numbers():
    problem = make_problem("puzzle24", "4*6*1*1", numbers=[1, 1, 4, 6])
    assert judge(problem, "6*4*1/1") == "correct"
    assert judge(problem, "8*3*1*1") == "wrong"


@pytest.mark.parametrize("code", ["exec(chr(49))", "open(x)", "x.real", "__class__", "().x", "lambda: x", "x or x"])
def test_code_never_reaches_a_scorer_that_evaluates(code):
    problem = make_problem("simple_integration", "X**2 + C", variable="X", integrand="2*X")
    assert STRICT.prepare(problem, f"</think>\\boxed{{{code}}}").reason == "wrong answer"
    assert isinstance(STRICT.prepare(problem, "</think>\\boxed{X**2 + 7}"), list)


@pytest.mark.parametrize(
    "dataset", ["simple_integration", "tower_of_hanoi", "rubiks_cube", "cryptarithm", "word_ladder"]
)
def test_pattern_of_a_delegated_data_set_is_linear(dataset):
    for unit in ("1", "A ", "A=1,", "Move disk 1 from Peg 1 to Peg 2\n", " "):
        answer = unit * (3900 // len(unit)) + "é"
        assert judge(make_problem(dataset, "gold"), answer) == "wrong"


def test_hanging_scorer_is_ended():
    problem = make_problem("simple_integration", "X**2 + C", variable="X", integrand="2*X")
    verdict = STRICT(problem, r"</think>\boxed{X**9**9**9**9}")
    assert (verdict.status, verdict.details["stage"]) == ("wrong", "candidate")
    assert verdict.reason in ("deadline", "memory")


@pytest.mark.parametrize("answer", [None, {}, {"dataset": "chain_sum"}, {"dataset": "chain_sum", "entry": {}}, "7"])
def test_unreadable_task_is_unjudged(answer):
    message = (Message("user", "q"),)
    problem = Problem(id="p", source="s", kind="math", messages=message, verifier="reasoning_gym", answer=answer)
    assert STRICT(problem, r"</think>\boxed{7}").status == "unjudged"


@pytest.mark.parametrize(("dataset", "gold"), [("chain_sum", "seven"), ("chain_sum", None), ("n_queens", "Q")])
def test_unreadable_gold_is_unjudged(dataset, gold):
    assert judge(make_problem(dataset, gold), "7") == "unjudged"


@pytest.mark.parametrize("dataset", sorted(REFUSED))
def test_refused_data_sets_are_a_user_error_at_admission_and_unjudged_later(dataset):
    with pytest.raises(UserError, match="refused"):
        require_supported(dataset)
    assert judge(make_problem(dataset, "7"), "7") == "unjudged"


def test_unknown_data_set_names_the_nearest():
    with pytest.raises(UserError) as error:
        require_supported("chain_sums")
    assert "chain_sum" in error.value.hint


def test_format_free_reads_the_last_number_or_the_last_line():
    assert FREE(make_problem("chain_sum", "73"), "37+48=85\n85-12=73").status == "correct"
    assert STRICT(make_problem("chain_sum", "73"), "37+48=85\n85-12=73").status == "wrong"
    assert FREE(make_problem("spell_backward", "hsif"), "fish\nhsif").status == "correct"
    assert FREE(make_problem("syllogism", "No"), "The answer is No.").status == "correct"


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(RULES)), st.text(alphabet="0123456789.,+-*/=()[]{}\"'$\\ ×xi\nab", max_size=30))
def test_nothing_raises_on_arbitrary_text(dataset, text):
    problem = make_problem(dataset, "7", numbers=[1, 2], target=3, valid_answers=["Q"])
    for verifier in (STRICT, FREE):
        for completion in (f"</think>\\boxed{{{text}}}", text):
            verdict = verifier(problem, completion)
            assert verdict.status in ("correct", "wrong", "unjudged")
            assert 0 <= verdict.score <= 1 and (verdict.score == 0 or verdict.status == "correct")
