"""Tool calls: Hermes' form, BFCL's comparison, the leaderboard's own answers."""

import json
from pathlib import Path

import pytest

from openqwq.types import Message, Problem
from openqwq.verifiers import get_verifier

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "bfcl_v3"
VERIFIER = get_verifier("tool_call")

AREA = {
    "name": "geometry.area",
    "parameters": {
        "type": "dict",
        "properties": {
            "base": {"type": "integer"},
            "height": {"type": "float"},
            "unit": {"type": "string"},
            "exact": {"type": "boolean"},
            "points": {"type": "array", "items": {"type": "integer"}},
            "options": {"type": "dict"},
            "rows": {"type": "array", "items": {"type": "dict"}},
        },
        "required": ["base"],
    },
}
CITY = {"name": "weather", "parameters": {"type": "dict", "properties": {"city": {"type": "string"}}, "required": []}}


def make_problem(*calls, functions=(AREA,)):
    answer = {"functions": list(functions), "calls": list(calls)}
    return Problem(
        id="p", source="s", kind="tools", messages=(Message("user", "q"),), verifier="tool_call", answer=answer
    )


def write_calls(*calls):
    texts = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls]
    return "Let me see.\n</think>\n\n" + "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in texts)


@pytest.mark.parametrize(
    ("wanted", "arguments", "status"),
    [
        ({"base": [10]}, {"base": 10}, "correct"), ({"base": [10]}, {"base": 11}, "wrong"),
        ({"base": [10]}, {"base": 10.0}, "wrong"), ({"base": [10]}, {"base": "10"}, "wrong"),
        ({"base": [1]}, {"base": True}, "wrong"), ({"base": [10]}, {}, "wrong"),
        ({"base": [10]}, {"base": 10, "depth": 1}, "wrong"), ({"base": [10]}, {"base": 10, "unit": "m"}, "wrong"),
        ({"base": [1], "height": [5.0]}, {"base": 1, "height": 5}, "correct"),
        ({"base": [1], "height": [5.0]}, {"base": 1}, "wrong"),
        ({"base": [1], "unit": ["cm", ""]}, {"base": 1}, "correct"),
        ({"base": [1], "unit": ["April 1, 2024"]}, {"base": 1, "unit": "april 1 2024"}, "correct"),
        ({"base": [1], "unit": ["cm", "mm"]}, {"base": 1, "unit": "km"}, "wrong"),
        ({"base": [1], "exact": [True]}, {"base": 1, "exact": 1}, "wrong"),
        ({"base": [1], "points": [[1, 2]]}, {"base": 1, "points": [1, 2]}, "correct"),
        ({"base": [1], "points": [[1, 2]]}, {"base": 1, "points": [2, 1]}, "wrong"),
        ({"base": [1], "points": [[1, 2]]}, {"base": 1, "points": [1.0, 2.0]}, "wrong"),
        ({"base": [1], "points": ["", [1]]}, {"base": 1, "points": []}, "correct"),
        ({"base": ["width"]}, {"base": "width"}, "correct"),
        ({"base": [1], "options": [{"a": [1, 2], "b": ["x", ""]}]}, {"base": 1, "options": {"a": 2}}, "correct"),
        ({"base": [1], "options": [{"a": [1, 2]}]}, {"base": 1, "options": {"a": 3}}, "wrong"),
        ({"base": [1], "options": [{"a": [1]}]}, {"base": 1, "options": {"a": 1, "c": 1}}, "wrong"),
        ({"base": [1], "rows": [[{"a": [1]}]]}, {"base": 1, "rows": [{"a": 1}]}, "correct"),
        ({"base": [1], "rows": ["", [{"a": [1]}]]}, {"base": 1, "rows": ["x"]}, "wrong"),
    ],
)  # fmt: skip
def test_arguments_are_compared_as_the_leaderboard_does(wanted, arguments, status):
    verdict = VERIFIER(make_problem({"geometry.area": wanted}), write_calls(("geometry.area", arguments)))
    assert verdict.status == status, verdict.reason


def json_function(**properties):
    return {"name": "f", "parameters": {"type": "object", "properties": properties}}


NUMBER, TEXT, NULL = {"type": "number"}, {"type": "string"}, {"type": "null"}
BOX = {"type": "object", "properties": {"w": NUMBER, "tags": {"type": "array", "items": TEXT}}}


@pytest.mark.parametrize(
    ("schema", "acceptable", "value", "status"),
    [
        (NUMBER, [1.5], 1.5, "correct"), (NUMBER, [2], 2.0, "correct"), (NUMBER, [2.0], 2, "correct"),
        (NUMBER, [1.5], 2.5, "wrong"), (NUMBER, [1], True, "wrong"), (NUMBER, [1.5], "1.5", "wrong"),
        (NUMBER, [2**60], 2**60 + 1, "wrong"),
        (NULL, [None], None, "correct"), (NULL, [None], 0, "wrong"), (NULL, [None], "null", "wrong"),
        ({"type": ["string", "null"]}, ["Oslo"], "oslo", "correct"),
        ({"type": ["string", "null"]}, ["Oslo"], None, "wrong"),
        ({"type": ["string", "null"]}, ["Oslo", None], None, "correct"),
        ({"type": ["integer", "string"]}, [7], 7, "correct"), ({"type": ["integer", "string"]}, [7], "7", "wrong"),
        ({"anyOf": [NUMBER, NULL]}, [3], 3, "correct"), ({"anyOf": [NUMBER, NULL]}, [3], "3", "wrong"),
        ({"type": "object"}, [{"a": 1}], {"a": 1}, "correct"), ({"type": "object"}, [{"a": 1}], {"a": 2}, "wrong"),
        ({"type": "object"}, [{"a": 1}], {"a": True}, "wrong"), ({"type": "object"}, [{"a": 1}], {}, "wrong"),
        ({"type": "object"}, [{"a": 1}], {"a": 1, "b": 1}, "wrong"), ({"type": "object"}, [{"a": 1}], [1], "wrong"),
        ({"type": "object"}, [{"a": [1, 2]}], {"a": [1, 2]}, "correct"),
        ({"type": "object"}, [{"a": [1, 2]}], {"a": 1}, "wrong"),
        (BOX, [{"w": [2, 3], "tags": ["x", "y"]}], {"w": 3, "tags": ["x", "y"]}, "correct"),
        (BOX, [{"w": [2, 3], "tags": ["x", "y"]}], {"w": 4, "tags": ["x", "y"]}, "wrong"),
        (BOX, [{"w": 2, "tags": ["x", "y"]}], {"w": 2, "tags": "x"}, "wrong"),
        ({"type": "array"}, [[1, "a"]], [1, "a"], "correct"), ({"type": "array"}, [[1, "a"]], ["a", 1], "wrong"),
        ({"type": "array", "items": NUMBER}, [[1, 2]], [1.0, 2], "correct"),
        ({"type": "array", "items": NUMBER}, [[1, 2]], [1, "2"], "wrong"),
        ({"type": "array", "items": BOX}, [[{"w": 1}]], [{"w": 1}], "correct"),
        ({}, ["Oslo"], "Oslo", "correct"), ({}, [5], 5, "correct"), ({}, [5], "5", "wrong"), ({}, [1], True, "wrong"),
    ],
)  # fmt: skip
def test_plain_json_schemas_are_understood(schema, acceptable, value, status):
    problem = make_problem({"f": {"x": acceptable}}, functions=[json_function(x=schema)])
    verdict = VERIFIER(problem, write_calls(("f", {"x": value})))
    assert verdict.status == status, verdict.reason


def test_functions_may_be_wrapped_as_openai_does_and_may_take_nothing():
    wrapped = [{"type": "function", "function": function} for function in (AREA, CITY, {"name": "now"})]
    problem = make_problem({"weather": {"city": ["Rome"]}}, {"now": {}}, functions=wrapped)
    rome = ("weather", {"city": "Rome"})
    assert VERIFIER(problem, write_calls(rome, ("now", {}))).status == "correct"
    assert VERIFIER(problem, write_calls(rome, ("now", {"zone": "utc"}))).status == "wrong"
    assert VERIFIER(problem, write_calls(("weather", {"city": "Oslo"}), ("now", {}))).status == "wrong"


def test_names_are_exact_and_dots_may_be_underscores_on_request():
    problem = make_problem({"geometry.area": {"base": [1]}})
    text = write_calls(("geometry_area", {"base": 1}))
    assert VERIFIER(problem, text).reason == "the function is not `geometry_area`"
    assert get_verifier("tool_call", underscores=True)(problem, text).status == "correct"


def test_parallel_calls_match_in_any_order_and_in_number():
    problem = make_problem({"weather": {"city": ["Rome"]}}, {"weather": {"city": ["Oslo"]}}, functions=(AREA, CITY))
    oslo, rome = ("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"})
    assert VERIFIER(problem, write_calls(oslo, rome)).status == "correct"
    for calls in ([oslo], [oslo, oslo], [oslo, rome, rome], []):
        assert VERIFIER(problem, write_calls(*calls)).status == "wrong"


def test_no_call_where_none_is_right():
    problem = make_problem()
    assert VERIFIER(problem, "</think>None of the functions helps.").status == "correct"
    assert VERIFIER(problem, write_calls(("geometry.area", {"base": 1}))).status == "wrong"
    assert VERIFIER(problem, "</think> ").reason == "empty answer"


def test_calls_in_the_thinking_and_broken_ones_do_not_count():
    problem = make_problem({"geometry.area": {"base": [1]}})
    call = write_calls(("geometry.area", {"base": 1})).partition("</think>")[2]
    assert VERIFIER(problem, f"<think>{call}</think>so").status == "wrong"
    assert VERIFIER(problem, call).reason == "thinking not closed"
    assert get_verifier("tool_call", format_free=True)(problem, call).status == "correct"
    assert VERIFIER(problem, "</think><tool_call>{'name'</tool_call>").reason == "malformed tool call"
    assert VERIFIER(problem, "</think><tool_call>" + "[" * 100_000).reason == "malformed tool call"


@pytest.mark.parametrize(
    "answer",
    [
        None, {}, {"functions": [AREA]}, {"functions": [], "calls": [{"geometry.area": {}}]},
        {"functions": [AREA, CITY], "calls": [{"unknown": {}}]}, {"functions": [AREA], "calls": [{}]},
        {
            "functions": [{**AREA, "parameters": {"properties": {"base": {"type": "complex"}}}}],
            "calls": [{"a": {"base": [1]}}],
        },
    ],
)  # fmt: skip
def test_unreadable_tasks_are_unjudged(answer):
    problem = Problem(
        id="p", source="s", kind="t", messages=(Message("user", "q"),), verifier="tool_call", answer=answer
    )
    assert VERIFIER(problem, write_calls(("geometry.area", {"base": 1}))).status == "unjudged"


def read_rows(*parts):
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip("needs the developers' data set bfcl_v3")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def first_answers(call):
    """A call made of the first acceptable value of each argument, down to dictionaries in lists."""
    ((name, wanted),) = call.items()
    values = {p: next((a for a in acceptable if a != ""), None) for p, acceptable in wanted.items()}
    return name, {p: pick(value) for p, value in values.items() if value is not None}


def pick(value):
    if isinstance(value, list):
        return [pick(item) for item in value]
    if isinstance(value, dict):
        return {k: next((a for a in v if a != ""), "") if isinstance(v, list) else v for k, v in value.items()}
    return value


@pytest.mark.parametrize("category", ["simple", "multiple", "parallel", "parallel_multiple"])
def test_leaderboard_answers_pass_and_spoilt_ones_fail(category):
    questions = {row["id"]: row for row in read_rows(f"BFCL_v3_{category}.json")}
    passed = 0
    rows = read_rows("possible_answer", f"BFCL_v3_{category}.json")
    for row in rows:
        problem = make_problem(*row["ground_truth"], functions=questions[row["id"]]["function"])
        calls = [first_answers(call) for call in row["ground_truth"]]
        passed += VERIFIER(problem, write_calls(*reversed(calls))).status == "correct"
        (name, arguments), *others = calls
        for spoilt in (
            [],
            [*calls, calls[0]],
            [(name, {**arguments, "extra": 1}), *others],
            [(f"{name}x", arguments), *others],
        ):
            assert VERIFIER(problem, write_calls(*spoilt)).status == "wrong", row["id"]
    assert passed >= 0.98 * len(rows)  # a few of the listed answers break their own schema's types


def test_irrelevant_functions_are_left_alone():
    for row in read_rows("BFCL_v3_irrelevance.json"):
        problem = make_problem(functions=row["function"])
        assert VERIFIER(problem, "</think>I cannot do this with the given functions.").status == "correct"
        assert VERIFIER(problem, write_calls((row["function"][0]["name"], {}))).status == "wrong"
