"""Chat templates: conversations become the exact text that the model was trained on.

The bytes agree with those of `transformers`; templates.py renders them, within bounds.

Public: render_chat, render_prompt, normalize_messages, join_texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from openqwq.errors import UserError
from openqwq.types import Message

from .put_in import PutInText, Rendered, unmark
from .special_tokens import END_OF_TURN, THINK_START
from .templates import render_template

ROLES = ("system", "user", "assistant", "tool")
# Kinds of parts that a content may have, with the field that holds the text: chat completions', then other APIs'.
TEXT_PARTS = {"text": "text", "refusal": "refusal", "input_text": "text", "output_text": "text"}
# Parts of an assistant's turn that hold earlier thinking, which templates leave out.
THINKING_PARTS = ("thinking", "redacted_thinking", "reasoning")


def render_chat(
    template: str,
    messages: Sequence[Message | Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    continue_last: bool = False,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The conversation's text under a jinja template.

    tools:         OpenAI-style function descriptions.
    continue_last: leave the last assistant turn open, so that the model writes on; excludes
                   `add_generation_prompt`, which is then ignored. With `reasoning_content` and no content,
                   the thinking block itself stays open.
    variables:     further names that the template may read, e.g. the special tokens.
    Raises ValueError for a conversation that has no text (empty, unknown role, unreadable arguments),
    UserError for a template that cannot be rendered.
    """
    ending = {"add_generation_prompt": add_generation_prompt, "continue_last": continue_last}
    return _render(template, _read_turns(messages, continue_last), tools, variables or {}, **ending)


def render_prompt(
    template: str,
    messages: Sequence[Message | Mapping[str, Any]],
    put_in: PutInText,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    continue_last: bool = False,
    variables: Mapping[str, Any] | None = None,
    own: Mapping[str, Any] | None = None,
) -> Rendered:
    """As `render_chat`, and where what was put in must be broken so that no control token comes out of it.

    Messages, tools and `variables` are put in; `own` are further names, which are the tokenizer's own.
    """
    turns = _read_turns(messages, continue_last)
    turns, tools, variables, mark = put_in.mark_turns(turns, tools, variables or {})
    ending = {"add_generation_prompt": add_generation_prompt, "continue_last": continue_last}
    return unmark(_render(template, turns, tools, {**(own or {}), **variables}, **ending), mark)


def _read_turns(messages: Sequence[Message | Mapping[str, Any]], continue_last: bool) -> list[dict[str, Any]]:
    turns = normalize_messages(messages)
    if continue_last:
        turns[-1] = _open_turn(turns[-1])
    return turns


def _render(
    template: str,
    turns: list[dict[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    variables: Mapping[str, Any],
    *,
    add_generation_prompt: bool,
    continue_last: bool,
) -> str:
    names = {
        **variables,
        "messages": turns,
        "tools": [dict(tool) for tool in tools] if tools else None,
        "add_generation_prompt": add_generation_prompt and not continue_last,
    }
    text = render_template(template, names)
    return _cut_end_of_turn(text) if continue_last else text


def normalize_messages(messages: Sequence[Message | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as templates expect them: plain dicts, text content, tool arguments as objects.

    What OpenAI clients send is accepted: `content` null or a list of text parts (each in lines of its own),
    `arguments` as a JSON string, and thinking under `reasoning_content` or `reasoning`.
    Raises ValueError where a message has no such form, naming its position.
    """
    if not messages:
        raise ValueError("a conversation needs at least one message")
    return [_normalize_message(message, position) for position, message in enumerate(messages)]


def _normalize_message(message: Message | Mapping[str, Any], position: int) -> dict[str, Any]:
    if isinstance(message, Message):
        row: dict[str, Any] = {"role": message.role, "content": message.content}
        row["reasoning_content"] = message.reasoning_content
        row["tool_calls"] = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
    else:
        row = dict(message)
    where = f"message {position}"
    if row.get("role") not in ROLES:
        raise ValueError(f"{where} has the role {row.get('role')!r}; allowed are {', '.join(ROLES)}")
    row["content"] = _content_text(row.get("content"), where, row["role"])
    reasoning = row.pop("reasoning", None)
    row["reasoning_content"] = row.get("reasoning_content") or reasoning or ""
    if not row["reasoning_content"]:
        del row["reasoning_content"]
    calls = [_normalize_call(call, where) for call in row.pop("tool_calls", None) or ()]
    if calls:
        row["tool_calls"] = calls
    return row


def join_texts(texts: Iterable[str]) -> str:
    """Texts that were sent apart as one, with a line end between two of them where neither brings one."""
    parts: list[str] = []
    for text in filter(None, texts):
        if parts and not parts[-1].endswith("\n") and not text.startswith("\n"):
            parts.append("\n")
        parts.append(text)
    return "".join(parts)


def _content_text(content: Any, where: str, role: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return join_texts(_part_text(part, where, role) for part in content)
    raise ValueError(f"{where} has content that is not text: {content!r:.80}")


def _part_text(part: Any, where: str, role: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if role == "assistant" and kind in THINKING_PARTS:
        return ""
    text = part.get(TEXT_PARTS[kind]) if kind in TEXT_PARTS else None
    if not isinstance(text, str):
        raise ValueError(f"{where} has content that is not text: {part!r:.80}")
    return text


def _normalize_call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError(f"{where} has a tool call without a name: {call!r:.80}")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            raise ValueError(f"{where} calls {function['name']!r} with arguments that are not JSON: {error}") from error
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise ValueError(f"{where} calls {function['name']!r} with arguments that are no object: {arguments!r:.80}")
    return {**call, "type": "function", "function": {"name": function["name"], "arguments": dict(arguments)}}


def _open_turn(turn: dict[str, Any]) -> dict[str, Any]:
    if turn["role"] != "assistant" or "tool_calls" in turn:
        raise ValueError("only a last assistant message without tool calls can be continued")
    if turn["content"] or "reasoning_content" not in turn:
        return turn
    return {"role": "assistant", "content": f"{THINK_START}\n{turn['reasoning_content']}"}


def _cut_end_of_turn(text: str) -> str:
    open_text = text.rstrip("\n")
    if not open_text.endswith(END_OF_TURN):
        raise UserError(
            f"this chat template does not close a turn with {END_OF_TURN}, so the last turn cannot be continued",
            hint="use a ChatML template, or start a new assistant turn",
        )
    return open_text.removesuffix(END_OF_TURN)
