"""The system-call filters: their programs run by a small reference machine, and the inner one by the kernel."""

import errno
import platform
import struct

import pytest

from openqwq.sandbox import Limits
from openqwq.sandbox.jail.seccomp import ARCHITECTURES, build_filter

ALLOW, KILL = "allow", "kill"
X86, ARM = "x86_64", "aarch64"


def decide(program, architecture, number, *arguments):
    """What a filter answers: classic BPF over `struct seccomp_data`, instruction by instruction."""
    data = struct.pack("=iIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at, value = 0, 0
    while True:
        operation, yes, no, constant = code[at]
        at += 1
        match operation:
            case 0x20:  # BPF_LD | BPF_W | BPF_ABS
                value = struct.unpack_from("=I", data, constant)[0]
            case 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
                at += yes if value == constant else no
            case 0x25:  # BPF_JMP | BPF_JGT | BPF_K
                at += yes if value > constant else no
            case 0x45:  # BPF_JMP | BPF_JSET | BPF_K
                at += yes if value & constant else no
            case 0x06:  # BPF_RET | BPF_K
                if constant & 0xFFFF0000 == 0x00050000:
                    return errno.errorcode[constant & 0xFFFF]
                return {0x7FFF0000: ALLOW, 0x80000000: KILL}[constant]
            case _:
                raise AssertionError(f"unknown operation {operation:#x}")


@pytest.mark.parametrize(
    ("machine", "number", "arguments", "inner", "outer"),
    [
        (X86, 0, (), ALLOW, ALLOW),  # read
        (X86, 59, (), ALLOW, ALLOW),  # execve
        (X86, 450, (), ALLOW, ALLOW),
        (X86, 451, (), "ENOSYS", "ENOSYS"),
        (X86, 0x40000000, (), "ENOSYS", "ENOSYS"),  # read of the x32 interface
        (X86, 101, (), "EPERM", "EPERM"),  # ptrace
        (X86, 165, (), "EPERM", ALLOW),  # mount
        (X86, 272, (), "EPERM", ALLOW),  # unshare
        (X86, 56, (0x00010000,), ALLOW, ALLOW),  # clone of a thread
        (X86, 56, (0x10000011,), "EPERM", ALLOW),  # clone into a new user namespace
        (X86, 56, (0x02000000,), "EPERM", ALLOW),  # the lowest and the highest of the namespace flags
        (X86, 56, (0x40000000,), "EPERM", ALLOW),
        (X86, 435, (), "ENOSYS", "ENOSYS"),  # clone3
        (X86, 425, (), "ENOSYS", "ENOSYS"),  # io_uring_setup
        (X86, 41, (1,), ALLOW, ALLOW),  # socket(AF_UNIX)
        (X86, 41, (2,), ALLOW, ALLOW),
        (X86, 41, (10,), ALLOW, ALLOW),
        (X86, 41, (16,), "EAFNOSUPPORT", "EAFNOSUPPORT"),  # AF_NETLINK
        (X86, 41, (40,), "EAFNOSUPPORT", "EAFNOSUPPORT"),  # AF_VSOCK
        (X86, 16, (0, 0x5401), ALLOW, ALLOW),  # ioctl(TCGETS)
        (X86, 16, (0, 0x5412), "EPERM", "EPERM"),  # ioctl(TIOCSTI)
        (X86, 16, (0, 0xFFFFFFFF00005412), "EPERM", "EPERM"),  # the kernel ignores the upper half
        (X86, 16, (0, 0x541C), "EPERM", "EPERM"),  # ioctl(TIOCLINUX)
        (ARM, 63, (), ALLOW, ALLOW),  # read
        (ARM, 117, (), "EPERM", "EPERM"),  # ptrace
        (ARM, 40, (), "EPERM", ALLOW),  # mount
        (ARM, 220, (0x10000011,), "EPERM", ALLOW),  # clone
        (ARM, 198, (40,), "EAFNOSUPPORT", "EAFNOSUPPORT"),  # socket
        (ARM, 29, (0, 0x5412), "EPERM", "EPERM"),  # ioctl
        (ARM, 101, (), ALLOW, ALLOW),  # nanosleep, whose number is that of ptrace elsewhere
    ],
)
def test_filter_answers_each_call(machine, number, arguments, inner, outer):
    architecture = ARCHITECTURES[machine]
    assert decide(build_filter(inner=True, machine=machine), architecture, number, *arguments) == inner
    assert decide(build_filter(inner=False, machine=machine), architecture, number, *arguments) == outer


def test_calls_of_another_architecture_kill():
    assert decide(build_filter(inner=True, machine=X86), ARCHITECTURES[ARM], 63) == KILL
    assert decide(build_filter(inner=True, machine=X86), 0x40000003, 3) == KILL  # i386


def test_an_unknown_architecture_has_no_filter():
    assert build_filter(inner=True, machine="s390x") is None


@pytest.mark.skipif(platform.machine() != X86, reason="the numbers are those of x86_64")
def test_the_kernel_holds_programs_to_the_inner_filter(sandbox):
    code = (
        "import ctypes, errno\nlibc = ctypes.CDLL(None, use_errno=True)\ndef call(*arguments):\n"
        "    result = libc.syscall(*map(ctypes.c_long, arguments))\n"
        "    return 'ok' if result >= 0 else errno.errorcode[ctypes.get_errno()]\n"
        "for number in (39, 101, 165, 272, 161, 250, 321, 298, 323, 308, 310, 425, 435, 460):\n"
        "    print(number, call(number, 0, 0, 0, 0, 0))\n"
        "print(call(56, 0x10000011, 0, 0, 0, 0), call(41, 40, 1, 0), call(41, 16, 3, 0), call(41, 1, 1, 0))"
    )
    result = sandbox.run(code, limits=Limits(wall_s=20))
    lines = result.stdout.splitlines()
    assert lines[0] == "39 ok"  # getpid
    assert lines[1:11] == [f"{n} EPERM" for n in (101, 165, 272, 161, 250, 321, 298, 323, 308, 310)]
    assert lines[11:14] == ["425 ENOSYS", "435 ENOSYS", "460 ENOSYS"]
    assert lines[14] == "EPERM EAFNOSUPPORT EAFNOSUPPORT ok"
    assert result.status == "ok"
