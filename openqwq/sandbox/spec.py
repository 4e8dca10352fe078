"""What a sandbox is asked and what it answers: limits, submissions, results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

RunStatus = Literal["ok", "runtime_error", "timeout", "memory", "output_limit", "killed", "infra_error"]
JudgeVerdict = Literal[
    "passed", "wrong_answer", "runtime_error", "timeout", "memory", "output_limit", "killed", "infra_error"
]
Mode = Literal["function", "stdio", "asserts"]
Comparison = Literal["typed", "json"]

LANGUAGES = ("python", "cpp", "javascript", "java", "rust", "go")
MODES = ("function", "stdio", "asserts")
COMPARISONS = ("typed", "json")
MAX_CODE_CHARACTERS = 1 << 20
TOKEN = "OPENQWQ_SANDBOX_TOKEN"
"""The environment variable that holds a service's token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one program may use. A program that needs more ends with the limit's own verdict."""

    wall_s: float = 5.0
    """Seconds for loading, and again for each test."""
    cpu_s: float = 20.0
    """Processor seconds of one process over all its tests, rounded up to whole seconds."""
    memory_mib: int = 512
    """Memory of the whole process tree with cgroups, else address space of each process."""
    processes: int = 32
    """Processes and threads at one time."""
    output_bytes: int = 16 << 20
    """stdout and stderr together, or all results of a function; twice what a test expects is always allowed."""
    tmp_mib: int = 16
    """Size of the private /tmp, the only place that can be written to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a program ended. status "ok": exit code 0; "runtime_error": another code or a signal (negative code)."""

    status: RunStatus
    stdout: str
    stderr: str
    exit_code: int | None
    wall_s: float
    cpu_s: float
    memory_mib: float
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestResult:
    """How one test ended. Tests that a dead program never reached carry the verdict of its death."""

    __test__ = False  # the name is the field's; pytest must not collect it
    verdict: JudgeVerdict
    wall_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeResult:
    """ "passed" when every test passed, else the verdict of the first test that did not."""

    verdict: JudgeVerdict
    tests: tuple[TestResult, ...] = ()
    reason: str = ""

    @property
    def num_passed(self) -> int:
        return sum(test.verdict == "passed" for test in self.tests)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A program and the tests it must pass.

    language: one of LANGUAGES; any for "stdio", Python for the other modes.
    mode "function": tests `{"args": [...], "expected": value, "alternatives": [value, ...]}`, of which the last may be
                     left out; the entry point (`f`, or the method of a class that
                     is made without arguments, `Solution.f`) is called with each.
    mode "stdio":    tests `{"stdin": text, "stdout": text}`; the program runs once for each.
    mode "asserts":  tests are Python texts that call the entry point, e.g. "assert f(1) == 2"; they run in a
                     process of their own, and only calls and plain results pass between the two.
    compare:         of values in mode "function": "typed" type for type, "json" as far as JSON can tell them apart.
    tolerance:       of numbers with decimals in mode "stdio", absolute and relative; 0: equal numbers only.
    files:           what lies beside the program (relative path: content).
    restart:         after a test that ends the program, go on with the next in a new process (not "asserts").
    """

    code: str
    mode: Mode = "function"
    entry_point: str = ""
    tests: Sequence[Any] = field(default_factory=tuple)
    limits: Limits = field(default_factory=Limits)
    restart: bool = False
    compare: Comparison = "typed"
    tolerance: float = 0.0
    language: str = "python"
    files: Mapping[str, bytes] = field(default_factory=dict)


MAX_FILES = 256
MAX_NAME_CHARACTERS = 200


def check_files(files: Mapping[str, bytes], limits: Limits) -> None:
    """Raise ValueError unless the files can lie beside a program: plain relative paths, and half of /tmp together."""
    if len(files) > MAX_FILES:
        raise ValueError(f"more than {MAX_FILES} files")
    if sum(map(len, files.values())) > limits.tmp_mib << 19:
        raise ValueError(f"more than half of tmp_mib, which is {limits.tmp_mib} MiB")
    for name in files:
        parts = name.split("/")
        if not 0 < len(name) <= MAX_NAME_CHARACTERS or "\0" in name or {"", ".", ".."} & set(parts):
            raise ValueError(f"{name!r} is not a relative path of up to {MAX_NAME_CHARACTERS} characters")
        if any("/".join(parts[:i]) in files for i in range(1, len(parts))):
            raise ValueError(f"{name!r} lies in another file")
