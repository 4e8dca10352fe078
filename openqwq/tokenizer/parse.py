"""Reading a completion: thinking, answer, and Hermes tool calls as Qwen writes them.

A call is `<tool_call>`, a JSON object with `name` and `arguments`, `</tool_call>`. The JSON itself says where
it ends, so that tags inside its strings do no harm. Calls count in the answer only: what the model drafts or
quotes in its thinking is not a call.

Public: ParsedCompletion, parse_completion, parse_tool_calls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openqwq.types import ToolCall

from .special_tokens import THINK_END, THINK_START, TOOL_CALL_END, TOOL_CALL_START


@dataclass(frozen=True, slots=True)
class ParsedCompletion:
    """The parts of one completion.

    thinking:   without its tags and the newlines around it.
    answer:     what follows the thinking, without the newlines before it and without the tool calls.
    closed:     whether `</think>` was written; without it all of an opened completion is thinking.
    tool_calls: in the order written.
    errors:     one note for each `<tool_call>` that could not be read; its text stays in `answer`.
    """

    thinking: str
    answer: str
    closed: bool
    tool_calls: tuple[ToolCall, ...] = ()
    errors: tuple[str, ...] = ()


def parse_completion(text: str, opened: bool = True) -> ParsedCompletion:
    """The parts of a completion's text.

    opened: the prompt ended inside a thinking block, as QwQ's template leaves it. Otherwise thinking counts only
            where the text begins with `<think>`.
    The first `</think>` ends the thinking; `<think>` or `</think>` further on belong to the answer.
    """
    body = text.lstrip()
    has_tag = body.startswith(THINK_START)
    if not opened and not has_tag:
        thinking, tag, rest = "", "", text
    else:
        thinking, tag, rest = (body.removeprefix(THINK_START) if has_tag else text).partition(THINK_END)
    answer, calls, errors = parse_tool_calls(rest.lstrip("\n"))
    return ParsedCompletion(thinking.strip("\n"), answer, bool(tag), calls, errors)


def parse_tool_calls(text: str) -> tuple[str, tuple[ToolCall, ...], tuple[str, ...]]:
    """An answer's text without its calls, the calls, and a note for each one that could not be read.

    Text between and after calls is kept, in lines of its own. A call may end with the text instead of
    `</tool_call>`, and newlines after the tag or raw ones inside strings are allowed.
    """
    pieces: list[str] = []
    calls: list[ToolCall] = []
    errors: list[str] = []
    kept_from = position = 0
    while (start := text.find(TOOL_CALL_START, position)) >= 0:
        body = start + len(TOOL_CALL_START)
        try:
            call, position = _read_call(text, body)
        except ValueError as error:
            errors.append(f"tool call at character {start}: {error}")
            position = _end_of_broken_call(text, body)
            continue
        calls.append(call)
        pieces.append(text[kept_from:start])
        kept_from = position
    if not calls:
        return text, (), tuple(errors)
    pieces.append(text[kept_from:])
    kept = [piece.strip("\n") for piece in pieces if piece.strip()]
    return "\n".join(kept), tuple(calls), tuple(errors)


def _read_call(text: str, start: int) -> tuple[ToolCall, int]:
    """The call whose JSON begins at or after `start`, and the position behind its closing tag."""
    try:
        value, end = _DECODER.raw_decode(text, _skip_space(text, start))
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    call = _tool_call(value)
    end = _skip_space(text, end)
    if text.startswith(TOOL_CALL_END, end):
        return call, end + len(TOOL_CALL_END)
    if end == len(text) or text.startswith(TOOL_CALL_START, end):
        return call, end
    raise ValueError(f"text follows its JSON: {text[end : end + 20]!r}")


def _tool_call(value: Any) -> ToolCall:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        raise ValueError("it is not an object with a `name`")
    arguments = value.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _DECODER.decode(arguments)
    if not isinstance(arguments, Mapping):
        raise ValueError("its `arguments` are not an object")
    return ToolCall(value["name"], arguments)


def _end_of_broken_call(text: str, start: int) -> int:
    ends = (text.find(TOOL_CALL_END, start), text.find(TOOL_CALL_START, start))
    return min((end for end in ends if end >= 0), default=len(text))


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(strict=False, parse_constant=_reject_constant)
