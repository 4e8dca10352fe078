"""The sandbox as an HTTP service, and the client that speaks to it: a real server on a loopback port."""

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("uvicorn", reason="the service needs fastapi and uvicorn")
pytest.importorskip("fastapi", reason="the service needs fastapi and uvicorn")
import uvicorn

from openqwq.errors import UserError
from openqwq.sandbox import Limits, RemoteSandbox, Sandbox, Submission, client
from openqwq.sandbox.http.service import ServiceOptions, make_app, serve
from openqwq.sandbox.jail.jail import JailError

TOKEN = "a-long-secret"
LIMITS = {"wall_s": 20, "cpu_s": 20}
SLEEPER = {"code": "import time\ntime.sleep(50)", "limits": {"wall_s": 55}}


@contextlib.contextmanager
def running(sandbox, **options):
    """A service in a thread; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(make_app(sandbox, ServiceOptions(**options)), log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(20)


@pytest.fixture(scope="module")
def port():
    options = {"token": TOKEN, "queue": 4, "max_body_bytes": 100_000, "max_limits": Limits(wall_s=60, memory_mib=512)}
    with running(Sandbox(workers=2), **options) as port:
        yield port


def ask(port, method, path, body=None, token=TOKEN, timeout=60):
    """Status code and answer, as JSON where it is JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    with contextlib.closing(connection):
        connection.request(method, path, data, headers)
        response = connection.getresponse()
        text = response.read()
    is_json = response.headers["Content-Type"] == "application/json"
    return response.status, json.loads(text) if is_json else text.decode()


def run(port, body):
    return ask(port, "POST", "/v1/run", body)


def judge(port, body):
    code, answer = ask(port, "POST", "/v1/judge", body | {"limits": LIMITS})
    assert code == 200, answer
    return answer


def wait_until_idle(port):
    deadline = time.monotonic() + 30
    while True:
        _, state = ask(port, "GET", "/health")
        if state["running"] == 0:
            return
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_run_answers_how_the_program_ended(port):
    body = {"language": "python", "code": "print(input() + open('a/b.txt').read())", "stdin": "x", "limits": LIMITS}
    code, answer = run(port, body | {"files": {"a/b.txt": "y", "c.bin": {"base64": "AAE="}}})
    assert code == 200
    assert {"wall_s", "cpu_s", "memory_mib"} < set(answer)
    assert (answer["status"], answer["stdout"], answer["stderr"], answer["exit_code"]) == ("ok", "xy\n", "", 0)
    code, answer = run(port, {"code": "import sys\nsys.exit(3)", "limits": LIMITS})
    assert (code, answer["status"], answer["exit_code"]) == (200, "runtime_error", 3)


def test_judge_answers_a_verdict_for_each_test_in_every_mode(port):
    code = "def f(x):\n    return [x, 1 / x]"
    tests = [{"args": [2], "expected": [2, 0.5]}, {"args": [0], "expected": [0, 0]}, {"args": [1], "expected": [1, 2]}]
    answer = judge(port, {"code": code, "mode": "function", "entry_point": "f", "tests": tests})
    assert [test["verdict"] for test in answer["tests"]] == ["passed", "runtime_error", "wrong_answer"]
    assert answer["verdict"] == "runtime_error"
    assert "ZeroDivisionError" in answer["tests"][1]["reason"]
    tests = [{"stdin": "3\n", "stdout": "9\n"}, {"stdin": "4\n", "stdout": "8\n"}]
    answer = judge(port, {"code": "print(int(input()) ** 2)", "mode": "stdio", "tests": tests})
    assert [test["verdict"] for test in answer["tests"]] == ["passed", "wrong_answer"]
    tests = ["assert f(2) == [2, 0.5]", "assert f(1) == []"]
    answer = judge(port, {"code": code, "mode": "asserts", "entry_point": "f", "tests": tests})
    assert [test["verdict"] for test in answer["tests"]] == ["passed", "wrong_answer"]


def test_typed_tests_carry_what_json_cannot(port):
    tests = [{"typed": True, "args": [["t", [1, 2]]], "expected": ["s", [2, 1]]}]
    body = {"code": "def f(x):\n    return set(x) if type(x) is tuple else 0", "mode": "function", "entry_point": "f"}
    assert judge(port, body | {"tests": tests})["verdict"] == "passed"


@pytest.mark.parametrize("token", ["", "a-long-secreT", "a-long-secret-and-more"])
def test_without_the_token_only_health_is_answered(port, token):
    for method, path in (("POST", "/v1/run"), ("POST", "/v1/judge"), ("GET", "/metrics"), ("GET", "/v1/capabilities")):
        assert ask(port, method, path, {"code": ""}, token=token)[0] == 401
    code, state = ask(port, "GET", "/health", token=token)
    assert (code, state["status"], state["workers"]) == (200, "ok", 2)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("run", b"{", "not JSON"),
        ("run", b"[" * 5000, "not JSON"),
        ("run", [], "must be a JSON object"),
        ("run", {}, "`code` must be a text"),
        ("run", {"code": "", "langauge": "python"}, "did you mean `language`?"),
        ("run", {"code": "", "language": "cobol"}, "must be one of python, cpp"),
        ("run", {"code": "", "stdin": 1}, "`stdin` must be a text"),
        ("run", {"code": "", "limits": {"wall_s": 61}}, "`wall_s` must be a number above 0 and up to 60"),
        ("run", {"code": "", "limits": {"memory_mib": 1.5}}, "`memory_mib` must be a whole number"),
        ("run", {"code": "", "limits": {"processes": True}}, "`processes` must be a whole number"),
        ("run", {"code": "", "limits": {"wall": 1}}, "did you mean `wall_s`?"),
        ("run", {"code": "", "files": {"../x": ""}}, "is not a relative path"),
        ("run", {"code": "", "files": {"/x": ""}}, "is not a relative path"),
        ("run", {"code": "", "files": {"x": "", "x/y": ""}}, "lies in another file"),
        ("run", {"code": "", "files": {"x": {"base64": "?"}}}, "not base64"),
        ("run", {"code": "", "deadline_s": 0}, "`deadline_s` must be"),
        ("judge", {"code": "", "mode": "stdio", "tests": []}, "1 to 2000 tests"),
        ("judge", {"code": "", "mode": "guess", "tests": [1]}, "one of function, stdio, asserts"),
        ("judge", {"code": "", "mode": "function", "tests": [{}]}, "`entry_point` must be a text"),
        ("judge", {"code": "", "entry_point": "f", "tests": [{"arg": []}]}, "did you mean `args`?"),
    ],
)
def test_a_request_that_says_nothing_sensible_is_refused_with_the_reason(port, path, body, message):
    code, answer = ask(port, "POST", f"/v1/{path}", body)
    assert code == 422
    assert message in answer["error"]["message"]


def test_unreadable_tests_are_no_fault_of_the_program(port):
    answer = judge(port, {"code": "", "mode": "stdio", "tests": [{"stdin": ""}]})
    assert answer["verdict"] == "infra_error"


def test_a_large_request_is_refused(port):
    code, answer = run(port, {"code": "#" * 100_000})
    assert (code, answer["error"]["message"]) == (413, "a request may have 100000 bytes")


def test_a_request_ends_with_its_deadline_and_its_program_with_it(port):
    start = time.monotonic()
    code, answer = run(port, SLEEPER | {"deadline_s": 0.3})
    assert code == 504
    assert "0.3 s" in answer["error"]["message"]
    wait_until_idle(port)
    assert time.monotonic() - start < 20


def test_a_program_ends_when_its_sender_hangs_up(port):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/v1/run", json.dumps(SLEEPER), {"Authorization": f"Bearer {TOKEN}"})
    start = time.monotonic()
    while ask(port, "GET", "/health")[1]["running"] == 0:
        assert time.monotonic() - start < 20
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    wait_until_idle(port)
    assert time.monotonic() - start < 30


def test_a_full_queue_is_answered_at_once_and_the_client_waits_it_out():
    with running(Sandbox(workers=1), queue=1) as port:
        url = f"http://127.0.0.1:{port}"
        threads = [threading.Thread(target=run, args=(port, SLEEPER | {"deadline_s": 1.5})) for _ in range(2)]
        for thread in threads:
            thread.start()
        while sum(ask(port, "GET", "/health")[1][name] for name in ("running", "queued")) < 2:
            time.sleep(0.01)
        code, answer = run(port, {"code": ""})
        assert (code, answer["error"]["message"]) == (429, "the queue is full")
        with RemoteSandbox(url) as sandbox:
            assert sandbox.run("print(1)", limits=Limits(wall_s=20)).stdout == "1\n"
        with RemoteSandbox(url, patience_s=0) as sandbox:
            assert sandbox.run("print(1)", limits=Limits(wall_s=20)).status == "ok"
        for thread in threads:
            thread.join()


def knock(port, method, path, **headers):
    """The status of a request with these headers and no others; `Host` is the service's where it is not given."""
    headers = {name.replace("_", "-"): value for name, value in ({"Host": f"127.0.0.1:{port}"} | headers).items()}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_host=True)
        body = b'{"code": "print(1)"}' if method == "POST" else b""
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        return connection.getresponse().status


JSON = "application/json"


def test_requests_that_web_pages_can_send_are_refused():
    with running(Sandbox(workers=1)) as port:
        here = f"127.0.0.1:{port}"
        for host in (here, f"localhost:{port}", f"LOCALHOST:{port}", f"[::1]:{port}", "localhost"):
            assert knock(port, "POST", "/v1/run", Host=host, Content_Type=f"{JSON}; charset=utf-8") == 200
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json"):
            assert knock(port, "POST", "/v1/run", Content_Type=kind) == 415
            assert knock(port, "POST", "/v1/judge", Content_Type=kind) == 415
        assert knock(port, "POST", "/v1/run") == 415  # the body of a page may have no type at all
        for origin in ("http://stranger.example", "null", f"https://{here}.stranger.example", "http://127.0.0.1:1", ""):
            assert knock(port, "POST", "/v1/run", Content_Type=JSON, Origin=origin) == 403
        assert knock(port, "POST", "/v1/run", Content_Type=JSON, Origin=f"http://{here}") == 200
        for host in (
            "stranger.example",
            f"stranger.example:{port}",
            "127.0.0.1.stranger.example",
            "[",
            "",
            f"a@{here}",
        ):
            assert knock(port, "POST", "/v1/run", Content_Type=JSON, Host=host) == 403
            assert knock(port, "GET", "/v1/capabilities", Host=host) == 403
        assert knock(port, "GET", "/health", Host="balancer.example") == 200


def test_with_a_token_any_host_name_is_answered_and_pages_are_not(port):
    bearer = {"Authorization": f"Bearer {TOKEN}", "Host": "sandbox.example"}
    assert knock(port, "POST", "/v1/run", Content_Type=JSON, **bearer) == 200
    assert knock(port, "POST", "/v1/run", Content_Type=JSON, Host="sandbox.example") == 401
    assert knock(port, "POST", "/v1/run", Content_Type="text/plain", **bearer) == 415
    assert knock(port, "POST", "/v1/run", Content_Type=JSON, Origin="http://stranger.example", **bearer) == 403


def test_a_judgement_names_its_comparison_and_tolerance(port):
    tests = [{"args": [], "expected": [1, {"2": 3}], "alternatives": [None]}]
    for value, compare, verdict in (
        ("(1, {2: 3.0})", "json", "passed"), ("(1, {2: 3.0})", "typed", "wrong_answer"), ("None", "typed", "passed"),
    ):  # fmt: skip
        body = {"code": f"def f():\n    return {value}", "entry_point": "f", "tests": tests, "compare": compare}
        assert judge(port, body)["verdict"] == verdict
    tests = [{"stdin": "", "stdout": "0.333333"}]
    for tolerance, verdict in ((0.01, "passed"), (0, "wrong_answer")):
        body = {"code": "print(0.33)", "mode": "stdio", "tests": tests, "tolerance": tolerance}
        assert judge(port, body)["verdict"] == verdict
    for wrong in ({"tolerance": -1}, {"tolerance": "0"}, {"compare": "loose"}):
        assert ask(port, "POST", "/v1/judge", body | wrong)[0] == 422


def test_limits_that_a_request_does_not_name_stay_below_the_services_own():
    with running(Sandbox(workers=1), max_limits=Limits(wall_s=20, memory_mib=64)) as port:
        code, answer = run(port, {"code": "b = bytearray(1 << 27)"})
        assert (code, answer["status"]) == (200, "memory")


def test_metrics_count_requests_and_results(port):
    before = ask(port, "GET", "/metrics")[1]
    run(port, {"code": "1 / 0", "limits": LIMITS})
    after = ask(port, "GET", "/metrics")[1]

    def value(text, name):
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))

    for name in (
        'openqwq_sandbox_requests_total{endpoint="run",code="200"}',
        'openqwq_sandbox_results_total{endpoint="run",result="runtime_error"}',
        'openqwq_sandbox_request_seconds_bucket{le="+Inf"}',
    ):
        assert value(after, name) >= value(before, name) + 1
    assert "openqwq_sandbox_workers 2\n" in after


def test_remote_sandbox_judges_as_the_one_in_this_process(port):
    submissions = [
        Submission(code="def f(x):\n    return (x, {x})", entry_point="f", tests=[{"args": [1], "expected": (1, {1})}]),
        Submission(code="def f(x):\n    return [x, {x}]", entry_point="f", tests=[{"args": [1], "expected": (1, {1})}]),
        Submission(code="def f(x):\n    return x", entry_point="f", tests=[{"args": ["\ud800"], "expected": "\ud800"}]),
        Submission(code="print(7)", mode="stdio", tests=[{"stdin": "", "stdout": "7"}]),
        Submission(code="def f(x):\n    return x", mode="asserts", entry_point="f", tests=["assert f(1) == 1"]),
        Submission(code="def f(x):\n    return x", entry_point="f", tests=[]),
        Submission(code="def f(x):\n    return x", entry_point="f", tests=[{"args": [object()], "expected": 1}]),
    ]
    with RemoteSandbox(f"http://127.0.0.1:{port}", token=TOKEN) as remote, Sandbox(workers=1) as local:
        words = [result.verdict for result in remote.judge_many(submissions)]
        assert words == [result.verdict for result in local.judge_many(submissions)]
        assert words == ["passed", "wrong_answer", "passed", "passed", "passed", "infra_error", "infra_error"]
        assert remote.capabilities() == local.capabilities()
        long = remote.judge("#" * (1 << 20) + "\n", "stdio", tests=[{"stdin": "", "stdout": ""}])
        assert long.verdict == "runtime_error"
        with pytest.raises(UserError, match="up to 60"):
            remote.run("", limits=Limits(wall_s=100))


def test_remote_sandbox_says_what_keeps_it_from_a_service(port):
    with pytest.raises(UserError, match="bearer token"):
        RemoteSandbox(f"http://127.0.0.1:{port}", token="wrong").run("")
    with pytest.raises(UserError, match="not the address"):
        RemoteSandbox("somewhere:80")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = closed.getsockname()[1]
    result = RemoteSandbox(f"http://127.0.0.1:{nobody}", patience_s=0.3).run("")
    assert result.status == "infra_error"
    assert "refused" in result.reason


def test_health_fails_while_no_jail_starts_and_recovers(monkeypatch):
    def break_down(*args, **kwargs):
        raise JailError("no memory for a jail")

    with running(Sandbox(workers=1)) as port:
        monkeypatch.setattr(client, "Jail", break_down)
        for _ in range(3):
            code, answer = run(port, {"code": ""})
            assert (code, answer["status"], answer["reason"]) == (200, "infra_error", "no memory for a jail")
        assert ask(port, "GET", "/health")[0] == 503
        monkeypatch.undo()
        assert ask(port, "GET", "/health")[0] == 200


def test_a_service_that_others_can_reach_needs_a_token():
    with pytest.raises(UserError, match="no token"):
        serve(None, ServiceOptions(), host="0.0.0.0", port=0)


def test_command_line_serves_until_it_is_told_to_end():
    command = [sys.executable, "-m", "openqwq.cli.main", "sandbox", "serve", "--port", "0", "--workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stderr.readline()
        while line and "http://" not in line:
            line = process.stderr.readline()
        url = line.split("sandbox on ")[1].split(",")[0]
        with RemoteSandbox(url) as sandbox:
            assert sandbox.run("print(6 * 7)", limits=Limits(wall_s=20)).stdout == "42\n"
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode in (0, -15)
