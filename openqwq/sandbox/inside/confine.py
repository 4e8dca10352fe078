"""How a job's process gives up what its candidate must not have: namespaces, mounts, limits, capabilities, calls.

Runs inside the jail with the standard library of any Python from 3.9 on, and imports nothing of ours.
Every step that fails raises: a job that is not confined does not run.
"""

from __future__ import annotations

import ctypes
import os
import resource

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 1 << 17, 1 << 25, 1 << 26, 1 << 27
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 1 << 28, 1 << 29, 1 << 30
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
CAPABILITY_VERSION_3 = 0x20080522
PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 22, 2, 38
INSTRUCTION_BYTES = 8

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def new_namespaces() -> None:
    """Leave every namespace of the jail; children of this process are process 1 of a new process namespace."""
    uid, gid = os.getuid(), os.getgid()
    flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWCGROUP
    _call("unshare", flags)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        _write(f"/proc/self/{name}", text)


def private_mounts(folder: str, tmp_mib: int, *, proc: bool) -> None:
    """A fresh folder of bounded size, no further user namespaces, and no /proc, or one of this job's processes only."""
    _write("/proc/sys/user/max_user_namespaces", "0")
    options = f"size={tmp_mib}m,nr_inodes={tmp_mib * 256},mode=1777".encode()
    _call("mount", b"tmpfs", folder.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, options)
    kind, options = (b"proc", b"subset=pid,hidepid=2") if proc else (b"tmpfs", b"size=4k")
    access = MS_NOSUID | MS_NODEV | MS_NOEXEC | (0 if proc else MS_RDONLY)
    _call("mount", kind, b"/proc", kind, access, options)


def limit_resources(limits: dict[str, int]) -> None:
    """Set rlimits, soft and hard, by their names without `RLIMIT_`."""
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def drop_capabilities() -> None:
    """Empty the capability sets that a new user namespace brings."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    _call("capset", header, (ctypes.c_uint32 * 6)())


def forbid_new_privileges() -> None:
    """No program that this process starts gains privileges; without it only root may filter calls."""
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def filter_calls(program: bytes) -> None:
    """Install a system-call filter (see `seccomp`) for this process and all it starts, for good."""
    filter_program = _Program(len(program) // INSTRUCTION_BYTES, program)
    _call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filter_program), 0, 0)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
