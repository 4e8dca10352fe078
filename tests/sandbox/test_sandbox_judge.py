"""Honest programs: results compared type for type, scripts compared by their output, limits reported."""

import logging
import platform
import shutil
import subprocess
import sys
import time
from collections import deque
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from openqwq.errors import UserError
from openqwq.sandbox import Limits, Sandbox, Submission, client
from openqwq.sandbox.jail.probe import find_options
from openqwq.sandbox.outputs import same_output

LIMITS = Limits(wall_s=60, cpu_s=20)


def judge_value(sandbox, expression, expected):
    tests = [{"args": [], "expected": expected}]
    return sandbox.judge(f"def f():\n    return {expression}", entry_point="f", tests=tests, limits=LIMITS).verdict


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("None", None),
        ("True", True),
        ("3", 3),
        ("2 ** 200", 2**200),
        ("-(10 ** 4000)", -(10**4000)),
        ("0.1 + 0.2", 0.3),
        ("float('nan')", float("nan")),
        ("3", 3.0),
        ("'é\\n\\ud800'", "é\n\ud800"),
        ("b'\\x00\\xff'", b"\x00\xff"),
        ("[1, [2, ()]]", [1, [2, ()]]),
        ("{1, (2, 'a')}", {1, (2, "a")}),
        ("{'a': {2: [0.5]}}", {"a": {2: [0.5]}}),
        ("__import__('collections').Counter('aab')", {"a": 2, "b": 1}),
        ("__import__('collections').deque([1, 2])", deque([1, 2])),
        ("frozenset([1, 2])", frozenset([2, 1])),
        ("{frozenset([1]): 2}", {frozenset([1]): 2}),
        ("complex(0.1 + 0.2, 1)", complex(0.3, 1)),
        ("__import__('fractions').Fraction(2, 6)", Fraction(1, 3)),
        ("__import__('decimal').Decimal('1.50')", Decimal("1.50")),
    ],
)
def test_equal_values_pass(warm_sandbox, expression, expected):
    assert judge_value(warm_sandbox, expression, expected) == "passed"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0", None),
        ("1", True),
        ("True", 1),
        ("3.0", 3),
        ("4", 3),
        ("2 ** 200 + 1", 2**200),
        ("0.3001", 0.3),
        ("True", 1.0),
        ("10 ** 400", 1.0),
        ("'a '", "a"),
        ("'ab'", b"ab"),
        ("(1, 2)", [1, 2]),
        ("[1, 2]", (1, 2)),
        ("[1]", [1, 2]),
        ("[1, 2, 3]", [1, 2]),
        ("{1}", {1, 2}),
        ("{1.0, 2}", {1, 2}),
        ("{'a': 1, 'b': 2}", {"a": 1}),
        ("{'a': 1}", {"a": 1, "b": 2}),
        ("{'a': True}", {"a": 1}),
        ("[['i', '0x1']]", [1]),
        ("frozenset([1])", {1}),
        ("[1, 2]", deque([1, 2])),
        ("complex(1, 2)", complex(2, 1)),
        ("0.3333333333333333", Fraction(1, 3)),
        ("{frozenset([1]): 2}", {frozenset([2]): 2}),
        ("iter([1])", [1]),
        ("f", 1),
    ],
)
def test_near_misses_fail(warm_sandbox, expression, expected):
    assert judge_value(warm_sandbox, expression, expected) == "wrong_answer"


def test_verdict_is_that_of_the_first_failing_test(warm_sandbox):
    code = "def f(x):\n    return {0: 0, 1: 5}[x]"
    tests = [{"args": [x], "expected": x} for x in (0, 1, 2)]
    result = warm_sandbox.judge(code, entry_point="f", tests=tests, limits=LIMITS)
    assert [test.verdict for test in result.tests] == ["passed", "wrong_answer", "runtime_error"]
    assert result.verdict == "wrong_answer"
    assert "KeyError" in result.tests[2].reason


def test_restart_goes_on_after_a_test_that_ends_the_program(warm_sandbox):
    code = "import os\ndef f(x):\n    if x == 1: os._exit(3)\n    return x"
    tests = [{"args": [x], "expected": x} for x in (0, 1, 2)]
    result = warm_sandbox.judge(code, entry_point="f", tests=tests, limits=LIMITS, restart=True)
    assert [test.verdict for test in result.tests] == ["passed", "runtime_error", "passed"]
    result = warm_sandbox.judge(code, entry_point="f", tests=tests, limits=LIMITS)
    assert [test.verdict for test in result.tests] == ["passed", "runtime_error", "runtime_error"]


def test_entry_point_may_be_a_method_of_a_class(warm_sandbox):
    code = "class Solution:\n    def __init__(self):\n        self.calls = 0\n"
    code += "    def f(self, x):\n        self.calls += 1\n        return [x, self.calls]"
    tests = [{"args": [5], "expected": [5, 1]}, {"args": [6], "expected": [6, 2]}]
    result = warm_sandbox.judge(code, entry_point="Solution.f", tests=tests, limits=LIMITS)
    assert result.verdict == "passed", result


def test_files_lie_beside_a_script(warm_sandbox):
    files = {"data/a.txt": b"a", "m.py": b"x = 3\n"}
    code = "import sys\nsys.path.insert(0, '')\nimport m\nprint(m.x, open('data/a.txt').read())"
    assert warm_sandbox.run(code, limits=LIMITS, files=files).stdout == "3 a\n"
    with pytest.raises(UserError, match="not a relative path"):
        warm_sandbox.run("", files={"../x": b""})
    with pytest.raises(UserError, match="more than half"):
        warm_sandbox.run("", files={"x": bytes(3 << 20)}, limits=Limits(tmp_mib=4))


def test_honest_oddities_pass(warm_sandbox):
    code = (
        "import sys, threading, random, subprocess\nsys.setrecursionlimit(20000)\n"
        "def depth(n): return 0 if n == 0 else 1 + depth(n - 1)\n"
        "def f(n):\n    print('noise', file=sys.stderr); print('noise')\n    box = []\n"
        "    t = threading.Thread(target=lambda: box.append(n)); t.start(); t.join()\n"
        "    child = subprocess.run(['python3', '-c', 'print(7)'], capture_output=True, text=True)\n"
        "    return [depth(15000), box[0], child.stdout]\n"
        "if __name__ == '__main__':\n    sys.exit(1)"
    )
    tests = [{"args": [4], "expected": [15000, 4, "7\n"]}]
    assert warm_sandbox.judge(code, entry_point="f", tests=tests, limits=LIMITS).verdict == "passed"


def test_script_reads_stdin_in_every_way(warm_sandbox):
    code = "import sys\nprint(input(), sys.stdin.readline().strip(), list(sys.stdin))"
    assert warm_sandbox.run(code, "a\nb\nc d\n", LIMITS).stdout == "a b ['c d\\n']\n"
    assert warm_sandbox.run("import sys\nprint(sys.stdin.buffer.read())", "a\nb", LIMITS).stdout == "b'a\\nb'\n"
    assert warm_sandbox.run("import os\nprint(os.read(0, 100))", "é", LIMITS).stdout == "b'\\xc3\\xa9'\n"


def test_script_tests_compare_lines_but_for_blank_ends(warm_sandbox):
    tests = [{"stdin": "2 3\n", "stdout": "5"}, {"stdin": "1 1\n", "stdout": "2\n"}]
    good = "a, b = map(int, input().split())\nprint(a + b, '')\nimport sys\nsys.exit(0)"
    assert warm_sandbox.judge(good, mode="stdio", tests=tests, limits=LIMITS).verdict == "passed"
    bad = warm_sandbox.judge("print(5)", mode="stdio", tests=tests, limits=LIMITS)
    assert [test.verdict for test in bad.tests] == ["passed", "wrong_answer"]
    crash = warm_sandbox.judge("print(5)\n1/0", mode="stdio", tests=tests, limits=LIMITS)
    assert crash.verdict == "runtime_error"


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("5", "5\n\n", True), ("a  \nb", "a\nb", True), ("", "\n", True), ("1.50 2\n", "1.5 2.0", True),
        ("007", "7", True), ("-0.0", "0", True), ("+3", "3", True), (" 1  2", "1 2", True), (".5", "0.50", True),
        ("5", "6", False), ("a\nb", "a\n\nb", False), ("", "0", False), ("1 2", "12", False), ("1\n2", "1 2", False),
        ("1", "1\n1", False), ("0.3333", "0.33333", False), ("-1", "1", False), ("1e3", "1000", True),
        ("a 1.0", "a 1", False),
        (" a", "a", False), ("1_0", "10", False), ("nan", "NaN", False), ("٣", "3", False), ("100", "10", False),
    ],
)  # fmt: skip
def test_outputs_are_the_same_line_by_line_and_number_by_number(found, expected, same):
    assert same_output(found, expected) is same


def test_run_reports_exit_code_output_and_traceback(warm_sandbox):
    result = warm_sandbox.run("import sys\nprint('out')\ndef g():\n    1 / 0\ng()", limits=LIMITS)
    assert (result.status, result.exit_code, result.stdout) == ("runtime_error", 1, "out\n")
    assert result.stderr.splitlines()[1] == '  File "program.py", line 5, in <module>'
    assert result.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert warm_sandbox.run("import sys; sys.exit(7)", limits=LIMITS).exit_code == 7
    assert warm_sandbox.run("import os; os.abort()", limits=LIMITS).exit_code < 0


def test_processor_time_limit_ends_as_timeout(warm_sandbox):
    result = warm_sandbox.run("while True: pass", limits=Limits(wall_s=20, cpu_s=1))
    assert result.status == "timeout"


def test_the_same_program_gives_the_same_set_order_in_every_process(warm_sandbox):
    code = "print({str(i) for i in range(20)})"
    assert len({warm_sandbox.run(code, limits=LIMITS).stdout for _ in range(3)}) == 1


@pytest.mark.parametrize(
    "tests", [[], [{"args": [1]}], [{"args": 3, "expected": 1}], [{"args": [], "expected": object()}]]
)
def test_unreadable_tests_are_a_fault_of_ours(warm_sandbox, tests):
    result = warm_sandbox.judge("def f(x):\n    return 1", entry_point="f", tests=tests, limits=LIMITS)
    assert result.verdict == "infra_error"


def test_many_are_judged_in_order(warm_sandbox):
    submissions = [
        Submission(
            code=f"def f():\n    return {i}",
            entry_point="f",
            tests=[{"args": [], "expected": i - i % 3}],
            limits=LIMITS,
        )
        for i in range(12)
    ]
    verdicts = [result.verdict for result in warm_sandbox.judge_many(submissions)]
    assert verdicts == ["passed", "wrong_answer", "wrong_answer"] * 4


def test_a_jail_that_dies_is_replaced(warm_sandbox):
    with Sandbox(workers=1) as sandbox:
        assert sandbox.run("print(1)", limits=LIMITS).stdout == "1\n"
        sandbox._jails[0]._process.kill()
        sandbox._jails[0]._process.wait()
        assert sandbox.run("print(2)", limits=LIMITS).stdout == "2\n"


def test_jails_end_with_their_host_process():
    code = (
        "import os, signal\nfrom openqwq.sandbox import Sandbox\nsandbox = Sandbox(workers=1)\nsandbox.run('')\n"
        "print(sandbox._jails[0]._process.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    jail = Path(f"/proc/{int(child.stdout)}/stat")
    deadline = time.monotonic() + 10
    while jail.exists() and jail.read_text().rsplit(")", 1)[1].split()[0] != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert time.monotonic() < deadline


def test_one_jail_a_job_holds_where_namespaces_cannot_be_nested(monkeypatch):
    flat = replace(find_options(), nested=False)
    monkeypatch.setattr(client, "find_options", lambda jail, no_jail: flat)
    tests = [{"args": [], "expected": 1}]
    with Sandbox(workers=1) as sandbox:
        assert sandbox.capabilities()["namespaces_per_job"] is False
        assert (
            sandbox.run("import os\nopen('/tmp/note', 'w')\nprint(os.listdir('/proc'))", limits=LIMITS).stdout == "[]\n"
        )
        assert sandbox.run("import os\nprint(os.listdir('/tmp'))", limits=LIMITS).stdout == "[]\n"
        killer = "import os, time\ndef f():\n    os.kill(-1, 9)\n    time.sleep(9)"
        assert sandbox.judge(killer, entry_point="f", tests=tests, limits=LIMITS).verdict == "killed"
        loop = sandbox.run("import os\nos.fork()\nwhile True: pass", limits=Limits(wall_s=0.3))
        assert loop.status == "timeout"


def test_without_bubblewrap_the_sandbox_refuses_and_says_what_to_install(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="bubblewrap") as caught:
        Sandbox()
    assert "install" in caught.value.hint


def test_no_jail_is_asked_for_by_name_and_warned_of(caplog):
    with caplog.at_level(logging.WARNING, logger="openqwq.sandbox"), Sandbox(workers=1, no_jail=True) as sandbox:
        assert sandbox.capabilities()["jail"] == "none"
        assert sandbox.run("print(input())", "hi", LIMITS).stdout == "hi\n"
        assert sandbox.run("while True: pass", limits=Limits(wall_s=0.5)).status == "timeout"
    assert "unprotected" in caplog.text


def test_capabilities_name_what_protects(warm_sandbox):
    found = warm_sandbox.capabilities()
    assert found["jail"] == "bubblewrap"
    assert found["limits"] in ("cgroup", "rlimits")
    assert found["languages"][0] == "python"
    assert found["seccomp"] is (platform.machine() in ("x86_64", "aarch64"))
