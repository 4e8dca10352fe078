"""Tasks of HumanEval, MBPP, LiveCodeBench and APPS: canonical programs pass, mutated ones fail."""

import ast
import base64
import gzip
import json
import pickle
import random
import zlib
from pathlib import Path

import pytest

from openqwq.sandbox import Sandbox
from openqwq.types import Message, Problem
from openqwq.verifiers.code.tasks import TaskError, read_task
from openqwq.verifiers.code.verifier import CodeVerifier

DATA = Path(__file__).parents[2].parent / "shared" / "data"
HELPER = "from typing import List\n\ndef helper(x):\n    return x\n\n\n"
HUMANEVAL = {
    "prompt": HELPER + 'def add(xs: List[int]) -> int:\n    """Sum."""\n',
    "test": "def check(candidate):\n    assert candidate([1, 2]) == helper(3)\n    assert candidate([]) == 0\n",
    "entry_point": "add",
}
MBPP = {
    "test_list": ["assert set(pick([1, 2])) == {1}", "assert sqrt(pick([4])[0]) == 2"],
    "test_imports": ["from math import sqrt"],
}
APPS = {"inputs": ["1 2\n", "5 5\n"], "outputs": ["3\n", "10\n"]}
CALLS = {"fn_name": "twice", "inputs": ["[1, 2]\n3", "[]\n0"], "outputs": ["[1, 2, 1, 2, 3]", "[0]"]}
LIVE = {
    "tests": json.dumps([{"input": "[5]\n1", "output": "[5, 5, 1]", "testtype": "functional"}]),
    "func_name": "twice",
}
METADATA = json.dumps({"func_name": "twice"})


def pack(value):
    """As LiveCodeBench publishes its private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(value)))).decode()


CALL = {"input": "[5]\n1", "output": "[5, 5, 1]", "testtype": "functional"}
PUBLISHED = {
    "question_id": "1", "public_test_cases": json.dumps([CALL]), "metadata": METADATA,
    "private_test_cases": pack([{"input": "[]\n4", "output": "[4]", "testtype": "functional"}]),
}  # fmt: skip
CONTEST = {"public_test_cases": "[]", "metadata": "{}", "private_test_cases": pack([{"input": "2\n", "output": "4\n"}])}
METHOD = "class Solution:\n    def twice(self, xs: List[int], n: int) -> List[int]:\n        return xs * 2 + [n]"


@pytest.fixture(scope="module")
def verifier():
    with Sandbox(workers=2) as sandbox:
        yield CodeVerifier(wall_s=20, sandbox=sandbox)


def judge(verifier, answer, *programs):
    problem = Problem(id="p", source="s", kind="code", messages=(Message("user", "q"),), verifier="code", answer=answer)
    return verifier.verify_many([(problem, f"hm</think>\n\n```python\n{program}\n```") for program in programs])


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        (HUMANEVAL, "def add(xs: List[int]) -> int:\n    return helper(sum(xs))", "def add(xs):\n    return 3"),
        (MBPP, "def pick(xs):\n    return xs[:1]", "def pick(xs):\n    return xs[1:]"),
        (APPS, "print(sum(map(int, input().split())))", "print(3)"),
        (
            {"input_output": json.dumps(APPS)},
            "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))",
            "print()",
        ),
        (CALLS, METHOD, METHOD.replace("2", "3")),
        (LIVE, METHOD, METHOD.replace("[n]", "[1.5]")),
        (PUBLISHED, METHOD, METHOD.replace("xs * 2", "xs + [5]")),
        (CONTEST, "print(2 * int(input()))", "print(5)"),
        (
            {"test_list": ["assert size(1) == sys.maxsize"], "code": "import sys, os\ndef size(x): return sys.maxsize"},
            "def size(x):\n    import sys\n    return sys.maxsize",
            "def size(x):\n    return 1",
        ),
        (LIVE, "def twice(xs, n):\n    return xs * 2 + [n]", "def twice(xs, n):\n    return xs"),
    ],
)  # fmt: skip
def test_right_program_passes_and_wrong_one_fails(verifier, answer, right, wrong):
    first, second = judge(verifier, answer, right, wrong)
    assert (first.status, second.status) == ("correct", "wrong"), (first.reason, second.reason)


ADD = {"fn_name": "add", "inputs": [[1, 2], [3, 4]]}


@pytest.mark.parametrize(
    ("outputs", "result", "status"),
    [
        ([[3], [7]], "a + b", "correct"), ([[3], [7]], "[a + b]", "correct"), ([3, 7], "a + b", "correct"),
        ([[3], [7]], "a - b", "wrong"), ([3, 7], "[a + b]", "wrong"), ([[3, 3], [7, 7]], "a + b", "wrong"),
        ([[3, 3], [7, 7]], "(a + b,) * 2", "correct"), ([[None], [None]], "None", "correct"),
        ([["3"], ["7"]], "str(a + b)", "correct"), ([[3], 7], "a + b", "wrong"), ([[[]], [[]]], "[]", "correct"),
    ],
)  # fmt: skip
def test_outputs_of_apps_may_each_stand_in_a_list(verifier, outputs, result, status):
    (verdict,) = judge(verifier, ADD | {"outputs": outputs}, f"def add(a, b):\n    return {result}")
    assert verdict.status == status, verdict


def test_values_of_a_function_are_compared_as_json_can_say_them(verifier):
    answer = {"mode": "function", "entry_point": "f", "tests": [{"args": [3], "expected": {"1": [1, 3]}}]}
    verdicts = judge(verifier, answer, *(f"def f(n):\n    return {v}" for v in ("{1: (1, 3.0)}", "{1: (1, True)}")))
    assert [v.status for v in verdicts] == ["correct", "wrong"]


def test_a_text_in_place_of_the_arguments_is_the_only_one(verifier):
    answer = {"mode": "function", "entry_point": "f", "tests": [{"args": "abc", "expected": 3}]}
    assert [v.status for v in judge(verifier, answer, "def f(s):\n    return len(s)")] == ["correct"]


def test_long_integers_of_a_task_are_read(verifier):
    rows = [{"input": "9" * 5000, "output": "1" + "0" * 5000, "testtype": "functional"}]
    answer = {"public_test_cases": json.dumps(rows), "private_test_cases": "[]", "metadata": METADATA}
    programs = [f"class Solution:\n    def twice(self, n): return n + {k}" for k in (1, 2)]
    assert [v.status for v in judge(verifier, answer, *programs)] == ["correct", "wrong"]


@pytest.mark.parametrize(
    ("tests", "mode"),
    [
        ([{"args": [1], "expected": 2}], "function"), ([{"stdin": "1", "stdout": "2"}], "stdio"),
        (["assert f(1) == 2"], "asserts"), ([{"input": "1", "output": "2"}], "function"),
    ],
)  # fmt: skip
def test_mode_that_is_left_out_is_told_by_the_tests(verifier, tests, mode):
    answer = {"tests": tests, "entry_point": "f"}
    assert read_task(answer).mode == mode
    programs = ["def f(x):\n    return x + 1\nif __name__ == '__main__':\n    print(f(int(input())))"]
    programs.append(programs[0].replace("+ 1", "+ 2"))
    assert [v.status for v in judge(verifier, answer, *programs)] == ["correct", "wrong"]


@pytest.mark.parametrize("tests", [[{"args": [1]}], [{"args": [1], "expected": 1}, "assert 1"], [{}], [1]])
def test_mode_that_the_tests_do_not_tell_is_unreadable(tests):
    with pytest.raises(TaskError):
        read_task({"tests": tests, "entry_point": "f"})


def test_tolerance_is_the_tasks_or_the_options(verifier):
    task = {"mode": "stdio", "tests": [{"stdin": "", "stdout": "0.3333333333\n"}]}
    programs = ["print(0.3333)", "print(0.33333333)", "print(1 / 3)"]
    found = {t: [v.status for v in judge(verifier, task | t_of(t), *programs)] for t in (None, 0, 0.01)}
    assert found[None] == ["wrong", "correct", "correct"]
    assert found[0] == ["wrong"] * 3
    assert found[0.01] == ["correct"] * 3
    for wrong in (True, "0.1", -1, 2):
        with pytest.raises(TaskError, match="tolerance"):
            read_task(task | {"tolerance": wrong})


def t_of(tolerance):
    return {} if tolerance is None else {"tolerance": tolerance}


@pytest.mark.parametrize(
    "answer",
    [
        None, {}, {"test_list": []}, {"test_list": ["assert ("]}, {"test_list": ["assert 1"]},
        {"inputs": [], "outputs": []},
        {"inputs": ["1"], "outputs": []}, {"inputs": ["1"], "outputs": [2]}, {"tests": "eJxrYJmqyA=="},
        {"tests": [{"stdin": ""}]},
        {"fn_name": "f", "inputs": ["[1"], "outputs": ["1"]}, {"prompt": "", "test": "", "entry_point": "f"},
        {"mode": "function", "tests": [1]}, {"mode": "prose", "tests": [1], "entry_point": "f"},
    ],
)  # fmt: skip
def test_unreadable_tasks_are_told(answer):
    with pytest.raises(TaskError):
        read_task(answer)


class Evil:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize(
    "packed",
    [
        "no base64", base64.b64encode(b"no zlib").decode(),
        *(base64.b64encode(zlib.compress(raw)).decode() for raw in (b"", b"x", pickle.dumps(1), pickle.dumps(Evil()))),
        *(base64.b64encode(zlib.compress(pickle.dumps(v))).decode() for v in (["a"], ("a", "b"), b"a")),
        pack([1])[:-8], pack({"a": 1}), pack([1]),
    ],
)  # fmt: skip
def test_packed_tests_that_are_no_packed_text_are_told_and_never_unpickled(packed, capsys):
    with pytest.raises(TaskError):
        read_task({"public_test_cases": "[]", "metadata": "{}", "private_test_cases": packed})
    assert capsys.readouterr().out == ""


def test_public_samples_of_livecodebench_are_read():
    path = DATA / "qwq_eval" / "livecodebench_public_samples.jsonl"
    if not path.exists():
        pytest.skip("needs the developers' data set qwq_eval")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 279
    for row in rows:
        name = row.get("entry")
        cases = [
            {"input": "\n".join(map(json.dumps, t["args"])), "output": json.dumps(t["expected"])} if name else t
            for t in row["tests"]
        ]
        task = read_task({"public_test_cases": json.dumps(cases), "metadata": json.dumps({"func_name": name})})
        assert task.mode == ("function" if name else "stdio")
        if name:
            assert task.tests == row["tests"]
        else:
            assert [(t["stdin"], t["stdout"]) for t in task.tests] == [(t["input"], t["output"]) for t in row["tests"]]


def mutate(code):
    """The program with the first comparison, number or operator of its body changed; None where it has none."""
    tree = ast.parse(code)
    swaps = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.Eq: ast.NotEq}
    for node in ast.walk(tree):
        if isinstance(node, ast.Return) and node.value is not None:
            node.value = ast.Tuple([node.value, ast.Constant("changed")], ast.Load())
        elif isinstance(node, ast.BinOp) and type(node.op) in swaps:
            node.op = swaps[type(node.op)]()
    return ast.unparse(ast.fix_missing_locations(tree))


def humaneval_cases():
    path = DATA / "humaneval" / "HumanEval.jsonl.gz"
    if not path.exists():
        pytest.skip("needs the developers' data set humaneval")
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    return [(row, row["prompt"] + row["canonical_solution"]) for row in rows]


def mbpp_cases():
    path = DATA / "mbpp" / "sanitized-mbpp.json"
    if not path.exists():
        pytest.skip("needs the developers' data set mbpp")
    return [(row, row["code"]) for row in json.loads(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("cases", [humaneval_cases, mbpp_cases])
def test_sample_of_canonical_programs_passes_and_mutated_ones_fail(verifier, cases):
    for row, code in random.Random(1).sample(cases(), 6):
        first, second = judge(verifier, row, code, mutate(code))
        assert first.status == "correct", (row["task_id"], first.reason)
        assert second.status == "wrong", row["task_id"]


def test_every_task_of_both_sets_is_readable():
    assert all(read_task(row).entry_point in code for row, code in humaneval_cases() + mbpp_cases())
