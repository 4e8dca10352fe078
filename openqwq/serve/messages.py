"""`/v1/messages`: Anthropic's form, with thinking blocks and tool use.

Public: MessagesBody, CountBody, plan_messages, answer_messages, stream_messages.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from openqwq.tokenizer import join_texts
from openqwq.types import ToolCall

from .chat import left_out
from .errors import ApiError, error_body, wrong
from .generation import ChatRequest, End, ParsedDelta, RunningRequest
from .schemas import Body, Echoed, Effort, Function, Message, Stops, Tool
from .sse import event, to_json
from .state import Server, new_id
from .translate import plan_as_chat

NAMES = {"max_completion_tokens": "max_tokens", "stop": "stop_sequences", "thinking_budget": "thinking.budget_tokens"}
NAMES |= {"reasoning_effort": "output_config.effort", "response_format": "output_config.format"}
NAMES |= {"response_format.type": "output_config.format.type"}
NAMES |= {"response_format.json_schema.schema": "output_config.format.schema"}
# Clients give thinking back as such only where it is signed; nothing is checked here, so any mark will do.
SIGNATURE = "openqwq"
READ_BLOCKS = ("text", "thinking", "tool_use", "tool_result")
CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class Turn(Echoed):
    """One turn: a text or blocks. Agents add to the system prompt by turns of their own, at any place."""

    role: Literal["user", "assistant", "system"]
    content: Any


class ToolSpec(Body):
    """A tool as Anthropic describes it."""

    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    strict: bool | None = None
    # change nothing here: no cache of theirs, no search for tools, no code that calls them
    cache_control: Any = None
    eager_input_streaming: bool | None = None
    input_examples: Any = None
    defer_loading: Any = None
    allowed_callers: Any = None


class Thinking(Body):
    """Whether to think, and for how many tokens."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputConfig(Body):
    """How much to think, and which form the answer has."""

    effort: Effort | None = None
    format: dict[str, Any] | None = None


class ToolChoice(Body):
    """Whether a tool is called, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class CountBody(Body):
    """`/v1/messages/count_tokens`."""

    model: str | None = None
    messages: Annotated[list[Turn], Field(min_length=1)]
    system: Any = None
    tools: list[ToolSpec] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: Any = None


class MessagesBody(CountBody):
    """`/v1/messages`."""

    max_tokens: Annotated[int, Field(ge=1)]
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    stop_sequences: Stops | None = None
    stream: bool | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    thread: Any = None


def plan_messages(server: Server, body: CountBody) -> ChatRequest:
    """The checked request. Raises ApiError naming the field that is wrong."""
    if isinstance(body, MessagesBody) and body.thread:
        raise ApiError(
            400,
            "`thread`: this server keeps no conversations; send all of it in `messages`",
            param="thread",
            code="unsupported_parameter",
            details={"error_code": "thread_unsupported_request", "unsupported": ["thread"]},
        )
    plan = plan_as_chat(server, lambda: _chat_fields(body), NAMES)
    plan.warnings += left_out("messages", body.messages) + _left_out_blocks(body.messages)
    plan.request_id = new_id("msg")
    plan.shows_thinking = body.thinking is None or body.thinking.display != "omitted"
    return plan


def _chat_fields(body: CountBody) -> dict[str, Any]:
    """The request as the fields of a chat completion."""
    values: dict[str, Any] = {"model": body.model, "messages": _system(body.system) + read_turns(body.messages)}
    values["continue_final_message"] = body.messages[-1].role == "assistant"
    values["tools"] = [_tool(tool) for tool in body.tools or ()] or None
    if body.tool_choice is not None:
        named = {"type": "function", "function": {"name": body.tool_choice.name}}
        values["tool_choice"] = CHOICES.get(body.tool_choice.type, named)
        values["parallel_tool_calls"] = not body.tool_choice.disable_parallel_tool_use
    if isinstance(body, MessagesBody):
        values |= {"max_completion_tokens": body.max_tokens, "stop": body.stop_sequences}
        values |= {name: getattr(body, name) for name in ("temperature", "top_p", "top_k")}
    if body.thinking is not None:
        values["thinking_budget"] = 0 if body.thinking.type == "disabled" else body.thinking.budget_tokens
    if body.output_config is not None:
        if values.get("thinking_budget") is None:
            values["reasoning_effort"] = body.output_config.effort
        values["response_format"] = body.output_config.format
    return values


def _tool(tool: ToolSpec) -> Tool:
    function = Function(name=tool.name, description=tool.description, parameters=tool.input_schema, strict=tool.strict)
    return Tool(type="function", function=function)


def _system(system: Any) -> list[Message]:
    if not system:
        return []
    try:
        return [Message(role="system", content=_text(system))]
    except (TypeError, KeyError, ValueError) as error:
        raise wrong("system", "is a text or a list of text blocks") from error


def read_turns(turns: list[Turn]) -> list[Message]:
    """The conversation in the form of chat completions; thinking of earlier turns is left to the template."""
    messages: list[Message] = []
    for position, turn in enumerate(turns):
        try:
            messages += _read_turn(turn)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise wrong(f"messages[{position}].content", f"cannot be read: {str(error)[:200]}") from error
    return messages


def _read_turn(turn: Turn) -> Iterator[Message]:
    if isinstance(turn.content, str):
        yield Message(role=turn.role, content=turn.content)
        return
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for block in turn.content:
        kind = block["type"]
        if kind == "text":
            texts.append(block["text"])
        elif kind == "thinking":
            thoughts.append(block["thinking"])
        elif kind == "tool_use":
            calls.append({"type": "function", "function": {"name": block["name"], "arguments": block["input"]}})
        elif kind == "tool_result":
            content, failed = _text(block.get("content") or ""), bool(block.get("is_error"))
            yield Message(role="tool", tool_call_id=block["tool_use_id"], content=content, is_error=failed)
        elif turn.role != "assistant":
            raise ValueError(f"blocks of type {kind!r} are not known here")
    if texts or calls or thoughts:
        yield Message(
            role=turn.role,
            content=join_texts(texts),
            reasoning_content=join_texts(thoughts) or None,
            tool_calls=calls or None,
        )


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    for block in content:
        if block["type"] != "text":
            raise ValueError(f"blocks of type {block['type']!r} are not known here")
    return join_texts(block["text"] for block in content)


def _left_out_blocks(turns: list[Turn]) -> list[str]:
    """A warning that names the blocks of assistants' turns that nobody here reads, e.g. of a server's own tools."""
    blocks = (
        block for turn in turns if turn.role == "assistant" and isinstance(turn.content, list) for block in turn.content
    )
    kinds = dict.fromkeys(str(block["type"]) for block in blocks)
    unread = [f"`{kind}`" for kind in kinds if kind not in (*READ_BLOCKS, "redacted_thinking")]
    return [f"blocks of earlier answers that are not known here were left out: {', '.join(unread)}"] if unread else []


def _stop_reason(end: End) -> dict[str, Any]:
    reasons = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "malformed_tool_call": "end_turn"}
    if isinstance(end.stop_reason, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": end.stop_reason}
    return {"stop_reason": reasons.get(end.reason, end.reason), "stop_sequence": None}


async def answer_messages(run: RunningRequest, body: MessagesBody) -> dict[str, Any]:
    """The whole message."""
    content: list[dict[str, Any]] = []
    end = End("stop")
    async for gain in run.gains():
        for kind, text, call in _pieces(gain):
            if call is not None:
                content.append(_tool_use(call, call.arguments))
            elif content and content[-1]["type"] == kind:
                content[-1][kind] += text
            else:
                content.append(_blank(kind) | {kind: text})
                if kind == "thinking":
                    content[-1]["signature"] = SIGNATURE
        end = gain.end or end
    usage = {"input_tokens": run.usage.prompt_tokens, **_output_usage(run)}
    return {**_head(run), "content": content, **_stop_reason(end), "usage": usage, **_warnings(run)}


def _output_usage(run: RunningRequest) -> dict[str, Any]:
    details = {"thinking_tokens": run.usage.reasoning_tokens}
    return {"output_tokens": run.usage.completion_tokens, "output_tokens_details": details}


def _head(run: RunningRequest) -> dict[str, Any]:
    return {"id": run.plan.request_id, "type": "message", "role": "assistant", "model": run.plan.model.name}


def _warnings(run: RunningRequest) -> dict[str, Any]:
    return {"warnings": run.plan.warnings} if run.plan.warnings else {}


def _pieces(gain: ParsedDelta) -> Iterator[tuple[str, str, ToolCall | None]]:
    if gain.thinking:
        yield "thinking", gain.thinking, None
    for part in gain.parts:
        if isinstance(part, ToolCall):
            yield "tool_use", "", part
        else:
            yield "text", part, None


def _blank(kind: str) -> dict[str, Any]:
    signed = {"signature": ""} if kind == "thinking" else {}
    return {"type": kind, kind: "", **signed}


def _tool_use(call: ToolCall, arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": new_id("toolu"), "name": call.name, "input": arguments}


async def stream_messages(run: RunningRequest, body: MessagesBody) -> AsyncGenerator[bytes, None]:
    """The message as Anthropic's events: blocks begin, grow and stop one after the other."""
    blocks = _Blocks()
    usage = {"input_tokens": run.usage.prompt_tokens, "output_tokens": 0}
    empty = {**_head(run), "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    yield event({"type": "message_start", "message": empty}, "message_start")
    end = End("stop")
    try:
        async for gain in run.gains():
            for kind, text, call in _pieces(gain):
                for one in blocks.call(call) if call is not None else blocks.write(kind, text):
                    yield event(one, one["type"])
            end = gain.end or end
    except ApiError as error:
        yield event(error_body(error.status_code, error.message), "error")
        return
    for one in blocks.close():
        yield event(one, one["type"])
    delta = _stop_reason(end)
    last = {"type": "message_delta", "delta": delta, "usage": _output_usage(run), **_warnings(run)}
    yield event(last, "message_delta")
    yield event({"type": "message_stop"}, "message_stop")


class _Blocks:
    """The content blocks of a stream: at most one is open."""

    def __init__(self) -> None:
        self.index = -1
        self.open = ""

    def write(self, kind: str, text: str) -> Iterator[dict[str, Any]]:
        if self.open != kind:
            yield from self.begin(kind, _blank(kind))
        yield self._delta({"type": f"{kind}_delta", kind: text})

    def call(self, call: ToolCall) -> Iterator[dict[str, Any]]:
        yield from self.begin("tool_use", _tool_use(call, {}))
        arguments = to_json(call.arguments).decode("utf-8")
        yield self._delta({"type": "input_json_delta", "partial_json": arguments})
        yield from self.close()

    def begin(self, kind: str, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from self.close()
        self.index, self.open = self.index + 1, kind
        yield {"type": "content_block_start", "index": self.index, "content_block": block}

    def close(self) -> Iterator[dict[str, Any]]:
        if not self.open:
            return
        if self.open == "thinking":
            yield self._delta({"type": "signature_delta", "signature": SIGNATURE})
        self.open = ""
        yield {"type": "content_block_stop", "index": self.index}

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self.index, "delta": delta}
