"""What a program can see and reach: nothing of the host, nothing of the jobs before it."""

import os
import socket

from openqwq.sandbox import Limits

LIMITS = Limits(wall_s=60, cpu_s=20, tmp_mib=4)


def run(sandbox, code):
    result = sandbox.run(code, limits=LIMITS)
    assert result.status == "ok", result
    return result.stdout.strip()


def test_no_file_of_the_host_shows(sandbox, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("host")
    paths = ["/etc/passwd", "/root", "/home", "/sys", "/var", "/usr/local/bin", str(secret), os.getcwd(), __file__]
    assert run(sandbox, f"import os\nprint([p for p in {paths!r} if os.path.exists(p)])") == "[]"


def test_no_environment_of_the_host_shows(sandbox, monkeypatch):
    monkeypatch.setenv("A_SECRET_KEY", "host")
    assert run(sandbox, "import os\nprint(sorted(os.environ))") in (
        "['HOME', 'LANG', 'PATH']",
        "['HOME', 'LANG', 'PATH', 'PWD']",
    )


def test_no_process_of_others_shows(sandbox):
    assert run(sandbox, "import os\nprint(os.listdir('/proc'))") == "[]"
    signals = (
        "import os, signal\nhits = 0\nfor pid in range(2, 3000):\n"
        "    try: os.kill(pid, 0); hits += 1\n    except OSError: pass\nprint(hits)"
    )
    assert run(sandbox, signals) == "0"


def test_only_tmp_can_be_written_to(sandbox):
    code = (
        "good = []\nfor d in '/ /usr /usr/lib /usr/bin /dev /jail /proc /tmp /dev/shm'.split():\n"
        "    try: open(d + '/note', 'w').close(); good.append(d)\n    except OSError: pass\nprint(good)"
    )
    assert run(sandbox, code) == "['/tmp', '/dev/shm']"


def test_host_loopback_cannot_be_reached(sandbox):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = (
            f"import socket\ntry: socket.create_connection(('127.0.0.1', {port}), 1); print('reached')\n"
            "except OSError as e: print('refused')"
        )
        assert run(sandbox, code) == "refused"


def test_abstract_sockets_of_the_host_cannot_be_reached(sandbox):
    name = f"\0openqwq-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        code = (
            f"import socket\ns = socket.socket(socket.AF_UNIX)\ntry: s.connect({name!r}); print('reached')\n"
            "except OSError: print('refused')"
        )
        assert run(sandbox, code) == "refused"


def test_program_holds_no_capability_and_gains_none(sandbox):
    code = (
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "flags = {'user': 1 << 28, 'mount': 1 << 17, 'pid': 1 << 29, 'net': 1 << 30}\n"
        "print([name for name, flag in flags.items() if libc.unshare(flag) == 0])\n"
        "print(libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None), libc.umount2(b'/proc', 2), libc.umount2(b'/tmp', 2))\n"
        "print(os.getuid(), libc.prctl(39, 0, 0, 0, 0))"  # PR_GET_NO_NEW_PRIVS
    )
    assert run(sandbox, code).splitlines() == ["[]", "-1 -1 -1", "65534 1"]


def test_only_the_three_standard_descriptors_are_open(sandbox):
    code = (
        "import os\nopen_fds = []\nfor fd in range(1024):\n"
        "    try: os.fstat(fd); open_fds.append(fd)\n    except OSError: pass\nprint(open_fds)"
    )
    assert run(sandbox, code) == "[0, 1, 2]"


def test_notes_do_not_reach_the_next_job(sandbox):
    run(sandbox, "for d in ('/tmp', '/dev/shm'): open(d + '/note', 'w').write('hi')")
    assert run(sandbox, "import os\nprint(os.listdir('/tmp'), os.listdir('/dev/shm'))") == "[] []"


def test_shared_memory_does_not_reach_the_next_job(sandbox):
    code = "import ctypes\nlibc = ctypes.CDLL(None)\nprint(libc.shmget(4242, 4096, {flags}) >= 0)"
    assert run(sandbox, code.format(flags="0o1666")) == "True"
    assert run(sandbox, code.format(flags="0o666")) == "False"


def test_keyring_does_not_reach_the_next_job(sandbox):
    code = (
        "import ctypes, platform\nlibc = ctypes.CDLL(None)\n"
        "add, ctl = {'x86_64': (248, 250), 'aarch64': (217, 219)}[platform.machine()]\n"
    )
    run(sandbox, code + "libc.syscall(add, b'user', b'note', b'hi', 2, -3)")
    assert run(sandbox, code + "print(libc.syscall(ctl, 10, -3, b'user', b'note', 0))") == "-1"


def test_interpreter_state_does_not_reach_the_next_job(sandbox):
    run(sandbox, "import builtins, math, sys\nbuiltins.sum = None\nmath.pi = 3\nsys.modules['json'] = None")
    assert run(sandbox, "import math, json\nprint(sum([1, 2]), math.pi > 3.1, json.dumps(1))") == "3 True 1"


def test_expected_values_never_enter_the_process(sandbox):
    marker = "the-expected-marker"
    code = (
        "import gc, sys\ndef f():\n    found = []\n    frame = sys._getframe()\n    while frame:\n"
        "        found.append(repr(dict(frame.f_locals)))\n        frame = frame.f_back\n"
        "    found += [repr(o) for o in gc.get_objects() if type(o) in (dict, list, tuple)]\n"
        "    text = ' '.join(found)\n    at = text.find('-'.join(['the', 'expected', 'marker']))\n"
        "    return text[at : at + 19] if at >= 0 else 'nothing'"
    )
    result = sandbox.judge(code, entry_point="f", tests=[{"args": [], "expected": marker}], limits=LIMITS)
    assert result.verdict == "wrong_answer"
