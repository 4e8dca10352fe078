"""`Sandbox`: runs and judges programs in jails of its own, several at a time.

Each worker thread owns its jails and starts another when one is worn out or broken.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal, TypeVar, cast

from openqwq.errors import UserError
from openqwq.key_hosts import check_key_host

from .base import BaseSandbox
from .canary import find_fault, is_doubtful
from .cancellation import Cancelled, Ticket
from .http.remote import RemoteSandbox
from .inside import archive
from .jail.jail import Jail, JailError, Job, Outcome
from .jail.options import JAILS, JailKind
from .jail.probe import find_options
from .judge import UNREADABLE, UnreadableTests, judge, run
from .languages import Toolchain, describe_languages, find_toolchains
from .outcomes import LOST, read_outcome
from .programs import Execute
from .spec import LANGUAGES, MAX_CODE_CHARACTERS, TOKEN, JudgeResult, Limits, RunResult, Submission, check_files

JOBS_PER_JAIL = 2000  # bounds whatever a kernel may keep of a job beyond its namespaces
ATTEMPTS = 2  # a jail that died once is chance, twice is a fault to report

KILLED = "killed by a signal 9, twice, where a sound program ends well"

Slot = Literal["main", "tests", "native"]
"""What a worker's jail is for: programs in Python, the tests beside them, other languages."""
Result = TypeVar("Result")


class Sandbox(BaseSandbox):
    """Runs untrusted programs in jails of its own, which `close` ends.

    workers:       programs at one time; by default the processors that this process may use.
    jobs_per_jail: processes that one jail starts before it is replaced; 1 gives each a jail of its own.
    jail:          "bubblewrap", or "gvisor", which puts a kernel of its own between programs and this machine's.
    no_jail:       UNSAFE: no isolation at all, programs run as this user. Never a fallback.
    Raises UserError where no jail works.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        jobs_per_jail: int = JOBS_PER_JAIL,
        jail: JailKind = "bubblewrap",
        no_jail: bool = False,
    ):
        self.options = find_options(jail, no_jail=no_jail)
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
            "jail": self.options.jail,
            "namespaces_per_job": self.options.nested,
            "unprivileged": self.options.as_nobody or os.getuid() != 0,
            "limits": "cgroup" if self.options.cgroup else "rlimits",
            "seccomp": self.options.filtered,
            "python": self.options.interpreter.path,
            "languages": ["python", *self._toolchains()],
        }

    def check_language(self, language: str) -> None:
        """Raise UserError for a language that is not known, or has no toolchain here."""
        if language not in LANGUAGES:
            raise UserError(f"language {language!r} is not one of {', '.join(LANGUAGES)}")
        if language != "python" and language not in self._toolchains():
            reason = describe_languages()[language]
            raise UserError(f"programs in {language} cannot be run here: {reason}", hint="see `openqwq doctor`")

    def submit_run(self, submission: Submission, stdin: str, ticket: Ticket | None = None) -> Future[RunResult]:
        """The run of a program (its tests left alone) as a future, which a cancelled ticket ends with Cancelled."""
        self._check(submission)
        return self._pool.submit(self._run, submission, stdin, ticket or Ticket())

    def run_workspace(
        self, code: str, files: Mapping[str, bytes], limits: Limits | None = None, ticket: Ticket | None = None
    ) -> tuple[RunResult, dict[str, bytes] | None]:
        """The run of a Python program among some files, and the files as it left them.

        None where they are more or larger than `check_files` allows. Raises Cancelled once the ticket is.
        """
        submission = Submission(code=code, files=files, limits=limits or Limits())
        self._check(submission)
        kept: list[dict[str, bytes]] = []
        result = self._pool.submit(self._run, submission, "", ticket or Ticket(), kept).result()
        left = kept[-1] if kept else None
        try:
            check_files(left or {}, submission.limits)
        except ValueError:
            left = None
        return result, left

    def submit_judge(self, submission: Submission, ticket: Ticket | None = None) -> Future[JudgeResult]:
        """The judgement of a submission as a future, which a cancelled ticket ends with Cancelled."""
        self._check(submission)
        return self._pool.submit(self._judge, submission, ticket or Ticket())

    def judge_many(self, submissions: Sequence[Submission]) -> list[JudgeResult]:
        """Judge programs in parallel; results in the order of the submissions."""
        return [future.result() for future in [self.submit_judge(submission) for submission in submissions]]

    def close(self) -> None:
        """End every jail. Programs that are still waiting are cancelled; a forked child leaves its parent's alone."""
        if self._pid != os.getpid():
            return
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            for jail in self._jails:
                jail.kill()
            self._jails.clear()

    def _run_one(self, submission: Submission, stdin: str) -> RunResult:
        return self.submit_run(submission, stdin).result()

    def _run(
        self, submission: Submission, stdin: str, ticket: Ticket, kept: list[dict[str, bytes]] | None = None
    ) -> RunResult:
        """How a program ended; the files that it left are added to `kept`."""

        def work() -> RunResult:
            toolchain = self._toolchain(submission)
            execute: Execute = functools.partial(self._execute, self._slot(toolchain), toolchain, ticket)
            if kept is not None:
                execute = _keeping(execute, kept)
            result = run(submission.code, toolchain, stdin, submission.files, submission.limits, execute)
            fault = self._find_fault(toolchain, ticket, result.status, result.reason)
            return fail(fault) if fault else result

        def fail(reason: str) -> RunResult:
            return read_outcome(Outcome(end="lost"), submission.limits, reason)

        result = _attempt(work, lambda result: result.status, fail)
        if result.reason == LOST and self._is_sound(self._toolchain(submission), ticket):
            return replace(result, status="killed", reason=KILLED)
        return result

    def _judge(self, submission: Submission, ticket: Ticket) -> JudgeResult:
        if len(submission.code) > MAX_CODE_CHARACTERS:
            return JudgeResult(verdict="runtime_error", reason=f"more than {MAX_CODE_CHARACTERS} characters of code")

        def work() -> JudgeResult:
            toolchain = self._toolchain(submission)
            execute = functools.partial(self._execute, self._slot(toolchain), toolchain, ticket)
            result = judge(submission, execute, functools.partial(self._execute_pair, ticket), toolchain)
            fault = self._find_fault(toolchain, ticket, result.verdict, result.reason)
            return fail(fault) if fault else result

        def fail(reason: str) -> JudgeResult:
            return JudgeResult(verdict="infra_error", reason=reason)

        try:
            result = _attempt(work, lambda result: result.verdict, fail)
        except UnreadableTests as error:
            return fail(f"{UNREADABLE}{error}")
        lost = any(LOST in test.reason for test in result.tests)
        return _blame(result) if lost and self._is_sound(self._toolchain(submission), ticket) else result

    def _is_sound(self, toolchain: Toolchain | None, ticket: Ticket) -> bool:
        """Whether a sound program ends well where one was killed in every attempt: then it has brought that about."""
        try:
            return not self._find_fault(toolchain, ticket, "killed", KILLED)
        except JailError:
            return False

    def _find_fault(self, toolchain: Toolchain | None, ticket: Ticket, verdict: str, reason: str) -> str:
        """What is wrong with the jail or the machine under a program that ended in a doubtful way; "" if nothing is."""
        if not is_doubtful(verdict, reason):
            return ""
        slot = self._slot(toolchain)
        fault = find_fault(functools.partial(self._execute, slot, toolchain, ticket))
        if fault and (jail := self._local.jails.get(slot)):
            self._discard(jail)
        return fault

    def _check(self, submission: Submission) -> None:
        self.check_language(submission.language)
        try:
            check_files(submission.files, submission.limits)
        except ValueError as error:
            raise UserError(f"the program's files: {error}") from None

    def _toolchains(self) -> dict[str, Toolchain]:
        return find_toolchains(jailed=self.options.isolated)

    def _toolchain(self, submission: Submission) -> Toolchain | None:
        return None if submission.language == "python" else self._toolchains()[submission.language]

    @staticmethod
    def _slot(toolchain: Toolchain | None) -> Slot:
        return "native" if toolchain else "main"

    def _execute(self, slot: Slot, toolchain: Toolchain | None, ticket: Ticket, job: Job, limits: Limits) -> Outcome:
        """Run a job in this thread's jail of that slot. Raises Cancelled once the ticket is."""
        ticket.check()
        outcome = self._execute_in(self._own_jail(slot, limits), replace(job, cancel=ticket.fd), limits)
        try:
            ticket.check()
        except Cancelled:
            if outcome.made is not None:
                os.close(outcome.made)
            raise
        return outcome

    def _execute_in(self, jail: Jail, job: Job, limits: Limits) -> Outcome:
        try:
            return jail.execute(job, limits)
        finally:
            if jail.num_jobs >= self.jobs_per_jail or not jail.alive:
                self._discard(jail)

    def _execute_pair(self, ticket: Ticket, program: Job, tests: Job, limits: Limits) -> tuple[Outcome, Outcome]:
        """Run a program and its tests in two jails, joined by two pipes; the program ends with the tests."""
        jail, other = self._own_jail("main", limits), self._own_jail("tests", limits)
        calls_out, calls_in = os.pipe2(os.O_CLOEXEC)
        answers_out, answers_in = os.pipe2(os.O_CLOEXEC)
        over = Ticket()
        program = replace(program, links=(calls_out, answers_in), cancel=over.fd)
        tests = replace(tests, links=(answers_out, calls_in), cancel=ticket.fd, asks=jail)
        patient = replace(limits, wall_s=limits.wall_s * (tests.frames + 1))
        outcomes: list[Outcome | JailError] = []

        def serve() -> None:
            try:
                outcomes.append(self._execute_in(jail, program, patient))
            except JailError as error:
                outcomes.append(error)

        server = threading.Thread(target=serve, name="openqwq-sandbox-pair")
        server.start()
        try:
            judged = self._execute_in(other, tests, limits)
        finally:
            over.cancel()
            server.join()
        ticket.check()
        if isinstance(outcomes[0], JailError):
            raise outcomes[0]
        return outcomes[0], judged

    def _own_jail(self, slot: Slot, limits: Limits) -> Jail:
        """This thread's jail of that slot, started if needed."""
        jails: dict[Slot, Jail] = self._local.__dict__.setdefault("jails", {})
        jail = jails.get(slot)
        if jail is None or not jail.alive:
            toolchains = self._toolchains().values() if slot == "native" else ()
            binds = [bind for toolchain in toolchains for bind in toolchain.binds]
            warm = self.jobs_per_jail > 1
            jail = jails[slot] = Jail(self.options, tmp_mib=limits.tmp_mib, binds=binds, warm=warm)
            with self._lock:
                self._jails.append(jail)
        return jail

    def _discard(self, jail: Jail) -> None:
        jail.kill()
        with self._lock, contextlib.suppress(ValueError):
            self._jails.remove(jail)


def _keeping(execute: Execute, kept: list[dict[str, bytes]]) -> Execute:
    """As `execute`, and what each job leaves in its folder is added to `kept`."""

    def execute_and_keep(job: Job, limits: Limits) -> Outcome:
        outcome = execute(replace(job, collect=limits.tmp_mib << 19, tree=True), limits)
        if outcome.made is not None:
            try:
                kept.append(archive.read(outcome.made))
            finally:
                os.close(outcome.made)
                outcome.made = None
        return outcome

    return execute_and_keep


def _blame(result: JudgeResult) -> JudgeResult:
    """The result with the program at fault for its end."""
    tests = tuple(
        replace(test, verdict="killed", reason=test.reason.replace(LOST, KILLED)) if LOST in test.reason else test
        for test in result.tests
    )
    return (
        replace(result, verdict="killed", reason=KILLED, tests=tests)
        if result.reason == LOST
        else replace(result, tests=tests)
    )


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


_shared: dict[str, tuple[int, BaseSandbox]] = {}
_shared_lock = threading.Lock()


def default_sandbox() -> BaseSandbox:
    """The sandbox that this process shares: the one that was set, else one of its own, started on first use.

    A forked child starts its own.
    """
    return find_sandbox("")


def find_sandbox(where: str | BaseSandbox) -> BaseSandbox:
    """The sandbox that is meant; those that are named are shared by the whole process, and started on first use.

    where: "" for the default, "bubblewrap" or "gvisor" for one with jails of that kind, or a service's address; the
           environment variable OPENQWQ_SANDBOX_TOKEN holds the service's token, which goes to this machine and to hosts
           in OPENQWQ_KEY_HOSTS only.
    Raises UserError if it is not available.
    """
    if isinstance(where, BaseSandbox):
        return where
    with _shared_lock:
        pid, sandbox = _shared.get(where, (0, None))
        if sandbox is None or (pid != os.getpid() and isinstance(sandbox, Sandbox)):
            sandbox = _make(where)
            _shared[where] = (os.getpid(), sandbox)
            atexit.register(sandbox.close)
        return sandbox


def _make(where: str) -> BaseSandbox:
    if "://" in where:
        if token := os.environ.get(TOKEN, ""):
            check_key_host(where, f"the token in `{TOKEN}`")
        return RemoteSandbox(where, token=token)
    return Sandbox(jail=cast(JailKind, where)) if where else Sandbox()


def check_place(where: str | BaseSandbox) -> None:
    """Raise UserError for a word that `find_sandbox` does not know."""
    known = isinstance(where, BaseSandbox) or (isinstance(where, str) and (where in ("", *JAILS) or "://" in where))
    if not known:
        raise UserError(f"there is no sandbox {where!r}", hint=f"{', '.join(JAILS)}, or http://HOST:PORT")


def set_default_sandbox(sandbox: BaseSandbox) -> None:
    """Have this process share a sandbox, for example a service elsewhere; the caller closes it."""
    with _shared_lock:
        _shared[""] = (os.getpid(), sandbox)
