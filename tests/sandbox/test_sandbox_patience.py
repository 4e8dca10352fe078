"""A busy machine: time in which a program waited for a processor does not count against it, and never decides."""

import os
import subprocess
import sys
import time

import pytest

from openqwq.sandbox import Limits, Sandbox
from openqwq.sandbox.jail.cgroup import ControlGroup

SLEEPER = "import time\ndef f(x):\n    time.sleep(x)\n    return x"
BUSY = "import os\nos.sched_setaffinity(0, {{{cpu}}})\nwhile True: pass"


@pytest.fixture
def group():
    try:
        made = ControlGroup()
    except OSError as error:
        pytest.skip(f"no control groups here: {error}")
    yield made
    made.close()


@pytest.fixture
def starving(monkeypatch, group):
    """Every program seems to have waited for a processor all the time."""
    start = time.monotonic()
    monkeypatch.setattr(ControlGroup, "waited_s", lambda self: time.monotonic() - start)
    with Sandbox(workers=1) as sandbox:
        sandbox.run("")  # starts the jail
        yield sandbox


def test_waiting_for_a_processor_is_no_timeout(starving):
    limits = Limits(wall_s=0.2)
    tests = [{"args": [0.5], "expected": 0.5}]
    assert starving.judge(SLEEPER, entry_point="f", tests=tests, limits=limits).verdict == "passed"
    assert starving.judge(SLEEPER, "asserts", "f", ["assert f(0.5) == 0.5"], limits).verdict == "passed"


def test_a_machine_that_stays_too_busy_is_at_fault_itself(starving):
    result = starving.judge(
        SLEEPER, entry_point="f", tests=[{"args": [60], "expected": 60}], limits=Limits(wall_s=0.02)
    )
    assert (result.verdict, result.tests[0].verdict) == ("infra_error", "infra_error")
    assert "too busy" in result.reason
    assert starving.run("import time\ntime.sleep(60)", limits=Limits(wall_s=0.02)).status == "infra_error"


def test_the_kernel_tells_how_long_a_group_was_kept_waiting(group):
    """Two loops on one processor wait for each other; of two processes in the group nothing is said."""
    code = BUSY.format(cpu=min(os.sched_getaffinity(0)))
    loops = [subprocess.Popen([sys.executable, "-S", "-c", code]) for _ in range(2)]
    try:
        os.write(group.fds[0], str(loops[0].pid).encode())
        deadline = time.monotonic() + 30
        while group.waited_s() < 0.1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert group.waited_s() >= 0.1
        os.write(group.fds[0], str(loops[1].pid).encode())
        assert group.waited_s() == 0.0
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    assert group.waited_s() == 0.0
