"""From how jobs ended to verdicts: the comparison of results with what was expected, outside the jail."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from .compare import matches
from .inside.codec import CodecError, encode
from .jail.jail import CPU_SHARE, Job, Outcome
from .languages import COMPILE_LIMITS, Toolchain
from .programs import CompileError, Execute, prepare
from .spec import JudgeResult, JudgeVerdict, Limits, RunResult, RunStatus, Submission, TestResult

ExecutePair = Callable[[Job, Job, Limits], tuple[Outcome, Outcome]]
"""Runs a program and its tests in two jails at once; raises JailError."""

UNREADABLE = "unreadable tests: "  # how the reason begins where the tests are at fault
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")
_EXCEPTION = re.compile(rb"([A-Z]\w{0,60})(?::|$)", re.ASCII)
MAX_COMPILER_WORDS = 2000  # characters of a compiler's complaint that go into a reason
UNSAFE_NAMES = {"eval", "exec", "compile", "__import__", "pickle", "marshal", "importlib", "runpy"}
"""What could run a text that the candidate returned, inside of the tests' own process."""


class UnreadableTests(ValueError):
    """The tests themselves cannot be judged by: never the candidate's fault."""


def read_outcome(outcome: Outcome, limits: Limits, fault: str = "") -> RunResult:
    """The result of a program that ran as a script; `fault` says what was wrong with its jail."""
    status, reason = _status(outcome, limits)
    return RunResult(
        status=status,
        stdout=outcome.out[: limits.output_bytes].decode("utf-8", "replace"),
        stderr=outcome.err[: limits.output_bytes].decode("utf-8", "replace"),
        exit_code=outcome.exit_code,
        wall_s=outcome.wall_s,
        cpu_s=outcome.cpu_s,
        memory_mib=outcome.memory_mib,
        reason=fault or reason,
    )


def _status(outcome: Outcome, limits: Limits) -> tuple[RunStatus, str]:
    if outcome.end == "lost":
        return "infra_error", "the machine killed the program, or its jail"
    if outcome.end == "starved":
        return "infra_error", "the machine was too busy to give the program a processor"
    if outcome.end == "timeout":
        return "timeout", f"no end within {limits.wall_s:g} s"
    if outcome.end == "output_limit":
        return "output_limit", f"more than {limits.output_bytes} bytes of output"
    if outcome.end == "cancelled":
        return "killed", "nobody waited for it any more"
    if outcome.exit_code == 0:
        return "ok", ""
    if outcome.out_of_memory or b"MemoryError" in outcome.err[-200:]:
        return "memory", f"more than {limits.memory_mib} MiB of memory"
    if outcome.exit_code == -9:
        if outcome.cpu_s >= CPU_SHARE * limits.cpu_s:
            return "timeout", f"more than {limits.cpu_s:g} s of processor time"
        return "killed", "killed by a signal 9 that was not ours"
    if outcome.exit_code is not None and outcome.exit_code < 0:
        return "runtime_error", f"ended by signal {-outcome.exit_code}"
    return "runtime_error", f"exit code {outcome.exit_code}{_exception_name(outcome)}"


def _exception_name(outcome: Outcome) -> str:
    """`: ` and the name of the exception that ended a Python program, as its last words have it."""
    last_line = bytes(outcome.err).rstrip().rpartition(b"\n")[2]
    found = _EXCEPTION.match(last_line) if outcome.exit_code == 1 else None
    return f": {found[1].decode()}" if found else ""


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
    return f"does not compile: {words or _status(outcome, COMPILE_LIMITS)[1]}"


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
    calls = [_encode_call(test) for test in submission.tests]
    expected = [test["expected"] for test in submission.tests]
    results: list[TestResult] = []
    while len(results) < len(calls):
        done = len(results)
        work = {"kind": "calls", "code": submission.code, "entry_point": submission.entry_point, "calls": calls[done:]}
        job = Job(payload=work, frames=1 + len(calls) - done)
        outcome = execute(job, submission.limits)
        answered, death = _judge_frames(outcome, expected[done:], submission.limits)
        results += answered
        if death is not None:
            results.append(death)
            if not (submission.restart and answered):
                return _pad(results, len(calls))
    return results


def _pad(results: list[TestResult], count: int) -> list[TestResult]:
    """The results, the last one standing for the tests that were not reached any more."""
    last = results[-1]
    unreached = TestResult(verdict=last.verdict, reason=f"not reached: {last.reason}")
    return results + [unreached] * (count - len(results))


def _encode_call(test: Any) -> Any:
    try:
        arguments = encode(list(test["args"]))
        encode(test["expected"])
    except (KeyError, TypeError, CodecError) as error:
        raise UnreadableTests(f"not a test of a function: {error!r}") from None
    return arguments


def _judge_frames(
    outcome: Outcome, expected: Sequence[Any], limits: Limits
) -> tuple[list[TestResult], TestResult | None]:
    """The tests that the program answered, and, when it did not answer them all, how it ended."""
    *lines, rest = bytes(outcome.out).split(b"\n")
    if lines and lines[0] != b'["loaded"]':
        content = _parse(lines[0])
        return [], TestResult(verdict=_error_verdict(content), reason=_error_text(content), wall_s=outcome.wall_s)
    times = outcome.frame_times
    answered = [
        _judge_frame(line, wanted, end - begin)
        for line, wanted, begin, end in zip(lines[1:], expected, times, times[1:], strict=False)
    ]
    if len(answered) < len(expected):
        status, reason = _status(outcome, limits)
        if status == "ok":
            status, reason = "runtime_error", "the program ended before it answered"
        return answered, TestResult(verdict=_as_verdict(status), reason=reason, wall_s=outcome.wall_s)
    if len(lines) > 1 + len(expected) or rest or outcome.end != "exit":
        return [], TestResult(verdict="wrong_answer", reason="something else than the results came out of the program")
    return answered, None


def _judge_frame(frame: bytes, expected: Any, wall_s: float) -> TestResult:
    content = _parse(frame)
    if isinstance(content, list) and len(content) == 2 and content[0] == "value":
        if matches(expected, content[1]):
            return TestResult(verdict="passed", wall_s=wall_s)
        return TestResult(verdict="wrong_answer", wall_s=wall_s, reason="another value than expected")
    return TestResult(verdict=_error_verdict(content), wall_s=wall_s, reason=_error_text(content))


def _parse(frame: bytes) -> Any:
    try:
        return json.loads(frame)
    except (ValueError, RecursionError):
        return None


def _error_verdict(content: Any) -> JudgeVerdict:
    if isinstance(content, list) and len(content) == 3 and content[0] == "error":
        if content[1] == "MemoryError":
            return "memory"
        return "wrong_answer" if content[1] == "CodecError" else "runtime_error"
    return "wrong_answer"


def _error_text(content: Any) -> str:
    if isinstance(content, list) and len(content) == 3 and content[0] == "error":
        return f"{content[1]}: {content[2]}"[:400]
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
        status, reason = _status(tester, submission.limits)
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
    for node in ast.walk(tree):
        names = {alias.name.partition(".")[0] for alias in node.names} if isinstance(node, ast.Import) else set()
        names |= {node.id} if isinstance(node, ast.Name) else set()
        names |= {(node.module or "").partition(".")[0]} if isinstance(node, ast.ImportFrom) else set()
        if names & UNSAFE_NAMES:
            raise UnreadableTests(f"an assert test must not use `{min(names & UNSAFE_NAMES)}`")


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
    status, reason = _status(candidate, limits)
    if status in ("ok", "killed"):
        status, reason = "runtime_error", "the program stopped answering"
    return TestResult(verdict=_as_verdict(status), reason=reason)


def _judge_stdio(submission: Submission, execute: Execute, toolchain: Toolchain | None) -> list[TestResult]:
    tests, limits = submission.tests, submission.limits
    for test in tests:
        if not (isinstance(test, dict) and isinstance(test.get("stdin"), str) and isinstance(test.get("stdout"), str)):
            raise UnreadableTests("a stdio test needs the texts `stdin` and `stdout`")
    results: list[TestResult] = []
    try:
        with prepare(submission.code, toolchain, submission.files, limits, execute) as program:
            for test in tests:
                result = _judge_output(read_outcome(execute(program.job(test["stdin"]), limits), limits), test)
                results.append(result)
                if result.verdict == "infra_error" or (result.verdict == "timeout" and not submission.restart):
                    break
    except CompileError as error:
        status, _ = _status(error.outcome, COMPILE_LIMITS)
        verdict: JudgeVerdict = "runtime_error" if status == "ok" else _as_verdict(status)
        results.append(TestResult(verdict=verdict, reason=_compile_reason(error.outcome)))
    return _pad(results, len(tests))


def _judge_output(result: RunResult, test: Mapping[str, str]) -> TestResult:
    if result.status != "ok":
        return TestResult(verdict=_as_verdict(result.status), wall_s=result.wall_s, reason=result.reason)
    if not same_output(result.stdout, test["stdout"]):
        return TestResult(verdict="wrong_answer", wall_s=result.wall_s, reason="another output than expected")
    return TestResult(verdict="passed", wall_s=result.wall_s)


def same_output(found: str, expected: str) -> bool:
    """Whether two outputs have the same lines, blanks at their ends and blank lines at the end left out.

    Lines of numbers are compared number by number, exactly: "1.50 2" is "1.5 2.0" (as LiveCodeBench has it).
    """
    pairs = zip_longest(_lines(found), _lines(expected))
    return all(one == other or _same_numbers(one, other) for one, other in pairs)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _same_numbers(found: str | None, expected: str | None) -> bool:
    ours, theirs = (found or "").split(), (expected or "").split()
    if not ours or len(ours) != len(theirs) or not all(map(_DECIMAL.fullmatch, (*ours, *theirs))):
        return False
    return list(map(_canonical, ours)) == list(map(_canonical, theirs))


def _canonical(number: str) -> tuple[str, str, bool]:
    """The digits before and after the point that count, and whether it is below zero."""
    whole, _, fraction = number.lstrip("+-").partition(".")
    digits = whole.lstrip("0"), fraction.rstrip("0")
    return *digits, number.startswith("-") and digits != ("", "")


def _as_verdict(status: RunStatus) -> JudgeVerdict:
    return "passed" if status == "ok" else status
