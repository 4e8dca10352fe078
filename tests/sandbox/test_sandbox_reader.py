"""A confined reader: what the kernel refuses it, what it may still do, and the filter's answers on both machines."""

import os
import subprocess
import sys

import pytest
from test_sandbox_seccomp import ALLOW, ARM, X86, decide

from openqwq.sandbox.jail.seccomp import ARCHITECTURES
from openqwq.sandbox.reader import build_reader_filter

PID = 4711
WRITE = os.O_WRONLY | os.O_CREAT


@pytest.mark.parametrize(
    ("machine", "number", "arguments", "answer"),
    [
        (X86, 0, (), ALLOW), (X86, 1, (), ALLOW),  # read, write
        (X86, 2, (0, os.O_RDONLY), ALLOW), (X86, 2, (0, os.O_RDWR), "EROFS"), (X86, 2, (0, WRITE), "EROFS"),
        (X86, 257, (0, 0, os.O_RDONLY | os.O_CLOEXEC), ALLOW), (X86, 257, (0, 0, os.O_TRUNC), "EROFS"),
        (ARM, 56, (0, 0, os.O_RDONLY), ALLOW), (ARM, 56, (0, 0, os.O_WRONLY), "EROFS"), (X86, 437, (), "ENOSYS"),
        (X86, 87, (), "EROFS"), (ARM, 35, (), "EROFS"), (X86, 82, (), "EROFS"), (X86, 90, (), "EROFS"),
        (X86, 59, (), "EPERM"), (ARM, 221, (), "EPERM"), (X86, 57, (), "EPERM"), (X86, 435, (), "ENOSYS"),
        (X86, 56, (0x3D0F00,), ALLOW), (X86, 56, (0x11,), "EPERM"), (ARM, 220, (0x4111,), "EPERM"),
        (X86, 41, (2,), "EPERM"), (X86, 41, (1,), "EPERM"), (X86, 53, (1,), ALLOW), (X86, 42, (), "EPERM"),
        (X86, 44, (3, 0, 1, 0, 0), ALLOW), (X86, 44, (3, 0, 1, 0, 0x1000), "EPERM"), (X86, 46, (), "EPERM"),
        (X86, 62, (PID, 9), ALLOW), (X86, 62, (PID + 1, 9), "EPERM"), (X86, 62, (1 << 32, 9), "EPERM"),
        (X86, 302, (0,), ALLOW), (X86, 302, (PID + 1,), "EPERM"), (X86, 101, (), "EPERM"), (X86, 165, (), "EPERM"),
        (X86, 451, (), "ENOSYS"), (X86, 9, (), ALLOW), (X86, 12, (), ALLOW),
    ],
)  # fmt: skip
def test_filter_allows_reading_and_refuses_what_reaches_out(machine, number, arguments, answer):
    assert decide(build_reader_filter(PID, machine), ARCHITECTURES[machine], number, *arguments) == answer


def test_unknown_architecture_has_no_filter():
    assert build_reader_filter(PID, "mips64") is None


TRIES = """
import asyncio, os, socket, subprocess, sys, threading
from openqwq.sandbox import confine_reader
why = confine_reader()
if why:
    sys.exit(why)
def says(action):
    try:
        return action()
    except OSError as error:
        return type(error).__name__ + str(error.errno)
folder = sys.argv[1]
print(says(lambda: open(folder + "/new", "w")), says(lambda: open(folder + "/old", "a")))
print(says(lambda: os.unlink(folder + "/old")), says(lambda: os.rename(folder + "/old", folder + "/other")))
print(says(lambda: socket.create_connection(("127.0.0.1", 9))), says(lambda: socket.socket(socket.AF_UNIX)))
print(says(lambda: subprocess.run(["true"])), says(os.fork), says(lambda: os.kill(os.getppid(), 0)))
print(open(folder + "/old").read())
done = []
thread = threading.Thread(target=done.append, args=(1,))
thread.start(); thread.join()
print(done, asyncio.run(asyncio.sleep(0.01, 7)), len(os.listdir(folder)))
"""


def test_confined_process_reads_and_computes_only(tmp_path):
    (tmp_path / "old").write_text("as it was")
    done = subprocess.run([sys.executable, "-c", TRIES, str(tmp_path)], capture_output=True, text=True, check=False)
    if done.returncode and "filter" in done.stderr:
        pytest.skip(f"this kernel cannot: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "OSError30 OSError30", "OSError30 OSError30", "PermissionError1 PermissionError1",
        "PermissionError1 PermissionError1 PermissionError1", "as it was", "[1] 7 1",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
