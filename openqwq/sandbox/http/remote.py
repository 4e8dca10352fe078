"""`RemoteSandbox`: the sandbox's face, spoken over HTTP to services elsewhere (one, or many behind a balancer).

Public: RemoteSandbox. A full queue and a broken connection are waited out and tried again, since every request
can be repeated; what stays broken is an infra_error, which masks a sample and is never held against a program.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
import urllib.parse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from openqwq.errors import UserError

from ..base import BaseSandbox
from ..inside.codec import CodecError
from ..judge import UNREADABLE
from ..spec import MAX_CODE_CHARACTERS, JudgeResult, RunResult, Submission
from . import wire

FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 5.0  # between attempts, doubled each time
OVERHEAD_S = 10.0  # for the network, on top of the deadline that the service keeps itself
BUSY = (429, 502, 503)  # answers of a full or a leaving service, or of its balancer


class RemoteSandbox(BaseSandbox):
    """Runs untrusted programs at a service.

    url:        of the service, e.g. "http://127.0.0.1:8200".
    token:      what the service asks for.
    workers:    requests at one time.
    deadline_s: seconds that the service may take for one request, waiting included.
    patience_s: seconds after which a service that does not answer, or stays full, is given up.
    Raises UserError where the service refuses the token, or what is asked of it.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str = "",
        workers: int = 16,
        deadline_s: float = 120.0,
        patience_s: float = 300.0,
    ):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"{url!r} is not the address of a sandbox service", hint="give it as http://HOST:PORT")
        self.url = url.rstrip("/")
        self.workers = workers
        self.deadline_s = deadline_s
        self.patience_s = patience_s
        self._parts = parts
        self._token = token
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="openqwq-remote-sandbox")

    def capabilities(self) -> dict[str, Any]:
        """What protects programs there, and which languages it runs."""
        answer = self._ask("GET", "/v1/capabilities", None)
        if isinstance(answer, str):
            raise UserError(f"the sandbox service {self.url} does not answer: {answer}")
        return answer

    def _run_one(self, submission: Submission, stdin: str) -> RunResult:
        answer = self._ask("POST", "/v1/run", wire.write_run(submission, stdin, self.deadline_s))
        if isinstance(answer, dict):
            return wire.read_run_result(answer)
        return RunResult(
            status="infra_error",
            stdout="",
            stderr="",
            exit_code=None,
            wall_s=0.0,
            cpu_s=0.0,
            memory_mib=0.0,
            reason=answer,
        )

    def judge_many(self, submissions: Sequence[Submission]) -> list[JudgeResult]:
        """Judge programs in parallel; results in the order of the submissions."""
        return list(self._pool.map(self._judge, submissions))

    def close(self) -> None:
        """Let go of the connections; the service goes on."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _judge(self, submission: Submission) -> JudgeResult:
        if len(submission.code) > MAX_CODE_CHARACTERS:
            return JudgeResult(verdict="runtime_error", reason=f"more than {MAX_CODE_CHARACTERS} characters of code")
        if not submission.tests:
            return JudgeResult(verdict="infra_error", reason=f"{UNREADABLE}there are no tests")
        try:
            body = wire.write_judge(submission, self.deadline_s)
        except (CodecError, KeyError, TypeError) as error:
            return JudgeResult(verdict="infra_error", reason=f"{UNREADABLE}{error!r}")
        answer = self._ask("POST", "/v1/judge", body)
        if isinstance(answer, dict):
            return wire.read_judge_result(answer)
        return JudgeResult(verdict="infra_error", reason=answer)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any] | str:
        """The service's answer, or why there is none after all patience. Raises UserError for a refusal."""
        data = None if body is None else json.dumps(body).encode()
        give_up = time.monotonic() + self.patience_s
        wait_s = FIRST_WAIT_S
        while True:
            try:
                code, text = self._exchange(method, path, data)
            except (OSError, http.client.HTTPException) as error:
                self._local.connection = None
                code, text = 503, f"{type(error).__name__}: {error}".encode()
            if code == 200:
                return json.loads(text)
            reason = _message(text)
            if code in (401, 403, 404, 405, 413, 422):
                raise UserError(f"the sandbox service {self.url} refuses: {reason}")
            if code not in BUSY or time.monotonic() + wait_s > give_up:
                return f"the sandbox service {self.url} answers {code}: {reason}"
            time.sleep(wait_s * random.uniform(0.5, 1.0))  # so that many clients do not come back at once
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _exchange(self, method: str, path: str, data: bytes | None) -> tuple[int, bytes]:
        connection = getattr(self._local, "connection", None) or self._connect()
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        connection.request(method, self._parts.path.rstrip("/") + path, data, headers)
        response = connection.getresponse()
        return response.status, response.read()

    def _connect(self) -> http.client.HTTPConnection:
        """This thread's connection, kept open from request to request."""
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        host = self._parts.hostname or ""
        self._local.connection = kind(host, self._parts.port, timeout=self.deadline_s + OVERHEAD_S)
        return self._local.connection


def _message(text: bytes) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text.decode("utf-8", "replace")[:300]
