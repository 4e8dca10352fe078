"""Hostile programs, one property each; after each of them the next honest program is judged as ever."""

import time
from dataclasses import replace

import pytest

from openqwq.sandbox import Limits

HONEST = "def f(xs):\n    return sum(xs)\n"
TESTS = [{"args": [[1, 2, 3]], "expected": 6}, {"args": [[]], "expected": 0}]
LIMITS = Limits(wall_s=0.3, cpu_s=1, memory_mib=64, processes=16, tmp_mib=4, output_bytes=100_000)
LONG = replace(LIMITS, wall_s=60, cpu_s=20)  # for programs that end before their time
PATIENT = Limits(wall_s=60, cpu_s=20)

FAULTS = {"wrong_answer", "runtime_error", "timeout", "memory", "output_limit", "killed"}

PROGRAMS = {
    "infinite_loop": ("def f(xs):\n    while True: pass", {"timeout"}),
    "infinite_loop_on_import": ("while True: pass", {"timeout"}),
    "sleep": ("import time\ndef f(xs):\n    time.sleep(60)", {"timeout"}),
    "signal_ignorer": (
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except Exception: pass\n"
        "def f(xs):\n    while True: pass",
        {"timeout"},
    ),
    "catastrophic_regex": ("import re\ndef f(xs):\n    return re.match('(a+)+$', 'a' * 50 + 'b')", {"timeout"}),
    "c_level_hang": ("def f(xs):\n    return 7 ** (7 ** 9) % 10", {"timeout", "memory"}),
    "fork_bomb": ("import os\ndef f(xs):\n    while True: os.fork()", FAULTS),
    "thread_bomb": (
        "import threading, time\ndef f(xs):\n    while True: threading.Thread(target=time.sleep, args=(60,)).start()",
        {"runtime_error", "timeout", "memory"},
    ),
    "memory_bomb": ("def f(xs):\n    b = []\n    while True: b.append(bytearray(1 << 22))", {"memory"}),
    "memory_bomb_at_once": ("def f(xs):\n    return len(bytearray(1 << 44))", {"memory"}),
    "disk_fill": (
        "def f(xs):\n    n = 0\n    while True:\n        open(f'/tmp/{n}', 'wb').write(bytes(1 << 20))\n        n += 1",
        {"runtime_error"},
    ),
    "file_too_large": (
        "def f(xs):\n    open('/tmp/x', 'wb').write(bytes(8 << 20))\n    return sum(xs)",
        {"runtime_error"},
    ),
    "descriptor_exhaustion": (
        "import os\nkeep = []\ndef f(xs):\n    while True: keep.append(os.open('/dev/null', 0))",
        {"runtime_error"},
    ),
    "large_result": ("def f(xs):\n    return 'a' * 10**7", {"output_limit"}),
    "early_sys_exit": ("import sys\nsys.exit(0)", {"runtime_error"}),
    "early_os_exit": ("import os\ndef f(xs):\n    os._exit(0)", {"runtime_error"}),
    "exit_in_call": ("def f(xs):\n    raise SystemExit(0)", {"runtime_error"}),
    "atexit_exit": ("import atexit, os\natexit.register(os._exit, 0)\nraise ValueError", {"runtime_error"}),
    "excepthook": ("import sys, os\nsys.excepthook = lambda *a: os._exit(0)\n1 / 0", {"runtime_error"}),
    "re_exec": ("import os\nos.execv('/usr/bin/python3', ['python3', '-c', 'pass'])", FAULTS),
    "segfault": ("import ctypes\ndef f(xs):\n    ctypes.string_at(0)", {"runtime_error"}),
    "stack_overflow": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(xs):\n    return f(xs) + 1",
        {"runtime_error", "memory", "timeout"},
    ),
    "always_equal": (
        "class E:\n    def __eq__(self, o): return True\n    __hash__ = None\ndef f(xs):\n    return E()",
        {"wrong_answer"},
    ),
    "int_subclass": (
        "class I(int):\n    def __eq__(self, o): return True\n    __hash__ = int.__hash__\ndef f(xs):\n    return I(6)",
        {"wrong_answer"},
    ),
    "bool_for_int": ("def f(xs):\n    return 6 if xs else False", {"wrong_answer"}),
    "cyclic_result": ("def f(xs):\n    xs.append(xs)\n    return xs", {"wrong_answer"}),
    "deep_result": ("def f(xs):\n    for _ in range(500): xs = [xs]\n    return xs", {"wrong_answer"}),
    "patched_builtins": (
        "import builtins, json, os\nbuiltins.sum = builtins.len = builtins.abs = lambda *a: 6\n"
        "json.dumps = lambda *a, **k: '[\"value\", 6]'\ndef f(xs):\n    return sum(xs)",
        FAULTS,
    ),
    "patched_encoder": (
        "from openqwq.sandbox import driver\ndriver.encode = lambda v: 6\ndef f(xs):\n    return None",
        {"wrong_answer", "runtime_error"},
    ),
    "settrace": (
        "import sys\ndef tracer(frame, event, arg):\n    frame.f_locals.clear()\n    return tracer\n"
        "sys.settrace(tracer)\ndef f(xs):\n    return 1",
        FAULTS,
    ),
    "forged_frames": (
        'import os\nfor fd in range(3, 300):\n    try: os.write(fd, b\'["loaded"]\\n["value", 6]\\n["value", 0]\\n\')\n'
        "    except OSError: pass\ndef f(xs):\n    return None",
        {"wrong_answer"},
    ),
    "forged_success_words": (
        "import os\nfor fd in range(300):\n    try: os.write(fd, b'passed\\ntrue\\n{\"exit_code\": 0}\\n')\n"
        "    except OSError: pass\nos._exit(0)",
        {"wrong_answer", "runtime_error"},
    ),
    "closed_descriptors": ("import os\nos.closerange(0, 4096)\ndef f(xs):\n    return sum(xs)", {"runtime_error"}),
    "forked_answers": (
        "import os\ndef f(xs):\n    if pid := os.fork(): os.waitpid(pid, 0)\n    return sum(xs)",
        {"wrong_answer", "runtime_error"},
    ),
    "hostile_exception": (
        "class E(BaseException):\n    def __str__(self): raise E()\ndef f(xs):\n    raise E()",
        {"runtime_error"},
    ),
    "endless_frames": (
        "import os\ndef f(xs):\n    while True:\n        os.write(100, b'\\n')",
        {"output_limit", "wrong_answer", "timeout"},
    ),
    "late_thread": (
        "import os, threading\ndef late():\n    while True: os.write(100, b'[\"value\", 6]\\n')\n"
        "threading.Thread(target=late, daemon=True).start()\ndef f(xs):\n    return 1",
        {"wrong_answer", "output_limit", "timeout"},
    ),
    "daemon_that_answers": (
        'import os\nif os.fork() == 0:\n    os.setsid()\n    os.write(100, b\'["value", 6]\\n["value", 0]\\n\')\n'
        "    os._exit(0)\nos.wait()\ndef f(xs):\n    return 1",
        {"wrong_answer"},
    ),
    "patched_driver": (
        "from openqwq.sandbox import driver\ndriver._answer = lambda *a: ['value', 6]\ndef f(xs):\n    return 1",
        FAULTS,
    ),
    "patched_send": (
        "import sys\nfor m in list(sys.modules.values()):\n    if hasattr(m, '_send'): m._send = lambda *a: None\n"
        "def f(xs):\n    return sum(xs)",
        {"runtime_error"},
    ),
    "patched_unittest": (
        "import unittest\nfor n in dir(unittest.TestCase):\n"
        "    if n.startswith('assert'): setattr(unittest.TestCase, n, lambda *a, **k: None)\ndef f(xs):\n    return 1",
        {"wrong_answer"},
    ),
    "closed_channel": ("import os\nos.close(100)\ndef f(xs):\n    return sum(xs)", {"runtime_error"}),
    "channel_to_nowhere": ("import os\nos.dup2(1, 100)\ndef f(xs):\n    return sum(xs)", {"runtime_error"}),
    "exit_in_a_thread": (
        "import os, threading\ndef f(xs):\n    threading.Thread(target=os._exit, args=(0,)).start()\n"
        "    while True: pass",
        {"runtime_error"},
    ),
    "exit_of_the_parent": (
        "import os, time\nif os.fork(): os._exit(0)\ntime.sleep(60)\ndef f(xs):\n    return sum(xs)",
        {"runtime_error"},
    ),
    "signal_to_the_parent": (
        "import os\ndef f(xs):\n    os.kill(os.getppid(), 9)\n    return 1",
        {"runtime_error", "wrong_answer", "killed"},
    ),
    "signal_to_all": ("import os\ndef f(xs):\n    os.kill(-1, 9)\n    return 1", {"runtime_error", "wrong_answer"}),
    "raised_limits": (
        "import resource\ndef f(xs):\n    for r in range(16):\n"
        "        resource.setrlimit(r, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))",
        {"runtime_error"},
    ),
    "priority": ("import os\ndef f(xs):\n    os.nice(-20)", {"runtime_error"}),
    "own_memory_by_proc": ("def f(xs):\n    return open('/proc/self/mem', 'rb').read(1)", {"runtime_error"}),
    "memory_by_mapping": (
        "import mmap\ndef f(xs):\n    keep = []\n    while True:\n        keep.append(mmap.mmap(-1, 1 << 22))\n"
        "        keep[-1].write(bytes(1 << 22))",
        {"memory"},
    ),
    "memory_by_memory_files": (
        "import os\nkeep = []\ndef f(xs):\n    while True:\n        keep.append(os.memfd_create('x'))\n"
        "        os.write(keep[-1], bytes(1 << 20))",
        {"memory", "runtime_error"},
    ),
    "memory_of_children": (
        "import os, time\ndef f(xs):\n    for _ in range(8):\n        if os.fork() == 0:\n"
        "            keep = b'x' * (20 << 20)\n            time.sleep(60)\n    time.sleep(60)",
        {"memory", "timeout", "killed", "runtime_error"},
    ),
    "zombies": (
        "import os\ndef f(xs):\n    while True:\n        if os.fork() == 0: os._exit(0)",
        {"runtime_error"},
    ),
    "inode_exhaustion": (
        "def f(xs):\n    for n in range(100_000): open(f'/tmp/{n}', 'w').close()",
        {"runtime_error"},
    ),
    "sparse_file": ("def f(xs):\n    open('/tmp/x', 'wb').truncate(1 << 40)", {"runtime_error"}),
    "link_to_the_host": (
        "import os\ndef f(xs):\n    os.symlink('/etc/shadow', '/tmp/x')\n    return open('/tmp/x').read()",
        {"runtime_error"},
    ),
    "exception_that_lies": (
        "class AssertionError(BaseException): pass\nclass CodecError(Exception): pass\n"
        "def f(xs):\n    raise CodecError() if xs else AssertionError()",
        {"wrong_answer", "runtime_error"},
    ),
    "answer_that_hides_in_a_proxy": (
        "class P:\n    __class__ = int\n    def __index__(s): return 6\ndef f(xs):\n    return P()",
        {"wrong_answer"},
    ),
    "endless_destructor": (
        "class D:\n    def __del__(s):\n        while True: pass\nd = D()\ndef f(xs):\n    return 1",
        {"wrong_answer"},
    ),
    "endless_iterator": ("def f(xs):\n    return iter(int, 1)", {"wrong_answer"}),
    "null_bytes": ("def f(xs):\n    return '\0'", {"runtime_error"}),
    "lone_surrogate": ("x = '\ud800'", {"runtime_error"}),
    "missing_function": ("def g(xs):\n    return sum(xs)", {"runtime_error"}),
    "syntax_error": ("def f(xs:", {"runtime_error"}),
}


def judge(sandbox, code, limits=LIMITS):
    return sandbox.judge(code, entry_point="f", tests=TESTS, limits=limits)


@pytest.mark.parametrize("name", PROGRAMS)
def test_hostile_program_fails_with_its_verdict_and_the_next_honest_one_passes(sandbox, name):
    """The next one uses the same jail where jails are warm; where they are not, it is the next program's own test."""
    code, allowed = PROGRAMS[name]
    start = time.monotonic()
    result = judge(sandbox, code, LIMITS if "timeout" in allowed else LONG)
    assert result.verdict in allowed, result
    assert len(result.tests) == 2
    assert result.num_passed < 2
    assert time.monotonic() - start < 90
    if sandbox.jobs_per_jail > 1 or name == list(PROGRAMS)[-1]:
        assert judge(sandbox, HONEST, PATIENT).verdict == "passed"


def test_daemon_that_holds_the_channel_delays_nothing(sandbox):
    code = (
        "import os, time\ndef f(xs):\n    if os.fork() == 0:\n        os.setsid()\n        time.sleep(60)\n"
        "    return sum(xs)"
    )
    start = time.monotonic()
    assert judge(sandbox, code, PATIENT).verdict == "passed"
    assert time.monotonic() - start < 60


def test_output_flood_of_a_script_is_cut_and_ended(sandbox):
    result = sandbox.run("while True: print('x' * 1000)", limits=LIMITS)
    assert result.status == "output_limit"
    assert len(result.stdout) + len(result.stderr) <= 2 * LIMITS.output_bytes


def test_grandchild_flood_is_ended_with_its_script(sandbox):
    code = "import os\nif os.fork() == 0:\n    while True: os.write(1, b'y' * 1000)\nos.wait()"
    assert sandbox.run(code, limits=LIMITS).status in ("output_limit", "timeout")


def test_colliding_hashes_in_a_result_do_not_slow_the_judge(sandbox):
    modulus = 2**61 - 1  # hash(k * modulus) is 0 for every k
    code = f"def f(xs):\n    return [{{'never': 0}}] + [[k * {modulus}, k] for k in range(3000)]"
    start = time.monotonic()
    tests = [{"args": [[]], "expected": {1, 2, 3}}, {"args": [[]], "expected": {"a": 1}}]
    assert sandbox.judge(code, entry_point="f", tests=tests, limits=PATIENT).verdict == "wrong_answer"
    assert time.monotonic() - start < 60
