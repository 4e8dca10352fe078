"""Rows of JSON-lines files that users bring: read in one place, so that what is wrong is said in the same words.

A row that cannot be read raises `RowError`, whose text follows the place: "is a list, not an object", "lacks `answer`".

Public: `RowError`, `parse_row`, `text_of`, `messages_of`, `whole_problem`, `is_whole_problem`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from openqwq.types import Message, Problem, ToolCall

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
}
"""Roles of messages, ShareGPT's names among them."""
_PROBLEM_FIELDS = {field.name for field in fields(Problem)}


class RowError(ValueError):
    """What is wrong with a row."""

    @property
    def begins_with_verb(self) -> bool:
        """Whether the text needs a subject, such as the row's place."""
        return str(self).split()[0] in ("is", "has", "lacks", "names", "asks")

    def of(self, place: str) -> str:
        """A sentence about the place: "row 3 lacks `answer`"."""
        return f"{place} {self}" if self.begins_with_verb else f"{place}: {self}"

    def why_no(self, place: str, thing: str) -> str:
        """A sentence that gives the error as the reason: "p.jsonl:3 is no problem: it lacks `answer`"."""
        return f"{place} is no {thing}: {'it ' if self.begins_with_verb else ''}{self}"


def parse_row(line: bytes) -> dict[str, Any]:
    """The object of a line. Raises RowError for anything else."""
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RowError(f"is not UTF-8 text (byte {error.start + 1})") from error
    except json.JSONDecodeError as error:
        raise RowError(f"is no JSON ({error.msg}, column {error.colno})") from error
    except RecursionError as error:
        raise RowError("is nested too deeply") from error
    except ValueError as error:  # a number of more digits than Python converts
        raise RowError(f"is no JSON ({str(error).partition(';')[0]})") from error
    if not isinstance(value, dict):
        raise RowError(f"is {kind_of(value)}, not an object")
    return value


def kind_of(value: Any) -> str:
    """What a JSON value is called."""
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "null" if value is None else type(value).__name__)


def text_of(row: Mapping[str, Any], key: str) -> str:
    """The text under a key. Raises RowError where it is missing, or something else."""
    if key not in row:
        raise RowError(f"lacks `{key}`")
    if not isinstance(row[key], str):
        raise RowError(f"`{key}` is {kind_of(row[key])}, not a text")
    return row[key]


def messages_of(value: Any, key: str) -> tuple[Message, ...]:
    """A conversation from a list of OpenAI's messages ("role", "content") or ShareGPT's ("from", "value")."""
    if not isinstance(value, list | tuple) or not value:
        what = "an empty list" if isinstance(value, list | tuple) else kind_of(value)
        raise RowError(f"`{key}` is {what}, not a list of messages")
    return tuple(_message(turn, f"message {number} of `{key}`") for number, turn in enumerate(value, 1))


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise RowError(f"{where} is no message: it is {kind_of(turn)}, not an object")
    name = turn.get("role", turn.get("from"))
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise RowError(f"{where} is no message: its `role` is {name!r}, not one of {', '.join(sorted(ROLES))}")
    calls = turn.get("tool_calls") or ()
    content = _content(turn.get("content", turn.get("value")), where, may_lack=bool(calls))
    reasoning = turn.get("reasoning_content") or turn.get("reasoning") or ""
    if not isinstance(reasoning, str):
        raise RowError(f"{where} is no message: `reasoning_content` is {kind_of(reasoning)}, not a text")
    return Message(role, content, reasoning, tuple(_tool_call(call, where) for call in calls))  # type: ignore[arg-type]


def _content(value: Any, where: str, *, may_lack: bool) -> str:
    if isinstance(value, list) and all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in value):
        return "".join(part["text"] for part in value)
    if value is None and may_lack:
        return ""
    if not isinstance(value, str):
        raise RowError(f"{where} is no message: its `content` is {kind_of(value)}, not a text")
    return value


def _tool_call(call: Any, where: str) -> ToolCall:
    call = call.get("function", call) if isinstance(call, Mapping) else call
    name, arguments = (call.get("name"), call.get("arguments")) if isinstance(call, Mapping) else (None, None)
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = None
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        raise RowError(f"{where} has a tool call without a `name` or without an object as its `arguments`")
    return ToolCall(name, arguments)


def is_whole_problem(row: Mapping[str, Any]) -> bool:
    """Whether the row is a problem as we write it, with all that a plain row takes from its source."""
    return all(key in row for key in ("id", "source", "kind", "messages", "verifier"))


def whole_problem(row: Any) -> Problem:
    """A problem from the row that `Problem.to_dict` writes; what else the row has goes to its metadata."""
    if not isinstance(row, Mapping):
        raise RowError(f"`problem` is {kind_of(row)}, not an object")
    texts = {key: text_of(row, key) for key in ("id", "source", "kind", "verifier")}
    if "messages" not in row:
        raise RowError("lacks `messages`")
    metadata = row.get("metadata", {})
    if not isinstance(metadata, Mapping):
        raise RowError(f"`metadata` is {kind_of(metadata)}, not an object")
    further = {key: value for key, value in row.items() if key not in _PROBLEM_FIELDS}
    return Problem(
        **texts,
        messages=messages_of(row["messages"], "messages"),
        answer=row.get("answer"),
        metadata={**further, **metadata},
        thinking_opened=row.get("thinking_opened"),
    )
