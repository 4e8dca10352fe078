"""The service's JSON and the sandbox's own types: requests in, results out, and the same for the client's side.

Public: BadRequest, Request, read_run, read_judge, write_run, write_judge, write_result, read_run_result,
read_judge_result. Strict: an unknown field, a wrong type or a limit above the service's own is refused and named.
"""

from __future__ import annotations

import base64
import binascii
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..inside.codec import CodecError, decode, encode
from ..spec import COMPARISONS, LANGUAGES, MODES, JudgeResult, Limits, RunResult, Submission, TestResult, check_files

MAX_TESTS = 2000
MAX_LIMITS = Limits(wall_s=60, cpu_s=300, memory_mib=4096, processes=512, output_bytes=1 << 26, tmp_mib=1024)
RUN_FIELDS = ("language", "code", "stdin", "files", "limits", "deadline_s")
JUDGE_FIELDS = (
    *("language", "code", "mode", "entry_point", "tests", "files", "limits", "restart", "compare", "tolerance"),
    "deadline_s",
)


class BadRequest(ValueError):
    """What is wrong with a request, for the one who sent it."""


@dataclass(frozen=True, slots=True)
class Request:
    """What one request asks for.

    stdin:      of a run.
    deadline_s: when its sender will have given up; None where it does not say.
    """

    submission: Submission
    stdin: str
    deadline_s: float | None


def read_run(body: Any, max_limits: Limits = MAX_LIMITS) -> Request:
    """The request of `POST /v1/run`. Raises BadRequest."""
    given = _object(body, "the request", RUN_FIELDS)
    submission = Submission(
        code=_text(given, "code"),
        language=_one_of(given, "language", LANGUAGES),
        files=_files(given.get("files", {})),
        limits=_limits(given.get("limits", {}), max_limits),
    )
    return _request(submission, given, _text(given, "stdin", ""))


def read_judge(body: Any, max_limits: Limits = MAX_LIMITS) -> Request:
    """The request of `POST /v1/judge`. Raises BadRequest."""
    given = _object(body, "the request", JUDGE_FIELDS)
    tests = given.get("tests")
    if not isinstance(tests, list) or not 1 <= len(tests) <= MAX_TESTS:
        raise BadRequest(f"`tests` must be a list of 1 to {MAX_TESTS} tests")
    restart = given.get("restart", False)
    if not isinstance(restart, bool):
        raise BadRequest("`restart` must be true or false")
    tolerance = given.get("tolerance", 0)
    if not _is_number(tolerance) or not 0 <= tolerance <= 1:
        raise BadRequest("`tolerance` must be a number from 0 to 1")
    compare: Any = _one_of(given, "compare", COMPARISONS)
    mode: Any = _one_of(given, "mode", MODES)
    submission = Submission(
        code=_text(given, "code"),
        language=_one_of(given, "language", LANGUAGES),
        mode=mode,
        entry_point=_text(given, "entry_point", "" if mode == "stdio" else None),
        tests=[_test(test) for test in tests] if mode == "function" else tests,
        files=_files(given.get("files", {})),
        limits=_limits(given.get("limits", {}), max_limits),
        restart=restart,
        compare=compare,
        tolerance=float(tolerance),
    )
    return _request(submission, given, "")


def write_run(submission: Submission, stdin: str, deadline_s: float | None) -> dict[str, Any]:
    """The body that `read_run` reads."""
    return {**_write_common(submission, deadline_s), "stdin": stdin}


def write_judge(submission: Submission, deadline_s: float | None) -> dict[str, Any]:
    """The body that `read_judge` reads. Raises CodecError, KeyError or TypeError for tests that are not plain data."""
    tests = list(submission.tests)
    if submission.mode == "function":
        tests = [_typed(test) for test in tests]
    common = _write_common(submission, deadline_s)
    return {
        **common,
        "mode": submission.mode,
        "entry_point": submission.entry_point,
        "tests": tests,
        "restart": submission.restart,
        "compare": submission.compare,
        "tolerance": submission.tolerance,
    }


def _typed(test: Any) -> dict[str, Any]:
    written = {"typed": True, "args": [encode(value) for value in test["args"]], "expected": encode(test["expected"])}
    return written | ({"alternatives": [encode(v) for v in test["alternatives"]]} if "alternatives" in test else {})


def write_result(result: RunResult | JudgeResult) -> dict[str, Any]:
    """A result as the service answers it."""
    return asdict(result)


def read_run_result(answer: Mapping[str, Any]) -> RunResult:
    """Inverse of `write_result` for a run."""
    return RunResult(**answer)


def read_judge_result(answer: Mapping[str, Any]) -> JudgeResult:
    """Inverse of `write_result` for a judgement."""
    return JudgeResult(**{**answer, "tests": tuple(TestResult(**test) for test in answer["tests"])})


def _write_common(submission: Submission, deadline_s: float | None) -> dict[str, Any]:
    files = {name: {"base64": base64.b64encode(data).decode()} for name, data in submission.files.items()}
    common: dict[str, Any] = {"language": submission.language, "code": submission.code, "files": files}
    common["limits"] = asdict(submission.limits)
    return common if deadline_s is None else common | {"deadline_s": deadline_s}


def _request(submission: Submission, given: Mapping[str, Any], stdin: str) -> Request:
    try:
        check_files(submission.files, submission.limits)
    except ValueError as error:
        raise BadRequest(f"`files`: {error}") from None
    deadline_s = given.get("deadline_s")
    if deadline_s is not None and (not _is_number(deadline_s) or deadline_s <= 0):
        raise BadRequest("`deadline_s` must be a number above 0")
    return Request(submission, stdin, deadline_s)


def _object(value: Any, what: str, allowed: Iterable[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"{what} must be a JSON object")
    allowed = list(allowed)
    for name in value:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1)
            raise BadRequest(f"{what} has no field `{name}`" + (f"; did you mean `{near[0]}`?" if near else ""))
    return value


def _text(given: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = given.get(name, default)
    if not isinstance(value, str):
        raise BadRequest(f"`{name}` must be a text")
    return value


def _one_of(given: Mapping[str, Any], name: str, allowed: tuple[str, ...]) -> str:
    value = given.get(name, allowed[0])
    if value not in allowed:
        raise BadRequest(f"`{name}` must be one of {', '.join(allowed)}")
    return value


def _test(test: Any) -> dict[str, Any]:
    """The test of a function; in `typed` ones each argument and the expected value are written by `codec.encode`."""
    given = _object(test, "a test", ("args", "expected", "alternatives", "typed"))
    values = {name: value for name, value in given.items() if name != "typed"}
    if not given.get("typed"):
        return values
    try:
        read = {"args": [decode(value) for value in values["args"]], "expected": decode(values["expected"])}
        return read | ({"alternatives": list(map(decode, values["alternatives"]))} if "alternatives" in values else {})
    except (CodecError, KeyError, TypeError) as error:
        raise BadRequest(f"a typed test is unreadable: {error}") from None


def _files(value: Any) -> dict[str, bytes]:
    files = {}
    for name, content in _object(value, "`files`", value if isinstance(value, dict) else ()).items():
        if isinstance(content, str):
            files[name] = content.encode("utf-8", "surrogatepass")
            continue
        coded = _object(content, "a file that is not a text", ("base64",)).get("base64")
        try:
            files[name] = base64.b64decode(coded or "", validate=True)
        except (TypeError, ValueError, binascii.Error):
            raise BadRequest(f"the content of file `{name}` is not base64") from None
    return files


def _limits(value: Any, max_limits: Limits) -> Limits:
    limits: dict[str, Any] = {
        limit.name: min(getattr(Limits(), limit.name), getattr(max_limits, limit.name)) for limit in fields(Limits)
    }
    for name, number in _object(value, "`limits`", [limit.name for limit in fields(Limits)]).items():
        most, whole = getattr(max_limits, name), isinstance(getattr(Limits(), name), int)
        if not _is_number(number) or (whole and int(number) != number) or not 0 < number <= most:
            kind = "a whole number" if whole else "a number"
            raise BadRequest(f"limit `{name}` must be {kind} above 0 and up to {most:g}")
        limits[name] = int(number) if whole else float(number)
    return Limits(**limits)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e12
