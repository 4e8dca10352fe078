"""Asking an OpenAI-compatible server for one reply, with retries; no library but Python's own.

Public: `JudgeClient`, `JudgeError`.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from openqwq.errors import UserError

RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
"""Statuses that may pass: timeouts, limits, a server that is starting."""
MAX_RESPONSE_BYTES = 1 << 22
LONGEST_WAIT_S = 30.0

Read = TypeVar("Read")


class JudgeError(Exception):
    """No readable reply after all tries."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected request would carry the key to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class JudgeClient:
    """One server, one model; greedy decoding. Raises UserError for an address or key that cannot be one."""

    def __init__(
        self, url: str, model: str, *, api_key_env: str, timeout_s: float, retries: int, max_tokens: int = 1024
    ):
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise UserError(f"`{url}` is no address of a server", hint="write it as http://localhost:8000/v1")
        self.url = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self.model = model
        self.timeout_s = timeout_s
        self.retries = retries
        self.max_tokens = max_tokens
        self._headers = {"Content-Type": "application/json"}
        if api_key_env:
            key = os.environ.get(api_key_env, "").strip()
            if not key:
                raise UserError(f"the environment variable `{api_key_env}` holds no key")
            self._headers["Authorization"] = f"Bearer {key}"
        self._opener = urllib.request.build_opener(_NoRedirect)

    def ask(self, system: str, question: str, read: Callable[[str, dict[str, int]], Read]) -> Read:
        """What `read(reply, usage)` makes of the first reply that it does not raise ValueError for.

        Raises JudgeError when no try succeeded, UserError when the server refuses requests like this one.
        """
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.max_tokens}
        fault = ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(min(2.0 ** (attempt - 1), LONGEST_WAIT_S))
            try:
                return read(*_read_response(self._post(body)))
            except urllib.error.HTTPError as error:
                with error:
                    fault = f"{error.code} {error.reason}: {error.read(300).decode('utf-8', 'replace').strip()}"
                if error.code not in RETRIED:
                    raise UserError(
                        f"{self.url} refuses the request: {fault}", hint="check the URL, the model's name and the key"
                    ) from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                fault = f"{type(error).__name__}: {error}"
        raise JudgeError(f"{fault} ({self.retries + 1} tries)")

    def _post(self, body: dict[str, Any]) -> bytes:
        content = json.dumps(body).encode()
        request = urllib.request.Request(self.url, content, self._headers, method="POST")
        with self._opener.open(request, timeout=self.timeout_s) as response:
            return response.read(MAX_RESPONSE_BYTES)


def _read_response(content: bytes) -> tuple[str, dict[str, int]]:
    """The reply's text without its thinking, and its token counts. Raises ValueError for another shape."""
    try:
        response = json.loads(content)
        text = response["choices"][0]["message"]["content"]
        usage = response.get("usage") or {}
        counts = {name: int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")}
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"no chat completion: {content[:200]!r}") from error
    if not isinstance(text, str):
        raise ValueError("the reply has no text")
    return text.rpartition("</think>")[2], counts
