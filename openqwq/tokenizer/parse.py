"""Reading a completion: thinking, answer, and Hermes tool calls as Qwen writes them.

A call is `<tool_call>`, a JSON object with `name` and `arguments`, `</tool_call>`. The JSON itself says where
it ends, so that tags inside its strings do no harm. Calls count in the answer only: what the model drafts or
quotes in its thinking is not a call.

Where the answer begins is decided here and in `ThinkingStream` alone, told by the rendered prompt whether it ends
inside a thinking block (`Tokenizer.opens_thinking`).

Public: ParsedCompletion, parse_completion, parse_tool_calls, answer_start, opens_thinking.
"""

from __future__ import annotations

from dataclasses import dataclass

from openqwq.types import ToolCall

from .parse_stream import CallError, ThinkingStream, ToolCallStream
from .special_tokens import THINK_END, THINK_START


@dataclass(frozen=True, slots=True)
class ParsedCompletion:
    """The parts of one completion.

    thinking:   without its tags and the newlines around it.
    answer:     what follows the thinking, without the newlines before it and without the tool calls.
    closed:     whether `</think>` ended the thinking; without it all of an opened completion is thinking.
    tool_calls: in the order written.
    errors:     one note for each `<tool_call>` that could not be read; its text stays in `answer`.
    """

    thinking: str
    answer: str
    closed: bool
    tool_calls: tuple[ToolCall, ...] = ()
    errors: tuple[str, ...] = ()


def parse_completion(text: str, opened: bool) -> ParsedCompletion:
    """The parts of a completion's text.

    opened: the prompt ended inside a thinking block, as QwQ's template leaves it. Otherwise thinking counts only
            where the text begins with `<think>`.
    The first `</think>` ends the thinking; `<think>` or `</think>` further on belong to the answer.
    """
    stream = ThinkingStream(opened)
    thinking, answer = _split(stream, text)
    answer, calls, errors = parse_tool_calls(answer)
    return ParsedCompletion(thinking, answer, stream.closed, calls, errors)


def answer_start(text: str, opened: bool) -> int | None:
    """Where the answer begins in a completion's text, its tool calls included; None inside unclosed thinking."""
    stream = ThinkingStream(opened)
    _, answer = _split(stream, text)
    return None if stream.thinking else len(text) - len(answer)


def _split(stream: ThinkingStream, text: str) -> tuple[str, str]:
    (thinking, answer), (more, rest) = stream.push(text), stream.finish()
    return thinking + more, answer + rest


def opens_thinking(turn: str) -> bool:
    """Whether an assistant turn, as far as the prompt has written it, ends inside a thinking block."""
    return turn.rfind(THINK_START) > turn.rfind(THINK_END)


def parse_tool_calls(text: str) -> tuple[str, tuple[ToolCall, ...], tuple[str, ...]]:
    """An answer's text without its calls, the calls, and a note for each one that could not be read.

    Text between and after calls is kept, in lines of its own. A call may end with the text, or with a part of
    `</tool_call>`, instead of the whole tag; newlines after the tag or raw ones inside strings are allowed.
    What counts as arguments: `read_tool_call`.
    """
    stream = ToolCallStream()
    parts = stream.push(text) + stream.finish()
    return (
        "".join(part for part in parts if isinstance(part, str)),
        tuple(part for part in parts if isinstance(part, ToolCall)),
        tuple(str(part) for part in parts if isinstance(part, CallError)),
    )
