"""Assert-style tests: they run beside the program, in a process of their own."""

import gzip
import json
from pathlib import Path

import pytest

from openqwq.sandbox import Limits, Sandbox, Submission

DATA = Path(__file__).parents[2].parent / "shared" / "data"
LIMITS = Limits(wall_s=20, cpu_s=20, memory_mib=128)


def verdicts(sandbox, code, tests, limits=LIMITS):
    result = sandbox.judge(code, "asserts", "f", tests, limits)
    return [test.verdict for test in result.tests] or result.verdict


def test_asserts_pass_and_fail_one_by_one(sandbox):
    tests = ["assert f(1) == 2", "assert f(x=1) == 3", "assert f(5) == 6, 'six'", "assert f([1])"]
    expected = ["passed", "wrong_answer", "passed", "runtime_error"]
    assert verdicts(sandbox, "def f(x):\n    return x + 1", tests) == expected


def test_check_function_may_await_exceptions(sandbox):
    check = (
        "def check(g):\n    assert abs(g(4) - 0.25) < 1e-9\n    try: g(0)\n    except ZeroDivisionError: pass\n"
        "    else: assert False\ncheck(f)"
    )
    assert verdicts(sandbox, "def f(x):\n    return 1 / x", [check]) == ["passed"]
    assert verdicts(sandbox, "def f(x):\n    return 1 / (x or 1)", [check]) == ["wrong_answer"]


HOSTILE = {
    "always_equal": ("class E:\n    def __eq__(s, o): return True\ndef f(x): return E()", "wrong_answer"),
    "exit": ("import os\ndef f(x): os._exit(0)", "runtime_error"),
    "exit_on_import": ("import sys\nsys.exit(0)", "runtime_error"),
    "patched_assertion": ("import builtins\nbuiltins.AssertionError = ValueError\ndef f(x): return 5", "wrong_answer"),
    "forged_verdicts": (
        "import os\nfor fd in range(3, 200):\n    try: os.write(fd, b'[\"passed\"]\\n' * 4)\n    except OSError: pass\n"
        "def f(x): return 5",
        None,
    ),
    "flooded_answers": (
        "import os\ndef f(x):\n    while True: os.write(102, b'x' * 60000)",
        None,
    ),
    "large_answer": ("def f(x): return 'a' * 10**9", "memory"),
    "loop": ("def f(x):\n    while True: pass", "timeout"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_program_passes_no_assert(sandbox, name):
    code, verdict = HOSTILE[name]
    limits = Limits(wall_s=0.5, cpu_s=1, memory_mib=64)
    result = sandbox.judge(code, "asserts", "f", ["assert f(1) == 1", "assert f(2) == 2"], limits)
    assert result.verdict not in ("passed", "infra_error")
    assert result.num_passed == 0
    assert verdict in (None, result.verdict)
    assert verdicts(sandbox, "def f(x):\n    return x", ["assert f(1) == 1"]) == ["passed"]


def test_catching_everything_does_not_pass_over_a_dead_program(warm_sandbox):
    tests = ["try:\n    f(0)\nexcept:\n    pass"]
    assert verdicts(warm_sandbox, "import os\ndef f(x): os._exit(0)", tests) == ["runtime_error"]


@pytest.mark.parametrize("tests", [["assert f((1"], ["assert f(lambda: 1)"], [{"args": [], "expected": 1}]])
def test_unreadable_asserts_are_a_fault_of_ours(warm_sandbox, tests):
    assert verdicts(warm_sandbox, "def f(x):\n    return x", tests) == "infra_error"


def _humaneval_text(row):
    """The prompt's own helper functions, which some tests use, around the proxy; then the tests."""
    name = row["entry_point"]
    return f"candidate = {name}\n{row['prompt']}\n    pass\n{name} = candidate\n{row['test']}\ncheck(candidate)"


@pytest.mark.slow
def test_every_canonical_solution_of_humaneval_passes():
    path = DATA / "humaneval" / "HumanEval.jsonl.gz"
    if not path.exists():
        pytest.skip("HumanEval is not at hand")
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    submissions = [
        Submission(
            code=row["prompt"] + solution,
            mode="asserts",
            entry_point=row["entry_point"],
            tests=[_humaneval_text(row)],
            limits=LIMITS,
        )
        for row in rows
        for solution in (row["canonical_solution"], "    return None\n")
    ]
    with Sandbox() as sandbox:
        results = [result.verdict for result in sandbox.judge_many(submissions)]
    assert len(rows) == 164
    failed = {rows[i]["task_id"]: v for i, v in enumerate(results[::2]) if v != "passed"}
    assert failed == {}
    assert "passed" not in results[1::2]
