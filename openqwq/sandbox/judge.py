"""From how jobs ended to verdicts: the comparison of results with what was expected, outside the jail."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .compare import matches, matches_json
from .inside.codec import CodecError, encode
from .jail.jail import Job, Outcome
from .languages import COMPILE_LIMITS, Toolchain
from .outcomes import read_outcome, status_of
from .outputs import has_decimals, same_output
from .programs import CompileError, Execute, prepare
from .spec import Comparison, JudgeResult, JudgeVerdict, Limits, RunResult, RunStatus, Submission, TestResult

ExecutePair = Callable[[Job, Job, Limits], tuple[Outcome, Outcome]]
"""Runs a program and its tests in two jails at once; raises JailError."""

UNREADABLE = "unreadable tests: "  # how the reason begins where the tests are at fault
FRAME_BYTES, FRAME_GROWTH = 1 << 16, 16
"""A result is not read where it is longer than that, and by this factor longer than what is expected."""
MAX_OUTPUT_BYTES = 64 << 20  # of a program, however much its tests expect
MAX_COMPILER_WORDS = 2000  # characters of a compiler's complaint that go into a reason
UNSAFE_NAMES = {"eval", "exec", "compile", "__import__", "pickle", "marshal", "importlib", "runpy"}
"""What could run a text that the candidate returned, inside of the tests' own process."""


class UnreadableTests(ValueError):
    """The tests themselves cannot be judged by: never the candidate's fault."""


def run(
    code: str, toolchain: Toolchain | None, stdin: str, files: Mapping[str, bytes], limits: Limits, execute: Execute
) -> RunResult:
    """Run a program once; a program that does not compile ends as its compiler did. Raises JailError."""
    try:
        with prepare(code, toolchain, files, limits, execute) as program:
            return read_outcome(execute(program.job(stdin), limits), limits)
    except CompileError as error:
        return read_outcome(error.outcome, COMPILE_LIMITS, _compile_reason(error.outcome))


def _compile_reason(outcome: Outcome) -> str:
    words = outcome.err.decode("utf-8", "replace").strip()[:MAX_COMPILER_WORDS]
    return f"does not compile: {words or status_of(outcome, COMPILE_LIMITS)[1]}"


def judge(
    submission: Submission, execute: Execute, execute_pair: ExecutePair, toolchain: Toolchain | None = None
) -> JudgeResult:
    """Run the submission's tests and compare. Raises UnreadableTests, or JailError from what executes."""
    if not submission.tests:
        raise UnreadableTests("there are no tests")
    if toolchain is not None and submission.mode != "stdio":
        raise UnreadableTests(f"mode {submission.mode!r} is for Python only, {submission.language} has stdio")
    match submission.mode:
        case "function":
            tests = _judge_function(submission, execute)
        case "stdio":
            tests = _judge_stdio(submission, execute, toolchain)
        case "asserts":
            tests = _judge_asserts(submission, execute_pair)
        case mode:
            raise UnreadableTests(f"mode {mode!r} is not one of function, stdio, asserts")
    first = next((test for test in tests if test.verdict != "passed"), None)
    return JudgeResult(
        verdict=first.verdict if first else "passed", tests=tuple(tests), reason=first.reason if first else ""
    )


def _judge_function(submission: Submission, execute: Execute) -> list[TestResult]:
    calls, wanted = zip(*(_read_call(test, submission.compare) for test in submission.tests), strict=True)
    limits = _room_for(submission.limits, sum(value.size for value in wanted))
    results: list[TestResult] = []
    while len(results) < len(calls):
        done = len(results)
        work = {"kind": "calls", "code": submission.code, "entry_point": submission.entry_point, "calls": calls[done:]}
        job = Job(payload=work, frames=1 + len(calls) - done)
        outcome = execute(job, limits)
        answered, death = _judge_frames(outcome, wanted[done:], limits)
        results += answered
        if death is not None:
            results.append(death)
            if not (submission.restart and answered):
                return _pad(results, len(calls))
    return results


class _Wanted:
    """What a call may come to: one of some values, of which the longest takes so many characters."""

    def __init__(self, compare: Comparison, values: Sequence[Any]):
        self._matches = matches_json if compare == "json" else matches
        self._values = values
        self.size = max(len(json.dumps(encode(value))) for value in values)

    def is_met(self, result: Any) -> bool:
        """Whether a result is one of the values."""
        return any(self._matches(value, result) for value in self._values)

    def can_be_in(self, frame: bytes) -> bool:
        """False for a frame that is too long for any right value, and not worth reading."""
        return len(frame) <= FRAME_BYTES + FRAME_GROWTH * self.size


def _room_for(limits: Limits, size: int) -> Limits:
    """The limits; with as much output as a right answer of this size may need."""
    return replace(limits, output_bytes=max(limits.output_bytes, min(2 * size, MAX_OUTPUT_BYTES)))


def _pad(results: list[TestResult], count: int) -> list[TestResult]:
    """The results, the last one standing for the tests that were not reached any more."""
    last = results[-1]
    unreached = TestResult(verdict=last.verdict, reason=f"not reached: {last.reason}")
    return results + [unreached] * (count - len(results))


def _read_call(test: Any, compare: Comparison) -> tuple[Any, _Wanted]:
    """The arguments of a call as they travel, and what it may come to."""
    try:
        wanted = _Wanted(compare, [test["expected"], *test.get("alternatives", ())])
        return encode(list(test["args"])), wanted
    except (KeyError, TypeError, AttributeError, CodecError) as error:
        raise UnreadableTests(f"not a test of a function: {error!r}") from None


def _judge_frames(
    outcome: Outcome, wanted: Sequence[_Wanted], limits: Limits
) -> tuple[list[TestResult], TestResult | None]:
    """The tests that the program answered, and, when it did not answer them all, how it ended."""
    *lines, rest = bytes(outcome.out).split(b"\n")
    if lines and lines[0] != b'["loaded"]':
        content = _parse(lines[0])
        return [], TestResult(verdict=_error_verdict(content), reason=_error_text(content), wall_s=outcome.wall_s)
    times = outcome.frame_times
    answered = [
        _judge_frame(line, value, end - begin)
        for line, value, begin, end in zip(lines[1:], wanted, times, times[1:], strict=False)
    ]
    if len(answered) < len(wanted):
        status, reason = status_of(outcome, limits)
        if status == "ok":
            status, reason = "runtime_error", "the program ended before it answered"
        return answered, TestResult(verdict=_as_verdict(status), reason=reason, wall_s=outcome.wall_s)
    if len(lines) > 1 + len(wanted) or rest or outcome.end != "exit":
        return [], TestResult(verdict="wrong_answer", reason="something else than the results came out of the program")
    return answered, None


def _judge_frame(frame: bytes, wanted: _Wanted, wall_s: float) -> TestResult:
    content = _parse(frame) if wanted.can_be_in(frame) else ["value", None, "another length"]
    if isinstance(content, list) and content and content[0] == "value":
        if len(content) == 2 and wanted.is_met(content[1]):
            return TestResult(verdict="passed", wall_s=wall_s)
        return TestResult(verdict="wrong_answer", wall_s=wall_s, reason="another value than expected")
    return TestResult(verdict=_error_verdict(content), wall_s=wall_s, reason=_error_text(content))


def _parse(frame: bytes) -> Any:
    try:
        return json.loads(frame)
    except (ValueError, RecursionError):
        return None


def _error_verdict(content: Any) -> JudgeVerdict:
    match content:
        case ["error", "MemoryError", str()]:
            return "memory"
        case ["error", str(name), str()] if name != "CodecError":
            return "runtime_error"
    return "wrong_answer"


def _error_text(content: Any) -> str:
    match content:
        case ["error", str(name), str(text)]:
            return f"{name}: {text}"[:400]
    return "unreadable result"


def _judge_asserts(submission: Submission, execute_pair: ExecutePair) -> list[TestResult]:
    for test in submission.tests:
        _check_assert(test)
    program = {"kind": "serve", "code": submission.code, "entry_point": submission.entry_point}
    texts = {"kind": "asserts", "tests": list(submission.tests), "entry_point": submission.entry_point}
    count = len(submission.tests)
    frames = 2 + count  # that the tests are loaded, each result, and the end
    candidate, tester = execute_pair(Job(payload=program), Job(payload=texts, frames=frames), submission.limits)
    lines = [_parse(line) for line in bytes(tester.out).split(b"\n")[1:-1]]
    if ["forged"] in lines:
        reason = "something else than answers to calls came out of the program"
        return [TestResult(verdict="wrong_answer", reason=reason)] * count
    results: list[TestResult] = []
    for line, begin, end in zip(lines[:count], tester.frame_times, tester.frame_times[1:], strict=False):
        result = _judge_assert(line, end - begin)
        if result is None:
            return _pad([*results, _judge_end(candidate, submission.limits)], count)
        results.append(result)
    if len(results) < count:
        status, reason = status_of(tester, submission.limits)
        charged = status in ("timeout", "memory", "output_limit")  # by what the program returned
        verdict: JudgeVerdict = _as_verdict(status) if charged else "infra_error"
        return _pad([*results, TestResult(verdict=verdict, reason=reason)], count)
    return results


def _check_assert(test: Any) -> None:
    """Raise UnreadableTests for a test that could run what the program returns as code of its own process."""
    if not isinstance(test, str):
        raise UnreadableTests("an assert test is a text")
    try:
        tree = ast.parse(test)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnreadableTests(f"an assert test does not parse: {error}") from None
    plain = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call) and _plain_import(node)}
    for node in ast.walk(tree):
        used = _names_used(node) & UNSAFE_NAMES if id(node) not in plain else set()
        if used:
            raise UnreadableTests(f"an assert test must not use `{min(used)}`")


def _names_used(node: ast.AST) -> set[str]:
    """The names and top-level modules that one part of a test text names."""
    match node:
        case ast.Import(names=aliases):
            return {alias.name.partition(".")[0] for alias in aliases}
        case ast.ImportFrom(module=module):
            return {(module or "").partition(".")[0]}
        case ast.Name(id=name):
            return {name}
        case ast.Call() if module := _plain_import(node):
            return {module.partition(".")[0]}
    return set()


def _plain_import(call: ast.Call) -> str:
    """The module of a call `__import__("module")`, which is as good as an import statement; "" for other calls."""
    match call:
        case ast.Call(func=ast.Name(id="__import__"), args=[ast.Constant(value=str(module)), *_]):
            return module
    return ""


def _judge_assert(content: Any, wall_s: float) -> TestResult | None:
    """The result of one test text; None when the program was gone."""
    match content:
        case ["passed"]:
            return TestResult(verdict="passed", wall_s=wall_s)
        case ["failed", kind, text]:
            return TestResult(verdict="wrong_answer", wall_s=wall_s, reason=f"{kind}: {text}")
        case ["error", *_]:
            return TestResult(verdict=_error_verdict(content), wall_s=wall_s, reason=_error_text(content))
        case ["gone"]:
            return None
    raise UnreadableTests(str(content))


def _judge_end(candidate: Outcome, limits: Limits) -> TestResult:
    """Why a program was gone before its tests had ended."""
    line = bytes(candidate.out).partition(b"\n")[0]
    if line and line != b'["loaded"]':
        return TestResult(verdict=_error_verdict(_parse(line)), reason=_error_text(_parse(line)))
    if candidate.end == "cancelled":  # because its tests had ended, for which it may have died a moment before
        candidate = replace(candidate, end="exit")
    status, reason = status_of(candidate, limits)
    if status in ("ok", "killed"):
        status, reason = "runtime_error", "the program stopped answering"
    return TestResult(verdict=_as_verdict(status), reason=reason)


def _judge_stdio(submission: Submission, execute: Execute, toolchain: Toolchain | None) -> list[TestResult]:
    tests, limits = submission.tests, submission.limits
    for test in tests:
        if not (isinstance(test, dict) and isinstance(test.get("stdin"), str) and isinstance(test.get("stdout"), str)):
            raise UnreadableTests("a stdio test needs the texts `stdin` and `stdout`")
    decimals = any(has_decimals(test["stdout"]) for test in tests)
    results: list[TestResult] = []
    try:
        with prepare(submission.code, toolchain, submission.files, limits, execute) as program:
            for test in tests:
                room = _room_for(limits, len(test["stdout"].encode("utf-8", "replace")))
                ended = read_outcome(execute(program.job(test["stdin"]), room), room)
                result = _judge_output(ended, test["stdout"], submission.tolerance, decimals)
                results.append(result)
                if result.verdict == "infra_error" or (result.verdict == "timeout" and not submission.restart):
                    break
    except CompileError as error:
        status, _ = status_of(error.outcome, COMPILE_LIMITS)
        verdict: JudgeVerdict = "runtime_error" if status == "ok" else _as_verdict(status)
        results.append(TestResult(verdict=verdict, reason=_compile_reason(error.outcome)))
    return _pad(results, len(tests))


def _judge_output(result: RunResult, expected: str, tolerance: float, decimals: bool) -> TestResult:
    if result.status != "ok":
        return TestResult(verdict=_as_verdict(result.status), wall_s=result.wall_s, reason=result.reason)
    if not same_output(result.stdout, expected, tolerance, decimals=decimals):
        return TestResult(verdict="wrong_answer", wall_s=result.wall_s, reason="another output than expected")
    return TestResult(verdict="passed", wall_s=result.wall_s)


def _as_verdict(status: RunStatus) -> JudgeVerdict:
    return "passed" if status == "ok" else status
