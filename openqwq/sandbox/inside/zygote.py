"""The warm process inside a jail: forks one confined child for each job and reports how it ended.

Three processes a job. The zygote holds nothing of any job. The supervisor, its fork, makes new namespaces
and stays outside the new process namespace. The child is process 1 in there: when it dies, the kernel kills
everything it started. The child cannot see, signal or trace the others, and shares no writable file, network,
queue or keyring with the jobs before and after it. Supervisor and child are made before their job arrives;
the child itself receives the job.

Runs with the standard library of any Python from 3.10 on; imports of ours: those that are copied into the jail.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable

from . import archive, confine, driver

TYPE_CHECKING = False  # importing `typing` for it would be a tenth of a jail's start
if TYPE_CHECKING:
    from typing import Any

# fmt: off
PRELOADED = (
    "abc", "array", "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions",
    "functools", "heapq", "io", "itertools", "math", "operator", "random", "re", "statistics", "string",
    "textwrap", "time", "traceback", "typing",
)
# fmt: on
CHANNEL_FD = 100  # where the result channel lies, away from 0, 1 and 2
LINK_FDS = (101, 102)  # from and to the other process of a pair
NUM_FILES = 256  # open files a process
STACK_BYTES = 64 << 20  # deep recursion is honest
MESSAGE_BYTES = 1 << 16
MAX_FDS = 9
ENDED = 3  # exit code of a supervisor after which the zygote ends too

Work = Callable[[], None]


def serve(control: socket.socket, nested: bool, many: bool, filter_program: bytes) -> Work | None:
    """Prepare a child for each job to come; returns None when there are no more, and the child's work in a child.

    nested:         every child gets namespaces of its own.
    many:           jobs come until the other side is gone, rather than one.
    filter_program: the system calls that a child may make; empty for all.
    """
    while True:
        pid = os.fork()
        if pid == 0:
            return _supervise(control, nested, filter_program)
        _, status = os.waitpid(pid, 0)
        if not many or os.waitstatus_to_exitcode(status) == ENDED:
            return None


def _supervise(control: socket.socket, nested: bool, filter_program: bytes) -> Work:
    """Fork the child into new namespaces, kill it when told to, report its end. Returns in the child only."""
    accepted, accept = os.pipe()
    try:
        if nested:
            confine.new_namespaces()
        pid = os.fork()
        if pid == 0:
            os.close(accepted)
            request, fds = _receive(control)
            kept = {"folder": request["folder"], "collect": request["collect_bytes"], "tree": request["collect_tree"]}
            os.write(accept, json.dumps(kept).encode())
            os.close(accept)
            return _confine(control, request, fds, nested, filter_program)
    except BaseException as error:
        control.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        os._exit(ENDED)
    os.close(accept)
    job = os.read(accepted, MESSAGE_BYTES)
    if not job:  # the child has met the end
        os._exit(ENDED)
    _report(control, pid, nested, **json.loads(job))
    os._exit(0)


def _receive(control: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next request and its descriptors; leaves the process when there will be none."""
    while True:
        message, fds, _, _ = socket.recv_fds(control, MESSAGE_BYTES, MAX_FDS)
        if not message:
            os._exit(0)
        if message != b"kill":  # that came too late for a job that had just ended
            return json.loads(message), fds


def _report(control: socket.socket, pid: int, nested: bool, folder: str, collect: int, tree: bool) -> None:
    """Wait for the child's end, or bring it about when told to, and send how it was."""
    ended = _watch_end(pid)
    ready, _, _ = select.select([ended, control.fileno()], [], [])
    if ended not in ready:
        control.recv(16)
        os.kill(pid, signal.SIGKILL)
        if not nested:
            _kill_group(pid)
    _, status, usage = os.wait4(pid, 0)
    report = {
        "exit_code": os.waitstatus_to_exitcode(status),
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "memory_mib": usage.ru_maxrss / 1024,
    }
    made = archive.pack(_collect(folder, collect, tree)) if collect else -1
    size = os.fstat(made).st_size if collect else 0
    control.send(json.dumps(report | {"made_bytes": size}).encode())
    for offset in range(0, size, MESSAGE_BYTES):  # gVisor lets no descriptor out
        control.send(os.pread(made, MESSAGE_BYTES, offset))


def _collect(folder: str, max_bytes: int, tree: bool) -> dict[str, bytes]:
    """What a job made: in its folder `out`, or everywhere in its own."""
    return archive.collect_tree(folder, max_bytes) if tree else archive.collect(os.path.join(folder, "out"), max_bytes)


def _watch_end(pid: int) -> int:
    """A descriptor that is readable from the child's end on."""
    try:
        return os.pidfd_open(pid)
    except OSError:  # gVisor may have no such call
        ended, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):  # before the signal was watched
            os.write(wake, b"x")
        return ended


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # the child may not lead a group yet
        os.killpg(pid, signal.SIGKILL)


def _confine(
    control: socket.socket, request: dict[str, Any], fds: list[int], nested: bool, filter_program: bytes
) -> Work:
    """Give up everything the candidate must not have; the returned work runs the candidate."""
    payload, out, err, *others = fds
    archives, others = others[: request["num_archives"]], others[request["num_archives"] :]
    links, groups = others[: request["num_links"]], others[request["num_links"] :]
    for group in groups:
        os.write(group, b"0")
    folder = request["folder"]
    if nested:
        confine.private_mounts(folder, request["tmp_mib"], proc=request["proc"])
    os.setsid()
    with open(payload, "rb", closefd=False) as file:
        job = json.load(file)
    for files in archives:
        archive.unpack(files, folder)
    _place_descriptors(job, out, err, links)
    os.chdir(folder)
    confine.limit_resources(request["rlimits"])
    confine.drop_capabilities()
    control.close()
    os.closerange(3, CHANNEL_FD)
    os.closerange(CHANNEL_FD + 1 + len(links), 1 << 16)
    work = _choose_work(job)
    if filter_program:
        confine.filter_calls(filter_program)
    return work


def _choose_work(job: dict[str, Any]) -> Work:
    kind = job["kind"]
    if kind in ("run", "command"):
        os.close(CHANNEL_FD)
        run = driver.run_program if kind == "run" else driver.run_command
        return lambda: run(job)
    if kind == "calls":
        return lambda: driver.answer_calls(job, CHANNEL_FD)
    work = driver.run_asserts if kind == "asserts" else driver.serve_calls
    return lambda: work(job, CHANNEL_FD, *LINK_FDS)


def _place_descriptors(job: dict[str, Any], out: int, err: int, links: list[int]) -> None:
    """0, 1 and 2 as a script has them; for calls they are /dev/null and the results have a place of their own."""
    for place, fd in enumerate((out, *links), CHANNEL_FD):  # the channel, then LINK_FDS
        os.dup2(fd, place, inheritable=False)
    null = os.open("/dev/null", os.O_RDWR)
    if "stdin" in job:
        stdin = os.memfd_create("stdin")
        with open(stdin, "wb", closefd=False) as file:
            file.write(job.pop("stdin").encode("utf-8", "surrogateescape"))
        os.lseek(stdin, 0, os.SEEK_SET)
        places = (stdin, out, err)
    else:
        places = (null, null, null)
    for target, fd in enumerate(places):
        os.dup2(fd, target)


def main() -> None:
    """Serve on the descriptor that the first argument names; a child leaves the loop to run its candidate.

    It may be 0, where a job's stdin will lie, and is moved out of the way. The second argument is "nested" or "flat",
    the third "many" or "once" (jobs), the fourth the path of the system-call filter or "".
    """
    control = socket.socket(fileno=fcntl.fcntl(int(sys.argv[1]), fcntl.F_DUPFD_CLOEXEC, 3))
    os.close(int(sys.argv[1]))
    filter_program = b""
    if sys.argv[4]:
        with open(sys.argv[4], "rb") as file:
            filter_program = file.read()
    many = sys.argv[3] == "many"
    for name in PRELOADED if many else ():
        importlib.import_module(name)
    for name in ("PYTHONPATH", "PYTHONHASHSEED"):
        os.environ.pop(name, None)
    driver.prepare_interpreter()
    sys.path[:] = [entry for entry in sys.path if entry.startswith(sys.base_prefix)]
    gc.collect()
    gc.freeze()
    control.send(b"ready")
    work = serve(control, sys.argv[2] == "nested", many, filter_program)
    if work is not None:
        work()
