"""A process that may read files, compute and answer on the pipes it has, and nothing else: a filter of system calls.

Public: confine_reader. For judges of text that a model wrote: the libraries that read it are large, and none of them
needs to write a file, to start a program or to reach another machine. The kernel refuses that for good, at no cost per
answer; no namespace, no privilege and no other program is needed.
"""

from __future__ import annotations

import errno
import os
import platform

from .inside.confine import filter_calls, forbid_new_privileges
from .jail.seccomp import (
    ABSENT,
    ANY_BIT,
    ARCHITECTURES,
    AT_ARGUMENT_0,
    CLONE,
    EQUAL,
    INNER_DENIED,
    OUTER_DENIED,
    Instruction,
    assemble,
    fail,
    for_call,
)

AT_ARGUMENT_1, AT_ARGUMENT_2, AT_ARGUMENT_4 = AT_ARGUMENT_0 + 8, AT_ARGUMENT_0 + 16, AT_ARGUMENT_0 + 32
THREAD = 0x00010000  # CLONE_THREAD: not a process of its own
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

# fmt: off
# name: (x86_64, aarch64); None where the architecture has no such call
CHANGES: dict[str, tuple[int | None, int | None]] = {
    "creat": (85, None), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, None),
    "mkdirat": (258, 34), "rmdir": (84, None), "link": (86, None), "linkat": (265, 37), "unlink": (87, None),
    "unlinkat": (263, 35), "symlink": (88, None), "symlinkat": (266, 36), "mknod": (133, None), "mknodat": (259, 33),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, None), "lchown": (94, None),
    "fchown": (93, 55), "fchownat": (260, 54), "truncate": (76, 45), "utime": (132, None), "utimes": (235, None),
    "utimensat": (280, 88), "futimesat": (261, None), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "mq_open": (240, 180), "mq_unlink": (241, 181),
}
REACHES: dict[str, tuple[int | None, int | None]] = {
    # other programs
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "tkill": (200, 130), "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186),
    # other machines; a pair of connected sockets is a pipe
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
}
HIDDEN = ABSENT | {"openat2": (437, 437)}
# fmt: on
OPEN, OPENAT, SENDTO, KILL, TGKILL, PRLIMIT = (2, None), (257, 56), (44, 206), (62, 129), (234, 131), (302, 261)


def confine_reader() -> str:
    """Why this process could not be confined; empty where it is, for good, with all that it starts."""
    program = build_reader_filter(os.getpid())
    if program is None:
        return f"no filter of system calls for {platform.machine()}"
    try:
        forbid_new_privileges()
        filter_calls(program)
    except OSError as error:
        return f"the kernel takes no filter of system calls ({error})"
    return ""


def build_reader_filter(pid: int, machine: str = "") -> bytes | None:
    """The program for the process of that id; None for an architecture that is not in the tables."""
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        return None
    column = list(ARCHITECTURES).index(machine)
    tests: list[Instruction] = []
    for call, argument, body in (
        (OPEN, AT_ARGUMENT_1, [(ANY_BIT, 0, 1, WRITING), fail(errno.EROFS)]),
        (OPENAT, AT_ARGUMENT_2, [(ANY_BIT, 0, 1, WRITING), fail(errno.EROFS)]),
        (CLONE, AT_ARGUMENT_0, [(ANY_BIT, 1, 0, THREAD), fail(errno.EPERM)]),
        (SENDTO, AT_ARGUMENT_4, [(EQUAL, 1, 0, 0), fail(errno.EPERM)]),
        (PRLIMIT, AT_ARGUMENT_0, [(EQUAL, 1, 0, 0), fail(errno.EPERM)]),
        (KILL, AT_ARGUMENT_0, [(EQUAL, 1, 0, pid), fail(errno.EPERM)]),
        (TGKILL, AT_ARGUMENT_0, [(EQUAL, 1, 0, pid), fail(errno.EPERM)]),
    ):
        number = call[column]
        if number is not None:
            tests += for_call(number, argument, body)
    denied = {errno.EPERM: OUTER_DENIED | INNER_DENIED | REACHES, errno.EROFS: CHANGES, errno.ENOSYS: HIDDEN}
    return assemble(machine, denied, tests)
