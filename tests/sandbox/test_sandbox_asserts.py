"""Assert-style tests: they run beside the program, in a process of their own."""

import gzip
import json
from pathlib import Path

import pytest

from openqwq.sandbox import Limits, Sandbox, Submission

DATA = Path(__file__).parents[2].parent / "shared" / "data"
LIMITS = Limits(wall_s=60, cpu_s=20, memory_mib=128)


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
    "answers_in_advance": (
        'import os\nos.write(102, b\'[0, "value", 1]\\n[0, "value", 2]\\n\')\ndef f(x): return x',
        "wrong_answer",
    ),
    "answers_too_many": (
        "import os\ndef f(x):\n    if x == 2: os.write(102, b'[0, \"value\", 1]\\n')\n    return x",
        "wrong_answer",
    ),
    "closed_pipes": ("import os\ndef f(x): os.closerange(0, 200)", "runtime_error"),
    "deaf": ("import os, time\nos.close(101)\nos.close(102)\ntime.sleep(60)\ndef f(x): pass", "runtime_error"),
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
    limits = Limits(wall_s=0.5 if name == "loop" else 60, cpu_s=20, memory_mib=64)
    result = sandbox.judge(code, "asserts", "f", ["assert f(1) == 1", "assert f(2) == 2"], limits)
    assert result.verdict not in ("passed", "infra_error")
    assert result.num_passed == 0
    assert verdict in (None, result.verdict)
    if sandbox.jobs_per_jail > 1:
        assert verdicts(sandbox, "def f(x):\n    return x", ["assert f(1) == 1"]) == ["passed"]


def test_catching_everything_does_not_pass_over_a_dead_program(warm_sandbox):
    tests = ["try:\n    f(0)\nexcept:\n    pass"]
    assert verdicts(warm_sandbox, "import os\ndef f(x): os._exit(0)", tests) == ["runtime_error"]


def test_an_answer_too_many_after_the_last_test_is_noticed(warm_sandbox):
    code = "import os\ndef f(x):\n    os.write(102, b'[0, \"value\", 0]\\n' * (x == 2))\n    return x"
    assert verdicts(warm_sandbox, code, ["assert f(1) == 1", "try: f(2)\nexcept: pass"]) == ["wrong_answer"] * 2


def test_collections_and_numbers_arrive_as_what_they_are(warm_sandbox):
    values = [
        "Counter('aab')",
        "OrderedDict([(1, 2)])",
        "defaultdict(list, {1: [2]})",
        "deque([1, 2])",
        "frozenset([1, (2,)])",
        "Fraction(1, 3)",
        "Decimal('0.10')",
        "1 + 2j",
        "range(3)",
    ]
    head = "from collections import *\nfrom fractions import Fraction\nfrom decimal import Decimal\n"
    code = f"{head}def f(i):\n    return [{', '.join(values)}][i]"
    tests = [f"{head}assert repr(f({i})) == repr({value})" for i, value in enumerate(values)]
    tests[2] = "assert f(2) == {1: [2]}"  # what makes its values stays with the program
    assert verdicts(warm_sandbox, code, tests) == ["passed"] * 8 + ["wrong_answer"]


def test_a_result_that_is_no_plain_data_can_only_be_asked_whether_it_is_true(warm_sandbox):
    code = "import re\ndef f(text): return re.search('a+', text)"
    tests = ["assert f('caat')", "assert not f('cut')", "assert f('caat') is not None", "assert f('cut') is None"]
    tests += [
        "assert not f('caat')",
        "assert f('caat') == 1",
        "assert f('caat') != 1",
        "assert f('caat').group() == 'aa'",
    ]
    tests += ["assert f('caat') in [1]", "assert [f('caat')] == [1]", "assert {f('caat'): 1}", "assert f('a') + 1"]
    assert verdicts(warm_sandbox, code, tests) == ["passed"] * 4 + ["wrong_answer"] * 8
    liar = "class T:\n    def __bool__(self): raise SystemExit(0)\ndef f(text): return T()"
    assert verdicts(warm_sandbox, liar, ["assert f('a')", "assert not f('a')"]) == ["runtime_error"] * 2


SWALLOWING = [
    "assert sum(1 for got in map(f, [1, 2]) if got != 5) == 0",
    "assert all(got == 5 for got in map(f, [1, 2]))",
    "assert list(zip(map(f, [1]), [5])) == [] or True",
    "assert next(map(f, [1]), 5) == 5",
    "import contextlib\nwith contextlib.suppress(BaseException): assert f(1) == 5",
    "import unittest\nwith unittest.TestCase().assertRaises(BaseException): f(1)",
    "try:\n    f(1)\nexcept RuntimeError:\n    pass",
    "try:\n    f(1)\nexcept ValueError:\n    pass",
    "try:\n    f(1)\nexcept:\n    pass",
    "def values():\n    yield f(1)\ntry:\n    list(values())\nexcept RuntimeError:\n    pass",
    "for _ in iter(lambda: f(1), 5):\n    break",
]
STEERING = {
    "StopIteration": "raise StopIteration",
    "StopAsyncIteration": "raise StopAsyncIteration",
    "GeneratorExit": "raise GeneratorExit",
    "SystemExit": "raise SystemExit(0)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "exhausted": "return next(iter([]))",
    "recursive": "a = []\n    a.append(a)\n    return a",
    "huge": "return [0] * 5_000_000",
}


@pytest.mark.parametrize("name", STEERING)
def test_exceptions_that_steer_a_test_fail_it_whatever_it_catches(warm_sandbox, name):
    code = f"def f(x):\n    {STEERING[name]}"
    limits = Limits(wall_s=60, cpu_s=20, memory_mib=512)
    found = verdicts(warm_sandbox, code, [*SWALLOWING, "assert 1 + 1 == 2"], limits)
    failed = "wrong_answer" if name in ("recursive", "huge") else "runtime_error"
    assert found == [failed] * len(SWALLOWING) + ["passed"]  # the next test has nothing to do with it


def test_exceptions_that_tell_of_errors_can_be_awaited(warm_sandbox):
    tests = ["try:\n    f(1)\nexcept KeyError as error:\n    assert 'x' in str(error)\nelse:\n    assert False"]
    tests += ["import unittest\nwith unittest.TestCase().assertRaises(LookupError): f(1)"]
    assert verdicts(warm_sandbox, "def f(x):\n    raise KeyError('x')", tests) == ["passed"] * 2
    assert verdicts(warm_sandbox, "def f(x):\n    return 'x'", tests) == ["wrong_answer"] * 2


@pytest.mark.parametrize(
    "use",
    [
        "f(x)", "f([x])", "f(1, key=(x,))", "x == 1", "x != 1", "x + 1", "x < 1", "len(x)", "list(x)", "x[0]", "x.name",
        "x()", "hash(x)", "{x: 1}", "1 in x", "int(x)", "str(x)", "f'{x}'",
        "hasattr(x, 'name')", "next(x)", "-x", "[x] == [1]",
        "x.__enter__()", "abs(x)", "1 + x", "x % 2", "isinstance(x, x)",
    ],
)  # fmt: skip
def test_a_result_that_is_no_plain_data_fails_every_other_use_whatever_catches_it(warm_sandbox, use):
    code = "class Liar:\n    def __eq__(self, other): return True\n    name = 1\ndef f(*a, **k):\n    return Liar()"
    tests = [f"x = f(1)\ntry:\n    {use}\nexcept BaseException:\n    pass", f"x = f(1)\nassert {use}"]
    assert set(verdicts(warm_sandbox, code, tests)) == {"wrong_answer"}


@pytest.mark.parametrize(
    "test",
    [
        "assert __import__('math').isclose(f(1), 2)", "assert __import__('os.path').sep == '/'",
        "m = __import__('collections')\nassert m.Counter('a')['a'] == 1",
    ],
)  # fmt: skip
def test_tests_may_import_by_a_call_with_a_plain_name(warm_sandbox, test):
    assert verdicts(warm_sandbox, "def f(x):\n    return 2 * x", [test]) == ["passed"]


@pytest.mark.parametrize(
    "test", ["__import__(f(1))", "__import__('pickle').loads(f(1))", "i = __import__\ni(f(1))", "__import__(*[f(1)])"]
)
def test_tests_that_import_what_they_are_told_are_refused(warm_sandbox, test):
    assert verdicts(warm_sandbox, "def f(x):\n    return 'os'", [test]) == "infra_error"


@pytest.mark.parametrize("test", ["assert eval(f(1)) == 1", "import pickle\nassert pickle.loads(f(1))", "exec(f(1))"])
def test_tests_that_would_run_what_the_program_returns_are_refused(warm_sandbox, test):
    result = warm_sandbox.judge("def f(x):\n    return '1'", "asserts", "f", [test], LIMITS)
    assert result.verdict == "infra_error"
    assert "must not use" in result.reason


@pytest.mark.parametrize("tests", [["assert f((1"], ["assert f(lambda: 1)"], [{"args": [], "expected": 1}]])
def test_unreadable_asserts_are_a_fault_of_ours(warm_sandbox, tests):
    assert verdicts(warm_sandbox, "def f(x):\n    return x", tests) == "infra_error"


def _humaneval_text(row):
    """The prompt's own helper functions, which some tests use, around the proxy; then the tests."""
    name = row["entry_point"]
    return f"candidate = {name}\n{row['prompt']}\n    pass\n{name} = candidate\n{row['test']}\ncheck(candidate)"


def test_canonical_solutions_of_humaneval_pass():
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
        for row in rows[::8]
        for solution in (row["canonical_solution"], "    return None\n")
    ]
    with Sandbox() as sandbox:
        results = [result.verdict for result in sandbox.judge_many(submissions)]
    assert len(rows) == 164 and len(results) == 42
    failed = {rows[8 * i]["task_id"]: v for i, v in enumerate(results[::2]) if v != "passed"}
    assert failed == {}
    assert "passed" not in results[1::2]
