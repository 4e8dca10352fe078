"""gVisor's jail: the same hostile programs and the same walls, with a kernel of its own. Real `runsc`, or skipped."""

import io
import os
import shutil
import time

import pytest
from test_sandbox_hostile import HONEST, PATIENT, PROGRAMS, TESTS

from openqwq.cli.doctor import check_jail
from openqwq.cli.main import main
from openqwq.errors import UserError
from openqwq.sandbox import Limits, Sandbox
from openqwq.sandbox.jail import gvisor
from openqwq.sandbox.jail.gvisor import Bundle, remove_stale_bundles
from openqwq.sandbox.languages import find_toolchains

LIMITS = Limits(wall_s=1, cpu_s=2, memory_mib=64, processes=16, tmp_mib=4, output_bytes=100_000)
HARSHEST = (
    "infinite_loop", "signal_ignorer", "fork_bomb", "thread_bomb", "memory_bomb", "disk_fill", "descriptor_exhaustion",
    "large_result", "early_os_exit", "segfault", "always_equal", "forged_frames", "closed_descriptors", "signal_to_all",
    "memory_of_children", "own_memory_by_proc",
)  # fmt: skip


@pytest.fixture(scope="module")
def sandbox():
    try:
        made = Sandbox(workers=1, jail="gvisor")
    except UserError as error:
        pytest.skip(f"needs gVisor: {error.message}")
    with made:
        yield made


@pytest.mark.parametrize("name", HARSHEST)
def test_hostile_program_fails_in_gvisor(sandbox, name):
    code, allowed = PROGRAMS[name]
    start = time.monotonic()
    result = sandbox.judge(code, entry_point="f", tests=TESTS, limits=LIMITS)
    assert result.verdict in allowed | {"killed"}, result
    assert result.num_passed < 2
    assert time.monotonic() - start < 60


def test_honest_programs_pass_in_gvisor(sandbox):
    assert sandbox.judge(HONEST, entry_point="f", tests=TESTS, limits=PATIENT).verdict == "passed"
    asserts = sandbox.judge(HONEST, "asserts", "f", ["assert f([1]) == 1", "assert f([]) == 1"], PATIENT)
    assert [test.verdict for test in asserts.tests] == ["passed", "wrong_answer"]
    assert (
        sandbox.run("print(open('a/b').read(), input())", "in", PATIENT, files={"a/b": b"file"}).stdout == "file in\n"
    )


def test_nothing_of_the_host_shows_in_gvisor(sandbox, tmp_path, monkeypatch):
    monkeypatch.setenv("A_SECRET_KEY", "host")
    hidden = ["/etc/passwd", "/root", "/home", "/var", "/usr/local/bin", str(tmp_path), __file__]
    code = (
        "import os, socket\n"
        f"print([p for p in {hidden!r} if os.path.exists(p)], os.listdir('/proc'), os.listdir('/sys'))\n"
        "print(sorted(os.environ), os.getuid())\n"
        "good = []\nfor d in '/ /usr /usr/bin /dev /dev/shm /jail /proc /tmp'.split():\n"
        "    try: open(d + '/note', 'w').close(); good.append(d)\n    except OSError: pass\nprint(good)\n"
        "try: socket.create_connection(('1.1.1.1', 53), 1); print('reached')\nexcept OSError: print('no network')\n"
    )
    result = sandbox.run(code, limits=PATIENT)
    expected = ["[] [] []", "['HOME', 'LANG', 'PATH'] 65534", "['/tmp']", "no network"]
    assert result.stdout.splitlines() == expected, result


def test_the_kernel_is_gvisors_own(sandbox):
    release = sandbox.run("import os\nprint(os.uname().release)", limits=PATIENT).stdout.strip()
    assert release and release != os.uname().release


def test_compiled_programs_run_in_gvisor(sandbox):
    if "cpp" not in find_toolchains():
        pytest.skip("needs a toolchain for cpp")
    code = '#include <cstdio>\nint main() { int n; scanf("%d", &n); printf("%d", 2 * n); }'
    limits = Limits(wall_s=60, cpu_s=60)
    assert sandbox.run(code, "21", limits, language="cpp").stdout == "42"


def test_nothing_is_left_behind(sandbox, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert sandbox.run("print(1)", limits=PATIENT).status == "ok"
    assert list(tmp_path.iterdir()) == []


def test_bundles_of_ended_processes_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for pid in (os.getpid(), 2**22 + 1):  # no process has a number above the kernel's largest
        (tmp_path / f"openqwq-gvisor-{pid}-0-x" / "root").mkdir(parents=True)
    remove_stale_bundles()
    assert [path.name for path in tmp_path.iterdir()] == [f"openqwq-gvisor-{os.getpid()}-0-x"]


def test_bundle_shows_the_system_read_only_and_gives_no_capability(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    written = {}
    monkeypatch.setattr(gvisor.json, "dumps", lambda config: written.update(config) or "{}")
    interpreter = gvisor.Interpreter("/opt/python/bin/python3", "/opt/python")
    bundle = Bundle(interpreter, {"/jail/a.pyc": b"x"}, ["python3"], tmp_mib=7, binds=[])
    mounts = {mount["destination"]: mount for mount in written["mounts"]}
    binds = {place for place, mount in mounts.items() if mount["type"] == "bind"}
    assert {"/usr", "/opt/python"} <= binds and all("ro" in mounts[place]["options"] for place in binds)
    assert not {"/etc", "/root", "/home"} & set(mounts)
    assert "size=7m" in mounts["/tmp"]["options"]
    assert not any(written["process"]["capabilities"].values()) and written["process"]["noNewPrivileges"]
    assert (bundle.folder / "root" / "jail" / "a.pyc").read_bytes() == b"x"
    bundle.remove()
    assert list(tmp_path.iterdir()) == []


def test_gvisor_that_is_missing_is_a_user_error(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="runsc") as error:
        Sandbox(jail="gvisor")
    assert "apt-get install runsc" in error.value.hint
    with pytest.raises(UserError, match="no jail 'chroot'"):
        Sandbox(jail="chroot")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["sandbox", "run", __file__, "--jail", "gvisor"]) == 2
    assert "runsc" in capsys.readouterr().err


def test_doctor_says_whether_gvisor_is_there():
    text = check_jail().text
    assert ("no gVisor" in text) == (shutil.which("runsc") is None)
    assert "gvisor" in text.lower()
