"""What contest programs do: how they end and read, what they print, what they need; and how outputs are compared."""

import pytest

from openqwq.sandbox import Limits
from openqwq.sandbox.languages import find_toolchains
from openqwq.sandbox.outputs import has_decimals, same_output

LIMITS = Limits(wall_s=60, cpu_s=20)
NODE = "const text = require('fs').readFileSync(NAME, 'utf8')\nconsole.log(text.trim() + '!')"
CPP = (
    '#include <iostream>\n#include <cstdio>\nint main() { freopen(NAME, "r", stdin);\n'
    'freopen("/dev/stdout", "w", stdout);\n'
    "std::string s; std::cin >> s; std::cout << s << '!' << std::endl; }"
)


@pytest.mark.parametrize(
    "call", ["exit()", "quit()", "exit(0)", "quit(None)", "__builtins__.exit()", "raise SystemExit"]
)
def test_programs_may_end_by_exit_and_quit(sandbox, call):
    code = f"print(input())\nif True:\n    {call}\nprint('not reached')"
    result = sandbox.run(code, "a\n", LIMITS)
    assert (result.status, result.stdout) == ("ok", "a\n")


def test_exit_codes_count(warm_sandbox):
    assert warm_sandbox.run("print(1)\nexit(3)", limits=LIMITS).exit_code == 3
    result = warm_sandbox.run("quit('no')", limits=LIMITS)
    assert (result.status, result.exit_code, result.stderr) == ("runtime_error", 1, "no\n")
    judged = warm_sandbox.judge("def f():\n    exit()", entry_point="f", tests=[{"args": [], "expected": None}])
    assert judged.verdict == "runtime_error"


@pytest.mark.parametrize("name", ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"])
@pytest.mark.parametrize(
    "code",
    [
        "print(open(NAME).read().split())", "import io\nwith io.open(NAME) as f: print(f.read().split())",
        "from pathlib import Path\nprint(Path(NAME).read_text().split())",
        "import os\nprint(os.read(os.open(NAME, os.O_RDONLY), 99).decode().split())",
        "import fileinput\nprint([x for line in fileinput.input(NAME) for x in line.split()])",
    ],
)  # fmt: skip
def test_standard_input_is_found_by_its_name(warm_sandbox, name, code):
    assert warm_sandbox.run(code.replace("NAME", repr(name)), "a\nb", LIMITS).stdout == "['a', 'b']\n"


def test_standard_streams_are_found_by_their_names_in_a_jail_per_job_too(sandbox):
    code = "open('/dev/stdout', 'w').write(open('/dev/stdin').read())\nopen('/dev/stderr', 'w').write('e')"
    result = sandbox.run(code, "in", LIMITS)
    assert (result.stdout, result.stderr) == ("in", "e")
    assert sandbox.run("import os\nprint(os.listdir('/proc'))", limits=LIMITS).stdout == "[]\n"


@pytest.mark.parametrize(("language", "code"), [("javascript", NODE), ("cpp", CPP)])
@pytest.mark.parametrize("name", ["/dev/stdin", "/proc/self/fd/0"])
def test_other_languages_find_the_streams_by_their_names(warm_sandbox, language, code, name):
    if language not in find_toolchains():
        pytest.skip(f"needs a toolchain for {language}")
    result = warm_sandbox.run(code.replace("NAME", f'"{name}"'), "in\n", LIMITS, language=language)
    assert result.stdout == "in!\n", result


def test_integers_of_any_length_are_printed_and_read(warm_sandbox):
    code = "n = int(input())\nprint(n + 1)"
    assert warm_sandbox.run(code, "9" * 6000, LIMITS).stdout == "1" + "0" * 6000 + "\n"
    tests = ["assert str(f(6000)) == '1' + '0' * 6000", "assert int('1' + '0' * 6000) == f(6000)"]
    assert warm_sandbox.judge("def f(n):\n    return 10 ** n", "asserts", "f", tests, LIMITS).verdict == "passed"


def test_outputs_as_long_as_the_tests_expect_are_allowed(warm_sandbox):
    code = "n = int(input())\nprint('\\n'.join(map(str, range(n))))"
    tests = [{"stdin": "50000", "stdout": "\n".join(map(str, range(50000)))}]
    limits = Limits(wall_s=60, cpu_s=20, output_bytes=1000)
    assert warm_sandbox.judge(code, "stdio", tests=tests, limits=limits).verdict == "passed"
    tests = [{"args": [50000], "expected": list(range(50000))}]
    code = "def f(n):\n    return list(range(n))"
    assert warm_sandbox.judge(code, entry_point="f", tests=tests, limits=limits).verdict == "passed"
    tests = [{"args": [50000], "expected": [0]}]
    assert warm_sandbox.judge(code, entry_point="f", tests=tests, limits=limits).verdict == "output_limit"
    assert warm_sandbox.judge(code, entry_point="f", tests=tests, limits=LIMITS).verdict == "wrong_answer"


def test_values_of_many_numbers_are_compared(warm_sandbox):
    code = "def f(n):\n    return list(range(n)) + [n]"
    tests = [{"args": [600_000], "expected": list(range(600_001))}, {"args": [2], "expected": [0, 1, 3]}]
    verdicts = [test.verdict for test in warm_sandbox.judge(code, entry_point="f", tests=tests, limits=LIMITS).tests]
    assert verdicts == ["passed", "wrong_answer"]


@pytest.mark.parametrize(
    ("code", "status", "limit"),
    [
        ("while True: pass", "timeout", "`wall_s`"),
        ("b = bytearray(1 << 30)", "memory", "`memory_mib`"),
        ("while True: print('x' * 1000)", "output_limit", "`output_bytes`"),
        ("open('x', 'wb').write(bytes(5 << 20))", "runtime_error", "`tmp_mib`"),
        ("import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
         "runtime_error", "`processes`"),
    ],
)  # fmt: skip
def test_a_limit_is_said_to_be_the_limit(warm_sandbox, code, status, limit):
    limits = Limits(wall_s=2, cpu_s=20, memory_mib=64, processes=16, tmp_mib=4, output_bytes=100_000)
    result = warm_sandbox.run(code, limits=limits)
    assert result.status == status
    assert limit in result.reason


def test_processor_time_is_said_to_be_the_limit(warm_sandbox):
    result = warm_sandbox.run("while True: pass", limits=Limits(wall_s=20, cpu_s=1))
    assert (result.status, "`cpu_s`" in result.reason) == ("timeout", True)


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("1e-05", "0.00001", True), ("1.5e3", "1500", True), ("1E+05", "100000", True), ("12e-1", "1.2", True),
        ("-0e5", "0", True), ("1e3", "1001", False), ("1e400", "1" + "0" * 400, True), ("e5", "5", False),
        ("1e", "1", False), ("\n\n5", "5", True), ("  \n5\n \n", "5", True), ("5", "\n5", True), (" 5\n", "5", True),
        ("5\n\n6", "5\n6", False), ("\n a", "a", False), ("0" * 6000 + "1", "1", True), ("9" * 6000, "9" * 5999, False),
        ("0.333333", "0.333333333", False), ("a 1e3", "a 1000", False), ("1e99999", "1", False),
    ],
)  # fmt: skip
def test_outputs_are_the_same_as_decimals_and_without_blank_lines_around(found, expected, same):
    assert same_output(found, expected) is same


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("0.333333", "0.333333333333", True), ("0.3333", "0.333333333333", False), ("0.5000000001", "0.5", True),
        ("3.14159265", "3.141592653589793", True), ("1.5", "1.4", False), ("2.50001", "2.5", False),
        ("33333333.33", "33333333.333333333", True), ("1234567.88", "1234567.89", False), ("1e-7", "0.0000001", True),
        ("2", "2.000000001", True), ("3", "3.0", True), ("4", "3", False), ("3.0000000001", "3", False),
        ("Mean: 0.66667", "Mean: 0.666666667", False), ("Mean: 0.6666666", "Mean: 0.666666667", True),
        ("Mean: 0.6666666 m", "Mean: 0.666666667", False), ("mean: 0.6666666", "Mean: 0.666666667", False),
        ("Case 2: 0.5", "Case 1: 0.5", False), ("Case 1: 5", "Case 1: 5.0", True), ("Case 1.0", "Case 1", False),
        ("(0.1, 0.2)", "(0.1000000001, 0.2)", True), ("1 0.25", "2 0.25", False), ("nan", "0.5", False),
        ("inf", "0.5", False), ("0.5 0.5", "0.5", False), ("-0.3333333", "0.3333333", False),
        ("1e-9", "0.000000", True),
    ],
)  # fmt: skip
def test_numbers_with_decimals_may_differ_by_the_tolerance(found, expected, same):
    assert same_output(found, expected, 1e-6) is same


def test_integers_may_be_found_as_decimals_where_the_task_is_about_real_numbers():
    assert has_decimals("0.5\n") and has_decimals("a .5") and has_decimals("1e-5")
    assert not has_decimals("5\nand 6. Then") and not has_decimals("1e5 e-x")
    assert same_output("2.9999999999", "3", 1e-6, decimals=True)
    assert not same_output("2.999", "3", 1e-6, decimals=True)
    assert not same_output("4", "3", 1e-6, decimals=True)
    assert not same_output("1000000.4", "1000000", 1e-6, decimals=True)


def test_tolerance_is_the_submissions(warm_sandbox):
    tests = [{"stdin": "", "stdout": "0.333333333"}]
    for tolerance, verdict in ((0.0, "wrong_answer"), (1e-3, "passed"), (1e-5, "wrong_answer")):
        found = warm_sandbox.judge("print(0.3333)", "stdio", tests=tests, limits=LIMITS, tolerance=tolerance)
        assert found.verdict == verdict


JSON_EQUAL = [
    ("(1, 2)", [1, 2]), ("[(1, (2,)), ()]", [[1, [2]], []]), ("3.0", 3), ("[4.0]", [4]), ("{1: 'a'}", {"1": "a"}),
    ("{-2.5: 1}", {"-2.5": 1}), ("{True: 1, None: 2}", {"true": 1, "null": 2}), ("{'a': (1,)}", {"a": [1]}),
    ("{10**30: 0}", {str(10**30): 0}), ("__import__('collections').Counter([1, 1])", {"1": 2}), ("1e20", 10**20),
    ("{1: {2: 3.0}}", {"1": {"2": 3}}), ("3", 3.0), ("[1, 2]", (1, 2)), ("{1: 2}", {1: 2}),
]  # fmt: skip
JSON_DIFFERENT = [
    ("True", 1), ("1", True), ("3.0000001", 3), ("(1, 2)", [2, 1]), ("(1,)", [1, 2]), ("{1: 'a'}", {"2": "a"}),
    ("{1: 'a', '1': 'a'}", {"1": "a"}), ("{1: 1, '1': 2}", {"1": 1, "2": 2}), ("{1}", [1]), ("'12'", ["1", "2"]),
    ("{(1, 2): 3}", {"(1, 2)": 3}), ("None", []), ("1e20", 10**20 + 1), ("float('nan')", 3), ("{True: 1}", {"1": 1}),
    ("iter([1])", [1]), ("'3'", 3), ("[[1, 2], 3]", [[1, 2]]),
]  # fmt: skip


def judge_json(sandbox, expression, expected):
    tests = [{"args": [], "expected": expected}]
    code = f"def f():\n    return {expression}"
    return sandbox.judge(code, entry_point="f", tests=tests, limits=LIMITS, compare="json").verdict


@pytest.mark.parametrize(("expression", "expected"), JSON_EQUAL)
def test_values_that_json_cannot_tell_apart_are_equal(warm_sandbox, expression, expected):
    assert judge_json(warm_sandbox, expression, expected) == "passed"


@pytest.mark.parametrize(("expression", "expected"), JSON_DIFFERENT)
def test_values_that_json_can_tell_apart_differ(warm_sandbox, expression, expected):
    assert judge_json(warm_sandbox, expression, expected) == "wrong_answer"


def test_any_of_the_alternatives_is_right(warm_sandbox):
    tests = [{"args": [x], "expected": [x], "alternatives": [x, None]} for x in (1, 2, 3, 4)]
    code = "def f(x):\n    return {1: 1, 2: [2], 3: None, 4: 5}[x]"
    result = warm_sandbox.judge(code, entry_point="f", tests=tests, limits=LIMITS)
    assert [test.verdict for test in result.tests] == ["passed"] * 3 + ["wrong_answer"]
    tests = [{"args": [1], "expected": 1, "alternatives": 2}]
    assert warm_sandbox.judge(code, entry_point="f", tests=tests, limits=LIMITS).verdict == "infra_error"
