"""A Kimina-style Lean server: one Lean text in, the REPL's answer out, over HTTP.

Public: `KiminaServer`. The protocol of project-numina/kimina-lean-server: `POST /verify` with
`{"codes": [{"custom_id", "proof"}], "timeout", "disable_cache"}`, answered by
`{"results": [{"custom_id", "error", "response": {"messages", "sorries", "env"}}]}`.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
import uuid
from typing import Any
from urllib.parse import urlsplit

from openqwq.errors import UserError
from openqwq.verifiers.lean_repl import MAX_ANSWER_BYTES, ReplError

RETRIED = (429, 500, 502, 503, 504)
"""No free REPL, one that broke, a server that starts or leaves."""
SLACK_S = 30.0  # for the queue and the network, on top of the server's own deadline for imports and for the text


class KiminaServer:
    """One server. Raises UserError for an address or key that cannot be one.

    key_env: the environment variable that holds the server's key; empty: it asks for none.
    retries: further tries after a fault of the server's or the network's.
    """

    def __init__(self, url: str, *, key_env: str = "", retries: int = 4):
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise UserError(f"`{url}` is no address of a Lean server", hint="write it as http://localhost:8000")
        self.url = url.rstrip("/").removesuffix("/verify") + "/verify"
        self.retries = retries
        self._headers = {"Content-Type": "application/json"}
        if key_env:
            key = os.environ.get(key_env, "").strip()
            if not key:
                raise UserError(f"the environment variable `{key_env}` holds no key")
            self._headers["Authorization"] = f"Bearer {key}"

    def ask(self, text: str, timeout_s: float) -> dict[str, Any]:
        """The REPL's answer to a whole Lean text.

        Raises ReplError: "deadline" where Lean ran out of time, "gone" where the server gave none after all tries,
        "unreadable" where it makes no sense. Raises UserError where the server refuses requests like this one.
        """
        name = uuid.uuid4().hex
        body = {"codes": [{"custom_id": name, "proof": text}], "timeout": max(1, round(timeout_s))}
        content = json.dumps({**body, "disable_cache": False}).encode()
        fault = ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(min(0.25 * 2**attempt, 10.0))
            try:
                return _read_answer(self._post(content, 2 * timeout_s + SLACK_S), name)
            except urllib.error.HTTPError as error:
                with error:
                    fault = f"{error.code} {error.reason}: {error.read(300).decode('utf-8', 'replace').strip()}"
                if error.code not in RETRIED:
                    raise UserError(
                        f"{self.url} refuses the request: {fault}", hint="check the URL and the key"
                    ) from None
            except (OSError, http.client.HTTPException) as error:
                fault = f"{type(error).__name__}: {error}"
        raise ReplError("gone", f"{fault} ({self.retries + 1} tries)")

    def _post(self, content: bytes, timeout_s: float) -> bytes:
        request = urllib.request.Request(self.url, content, self._headers, method="POST")
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return response.read(MAX_ANSWER_BYTES)


def _read_answer(content: bytes, name: str) -> dict[str, Any]:
    try:
        (result,) = json.loads(content)["results"]
        error, response = result.get("error"), result.get("response")
        mine = result["custom_id"] == name
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        raise ReplError("unreadable", f"{content[:200]!r}") from fault
    if isinstance(error, str) and error:
        raise ReplError("deadline" if "timed out" in error else "unreadable", error[:300])
    if not mine or not isinstance(response, dict):
        raise ReplError("unreadable", f"{content[:200]!r}")
    if isinstance(response.get("message"), str) and "messages" not in response:  # the REPL's word for its own failure
        raise ReplError("unreadable", response["message"][:300])
    return response
