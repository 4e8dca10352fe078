"""A Kimina-style Lean server: one Lean text in, the REPL's answer out, over HTTP.

Public: `KiminaServer`. The protocol of project-numina/kimina-lean-server: `POST /verify` with
`{"codes": [{"custom_id", "proof"}], "timeout", "disable_cache"}`, answered by
`{"results": [{"custom_id", "error", "response": {"messages", "sorries", "env"}}]}`.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from openqwq.json_client import JsonClient, NoAnswer

from .lean_repl import ReplError

SLACK_S = 30.0  # for the queue and the network, on top of the server's own deadline for imports and for the text


class KiminaServer:
    """One server, e.g. at http://localhost:8000. The arguments, and what is raised, are `JsonClient`'s."""

    def __init__(self, url: str, *, key_env: str = "", retries: int = 4):
        address = url.rstrip("/").removesuffix("/verify") + "/verify"
        self._client = JsonClient(address, key_env=key_env, retries=retries, backoff_s=0.25)

    def ask(self, text: str, timeout_s: float) -> dict[str, Any]:
        """The REPL's answer to a whole Lean text.

        Raises ReplError: "deadline" where Lean ran out of time, "gone" where the server gave none after all tries,
        "unreadable" where it makes no sense. Raises UserError where the server refuses requests like this one.
        """
        name = uuid.uuid4().hex
        body = {"codes": [{"custom_id": name, "proof": text}], "timeout": max(1, round(timeout_s))}
        try:
            return self._client.ask(
                {**body, "disable_cache": False},
                lambda content: _read_answer(content, name),
                timeout_s=2 * timeout_s + SLACK_S,
            )
        except NoAnswer as error:
            raise ReplError("gone", str(error)) from error


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
