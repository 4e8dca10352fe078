"""A teacher behind any OpenAI-compatible server: its samples become cold-start chains where they pass our verifiers.

Public: `ServerTeacher`, to be handed to `build_chains`. Each sample is one request, made only when those before it were
dropped. Whole answers are kept in a JSON-lines file, so a run that was cut short asks only for what is missing.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from openqwq.errors import UserError
from openqwq.json_client import ChatClient, NoAnswer
from openqwq.log import append_jsonl, read_jsonl
from openqwq.types import Message, Problem

from .build import Attempt

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
SAMPLING = {"temperature": 0.6, "top_p": 0.95, "max_tokens": 16384}
"""QwQ's recommended sampling, as far as the OpenAI API has names for it."""


class ServerTeacher:
    """Asks a model for attempts at a problem: at most `samples` of them, the next one only when it is asked for.

    sampling:      further fields of the request, such as `temperature`.
    attempts_file: where answers are kept and looked up; None: nowhere.
    The others are those of `ChatClient`. Raises UserError as it does, and for a server that gives no answer.
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
        self.samples = samples
        self.sampling = dict(sampling)
        self._client = ChatClient(
            url,
            model,
            key_env=api_key_env,
            timeout_s=timeout_s,
            retries=retries,
            backoff_s=backoff_s,
            trusted=True,  # its address comes from the command line, never from a recipe
        )
        self._file = attempts_file
        self._kept = _read_kept(attempts_file)
        self._lock = threading.Lock()

    def __call__(self, problem: Problem, rng: Random) -> Iterator[Attempt]:
        """The attempts at a problem, one by one; may be called from several threads."""
        body = self._client.body(_plain_messages(problem.messages), self.sampling)
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
        try:
            return self._client.ask(body, _first_choice)
        except NoAnswer as error:
            raise UserError(
                str(error),
                hint="check that the server runs; answers so far are kept, and the same command resumes",
            ) from error


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


def _first_choice(response: Mapping[str, Any]) -> dict[str, Any]:
    """The first choice's message and finish reason. Raises ValueError for a message of another shape."""
    choice = response["choices"][0]
    row = {"message": choice["message"], "finish_reason": choice.get("finish_reason")}
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


def _plain_messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]
