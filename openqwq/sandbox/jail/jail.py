"""One jail: a process tree in bubblewrap or gVisor, with a warm Python inside, which runs one job at a time.

The host's side of `zygote.py`. A job's code and input go in as a memory file, its output comes out on
pipes that are read under one byte cap and one deadline; nobody waits for a pipe's end, since a daemon may
hold it. Whatever goes wrong, `kill` takes the whole tree with it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..inside.zygote import MESSAGE_BYTES, NUM_FILES, STACK_BYTES
from ..spec import Limits
from .bubblewrap import NOBODY, Bind
from .cgroup import ControlGroup
from .gvisor import RUNTIME_MIB, RUNTIME_PROCESSES
from .launch import Launch, memory_file, prepare_launch
from .options import JailOptions

START_S = 30.0  # a jail that is not up by then is broken
KILL_S = 5.0  # the kernel needs milliseconds to end a killed tree
BASE_MIB = 64  # address space of a bare interpreter
READ_BYTES = 1 << 16
PATIENCE = 60  # times its limit that a job may wait for a processor before the machine is called too busy
LEAST_WAIT_S = 0.01  # a shorter wait for a processor is no reason to go on

CPU_SHARE = 0.5  # of its limit, from which on the limit is what ended a job: the kernel counts ticks for it
FOLDER = "/tmp"  # where a job works

End = Literal["exit", "timeout", "starved", "output_limit", "lost", "cancelled"]


class JailError(RuntimeError):
    """The jail itself failed: never the candidate's fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a jail's child does; `payload` names the kind of work, see `zygote` and `driver`.

    frames:   lines that a whole result has; each of them in time gives the next `limits.wall_s` seconds.
    archives: descriptors of archives that are unpacked into the job's folder, one after another.
    links:    descriptors from and to the other job of a pair; closed here once they are inside.
    cancel:   descriptor that is readable once nobody waits for the job any more, or None.
    collect:  bytes that may be taken out of the job's folder `out` after its end.
    tree:     take them from the whole of its folder instead.
    asks:     the jail whose job answers this one.
    native:   the work is a program of its own rather than Python: it has a /proc, and may reserve address space.
    """

    payload: dict[str, Any]
    frames: int = 0
    archives: Sequence[int] = ()
    links: Sequence[int] = ()
    cancel: int | None = None
    collect: int = 0
    tree: bool = False
    asks: Jail | None = None
    native: bool = False


@dataclass(slots=True)
class Outcome:
    """How a job ended: its output, and what the supervisor outside its reach reports.

    end:         "lost" means that the jail died under the job, "cancelled" that nobody waits for it, "starved" that
                 the machine gave it no processor for too long.
    frame_times: seconds from the start at which each line of `out` was complete.
    """

    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)
    frame_times: list[float] = field(default_factory=list)
    end: End = "exit"
    exit_code: int | None = None
    wall_s: float = 0.0
    cpu_s: float = 0.0
    memory_mib: float = 0.0
    out_of_memory: bool = False
    made: int | None = None
    """Descriptor of the archive of what the job made; the receiver closes it."""


class Jail:
    """A started jail. Raises JailError when it does not come up. Not for two threads at once.

    binds: folders of the host that show inside besides the system's, read-only.
    warm:  import what programs use often, which pays from the second job on.
    """

    def __init__(self, options: JailOptions, *, tmp_mib: int, binds: Sequence[Bind] = (), warm: bool = True):
        self.options = options
        self.num_jobs = 0
        self.alive = False
        self._errors = os.memfd_create("errors")
        self._group = ControlGroup() if options.cgroup else None
        self._launch = Launch([])
        self._out_of_memory = False
        self._bound_group(Limits())
        self._control, inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._process = self._start(inside.fileno(), tmp_mib, binds, warm)
        except (OSError, subprocess.CalledProcessError) as error:
            self._release()
            raise JailError(f"cannot start a jail: {error}") from error
        finally:
            inside.close()
        self.alive = True
        if self._receive(START_S) != b"ready":
            message = self._start_errors()
            self.kill()
            raise JailError(f"the jail did not start: {message}")

    def _start(self, control: int, tmp_mib: int, binds: Sequence[Bind], warm: bool) -> subprocess.Popen:
        options = self.options
        groups = self._group.fds if self._group else []
        self._launch = prepare_launch(options, control, tmp_mib=tmp_mib, binds=binds, warm=warm, groups=groups)
        user: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if options.as_nobody else {}
        try:
            return subprocess.Popen(
                self._launch.command,
                stdin=self._launch.stdin,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=self._launch.fds,
                env=self._launch.environment,
                cwd="/",
                start_new_session=True,
                **user,
            )
        finally:
            self._launch.close()

    def execute(self, job: Job, limits: Limits) -> Outcome:
        """Run one job to its end. Raises JailError when the child could not be set up."""
        self.num_jobs += 1
        self._bound_group(limits)
        outcome = Outcome()
        with contextlib.ExitStack() as stack:
            folder = FOLDER if self.options.isolated else stack.enter_context(tempfile.TemporaryDirectory())
            out, out_inside = _pipe(stack)
            err, err_inside = _pipe(stack)
            with contextlib.ExitStack() as sent:
                payload = memory_file(json.dumps(job.payload).encode())
                for fd in (payload, out_inside, err_inside, *job.links):
                    sent.callback(os.close, fd)
                self._send_request(job, limits, folder, [payload, out_inside, err_inside, *job.archives, *job.links])
            self._watch(outcome, out, err, job, limits)
        if self._group and self.alive:
            self._out_of_memory = self._group.ran_out_of_memory()
            if not self._grouped_whole:
                outcome.memory_mib = self._group.peak_mib()
        outcome.out_of_memory = self._out_of_memory
        if self._group and self._ended_by_the_machine(outcome, self._group, limits):
            outcome.end = "lost"
        return outcome

    def _ended_by_the_machine(self, outcome: Outcome, group: ControlGroup, limits: Limits) -> bool:
        """Whether something outside killed the job, which within its namespaces nothing can, or the machine's want of
        memory did, not its own."""
        if not self.options.nested or not self.alive or outcome.end != "exit" or outcome.exit_code != -signal.SIGKILL:
            return False
        return not group.neared_limit() if outcome.out_of_memory else outcome.cpu_s < CPU_SHARE * limits.cpu_s

    @property
    def _grouped_whole(self) -> bool:
        """Whether the jail as a whole is in the control group, its own processes with the job's."""
        return self.options.jail == "gvisor"

    def _bound_group(self, limits: Limits) -> None:
        if self._group and self._grouped_whole:
            self._group.prepare(limits.memory_mib + RUNTIME_MIB, limits.processes + RUNTIME_PROCESSES)
        elif self._group:
            self._group.prepare(limits.memory_mib, limits.processes)

    def _send_request(self, job: Job, limits: Limits, folder: str, fds: Sequence[int]) -> None:
        request = {
            "folder": folder,
            "tmp_mib": limits.tmp_mib,
            "proc": job.native,
            "rlimits": self._rlimits(job, limits),
            "num_archives": len(job.archives),
            "num_links": len(job.links),
            "collect_bytes": job.collect,
            "collect_tree": job.tree,
        }
        groups = self._group.fds if self._group and not self._grouped_whole else []
        try:
            socket.send_fds(self._control, [json.dumps(request).encode()], [*fds, *groups])
        except OSError as error:
            self.kill()
            raise JailError(f"the jail is gone: {error}") from error

    def _rlimits(self, job: Job, limits: Limits) -> dict[str, int]:
        rlimits = {
            "CPU": max(1, math.ceil(limits.cpu_s)),
            "FSIZE": limits.tmp_mib << 20,
            "NOFILE": NUM_FILES,
            "CORE": 0,
            "STACK": STACK_BYTES,
        }
        if self.options.isolated:  # without a user namespace this would count all processes of the user
            rlimits["NPROC"] = limits.processes
        if self._group is None or self._grouped_whole:
            rlimits["DATA" if job.native else "AS"] = (limits.memory_mib + BASE_MIB) << 20
        return rlimits

    def _watch(self, outcome: Outcome, out: int, err: int, job: Job, limits: Limits) -> None:
        """Collect output until the job's end is reported; kill it past its deadline or cap, or when cancelled.

        Time in which it waited for a processor does not count: a verdict must not depend on how busy the machine is.
        """
        start = time.monotonic()
        deadline = start + limits.wall_s
        waited_s = 0.0
        poller = select.poll()
        for fd in (out, err, self._control.fileno(), job.cancel):
            if fd is not None:
                poller.register(fd, select.POLLIN)
        report = None
        num_lines = num_read = 0
        while report is None and self.alive:
            wait = deadline - time.monotonic()
            ready = [fd for fd, _ in poller.poll(max(0.0, wait) * 1000)] if wait > 0 else []
            if not ready and (more_s := self._waited_s(job, since=start) - waited_s) > LEAST_WAIT_S:
                deadline, waited_s = deadline + more_s, waited_s + more_s
                if waited_s <= PATIENCE * limits.wall_s:
                    continue
            if not ready or job.cancel in ready:
                starved = waited_s > PATIENCE * limits.wall_s
                outcome.end = "cancelled" if ready else "starved" if starved else "timeout"
                report = self._stop_job(outcome)
            for fd, buffer in ((out, outcome.out), (err, outcome.err)):
                if fd in ready and not _drain(fd, buffer, limits.output_bytes):
                    poller.unregister(fd)
            now = time.monotonic()
            if job.frames and len(outcome.out) > num_read:
                num_lines, num_read = num_lines + outcome.out.count(b"\n", num_read), len(outcome.out)
            complete = min(num_lines, job.frames)
            if complete > len(outcome.frame_times):
                outcome.frame_times += [now - start] * (complete - len(outcome.frame_times))
                deadline = now + limits.wall_s
            if report is None and self._control.fileno() in ready:
                report = self._receive_report(outcome)
            elif report is None and len(outcome.out) + len(outcome.err) > limits.output_bytes:
                outcome.end = "output_limit"
                report = self._stop_job(outcome)
        outcome.wall_s = time.monotonic() - start
        self._finish(outcome, report, out, err, limits)

    def _waited_s(self, job: Job, *, since: float) -> float:
        """Seconds since then in which the job, or the one that answers it, was kept from running by others."""
        groups = (self._group, job.asks._group if job.asks else None)
        return min(time.monotonic() - since, sum(group.waited_s() for group in groups if group))

    def _finish(self, outcome: Outcome, report: dict[str, Any] | None, out: int, err: int, limits: Limits) -> None:
        for fd, buffer in ((out, outcome.out), (err, outcome.err)):
            _drain(fd, buffer, limits.output_bytes)
        if outcome.end == "exit" and len(outcome.out) + len(outcome.err) > limits.output_bytes:
            outcome.end = "output_limit"
        if report is not None:
            outcome.exit_code = report["exit_code"]
            outcome.cpu_s = report["cpu_s"]
            outcome.memory_mib = report["memory_mib"]
        else:
            self.kill()
            if outcome.end == "exit" and self.options.nested:
                outcome.end = "lost"
            elif outcome.end == "exit":  # a program within reach of its jail's own processes has killed them
                outcome.exit_code = -signal.SIGKILL

    def _stop_job(self, outcome: Outcome) -> dict[str, Any] | None:
        """Kill the job's whole process tree; its report, or None when the jail died with it."""
        with contextlib.suppress(OSError):
            self._control.send(b"kill")
        report = self._receive_report(outcome)
        if not self.options.nested:  # the job may have processes that only the jail's end reaches
            self.kill()
        return report

    def _receive_report(self, outcome: Outcome) -> dict[str, Any] | None:
        message = self._receive(KILL_S)
        if not message:
            self.kill()
            return None
        report = json.loads(message)
        if "error" in report:
            self.kill()
            raise JailError(f"the job could not be set up: {report['error']}")
        if report["made_bytes"]:
            made = bytearray()
            while len(made) < report["made_bytes"]:
                part = self._receive(KILL_S)
                if not part:
                    self.kill()
                    return None
                made += part
            outcome.made = memory_file(made)
        return report

    def _receive(self, timeout_s: float) -> bytes:
        """The next message; empty where none comes in time, or none any more."""
        self._control.settimeout(timeout_s)
        try:
            return self._control.recv(MESSAGE_BYTES)
        except OSError:
            return b""
        finally:
            self._control.settimeout(None)

    def _start_errors(self) -> str:
        return os.pread(self._errors, 4096, 0).decode(errors="replace").strip() or "no message"

    def kill(self) -> None:
        """End every process of the jail. Safe to call twice."""
        if not self.alive:
            return
        self.alive = False
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        if self._group and self._grouped_whole:
            self._group.kill()
        self._release()

    def _release(self) -> None:
        self._control.close()
        os.close(self._errors)
        if self._group:
            with contextlib.suppress(OSError):
                self._out_of_memory = self._group.ran_out_of_memory()
            self._group.close()
        self._launch.remove()


def _pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe from the job: our end does not block and is closed with the stack, the other end is the caller's."""
    ours, inside = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(ours, False)
    os.fchmod(inside, 0o622)  # the job, as another user, may open it again by its name /dev/stdout
    stack.callback(os.close, ours)
    return ours, inside


def _drain(fd: int, buffer: bytearray, cap: int) -> bool:
    """Read what is there, up to a little over the cap; False at the pipe's end."""
    while len(buffer) <= cap:
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return True
        if not data:
            return False
        buffer += data
    return True
