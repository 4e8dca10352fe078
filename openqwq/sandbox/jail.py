"""One jail: a bubblewrap process tree with a warm Python inside, which runs one job at a time.

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
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from openqwq.sandbox.bubblewrap import ENVIRONMENT, INSIDE, NOBODY, Interpreter, find_bubblewrap, jail_arguments
from openqwq.sandbox.cgroup import ControlGroup
from openqwq.sandbox.spec import Limits
from openqwq.sandbox.zygote import NUM_FILES, STACK_BYTES

START_S = 30.0  # a jail that is not up by then is broken
KILL_S = 5.0  # the kernel needs milliseconds to end a killed tree
BASE_MIB = 64  # address space of a bare interpreter
READ_BYTES = 1 << 16

End = Literal["exit", "timeout", "output_limit", "lost"]


class JailError(RuntimeError):
    """The jail itself failed: never the candidate's fault."""


@dataclass(frozen=True, slots=True)
class JailOptions:
    """How jails are made on this machine; found by `probe.find_options`.

    bubblewrap: False runs programs unprotected, for those who ask for it by name.
    nested:     jobs get namespaces of their own, so that a jail can be used again.
    as_nobody:  bubblewrap itself runs as user 65534 (when we are root).
    """

    interpreter: Interpreter
    bubblewrap: bool = True
    nested: bool = True
    as_nobody: bool = False
    cgroup: bool = True


@dataclass(slots=True)
class Outcome:
    """How a job ended: its output, and what the supervisor outside its reach reports.

    end:         "lost" means that the jail died under the job.
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


class Jail:
    """A started jail. Raises JailError when it does not come up. Not for two threads at once."""

    def __init__(self, options: JailOptions, *, tmp_mib: int):
        self.options = options
        self.num_jobs = 0
        self.alive = False
        self._errors = os.memfd_create("errors")
        self._group = ControlGroup() if options.cgroup else None
        self._control, inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._process = self._start(inside, tmp_mib)
        except OSError as error:
            self._release()
            raise JailError(f"cannot start a jail: {error}") from error
        finally:
            inside.close()
        self.alive = True
        if self._receive(START_S) != b"ready":
            message = self._start_errors()
            self.kill()
            raise JailError(f"the jail did not start: {message}")

    def _start(self, inside: socket.socket, tmp_mib: int) -> subprocess.Popen:
        options = self.options
        fds = {name: _memory_file((Path(__file__).parent / name).read_bytes()) for name in INSIDE}
        zygote = [options.interpreter.path, "-s", "-S", "-B", "-m", "openqwq.sandbox.zygote", str(inside.fileno())]
        environment: dict[str, str] = {}
        command = zygote
        if options.bubblewrap:
            args = jail_arguments(options.interpreter, tmp_mib=tmp_mib, nested=options.nested, files=fds)
            fds["args"] = _memory_file(b"".join(arg.encode() + b"\0" for arg in args))
            command = [find_bubblewrap(), "--args", str(fds["args"]), "--", *zygote]
        else:
            command[0] = sys.executable
            environment = {**ENVIRONMENT, "PYTHONPATH": str(Path(__file__).parents[2])}
        user: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if options.as_nobody else {}
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=[inside.fileno(), *fds.values()],
                env=environment,
                cwd="/",
                start_new_session=True,
                **user,
            )
        finally:
            for fd in fds.values():
                os.close(fd)

    def execute(self, job: dict[str, Any], limits: Limits, *, frames: int = 0, links: Sequence[int] = ()) -> Outcome:
        """Run one job to its end.

        frames: lines that a whole result has; each of them in time gives the next `limits.wall_s` seconds.
        links:  descriptors from and to the other job of a pair.
        Raises JailError when the child could not be set up.
        """
        self.num_jobs += 1
        if self._group:
            self._group.prepare(limits.memory_mib, limits.processes)
        out, out_inside = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        err, err_inside = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for fd in (out_inside, err_inside):
            os.set_blocking(fd, True)
        payload = _memory_file(json.dumps(job).encode())
        outcome = Outcome()
        try:
            try:
                self._send_request(limits, [payload, out_inside, err_inside, *links])
            finally:
                for fd in (payload, out_inside, err_inside):
                    os.close(fd)
            self._watch(outcome, out, err, limits, frames)
        finally:
            os.close(out)
            os.close(err)
        if self._group and self.alive:
            outcome.out_of_memory = self._group.ran_out_of_memory()
            outcome.memory_mib = self._group.peak_mib()
        return outcome

    def _send_request(self, limits: Limits, fds: Sequence[int]) -> None:
        request = {
            "nested": self.options.nested,
            "tmp_mib": limits.tmp_mib,
            "rlimits": self._rlimits(limits),
            "links": len(fds) - 3,
        }
        groups = self._group.fds if self._group else []
        try:
            socket.send_fds(self._control, [json.dumps(request).encode()], [*fds, *groups])
        except OSError as error:
            self.kill()
            raise JailError(f"the jail is gone: {error}") from error

    def _rlimits(self, limits: Limits) -> dict[str, int]:
        rlimits = {
            "CPU": max(1, math.ceil(limits.cpu_s)),
            "FSIZE": limits.tmp_mib << 20,
            "NOFILE": NUM_FILES,
            "CORE": 0,
            "STACK": STACK_BYTES,
        }
        if self.options.bubblewrap:  # without a user namespace this would count all processes of the user
            rlimits["NPROC"] = limits.processes
        if self._group is None:
            rlimits["AS"] = (limits.memory_mib + BASE_MIB) << 20
        return rlimits

    def _watch(self, outcome: Outcome, out: int, err: int, limits: Limits, frames: int) -> None:
        """Collect output until the job's end is reported; kill it past its deadline or its output cap."""
        start = time.monotonic()
        deadline = start + limits.wall_s
        poller = select.poll()
        for fd in (out, err, self._control.fileno()):
            poller.register(fd, select.POLLIN)
        report = None
        while report is None and self.alive:
            wait = deadline - time.monotonic()
            ready = [fd for fd, _ in poller.poll(max(0.0, wait) * 1000)] if wait > 0 else []
            if not ready:
                outcome.end = "timeout"
                report = self._stop_job()
            for fd, buffer in ((out, outcome.out), (err, outcome.err)):
                if fd in ready and not _drain(fd, buffer, limits.output_bytes):
                    poller.unregister(fd)
            now = time.monotonic()
            complete = min(outcome.out.count(b"\n"), frames) if out in ready and frames else 0
            if complete > len(outcome.frame_times):
                outcome.frame_times += [now - start] * (complete - len(outcome.frame_times))
                deadline = now + limits.wall_s
            if self._control.fileno() in ready:
                report = self._receive_report()
            elif report is None and len(outcome.out) + len(outcome.err) > limits.output_bytes:
                outcome.end = "output_limit"
                report = self._stop_job()
        outcome.wall_s = time.monotonic() - start
        self._finish(outcome, report, out, err, limits)

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

    def cancel(self) -> None:
        """Kill the running job, from another thread than the one in `execute`; nothing when it has ended."""
        with contextlib.suppress(OSError):
            self._control.send(b"kill")

    def _stop_job(self) -> dict[str, Any] | None:
        """Kill the job's whole process tree; its report, or None when the jail died with it."""
        self.cancel()
        report = self._receive_report()
        if not self.options.nested:  # the job may have processes that only the jail's end reaches
            self.kill()
        return report

    def _receive_report(self) -> dict[str, Any] | None:
        message = self._receive(KILL_S)
        if not message:
            self.kill()
            return None
        report = json.loads(message)
        if "error" in report:
            self.kill()
            raise JailError(f"the job could not be set up: {report['error']}")
        return report

    def _receive(self, timeout_s: float) -> bytes:
        self._control.settimeout(timeout_s)
        try:
            return self._control.recv(1 << 16)
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
        self._release()

    def _release(self) -> None:
        self._control.close()
        os.close(self._errors)
        if self._group:
            self._group.close()


def _memory_file(data: bytes) -> int:
    """A descriptor of an anonymous file that holds the data, read from its start."""
    fd = os.memfd_create("data")
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


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
