"""Asking HTTP servers that speak JSON, again while a fault may pass; no library but Python's own.

Public: `JsonClient` (one address), `ChatClient` (one model of an OpenAI-compatible server), `NoAnswer`, `chat_url`.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from openqwq.errors import UserError
from openqwq.key_hosts import check_key_host
from openqwq.log import logger

RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
"""Statuses that may pass: timeouts, limits, a server that is starting."""
LONGEST_WAIT_S = 60.0
MAX_RESPONSE_BYTES = 1 << 26
"""Without a bound a broken server fills the memory."""

Read = TypeVar("Read")


class NoAnswer(Exception):
    """No readable response after all tries."""


class JsonClient:
    """One address that JSON is posted to; may be used from several threads.

    key_env:   the environment variable that holds the key; empty: no key is sent.
    trusted:   whether the user named the address; else a key goes only to hosts in OPENQWQ_KEY_HOSTS.
    retries:   further tries of a request that failed in a way that may pass, waiting twice as long each time.
    backoff_s: the first wait.
    Raises UserError for an address that is none and for a key that is not there.
    """

    def __init__(self, url: str, *, key_env: str, retries: int, backoff_s: float = 1.0, trusted: bool = False):
        self.url = _checked(url)
        self.retries = retries
        self.backoff_s = backoff_s
        if key_env and not trusted:
            check_key_host(url, f"the key in `{key_env}`")
        self._headers = {"Content-Type": "application/json", **_authorization(key_env)}
        self._opener = urllib.request.build_opener(_NoRedirect)

    def ask(self, body: Mapping[str, Any], read: Callable[[bytes], Read], *, timeout_s: float) -> Read:
        """What `read` makes of the first response that it does not raise ValueError for.

        timeout_s: seconds without a byte from the server before a request is given up.
        Raises NoAnswer when no try succeeded, UserError when the server refuses requests like this one.
        """
        content = json.dumps(body).encode()
        for attempt in range(self.retries + 1):
            wait_s = min(self.backoff_s * 2**attempt, LONGEST_WAIT_S)
            try:
                return read(self._post(content, timeout_s))
            except urllib.error.HTTPError as error:
                with error:
                    fault = f"{error.code} {error.reason}: {error.read(500).decode('utf-8', 'replace').strip()}"
                if error.code not in RETRIED:
                    raise UserError(
                        f"{self.url} refuses the request: {fault}", hint="check the address, the key and the names"
                    ) from None
                wait_s = max(wait_s, _asked_wait(error.headers.get("Retry-After", "")))
            except (OSError, http.client.HTTPException, ValueError) as error:
                fault = f"{type(error).__name__}: {error}"
            if attempt < self.retries:
                logger.info("%s: %s; asking again in %.0f s", self.url, fault, wait_s)
                time.sleep(wait_s)
        raise NoAnswer(f"no answer from {self.url} after {self.retries + 1} tries: {fault}")

    def _post(self, content: bytes, timeout_s: float) -> bytes:
        request = urllib.request.Request(self.url, content, self._headers, method="POST")
        with self._opener.open(request, timeout=timeout_s) as response:
            answer = response.read(MAX_RESPONSE_BYTES + 1)
        if len(answer) > MAX_RESPONSE_BYTES:
            raise ValueError(f"the response is longer than {MAX_RESPONSE_BYTES} bytes")
        return answer


class ChatClient:
    """One model of an OpenAI-compatible server, named by its root or its API: http://localhost:8000, https://host/v1.

    The other arguments, and what is raised, are `JsonClient`'s.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_env: str,
        timeout_s: float,
        retries: int,
        backoff_s: float = 1.0,
        trusted: bool = False,
    ):
        self.model, self.timeout_s = model, timeout_s
        self._client = JsonClient(chat_url(url), key_env=key_env, retries=retries, backoff_s=backoff_s, trusted=trusted)

    def body(self, messages: Sequence[Mapping[str, str]], sampling: Mapping[str, Any]) -> dict[str, Any]:
        """The request for one reply."""
        return {"model": self.model, "messages": messages, **sampling}

    def ask(self, body: Mapping[str, Any], read: Callable[[dict[str, Any]], Read]) -> Read:
        """As `JsonClient.ask`; `read` is given the response, whose first choice has a message."""
        return self._client.ask(body, lambda content: read(_read_response(content)), timeout_s=self.timeout_s)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected request would carry the key to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def chat_url(url: str) -> str:
    """The address of the chat completions of a server named by its root, its /v1, or that address itself."""
    base = _checked(url).rstrip("/")
    if base.endswith("/chat/completions"):
        return base
    return f"{base}/chat/completions" if urlsplit(base).path else f"{base}/v1/chat/completions"


def _checked(url: str) -> str:
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise UserError(f"`{url}` is not the address of a server", hint="write it as http://localhost:8000")
    return url


def _read_response(content: bytes) -> dict[str, Any]:
    """Raises ValueError for what is no chat completion."""
    try:
        response = json.loads(content)
        is_message = isinstance(response["choices"][0]["message"], dict)
    except (KeyError, IndexError, TypeError):
        is_message = False
    if not is_message:
        raise ValueError(f"no chat completion: {content[:200]!r}")
    return response


def _authorization(variable: str) -> dict[str, str]:
    if not variable:
        return {}
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"the environment variable `{variable}` holds no key", hint=f"set it: export {variable}=...")
    return {"Authorization": f"Bearer {key}"}


def _asked_wait(header: str) -> float:
    """Seconds of a `Retry-After`; a date, which some servers send, counts as none."""
    return min(float(header), LONGEST_WAIT_S) if header.isdecimal() else 0.0
