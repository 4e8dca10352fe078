"""Hostile programs, one property each; after each of them the next honest program is judged as ever."""

import time

import pytest

from openqwq.sandbox import Limits

HONEST = "def f(xs):\n    return sum(xs)\n"
TESTS = [{"args": [[1, 2, 3]], "expected": 6}, {"args": [[]], "expected": 0}]
LIMITS = Limits(wall_s=0.5, cpu_s=1, memory_mib=64, processes=16, tmp_mib=4, output_bytes=100_000)
PATIENT = Limits(wall_s=20, cpu_s=20)

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
    "null_bytes": ("def f(xs):\n    return '\0'", {"runtime_error"}),
    "lone_surrogate": ("x = '\ud800'", {"runtime_error"}),
    "missing_function": ("def g(xs):\n    return sum(xs)", {"runtime_error"}),
    "syntax_error": ("def f(xs:", {"runtime_error"}),
}


def judge(sandbox, code, limits=LIMITS):
    return sandbox.judge(code, entry_point="f", tests=TESTS, limits=limits)


@pytest.mark.parametrize("name", PROGRAMS)
def test_hostile_program_fails_with_its_verdict_and_the_next_honest_one_passes(sandbox, name):
    code, allowed = PROGRAMS[name]
    start = time.monotonic()
    result = judge(sandbox, code)
    assert result.verdict in allowed, result
    assert len(result.tests) == 2
    assert result.num_passed < 2
    assert time.monotonic() - start < 15
    assert judge(sandbox, HONEST, PATIENT).verdict == "passed"


def test_daemon_that_holds_the_channel_delays_nothing(sandbox):
    code = (
        "import os, time\ndef f(xs):\n    if os.fork() == 0:\n        os.setsid()\n        time.sleep(60)\n"
        "    return sum(xs)"
    )
    start = time.monotonic()
    assert judge(sandbox, code, PATIENT).verdict == "passed"
    assert time.monotonic() - start < 15


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
    assert time.monotonic() - start < 15
