"""From how jobs ended to verdicts: the comparison of results with what was expected, outside the jail."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from openqwq.sandbox.codec import CodecError, encode
from openqwq.sandbox.compare import matches
from openqwq.sandbox.jail import Outcome
from openqwq.sandbox.spec import JudgeResult, JudgeVerdict, Limits, RunResult, RunStatus, Submission, TestResult

Execute = Callable[[dict[str, Any], Limits, int], Outcome]
"""Runs a job (its frames counted) in some jail; raises JailError."""
ExecutePair = Callable[[dict[str, Any], dict[str, Any], Limits, int], tuple[Outcome, Outcome]]
"""Runs a program and its tests in two jails at once; raises JailError."""


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
        return "infra_error", "the jail died under the program"
    if outcome.end == "timeout":
        return "timeout", f"no end within {limits.wall_s:g} s"
    if outcome.end == "output_limit":
        return "output_limit", f"more than {limits.output_bytes} bytes of output"
    if outcome.exit_code == 0:
        return "ok", ""
    if outcome.out_of_memory or b"MemoryError" in outcome.err[-200:]:
        return "memory", f"more than {limits.memory_mib} MiB of memory"
    if outcome.exit_code == -9:
        if outcome.cpu_s >= 0.95 * limits.cpu_s:  # the kernel counts in ticks
            return "timeout", f"more than {limits.cpu_s:g} s of processor time"
        return "killed", "killed by a signal 9 that was not ours"
    if outcome.exit_code is not None and outcome.exit_code < 0:
        return "runtime_error", f"ended by signal {-outcome.exit_code}"
    return "runtime_error", f"exit code {outcome.exit_code}"


def judge(submission: Submission, execute: Execute, execute_pair: ExecutePair) -> JudgeResult:
    """Run the submission's tests and compare. Raises UnreadableTests, or JailError from what executes."""
    if not submission.tests:
        raise UnreadableTests("there are no tests")
    match submission.mode:
        case "function":
            tests = _judge_function(submission, execute)
        case "stdio":
            tests = _judge_stdio(submission, execute)
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
        job = {"kind": "calls", "code": submission.code, "entry_point": submission.entry_point, "calls": calls[done:]}
        outcome = execute(job, submission.limits, 1 + len(calls) - done)
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
    if not all(isinstance(test, str) for test in submission.tests):
        raise UnreadableTests("an assert test is a text")
    program = {"kind": "serve", "code": submission.code, "entry_point": submission.entry_point}
    texts = {"kind": "asserts", "tests": list(submission.tests), "entry_point": submission.entry_point}
    count = len(submission.tests)
    candidate, tester = execute_pair(program, texts, submission.limits, 1 + count)
    lines = bytes(tester.out).split(b"\n")[1:-1]
    results: list[TestResult] = []
    for line, begin, end in zip(lines, tester.frame_times, tester.frame_times[1:], strict=False):
        result = _judge_assert(_parse(line), end - begin)
        if result is None:
            return _pad([*results, _judge_end(candidate, submission.limits)], count)
        results.append(result)
    if len(results) < count:
        status, reason = _status(tester, submission.limits)
        verdict = _as_verdict(status) if status != "ok" else "infra_error"
        return _pad([*results, TestResult(verdict=verdict, reason=reason)], count)
    return results


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
    status, reason = _status(candidate, limits)
    if status == "ok":
        status, reason = "runtime_error", "the program ended before it answered"
    return TestResult(verdict=_as_verdict(status), reason=reason)


def _judge_stdio(submission: Submission, execute: Execute) -> list[TestResult]:
    for test in submission.tests:
        if not (isinstance(test, dict) and isinstance(test.get("stdin"), str) and isinstance(test.get("stdout"), str)):
            raise UnreadableTests("a stdio test needs the texts `stdin` and `stdout`")
    results: list[TestResult] = []
    for test in submission.tests:
        job = {"kind": "run", "code": submission.code, "stdin": test["stdin"]}
        run = read_outcome(execute(job, submission.limits, 0), submission.limits)
        if run.status != "ok":
            results.append(TestResult(verdict=_as_verdict(run.status), wall_s=run.wall_s, reason=run.reason))
        elif _lines(run.stdout) != _lines(test["stdout"]):
            results.append(TestResult(verdict="wrong_answer", wall_s=run.wall_s, reason="another output than expected"))
        else:
            results.append(TestResult(verdict="passed", wall_s=run.wall_s))
        if run.status == "infra_error" or (run.status == "timeout" and not submission.restart):
            return _pad(results, len(submission.tests))
    return results


def _lines(text: str) -> list[str]:
    """The lines without blanks at their ends and without blank lines at the end."""
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _as_verdict(status: RunStatus) -> JudgeVerdict:
    return "passed" if status == "ok" else status
