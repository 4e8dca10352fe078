"""`Sandbox`: runs and judges programs in jails of its own, several at a time.

Each worker thread owns one jail and starts another when that one is worn out, broken or of the wrong size.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from openqwq.sandbox.jail import Jail, JailError, Outcome
from openqwq.sandbox.judge import UnreadableTests, judge, read_outcome
from openqwq.sandbox.probe import find_options
from openqwq.sandbox.spec import JudgeResult, Limits, Mode, RunResult, Submission

JOBS_PER_JAIL = 2000  # bounds whatever a kernel may keep of a job beyond its namespaces
MAX_CODE_BYTES = 1 << 20
ATTEMPTS = 2  # a jail that died once is chance, twice is a fault to report

Result = TypeVar("Result")


class Sandbox:
    """Runs untrusted Python. A context manager; `close` ends its jails.

    workers:       programs at one time; by default the processors that this process may use.
    jobs_per_jail: processes that one jail starts before it is replaced; 1 gives each a jail of its own.
    no_jail:       UNSAFE: no isolation at all, programs run as this user. Never a fallback.
    Raises UserError where no jail works.
    """

    def __init__(self, *, workers: int | None = None, jobs_per_jail: int = JOBS_PER_JAIL, no_jail: bool = False):
        self.options = find_options(no_jail=no_jail)
        self.jobs_per_jail = jobs_per_jail if self.options.nested else 1
        self.workers = workers or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="openqwq-sandbox")
        self._local = threading.local()
        self._jails: list[Jail] = []
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def capabilities(self) -> dict[str, Any]:
        """What protects programs here, for `openqwq doctor` and for logs."""
        return {
            "jail": "bubblewrap" if self.options.bubblewrap else "none",
            "namespaces_per_job": self.options.nested,
            "unprivileged": self.options.as_nobody or os.getuid() != 0,
            "limits": "cgroup" if self.options.cgroup else "rlimits",
            "python": self.options.interpreter.path,
            "languages": ["python"],
        }

    def run(self, code: str, stdin: str = "", limits: Limits | None = None) -> RunResult:
        """Run a script and return what it wrote and how it ended."""
        limits = limits or Limits()
        job = {"kind": "run", "code": code, "stdin": stdin}
        return self._pool.submit(self._run, job, limits).result()

    def judge(
        self,
        code: str,
        mode: Mode = "function",
        entry_point: str = "",
        tests: Sequence[Any] = (),
        limits: Limits | None = None,
        *,
        restart: bool = False,
    ) -> JudgeResult:
        """Judge one program; see `Submission` for the arguments."""
        limits = limits or Limits()
        submission = Submission(
            code=code, mode=mode, entry_point=entry_point, tests=tests, limits=limits, restart=restart
        )
        return self.judge_many([submission])[0]

    def judge_many(self, submissions: Sequence[Submission]) -> list[JudgeResult]:
        """Judge programs in parallel; results in the order of the submissions."""
        return list(self._pool.map(self._judge, submissions))

    def close(self) -> None:
        """End every jail. Programs that are still waiting are cancelled; a forked child leaves its parent's alone."""
        if self._pid != os.getpid():
            return
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            for jail in self._jails:
                jail.kill()
            self._jails.clear()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, job: dict[str, Any], limits: Limits) -> RunResult:
        def work() -> RunResult:
            return read_outcome(self._execute(job, limits, 0), limits)

        def fail(reason: str) -> RunResult:
            return read_outcome(Outcome(end="lost"), limits, reason)

        return _attempt(work, lambda result: result.status, fail)

    def _judge(self, submission: Submission) -> JudgeResult:
        if len(submission.code) > MAX_CODE_BYTES:
            return JudgeResult(verdict="runtime_error", reason=f"more than {MAX_CODE_BYTES} characters of code")

        def fail(reason: str) -> JudgeResult:
            return JudgeResult(verdict="infra_error", reason=reason)

        try:
            return _attempt(
                lambda: judge(submission, self._execute, self._execute_pair), lambda result: result.verdict, fail
            )
        except UnreadableTests as error:
            return fail(f"unreadable tests: {error}")

    def _execute(
        self, job: dict[str, Any], limits: Limits, frames: int, *, links: Sequence[int] = (), jail: Jail | None = None
    ) -> Outcome:
        jail = jail or self._own_jail(0, limits)
        try:
            return jail.execute(job, limits, frames=frames, links=links)
        finally:
            if jail.num_jobs >= self.jobs_per_jail or not jail.alive:
                self._discard(jail)

    def _execute_pair(
        self, program: dict[str, Any], tests: dict[str, Any], limits: Limits, frames: int
    ) -> tuple[Outcome, Outcome]:
        """Run a program and its tests in two jails, joined by two pipes; the program ends with the tests."""
        jail, other = self._own_jail(0, limits), self._own_jail(1, limits)
        calls_out, calls_in = os.pipe2(os.O_CLOEXEC)
        answers_out, answers_in = os.pipe2(os.O_CLOEXEC)
        patient = replace(limits, wall_s=limits.wall_s * (frames + 1))
        outcomes: list[Outcome | JailError] = []

        def serve() -> None:
            try:
                outcomes.append(self._execute(program, patient, 0, links=(calls_out, answers_in), jail=jail))
            except JailError as error:
                outcomes.append(error)
            finally:
                os.close(calls_out)
                os.close(answers_in)

        server = threading.Thread(target=serve, name="openqwq-sandbox-pair")
        server.start()
        try:
            judged = self._execute(tests, limits, frames, links=(answers_out, calls_in), jail=other)
        finally:
            os.close(calls_in)
            os.close(answers_out)
            jail.cancel()
            server.join()
        if isinstance(outcomes[0], JailError):
            raise outcomes[0]
        return outcomes[0], judged

    def _own_jail(self, slot: int, limits: Limits) -> Jail:
        """This thread's jail of that slot, started when there is none."""
        jails: dict[int, Jail] = self._local.__dict__.setdefault("jails", {})
        jail = jails.get(slot)
        if jail is None or not jail.alive:
            jail = jails[slot] = Jail(self.options, tmp_mib=limits.tmp_mib)
            with self._lock:
                self._jails.append(jail)
        return jail

    def _discard(self, jail: Jail) -> None:
        jail.kill()
        with self._lock, contextlib.suppress(ValueError):
            self._jails.remove(jail)


def _attempt(work: Callable[[], Result], status: Callable[[Result], str], fail: Callable[[str], Result]) -> Result:
    """The result of `work`, tried again once when the jail, not the program, failed."""
    result = fail("never tried")
    for _ in range(ATTEMPTS):
        try:
            result = work()
        except JailError as error:
            result = fail(str(error))
        if status(result) != "infra_error":
            break
    return result


_default: tuple[int, Sandbox] | None = None
_default_lock = threading.Lock()


def default_sandbox() -> Sandbox:
    """The sandbox that this process shares, started on first use (a forked child starts its own)."""
    global _default
    with _default_lock:
        if _default is None or _default[0] != os.getpid():
            _default = (os.getpid(), Sandbox())
            atexit.register(_default[1].close)
        return _default[1]
