"""The warm process inside a jail: forks one confined child for each job and reports how it ended.

Three processes a job. The zygote waits for requests and holds nothing of any job. The supervisor, its
fork, makes new namespaces and stays outside the new process namespace. The child is process 1 in there:
when it dies, the kernel kills everything it started. The child cannot see, signal or trace the others,
and shares no writable file, network, queue or keyring with the jobs before and after it.

Runs with the standard library of any Python from 3.9 on; imports of ours: codec and driver.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import platform
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from openqwq.sandbox import driver

# fmt: off
PRELOADED = (
    "abc", "array", "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions",
    "functools", "heapq", "io", "itertools", "math", "operator", "random", "re", "statistics", "string",
    "textwrap", "time", "traceback", "typing",
)
# fmt: on
CHANNEL_FD = 100  # where the result channel lies, away from 0, 1 and 2
LINK_FDS = (101, 102)  # from and to the other process of a pair
NUM_FILES = 128  # open files a process
STACK_BYTES = 64 << 20  # deep recursion is honest

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 1 << 17, 1 << 27, 1 << 28, 1 << 29, 1 << 30
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
KEYCTL_JOIN_SESSION_KEYRING = 1
KEYCTL_NUMBERS = {"x86_64": 250, "aarch64": 219}
CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def serve(control: socket.socket) -> Callable[[], None] | None:
    """Fork a child for each request; returns None when the other side is gone, and the child's work in a child."""
    while True:
        message, fds, _, _ = socket.recv_fds(control, 1 << 16, 8)
        if not message:
            return None
        if message == b"kill":  # came too late for a job that had just ended
            continue
        pid = os.fork()
        if pid == 0:
            return _supervise(control, json.loads(message), fds)
        for fd in fds:
            os.close(fd)
        os.waitpid(pid, 0)


def _supervise(control: socket.socket, request: dict[str, Any], fds: list[int]) -> Callable[[], None]:
    """Fork the child into new namespaces, kill it when told to, report its end. Returns in the child only."""
    try:
        if request["nested"]:
            _new_namespaces()
        pid = os.fork()
        if pid == 0:
            return _confine(control, request, fds)
    except BaseException as error:
        control.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        os._exit(1)
    for fd in fds:
        os.close(fd)
    pidfd = os.pidfd_open(pid)
    ready, _, _ = select.select([pidfd, control.fileno()], [], [])
    if pidfd not in ready:
        control.recv(16)
        os.kill(pid, signal.SIGKILL)
        if not request["nested"]:
            _kill_group(pid)
    _, status, usage = os.wait4(pid, 0)
    report = {
        "exit_code": os.waitstatus_to_exitcode(status),
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "memory_mib": usage.ru_maxrss / 1024,
    }
    control.send(json.dumps(report).encode())
    os._exit(0)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # the child may not lead a group yet
        os.killpg(pid, signal.SIGKILL)


def _confine(control: socket.socket, request: dict[str, Any], fds: list[int]) -> Callable[[], None]:
    """Give up everything the candidate must not have; the returned work runs the candidate."""
    payload, out, err, *others = fds
    links, groups = others[: request["links"]], others[request["links"] :]
    for group in groups:
        os.write(group, b"0")
    if request["nested"]:
        _private_mounts(request["tmp_mib"])
        _new_keyring()
    os.setsid()
    with open(payload, "rb", closefd=False) as file:
        job = json.load(file)
    _place_descriptors(job, out, err, links)
    os.chdir("/tmp")
    _limit(request)
    _drop_capabilities()
    control.close()
    os.closerange(3, CHANNEL_FD)
    os.closerange(CHANNEL_FD + 1 + len(links), 1 << 16)
    if job["kind"] == "run":
        os.close(CHANNEL_FD)
        return lambda: driver.run_program(job)
    if job["kind"] == "calls":
        return lambda: driver.answer_calls(job, CHANNEL_FD)
    work = driver.run_asserts if job["kind"] == "asserts" else driver.serve_calls
    return lambda: work(job, CHANNEL_FD, *LINK_FDS)


def _place_descriptors(job: dict[str, Any], out: int, err: int, links: list[int]) -> None:
    """0, 1 and 2 as a script has them; for calls they are /dev/null and the results have a place of their own."""
    for place, fd in enumerate((out, *links), CHANNEL_FD):  # the channel, then LINK_FDS
        os.dup2(fd, place, inheritable=False)
    null = os.open("/dev/null", os.O_RDWR)
    if job["kind"] == "run":
        stdin = os.memfd_create("stdin")
        with open(stdin, "wb", closefd=False) as file:
            file.write(job.pop("stdin").encode("utf-8", "surrogateescape"))
        os.lseek(stdin, 0, os.SEEK_SET)
        places = (stdin, out, err)
    else:
        places = (null, null, null)
    for target, fd in enumerate(places):
        os.dup2(fd, target)


def _new_namespaces() -> None:
    """Leave the zygote's user, process, mount, network and ipc namespaces; children are process 1 of a new one."""
    uid, gid = os.getuid(), os.getgid()
    _call("unshare", CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWNET)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        _write(f"/proc/self/{name}", text)


def _private_mounts(tmp_mib: int) -> None:
    """A fresh /tmp of bounded size, no /proc, and no further user namespaces."""
    _write("/proc/sys/user/max_user_namespaces", "0")
    options = f"size={tmp_mib}m,nr_inodes={tmp_mib * 256},mode=1777".encode()
    _call("mount", b"tmpfs", b"/tmp", b"tmpfs", MS_NOSUID | MS_NODEV, options)
    _call("mount", b"tmpfs", b"/proc", b"tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, b"size=4k")


def _new_keyring() -> None:
    """Join an empty session keyring: the inherited one would carry notes to the next job."""
    number = KEYCTL_NUMBERS.get(platform.machine())
    if number is not None:
        _libc.syscall(number, KEYCTL_JOIN_SESSION_KEYRING, None)  # ENOSYS: a kernel without keyrings


def _limit(request: dict[str, Any]) -> None:
    for name, value in request["rlimits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def _drop_capabilities() -> None:
    """Empty the capability sets that a new user namespace brings."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    _call("capset", header, (ctypes.c_uint32 * 6)())


def _call(name: str, *arguments: Any) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def main() -> None:
    """Serve on the descriptor named by the first argument; a child leaves the loop to run its candidate."""
    control = socket.socket(fileno=int(sys.argv[1]))
    for name in PRELOADED:
        importlib.import_module(name)
    for name in ("PYTHONPATH", "PYTHONHASHSEED"):
        os.environ.pop(name, None)
    sys.path[:] = [entry for entry in sys.path if entry.startswith(sys.base_prefix)]
    gc.collect()
    gc.freeze()
    control.send(b"ready")
    work = serve(control)
    if work is not None:
        work()


if __name__ == "__main__":
    main()
