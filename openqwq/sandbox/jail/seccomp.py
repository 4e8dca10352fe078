"""System-call filters for the jail, as the BPF programs that the kernel and `bwrap --seccomp` take.

Public: build_filter; `assemble`, `fail` and `for_call` for other filters. Two strengths: the outer one holds for the
whole jail, whose warm process must still make namespaces; the inner one is what a candidate gets on top, for good. What
is denied fails with an error as on a kernel without it, so that honest runtimes fall back; only a call of a foreign
architecture kills.

Source of the form: linux/Documentation/userspace-api/seccomp_filter.rst, of the numbers: asm/unistd_64.h and
asm-generic/unistd.h of Linux 6.1.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Mapping, Sequence

LAST_KNOWN = 450  # calls that are newer than the table are answered as an older kernel answers
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# fmt: off
# name: (x86_64, aarch64); None where the architecture has no such call
OUTER_DENIED: dict[str, tuple[int | None, int | None]] = {
    # what a program could leave behind or find outside its namespaces
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "syslog": (103, 116),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "setns": (308, 268),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "move_pages": (279, 239), "migrate_pages": (256, 238),
    # wide and young parts of the kernel
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "memfd_secret": (447, 447),
    "fanotify_init": (300, 262), "lookup_dcookie": (212, 18), "mbind": (237, 235), "set_mempolicy": (238, 237),
    "personality": (135, 92), "modify_ldt": (154, None), "uselib": (134, None), "vhangup": (153, 58),
    # the machine
    "acct": (163, 89), "adjtimex": (159, 171), "clock_adjtime": (305, 266), "clock_settime": (227, 112),
    "settimeofday": (164, 170), "delete_module": (176, 106), "init_module": (175, 105), "finit_module": (313, 273),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142), "ioperm": (173, None),
    "iopl": (172, None), "quotactl": (179, 60), "quotactl_fd": (443, 443), "swapon": (167, 224), "swapoff": (168, 225),
    "sysfs": (139, None), "ustat": (136, None), "nfsservctl": (180, 42), "sethostname": (170, 161),
    "setdomainname": (171, 162),
    # mounts, the new interface
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "open_tree": (428, 428), "move_mount": (429, 429), "mount_setattr": (442, 442),
}
INNER_DENIED: dict[str, tuple[int | None, int | None]] = {
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
}
# answered with ENOSYS, on which libraries fall back to calls that can be looked into
ABSENT: dict[str, tuple[int | None, int | None]] = {
    "clone3": (435, 435), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
}
# fmt: on
CLONE, SOCKET, IOCTL = (56, 220), (41, 198), (16, 29)

NAMESPACE_FLAGS = 0x7E020000  # every CLONE_NEW* flag of clone
FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6; AF_VSOCK (40) among others knows no network namespace
TERMINAL_REQUESTS = (0x5412, 0x541C)  # TIOCSTI and TIOCLINUX push input into a terminal

LOAD, EQUAL, GREATER, ANY_BIT, RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
AT_NUMBER, AT_ARCHITECTURE, AT_ARGUMENT_0, AT_ARGUMENT_1 = 0, 4, 16, 24  # low halves on a little-endian machine
ALLOW, KILL_PROCESS, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000

Instruction = tuple[int, int, int, int]
"""Operation, jump if true, jump if false, constant."""


def build_filter(*, inner: bool, machine: str = "") -> bytes | None:
    """The program as an array of `struct sock_filter`; None for an architecture that is not in the table.

    inner:   deny new namespaces and mounts too.
    machine: as `platform.machine()` names it; by default the one that runs us.
    """
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        return None
    column = list(ARCHITECTURES).index(machine)
    tests: list[Instruction] = []
    if inner:
        tests += for_call(CLONE[column], AT_ARGUMENT_0, [(ANY_BIT, 0, 1, NAMESPACE_FLAGS), fail(errno.EPERM)])
    known = [(EQUAL, len(FAMILIES) - i, 0, family) for i, family in enumerate(FAMILIES)]
    tests += for_call(SOCKET[column], AT_ARGUMENT_0, [*known, fail(errno.EAFNOSUPPORT)])
    for request in TERMINAL_REQUESTS:
        tests += for_call(IOCTL[column], AT_ARGUMENT_1, [(EQUAL, 0, 1, request), fail(errno.EPERM)])
    denied = OUTER_DENIED | INNER_DENIED if inner else OUTER_DENIED
    return assemble(machine, {errno.EPERM: denied, errno.ENOSYS: ABSENT}, tests)


def assemble(
    machine: str,
    denied: Mapping[int, Mapping[str, tuple[int | None, int | None]]],
    tests: Sequence[Instruction],
) -> bytes:
    """The program that kills calls of a foreign architecture, denies these calls and makes these tests.

    denied: by the error that they fail with.
    """
    column = list(ARCHITECTURES).index(machine)
    program = [(LOAD, 0, 0, AT_ARCHITECTURE), (EQUAL, 1, 0, ARCHITECTURES[machine]), (RETURN, 0, 0, KILL_PROCESS)]
    program += [(LOAD, 0, 0, AT_NUMBER)]
    program += [(GREATER, 0, 1, LAST_KNOWN), fail(errno.ENOSYS)]  # x32 calls of x86_64 lie up there too
    for error, calls in denied.items():
        for number in (pair[column] for pair in calls.values()):
            if number is not None:
                program += [(EQUAL, 0, 1, number), fail(error)]
    program += [*tests, (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def fail(error: int) -> Instruction:
    """The call fails with this error."""
    return RETURN, 0, 0, ERRNO | error


def for_call(number: int, argument: int, body: list[Instruction]) -> list[Instruction]:
    """The body for one call with its argument loaded; the call's number is loaded again after it."""
    return [(EQUAL, 0, len(body) + 2, number), (LOAD, 0, 0, argument), *body, (LOAD, 0, 0, AT_NUMBER)]
