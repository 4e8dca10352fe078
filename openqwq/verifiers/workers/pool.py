"""Killable, memory-limited worker processes for judgements that may hang (sympy on a model's text).

Public: `WorkerPool(target).run(jobs) -> outcomes`, `shared_pool(target)`, `fault_verdict(outcome)`.

Whose fault an unfinished judgement is: a job first works on the task's side (stage "task": parsing the gold
answer), then on the model's text (stage "candidate"). Running out of CPU time or memory, or an exception, in
stage "candidate" was caused by the candidate's text and is wrong; in stage "task" it is the task's fault and
unjudged. What the machine did (a worker killed from outside, no CPU time within the wall-clock limit) is
unjudged in either stage. The deadline counts CPU seconds, so verdicts do not depend on how busy the machine is.

Workers are fresh interpreters (never forks of a process that holds torch), started when the first job comes,
with a bare environment, and replaced after `jobs_per_worker` jobs or when a job took one down.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import secrets
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any, Protocol

from openqwq.errors import UserError
from openqwq.types import Verdict

logger = logging.getLogger("openqwq.verifiers")

STARTUP_SECONDS = 120.0
"""A worker that has not imported its target by then is given up: slow disks are, minutes are not."""
WALL_FACTOR = 60.0
"""Wall-clock limit of a job over its CPU limit: a worker that gets less of a core than this cannot judge."""
JOBS_PER_EXTRA_WORKER = 16
"""A further worker is worth its second of start-up when this many jobs wait."""

MAX_MESSAGE_BYTES = 1 << 24
"""A worker's message is a line of some hundred bytes; what has no end is not one."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: "ok" with a result, or "deadline", "memory", "error", "crash", "killed", "stalled"."""

    how: str
    stage: str = "candidate"
    result: Any = None
    error: str = ""


def fault_verdict(outcome: Outcome, extracted: str | None = None) -> Verdict:
    """The verdict on a job that did not end "ok", by the rule at this module's head."""
    details = {"stage": outcome.stage, "error": outcome.error}
    if outcome.stage == "candidate" and outcome.how in ("deadline", "memory", "error", "crash"):
        return Verdict.wrong(outcome.how, extracted=extracted, details=details)
    return Verdict.unjudged(f"worker {outcome.how}", extracted=extracted, details=details)


class Process(Protocol):
    """What a worker is to its pool: the part of `subprocess.Popen` that is used."""

    @property
    def stdin(self) -> IO[bytes] | None: ...
    @property
    def stdout(self) -> IO[bytes] | None: ...
    def kill(self) -> None: ...
    def wait(self) -> int: ...


@dataclass(slots=True)
class _Worker:
    process: Process
    buffer: bytes = b""
    ready: bool = False
    job: int | None = None
    secret: int = 0
    stage: str = "task"
    deadline: float = field(default_factory=lambda: time.monotonic() + STARTUP_SECONDS)
    jobs_done: int = 0

    @property
    def channel(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def stop(self) -> int:
        """Kill if still running; the exit code."""
        self.process.kill()
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # a job that it never read
                    pipe.close()
        return code


class WorkerPool:
    """Up to `num_workers` processes that each run `target` ("module:function") on one job at a time."""

    jobs_per_extra_worker = JOBS_PER_EXTRA_WORKER

    def __init__(
        self,
        target: str,
        *,
        num_workers: int = 0,
        deadline_s: float = 3.0,
        memory_mib: int = 2048,
        jobs_per_worker: int = 5000,
        wall_factor: float = WALL_FACTOR,
    ):
        self.target = target
        self.num_workers = num_workers or min(len(os.sched_getaffinity(0)), 8)
        self.deadline_s = deadline_s
        self.memory_mib = memory_mib
        self.jobs_per_worker = jobs_per_worker
        self.wall_s = wall_factor * deadline_s
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def run(self, jobs: Sequence[Any]) -> list[Outcome]:
        """One outcome for each job (JSON data), in order. Raises UserError when the workers cannot start."""
        with self._lock:
            if self._pid != os.getpid():  # after a fork the processes belong to the parent
                self._workers, self._pid = [], os.getpid()
            return _Run(self, [json.dumps(job) for job in jobs]).outcomes()

    def close(self) -> None:
        """Kill the workers; the next `run` starts new ones."""
        if self._pid == os.getpid():
            while self._workers:
                self._workers.pop().stop()

    def cannot_start(self, why: str, hint: str) -> UserError:
        """The error for workers that do not come up."""
        return UserError(f"verifier worker `{self.target}` cannot start: {why}", hint=hint)

    def _start_worker(self) -> None:
        self._workers.append(_Worker(self._launch()))

    def _launch(self) -> Process:
        command = [sys.executable, "-P", "-m", "openqwq.verifiers.workers.child"]
        command += [self.target, str(self.deadline_s), str(self.memory_mib)]
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
        package_root = str(Path(__file__).resolve().parents[3])
        search_path = os.pathsep.join([*filter(None, sys.path), package_root])
        environment = {**kept, "PYTHONPATH": search_path, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        environment["OPENBLAS_NUM_THREADS"] = "1"
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )


class _Run:
    """One pass over a list of jobs: hands them to free workers and reads what comes back."""

    def __init__(self, pool: WorkerPool, jobs: list[str]):
        self.pool = pool
        self.jobs = jobs
        self.waiting = deque(range(len(jobs)))
        self.results: dict[int, Outcome] = {}
        self.failed_starts = 0

    def outcomes(self) -> list[Outcome]:
        try:
            while len(self.results) < len(self.jobs):
                self._start_workers()
                self._hand_out()
                self._read()
        except BaseException:
            self.pool.close()  # a half-read channel cannot be used again
            raise
        return [self.results[i] for i in range(len(self.jobs))]

    def _start_workers(self) -> None:
        wanted = min(self.pool.num_workers, 1 + len(self.waiting) // self.pool.jobs_per_extra_worker)
        while self.waiting and len(self.pool._workers) < wanted:
            self.pool._start_worker()

    def _hand_out(self) -> None:
        for worker in list(self.pool._workers):
            if not (self.waiting and worker.ready and worker.job is None):
                continue
            if worker.jobs_done >= self.pool.jobs_per_worker:
                self._drop(worker)
                continue
            worker.job, worker.stage, worker.secret = self.waiting.popleft(), "task", secrets.randbits(62)
            worker.deadline = time.monotonic() + self.pool.wall_s
            try:
                line = f"[{worker.secret}, {self.jobs[worker.job]}]\n".encode()
                worker.process.stdin.write(line)  # type: ignore[union-attr]
                worker.process.stdin.flush()  # type: ignore[union-attr]
            except BrokenPipeError:  # it died idle: the job goes to another worker
                self.waiting.appendleft(worker.job)
                self._drop(worker)

    def _read(self) -> None:
        """Wait for a message, a death or a wall-clock limit, and record it."""
        busy = [w for w in self.pool._workers if w.job is not None or not w.ready]
        if not busy:
            return
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                selector.register(worker.channel, selectors.EVENT_READ, worker)
            wait_s = max(0.0, min(w.deadline for w in busy) - time.monotonic())
            readable = [key.data for key, _ in selector.select(wait_s)]
        for worker in readable:
            data = os.read(worker.channel, 1 << 16)
            if not data:
                self._record_death(worker)
                continue
            *lines, worker.buffer = (worker.buffer + data).split(b"\n")
            for line in lines:
                self._record(worker, _message(line))
            if len(worker.buffer) > MAX_MESSAGE_BYTES:
                self._record_forgery(worker)
        now = time.monotonic()
        for worker in busy:
            if worker.deadline < now and worker in self.pool._workers and worker not in readable:
                self._record_stall(worker)

    def _record(self, worker: _Worker, message: dict[str, Any]) -> None:
        if "fatal" in message and not worker.ready:
            raise self.pool.cannot_start(
                message["fatal"], "install the package with its dependencies: pip install openqwq"
            )
        if "unconfined" in message and worker.stage != "candidate":
            _warn_unconfined(str(message["unconfined"]))
        elif "ready" in message and not worker.ready:
            worker.ready = True
        elif message.get("secret") != worker.secret:
            self._record_forgery(worker)
        elif "stage" in message:
            worker.stage = message["stage"]
            worker.deadline = time.monotonic() + self.pool.wall_s
        elif worker.job is not None:
            error = message.get("error", "")
            how = "memory" if error == "memory" else "error" if error else "ok"
            self.results[worker.job] = Outcome(how, worker.stage, message.get("result"), error)
            worker.job = None
            worker.jobs_done += 1
            if how == "memory":  # it is on its way out: no further job for it
                self._drop(worker)

    def _record_forgery(self, worker: _Worker) -> None:
        """What was judged wrote into the channel: nothing else from this process is believed."""
        if worker not in self.pool._workers:
            return
        job, stage, worker.job = worker.job, worker.stage, None
        self._drop(worker)
        if job is not None:
            self.results[job] = Outcome("crash", stage, error="a message that is not the judge's")

    def _record_death(self, worker: _Worker) -> None:
        job, stage, ready = worker.job, worker.stage, worker.ready
        code = self._drop(worker, kill=False)
        if not ready:
            self._count_failed_start(f"exit code {code}")
        elif job is not None:
            how = {-signal.SIGPROF: "deadline", -signal.SIGKILL: "killed", -signal.SIGTERM: "killed"}.get(code, "crash")
            self.results[job] = Outcome(how, stage, error=f"exit code {code}")

    def _record_stall(self, worker: _Worker) -> None:
        job, stage, ready = worker.job, worker.stage, worker.ready
        self._drop(worker)
        if not ready:
            self._count_failed_start(f"not ready after {STARTUP_SECONDS:.0f} s")
        elif job is not None:
            self.results[job] = Outcome("stalled", stage, error="no CPU time within the wall-clock limit")

    def _count_failed_start(self, why: str) -> None:
        self.failed_starts += 1
        if self.failed_starts >= 3:
            raise self.pool.cannot_start(
                why, f"it needs {self.pool.memory_mib} MiB of address space and a working Python at {sys.executable}"
            )

    def _drop(self, worker: _Worker, *, kill: bool = True) -> int:
        self.pool._workers.remove(worker)
        if not kill:
            worker.process.wait()
        return worker.stop()


@cache
def _warn_unconfined(why: str) -> None:
    """One line in the log, the first time."""
    logger.warning("verifier workers can write files and reach the network: %s", why)


def _message(line: bytes) -> dict[str, Any]:
    """What a line says; nothing where it is not the worker's form."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


_shared: dict[tuple[str, float, int], WorkerPool] = {}


def shared_pool(target: str, *, deadline_s: float = 3.0, num_workers: int = 0) -> WorkerPool:
    """The process-wide pool for a target, so that many verifiers share its workers; closed at exit."""
    key = (target, deadline_s, num_workers)
    if key not in _shared:
        _shared[key] = WorkerPool(target, deadline_s=deadline_s, num_workers=num_workers)
        atexit.register(_shared[key].close)
    return _shared[key]
