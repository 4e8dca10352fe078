"""The machine's faults are not the program's: what it kills is run again, what it may have spoilt is checked."""

import contextlib
import os
import signal
import threading

import pytest

from openqwq.errors import UserError
from openqwq.sandbox import Limits, RemoteSandbox, Sandbox, canary, check_place, find_sandbox
from openqwq.sandbox.canary import is_doubtful
from openqwq.sandbox.jail import cgroup
from openqwq.sandbox.jail.jail import Job

LIMITS = Limits(wall_s=60, cpu_s=20)
SLOW = "import time\ntime.sleep(0.5)\n"


@pytest.fixture
def sandbox():
    with Sandbox(workers=1) as made:
        yield made


@pytest.mark.parametrize(
    ("verdict", "reason", "doubtful"),
    [
        ("runtime_error", "ModuleNotFoundError: No module named 'typing'", True),
        ("runtime_error", "exit code 1: OSError", True), ("runtime_error", "exit code 1: ValueError", False),
        ("runtime_error", "ended by signal 7", True), ("runtime_error", "the program stopped answering", True),
        ("killed", "killed by a signal 9 that was not ours", True), ("runtime_error", "ZeroDivisionError: x", False),
        ("runtime_error", "exit code 3", True), ("runtime_error", "print: x", False),
        ("wrong_answer", "ImportError: x", False), ("timeout", "ended by signal 9", False),
    ],
)  # fmt: skip
def test_what_the_machine_could_have_brought_about_is_doubtful(verdict, reason, doubtful):
    assert is_doubtful(verdict, reason) is doubtful


def test_a_doubtful_fault_is_believed_where_a_sound_program_ends_well(sandbox):
    result = sandbox.run("import no_such_module", limits=LIMITS)
    assert (result.status, result.reason) == ("runtime_error", "exit code 1: ModuleNotFoundError")
    result = sandbox.judge("import no_such_module\ndef f(): pass", "asserts", "f", ["assert f()"], LIMITS)
    assert result.verdict == "runtime_error"


def test_where_a_sound_program_fails_too_the_fault_is_ours(sandbox, monkeypatch):
    broken = Job(payload={"kind": "run", "code": "import _no_such_library", "stdin": ""})
    monkeypatch.setattr(canary, "JOB", broken)
    result = sandbox.run("open('/no/such/file')", limits=LIMITS)
    assert result.status == "infra_error"
    assert result.reason == (
        "a sound program fails here as well: ModuleNotFoundError: No module named '_no_such_library'"
    )
    for code in ("import os\ndef f(): os._exit(1)", "import no_such_module"):
        assert sandbox.judge(code, "asserts", "f", ["assert f()"], LIMITS).verdict == "infra_error"
    assert sandbox.run("1 / 0", limits=LIMITS).status == "runtime_error"  # nothing that a machine does


@contextlib.contextmanager
def killer(sandbox, times):
    """SIGKILLs so many of the processes that run in the sandbox's jails, soon after they have started.

    One is killed while it sleeps; where all are, no program is so short that it ends between two looks.
    """
    over = threading.Event()
    pause_s = 0.05 if times == 1 else 0.0005

    def kill():
        left = times
        while left and not over.wait(pause_s):
            for jail in list(sandbox._jails):
                with contextlib.suppress(OSError, AttributeError):  # the jail has ended meanwhile
                    for pid in (jail._group._folders["memory"] / "cgroup.procs").read_text().split()[:left]:
                        os.kill(int(pid), signal.SIGKILL)
                        left -= 1

    thread = threading.Thread(target=kill)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.mark.parametrize(("times", "verdict"), [(1, "passed"), (10**6, "infra_error")])
@pytest.mark.parametrize("mode", ["function", "asserts"])
def test_a_program_that_the_machine_kills_is_run_again(sandbox, mode, times, verdict):
    if not (sandbox.options.cgroup and sandbox.options.nested):
        pytest.skip("needs control groups and namespaces inside of the jail")
    tests = [{"args": [], "expected": 1}] if mode == "function" else ["assert f() == 1"]
    with killer(sandbox, times):
        result = sandbox.judge(f"{SLOW}def f():\n    return 1", mode, "f", tests, LIMITS)
    assert result.verdict == verdict, result


def test_a_program_that_kills_itself_is_at_fault(sandbox):
    code = "import os, signal\ndef f():\n    os.kill(os.getpid(), signal.SIGKILL)\n    os.abort()"
    assert sandbox.judge(code, entry_point="f", tests=[{"args": [], "expected": 1}], limits=LIMITS).verdict in (
        "runtime_error",
        "killed",
    )


OWN_ENDS = {
    "processor time": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True: pass",
    "soft processor time": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 20))\nwhile True: pass",
    "memory": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 26, 1 << 26))\nb'x' * (1 << 28)",
    "exec without room": "import os, resource\nresource.setrlimit(resource.RLIMIT_AS, (4096, 4096))\n"
    "os.execv('/usr/bin/python3', ['python3', '-c', '1'])",
    "stop": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nsignal.pause()",
    "stop all": "import os, signal\nif os.fork() == 0:\n    os.kill(0, signal.SIGSTOP)\nos.wait()\nsignal.pause()",
    "stopped child": "import os, signal\npid = os.fork()\nif pid == 0: os.kill(os.getpid(), signal.SIGSTOP)\n"
    "os.waitpid(pid, 0)",
    "every signal": "import os, signal\nfor n in range(1, 32): os.kill(os.getpid(), n)\nos.abort()",
    "kill all": "import os\nos.kill(-1, 9)\nos.kill(0, 9)\nos.abort()",
    "parent": "import os\nos.kill(os.getppid(), 9)\nos.abort()",
    "closed": "import os\nos.closerange(0, 256)\nos.abort()",
    "fault": "import ctypes\nctypes.string_at(0)",
    "nested report": "import os\nos.write(100, b'[\"error\", \"x\", ' + b'[' * 900 + b']' * 900 + b']\\n')\n"
    "os._exit(0)",
}


@pytest.mark.parametrize("name", OWN_ENDS)
@pytest.mark.parametrize("mode", ["function", "asserts", "stdio"])
def test_how_a_program_ends_itself_is_never_the_machines_fault(warm_sandbox, name, mode):
    limits = Limits(wall_s=3, cpu_s=20)
    body = OWN_ENDS[name].replace("\n", "\n    ")
    code = f"def f():\n    {body}\n" + ("f()" if mode == "stdio" else "")
    test = {
        "function": {"args": [], "expected": 1},
        "asserts": "assert f() == 1",
        "stdio": {"stdin": "", "stdout": "1"},
    }
    result = warm_sandbox.judge(code, mode, "f", [test[mode]], limits, restart=mode == "function")
    assert result.verdict in ("timeout", "killed", "runtime_error", "memory", "wrong_answer"), result
    assert all(test.verdict != "infra_error" for test in result.tests)


def test_a_kill_after_a_wrong_answer_leaves_the_answer_wrong(warm_sandbox):
    code = "import resource\ndef f(x):\n    if x:\n        resource.setrlimit(resource.RLIMIT_CPU, (1, 1))\n"
    code += "        while True: pass\n    return 5"
    tests = [{"args": [x], "expected": x} for x in (0, 1)]
    result = warm_sandbox.judge(code, entry_point="f", tests=tests, limits=Limits(wall_s=9, cpu_s=20))
    assert [test.verdict for test in result.tests] == ["wrong_answer", "killed"]


def test_programs_that_no_encoding_holds_do_not_compile(warm_sandbox):
    if "cpp" not in warm_sandbox.capabilities()["languages"]:
        pytest.skip("needs a toolchain for cpp")
    result = warm_sandbox.run("int main() { return \ud800; }", limits=LIMITS, language="cpp")
    assert result.status == "runtime_error"


def test_groups_that_may_not_be_made_are_done_without(monkeypatch):
    monkeypatch.setattr(cgroup.os, "access", lambda *_: False)  # as for a user who is not root
    with pytest.raises(OSError, match="no writable memory controller"):
        cgroup.ControlGroup()


def test_sandboxes_are_found_by_name_and_shared(monkeypatch):
    monkeypatch.setenv("OPENQWQ_SANDBOX_TOKEN", "secret")
    remote = find_sandbox("http://127.0.0.1:9")
    assert isinstance(remote, RemoteSandbox) and remote._token == "secret"
    assert find_sandbox("http://127.0.0.1:9") is remote
    with Sandbox(workers=1) as made:
        assert find_sandbox(made) is made
    for wrong in ("chroot", 3, None):
        with pytest.raises(UserError, match="there is no sandbox"):
            check_place(wrong)
