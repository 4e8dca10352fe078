"""A teacher behind any OpenAI-compatible server: its samples become cold-start chains where they pass our verifiers.

Public: `ServerTeacher`, to be handed to `build_chains`. Each sample is one request, made only when those before it were
dropped. Whole answers are kept in a JSON-lines file, so a run that was cut short asks only for what is missing.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

from openqwq.errors import UserError
from openqwq.log import append_jsonl, logger, read_jsonl
from openqwq.types import Message, Problem

from .chains import Attempt

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
"""Statuses that may pass: timeouts, limits, a server that is starting."""
LONGEST_WAIT_SECONDS = 60.0
MAX_RESPONSE_BYTES = 1 << 26
"""A response beyond 64 MiB is no chain; without a bound a broken server fills the memory."""
SAMPLING = {"temperature": 0.6, "top_p": 0.95, "max_tokens": 16384}
"""QwQ's recommended sampling, as far as the OpenAI API has names for it."""


class ServerTeacher:
    """Asks a model for attempts at a problem: at most `samples` of them, the next one only when it is asked for.

    url:           of the server or of its API, e.g. http://localhost:8000 or https://host/v1.
    api_key_env:   the environment variable that holds the key; empty: no key is sent.
    sampling:      further fields of the request, such as `temperature`.
    timeout_s:     seconds without a byte from the server before a request is given up.
    retries:       further tries of a request that failed in a way that may pass, waiting twice as long each time.
    backoff_s:     the first wait.
    attempts_file: where answers are kept and looked up; None: nowhere.
    Raises UserError for a key that is not there, a URL that is none, and a request that cannot succeed.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        samples: int = 1,
        api_key_env: str = "",
        sampling: Mapping[str, Any] = SAMPLING,
        timeout_s: float = 600.0,
        retries: int = 6,
        backoff_s: float = 1.0,
        attempts_file: Path | None = None,
    ):
        self.url = chat_url(url)
        self.model = model
        self.samples = samples
        self.sampling = dict(sampling)
        self.timeout_s = timeout_s
        self.retries = retries
        self.backoff_s = backoff_s
        self._headers = {"Content-Type": "application/json", **_authorization(api_key_env)}
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._file = attempts_file
        self._kept = _read_kept(attempts_file)
        self._lock = threading.Lock()

    def __call__(self, problem: Problem, rng: Random) -> Iterator[Attempt]:
        """The attempts at a problem, one by one; may be called from several threads."""
        body = {"model": self.model, "messages": _plain_messages(problem.messages), **self.sampling}
        for sample in range(self.samples):
            key = hashlib.sha256(json.dumps([body, sample], sort_keys=True).encode()).hexdigest()
            choice = self._kept.get(key)
            if choice is None:
                choice = self._ask(body)
                self._keep({"request": key, "problem": problem.id, "sample": sample, "choice": choice})
            yield read_choice(choice)

    def _keep(self, row: dict[str, Any]) -> None:
        if self._file is not None:
            with self._lock:
                append_jsonl(self._file, row)

    def _ask(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The first choice of the server's response: its message and its finish reason."""
        for attempt in range(self.retries + 1):
            wait = min(self.backoff_s * 2**attempt, LONGEST_WAIT_SECONDS)
            try:
                return _first_choice(self._post(body))
            except urllib.error.HTTPError as error:
                with error:
                    fault = f"{error.code} {error.reason}: {error.read(500).decode('utf-8', 'replace').strip()}"
                if error.code not in RETRIED:
                    raise UserError(
                        f"{self.url} refuses the request: {fault}", hint="check the URL, the model's name and the key"
                    ) from None
                wait = max(wait, _asked_wait(error.headers.get("Retry-After", "")))
            except (OSError, http.client.HTTPException, ValueError) as error:
                fault = f"{type(error).__name__}: {error}"
            if attempt < self.retries:
                logger.info("teacher: %s; asking again in %.0f s", fault, wait)
                time.sleep(wait)
        raise UserError(
            f"no answer from {self.url} after {self.retries + 1} tries: {fault}",
            hint="see that the server runs; the answers so far are kept, and the same command goes on from there",
        )

    def _post(self, body: Mapping[str, Any]) -> bytes:
        request = urllib.request.Request(self.url, json.dumps(body).encode(), self._headers, method="POST")
        with self._opener.open(request, timeout=self.timeout_s) as response:
            content = response.read(MAX_RESPONSE_BYTES + 1)
        if len(content) > MAX_RESPONSE_BYTES:
            raise ValueError(f"the response is longer than {MAX_RESPONSE_BYTES} bytes")
        return content


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected request would carry the key to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def chat_url(url: str) -> str:
    """The address of the chat completions of a server named by its root, its /v1, or that address itself."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"`{url}` is no address of a server", hint="write it as http://localhost:8000/v1")
    base = url.rstrip("/")
    if base.endswith("/chat/completions"):
        return base
    return f"{base}/chat/completions" if parts.path.strip("/") else f"{base}/v1/chat/completions"


def read_choice(choice: Mapping[str, Any]) -> Attempt:
    """Thinking and answer of one choice; thinking stands in `reasoning_content`, `reasoning`, or a <think> block."""
    message = choice["message"]
    content = message.get("content") or ""
    thinking = message.get("reasoning_content") or message.get("reasoning") or ""
    if not thinking:
        opened, closed, rest = content.partition(THINK_CLOSE)
        thinking, content = (opened.strip().removeprefix(THINK_OPEN), rest) if closed else ("", content)
    fault = "unfinished" if choice.get("finish_reason") == "length" else ""
    return Attempt(thinking.strip(), content.strip(), fault)


def _first_choice(content: bytes) -> dict[str, Any]:
    """Raises ValueError for a response of another shape."""
    try:
        choice = json.loads(content)["choices"][0]
        row = {"message": dict(choice["message"]), "finish_reason": choice.get("finish_reason")}
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"no chat completion: {content[:200]!r}") from error
    for field in ("content", "reasoning_content", "reasoning"):
        if not isinstance(row["message"].get(field) or "", str):
            raise ValueError(f"the message's `{field}` is no text")
    return row


def _read_kept(file: Path | None) -> dict[str, dict[str, Any]]:
    if file is None or not file.exists():
        return {}
    try:
        _cut_torn_line(file)
        return {row["request"]: row["choice"] for row in read_jsonl(file)}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} holds no kept answers: {error}", hint="name another output, or move it away"
        ) from error


def _cut_torn_line(file: Path) -> None:
    """Cut off what a killed writer left of a last line, so that the next row begins a line of its own."""
    with open(file, "rb+") as stream:
        content = stream.read()
        stream.truncate(content.rfind(b"\n") + 1)


def _authorization(variable: str) -> dict[str, str]:
    if not variable:
        return {}
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"the environment variable `{variable}` holds no key", hint=f"set it: export {variable}=...")
    return {"Authorization": f"Bearer {key}"}


def _plain_messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _asked_wait(header: str) -> float:
    """Seconds of a `Retry-After`; a date, which some servers send, counts as none."""
    return min(float(header), LONGEST_WAIT_SECONDS) if header.isdecimal() else 0.0
