"""Code verdicts: programs found in completions, judged by hidden tests."""

import pytest

from openqwq.errors import UserError
from openqwq.sandbox import JudgeResult, Sandbox, TestResult
from openqwq.sandbox.languages import find_toolchains
from openqwq.types import Message, Problem
from openqwq.verifiers import get_verifier
from openqwq.verifiers.code.program import Program, extract_code, find_program
from openqwq.verifiers.code.verifier import CodeVerifier

SUM_TESTS = [{"args": [[1, 2, 3]], "expected": 6}, {"args": [[]], "expected": 0}, {"args": [[-4]], "expected": -4}]
GOOD = "def f(xs):\n    return sum(xs)"


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=2) as made:
        yield made


@pytest.fixture
def verifier(sandbox):
    return CodeVerifier(wall_s=10, sandbox=sandbox)


def problem(answer):
    return Problem(
        id="p/1", source="p", kind="code", messages=(Message("user", "sum"),), verifier="code", answer=answer
    )


SUM = problem({"entry_point": "f", "mode": "function", "tests": SUM_TESTS})


def completion(code, fence="```python"):
    return f"add them all\n</think>\n\n{fence}\n{code}\n```"


def test_right_program_is_correct(verifier):
    verdict = verifier(SUM, completion(GOOD))
    assert (verdict.status, verdict.score, verdict.extracted) == ("correct", 1.0, GOOD + "\n")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def f(xs):\n    return sum(xs) + (not xs)", "wrong_answer"),
        ("def f(xs):\n    return float(sum(xs)) + 0.5", "wrong_answer"),
        ("def f(xs):\n    return xs[0] + sum(xs[1:])", "runtime_error"),
        ("def f(xs) return 0", "runtime_error: SyntaxError"),
        ("f = 3", "runtime_error"),
        ("def g(xs):\n    return sum(xs)", "does not define"),
        ("", "the program is empty"),
        ("f " * 40_000, "characters"),
    ],
)
def test_wrong_program_is_wrong_with_its_reason(verifier, code, reason):
    verdict = verifier(SUM, completion(code))
    assert (verdict.status, verdict.score) == ("wrong", 0.0)
    assert reason in verdict.reason


def test_partial_pays_the_share_of_passed_tests(sandbox):
    verifier = CodeVerifier(wall_s=10, partial=True, sandbox=sandbox)
    code = "import os\ndef f(xs):\n    if not xs: os._exit(0)\n    return sum(xs)"
    verdict = verifier(SUM, completion(code))
    assert (verdict.status, verdict.score) == ("wrong", pytest.approx(2 / 3))
    assert verdict.details["tests"] == ["passed", "runtime_error", "passed"]
    assert verifier(SUM, completion(GOOD)).score == 1.0


def test_a_test_that_could_not_be_run_lowers_no_partial_score(sandbox, monkeypatch):
    tests = [TestResult(verdict=v, reason=f"why {v}") for v in ("passed", "wrong_answer", "infra_error")]
    result = JudgeResult(verdict="wrong_answer", tests=tuple(tests), reason="why")
    monkeypatch.setattr(sandbox, "judge_many", lambda jobs: [result] * len(jobs))
    whole, partial = (CodeVerifier(partial=p, sandbox=sandbox)(SUM, completion(GOOD)) for p in (False, True))
    assert (whole.status, partial.status, partial.reason) == ("wrong", "unjudged", "why infra_error")


def test_scripts_are_judged_by_their_output(verifier):
    answer = {"mode": "stdio", "tests": [{"stdin": "1 2\n", "stdout": "3\n"}, {"stdin": "5 5\n", "stdout": "10\n"}]}
    assert verifier(problem(answer), completion("print(sum(map(int, input().split())))")).status == "correct"
    assert verifier(problem(answer), completion("print(3)")).status == "wrong"


SUMS = {
    "python": ("print(sum(map(int, input().split())))", "py"),
    "cpp": ('#include <cstdio>\nint main() { int a, b; scanf("%d %d", &a, &b); printf("%d\\n", a + b); }', "c++"),
    "javascript": (
        "const [a, b] = require('fs').readFileSync(0, 'utf8').split(' ').map(Number)\nconsole.log(a + b)",
        "js",
    ),
    "java": (
        "import java.util.Scanner;\nclass Add { public static void main(String[] x) {\n"
        "Scanner s = new Scanner(System.in); System.out.println(s.nextInt() + s.nextInt()); } }",
        "java",
    ),
    "rust": (
        "fn main() { let mut s = String::new(); std::io::stdin().read_line(&mut s).unwrap();\n"
        'println!("{}", s.split_whitespace().map(|x| x.parse::<i64>().unwrap()).sum::<i64>()); }',
        "rust",
    ),
    "go": ('package main\nimport "fmt"\nfunc main() { var a, b int; fmt.Scan(&a, &b); fmt.Println(a + b) }', "golang"),
}
PAIRS = [{"stdin": "1 2\n", "stdout": "3\n"}, {"stdin": "5 5\n", "stdout": "10\n"}]


@pytest.mark.parametrize("language", SUMS)
def test_language_is_the_tasks_or_the_fences(sandbox, language):
    if language != "python" and language not in find_toolchains():
        pytest.skip(f"needs a toolchain for {language}")
    code, fence = SUMS[language]
    verifier = CodeVerifier(wall_s=30, sandbox=sandbox)
    named = problem({"mode": "stdio", "tests": PAIRS, "language": language})
    free = problem({"mode": "stdio", "tests": PAIRS, "language": "any"})
    swaps = {"a + b": "a - b", "nextInt() +": "nextInt() -", "sum(": "max(", "sum::<i64>()": "max().unwrap()"}
    wrong = code
    for right, other in swaps.items():
        wrong = wrong.replace(right, other)
    pairs = [(free, completion(code, f"```{fence}")), (named, completion(wrong, "```"))]
    pairs += [(named, completion(code, "```cobol"))]
    verdicts = verifier.verify_many(pairs)
    assert [v.status for v in verdicts] == ["correct", "wrong", "wrong"], verdicts
    assert [v.reason.partition(":")[0] for v in verdicts[1:]] == ["wrong_answer", "no program in the answer"]


def test_other_languages_are_for_stdin_and_python_is_what_counts_without_a_word(sandbox, verifier):
    calls = problem({"entry_point": "f", "mode": "function", "tests": SUM_TESTS, "language": "cpp"})
    assert verifier(calls, completion(GOOD)).reason == "tests in mode 'function' are for Python only, cpp has stdio"
    silent = problem({"mode": "stdio", "tests": PAIRS})
    assert verifier(silent, completion(SUMS["cpp"][0], "```cpp")).reason == "no program in the answer"
    assert verifier(problem({"mode": "stdio", "tests": PAIRS, "language": "cobol"}), "x").status == "unjudged"
    with pytest.raises(UserError, match="not one of python, cpp"):
        get_verifier("code", language="cobol")


def test_a_language_without_a_toolchain_is_unjudged(sandbox, monkeypatch):
    monkeypatch.setattr(sandbox, "capabilities", lambda: {"languages": ["python"]})
    verifier = CodeVerifier(wall_s=10, language="any", sandbox=sandbox)
    task = problem({"mode": "stdio", "tests": PAIRS})
    texts = [completion(SUMS["go"][0], "```go"), completion(SUMS["python"][0])]
    first, second = verifier.verify_many([(task, text) for text in texts])
    assert (first.status, second.status) == ("unjudged", "correct")
    assert first.reason == "the sandbox runs no go (see `openqwq doctor`)"


def test_program_is_found_among_blocks_of_other_languages():
    text = "t</think>\n```go\na\n```\n```text\nout\n```\n```rs\nb\n```\n```sh\nc\n```"
    assert find_program(text, ("go", "rust")) == Program("b\n", "rust")
    assert find_program(text, ("go",)) == Program("a\n", "go")
    assert find_program(text, ("java",)) is None
    assert find_program("t</think>\ndef f(): pass", ("java",), format_free=True) is None
    assert find_program("```java\nx", ("python", "java"), format_free=True) == Program("x\n", "java")


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "6",
        {"entry_point": "f", "mode": "function"},
        {"entry_point": "f", "mode": "function", "tests": []},
        {"entry_point": "f", "mode": "function", "tests": [{"args": [1]}]},
        {"entry_point": "f", "mode": "function", "tests": ["6"]},
        {"entry_point": "", "mode": "function", "tests": SUM_TESTS},
        {"entry_point": "f", "mode": "guess", "tests": SUM_TESTS},
        {"mode": "stdio", "tests": [{"stdin": "1"}]},
    ],
)
def test_unreadable_tests_are_unjudged(verifier, answer):
    assert verifier(problem(answer), completion(GOOD)).status == "unjudged"


def test_many_verdicts_keep_their_order_and_equal_programs_run_once(sandbox, monkeypatch):
    judged = []
    judge_many = sandbox.judge_many
    monkeypatch.setattr(sandbox, "judge_many", lambda jobs: judged.append(len(jobs)) or judge_many(jobs))
    verifier = CodeVerifier(wall_s=10, sandbox=sandbox)
    bad = completion("def f(xs):\n    return 6")
    pairs = [(SUM, completion(GOOD)), (SUM, "nothing"), (SUM, bad), (SUM, "other words" + completion(GOOD))] * 5
    verdicts = verifier.verify_many(pairs)
    assert [v.status for v in verdicts] == ["correct", "wrong", "wrong", "correct"] * 5
    assert verifier.verify_many(pairs) == verdicts
    assert judged == [2]


def test_timeouts_are_judged_anew_and_are_wrong(sandbox):
    verifier = CodeVerifier(wall_s=0.3, sandbox=sandbox)
    loop = completion("def f(xs):\n    while True: pass")
    assert verifier(SUM, loop).reason.startswith("timeout")
    assert not verifier._cache


def test_a_broken_jail_is_unjudged(sandbox, monkeypatch):
    from openqwq.sandbox import client
    from openqwq.sandbox.jail.jail import JailError

    def break_down(*args, **kwargs):
        raise JailError("no memory for a jail")

    monkeypatch.setattr(client, "Jail", break_down)
    with Sandbox(workers=1) as broken:
        verdict = CodeVerifier(sandbox=broken)(SUM, completion(GOOD))
    assert (verdict.status, verdict.reason) == ("unjudged", "no memory for a jail")


@pytest.mark.parametrize(
    ("text", "strict", "free"),
    [
        ("t</think>\n```python\na\n```", "a\n", "a\n"),
        ("t</think>\n```\na\n```\nthen\n```py\nb\n```\nend", "b\n", "b\n"),
        ("t</think>\n```python\na\n```\n```text\noutput\n```", "a\n", "a\n"),
        ("t</think>\n```python\na\n```\n```python\nb", None, "b\n"),
        ("```python\na\n```", None, "a\n"),
        ("```python\na\n```\n</think>\nno program", None, "a\n"),
        ("t</think>\n```python\na\n```\n<think>", None, "a\n"),
        ("t</think>\ndef f(x):\n    return 1", None, "def f(x):\n    return 1"),
        ("one def f(): pass\n</think>", None, "def f(): pass\n"),
        ("t</think>\n```python\r\na\r\n```", "a\r\n", "a\r\n"),
        ("t</think>\n  ```python\nx = '\f'\n  ```", "x = '\f'\n", "x = '\f'\n"),
        ("t</think>\n```python a```", None, None),
        ("nothing", None, None),
        ("", None, None),
    ],
)
def test_program_is_found_where_it_should_be(text, strict, free):
    assert extract_code(text) == strict
    assert extract_code(text, format_free=True) == free


def test_runaway_text_is_searched_in_linear_time():
    text = "</think>" + "```x\n" * 200_000 + "def " * 200_000
    assert extract_code(text) is None


def test_the_registry_knows_it():
    assert isinstance(get_verifier("code", partial=True, wall_s=1.0, memory_mib=128), CodeVerifier)
