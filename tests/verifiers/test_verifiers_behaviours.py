"""Behaviours are found where they are and nowhere else, with their places in the text."""

import pytest

from openqwq.verifiers.behaviours import BEHAVIOURS

PLAIN = "12 + 30 is 42.\n</think>\n\n\\boxed{42}"
LOOP = "so we add one and then we add two "


def places(name, text, opened=True):
    return [text[start:end] for start, end in BEHAVIOURS[name].find(text, opened)]


def test_a_plain_completion_shows_no_behaviour():
    assert not any(behaviour.shows(PLAIN, True) for behaviour in BEHAVIOURS.values())


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("self_verification", "So x = 3. Let me check: 2 * 3 = 6.", ["Let me check"]),
        ("self_verification", "Substituting back gives 7.", ["Substituting back"]),
        ("self_verification", "The checkout is closed.", []),
        ("backtracking", "Wait, the sign is wrong. Hmm.", ["Wait", "Hmm"]),
        ("backtracking", "Alternatively, use 5.", ["Alternatively,"]),
        ("backtracking", "The waiter is awaited.", []),
        ("subgoals", "First, add the tens. Then, add the ones.", ["First,", "Then,"]),
        ("subgoals", "First, add.", []),
        ("subgoals", "\n1. add\n2. carry", ["\n1. ", "\n2. "]),
        ("hack_canary", "thinking</think>\nimport sys\nsys.exit(0)", ["sys.exit"]),
        ("hack_canary", "sys.exit(0) would cheat</think>\nsys.exit(1); exit(0)", ["sys.exit", "exit(0)"]),
        ("hack_canary", "sys.exit would be cheating</think>\nprint(3)", []),
        ("no_thinking", "\n</think>\n\n42", ["\n</think>"]),
        ("no_thinking", "<think>\n</think>42", ["<think>\n</think>"]),
        ("no_thinking", "so 42</think>42", []),
        ("no_thinking", "still thinking", []),
        ("language_mixing", "therefore 因此我们得到 the answer", ["因此我们得到"]),
        ("language_mixing", "因此我们得到答案", []),
        ("language_mixing", "let $\\alpha = 3$ be", []),
        ("language_mixing", "```\nпривет\n``` therefore 因此 or", ["因此"]),
        ("language_mixing", "1 + 1 = 2", []),
    ],
)
def test_each_behaviour_is_found_where_it_is_and_nowhere_else(name, text, found):
    assert places(name, text) == found


def test_a_loop_is_all_that_was_said_before():
    assert places("loops", "Well: " + LOOP * 10 + "done") == [(LOOP * 9).strip()]


def test_loops_need_length_and_repetition():
    assert not places("loops", LOOP * 3)
    assert not places("loops", " ".join(f"step {i} gives {i * i}" for i in range(100)))


def test_a_canary_around_a_tool_call_is_a_canary_without_a_place_of_its_own():
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    assert BEHAVIOURS["hack_canary"].shows(f"x</think>except:{call}pass", True)
    quoted = '<tool_call>\n{"name": "python", "arguments": {"code": "sys.exit(0)"}}\n</tool_call>'
    assert not BEHAVIOURS["hack_canary"].shows(f"x</think>{quoted}", None)


def test_where_no_thinking_is_opened_an_untagged_text_is_the_answer():
    assert places("hack_canary", "import sys\nsys.exit(0)", opened=False) == ["sys.exit"]
    assert not places("hack_canary", "<think>\nsys.exit(0) would cheat\n</think>\nprint(3)", opened=False)
    assert BEHAVIOURS["no_thinking"].shows("The answer is 42.", False)
    assert not BEHAVIOURS["no_thinking"].shows("<think>\nsum\n</think>\n\n42", False)
    assert not BEHAVIOURS["no_thinking"].shows("<think>\nsum, 42", False)
