"""`/v1/responses`: OpenAI's newer form, with reasoning items, messages and function calls. Nothing is stored.

Public: ResponsesBody, plan_response, stream_response, answer_response.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from openqwq.tokenizer import join_texts
from openqwq.types import ToolCall

from .chat import call_object
from .errors import ApiError, unsupported, wrong
from .generation import ChatRequest, ParsedDelta, RunningRequest
from .schemas import Body, Effort, Function, Message, StreamOptions, Tool
from .sse import event
from .state import Server, new_id
from .translate import plan_as_chat

NAMES = {"messages": "input", "max_completion_tokens": "max_output_tokens", "reasoning_effort": "reasoning.effort"}
NAMES |= {"response_format": "text.format", "response_format.type": "text.format.type"}
NAMES |= {"response_format.json_schema.schema": "text.format.schema"}
CUTS = {"length": "max_output_tokens", "repetition": "repetition"}
TEXT_PARTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text", "refusal")


class Reasoning(Body):
    """How much to think."""

    effort: Effort | None = None
    summary: str | None = None


class FunctionTool(Function):
    """A function, described without the wrapping that chat completions have."""

    type: Literal["function"]


class ResponsesBody(Body):
    """`/v1/responses`."""

    model: str | None = None
    input: Any
    instructions: str | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    reasoning: Reasoning | None = None
    text: dict[str, Any] | None = None
    stream: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    include: list[str] | None = None
    truncation: Literal["disabled"] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    # bear on nothing here: no cache of theirs, no tiers, no tools of the server's own, no padding of events
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    max_tool_calls: int | None = None
    background: Literal[False] | None = None
    stream_options: StreamOptions | None = None


def plan_response(server: Server, body: ResponsesBody) -> ChatRequest:
    """The checked request. Raises ApiError naming the field that is wrong."""
    if body.previous_response_id is not None:
        raise unsupported("previous_response_id", "this server keeps nothing; send the earlier items in `input`")
    extra = {key: value for key, value in (body.text or {}).items() if key != "format"}
    if extra.pop("verbosity", "medium") not in (None, "medium") or extra:
        raise unsupported("text", "only `format` is known here")
    choice = body.tool_choice
    if isinstance(choice, dict) and "name" in choice:
        choice = {"type": "function", "function": {"name": choice["name"]}}

    def values() -> dict[str, Any]:
        system = [Message(role="system", content=body.instructions)] if body.instructions else []
        return {
            "model": body.model,
            "messages": system + read_items(body.input),
            "tools": [Tool(type="function", function=_function(tool)) for tool in body.tools or ()] or None,
            "tool_choice": choice,
            "parallel_tool_calls": body.parallel_tool_calls,
            "max_completion_tokens": body.max_output_tokens,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "response_format": (body.text or {}).get("format"),
            "reasoning_effort": body.reasoning.effort if body.reasoning else None,
        }

    plan = plan_as_chat(server, values, NAMES)
    plan.warnings += _left_out_items(body.input)
    plan.request_id = new_id("resp")
    return plan


def _function(tool: FunctionTool) -> Function:
    return Function(name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict)


def read_items(given: Any) -> list[Message]:
    """The conversation that the input items tell. Earlier thinking goes to the turn that follows it."""
    if isinstance(given, str):
        return [Message(role="user", content=given)]
    if not isinstance(given, list) or not given:
        raise wrong("input", "is a text or a list of items")
    messages: list[Message] = []
    for position, item in enumerate(given):
        try:
            _read_item(item, messages)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise wrong(f"input[{position}]", f"cannot be read: {str(error)[:200]}") from error
    return messages


def _read_item(item: dict[str, Any], messages: list[Message]) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        messages.append(Message(role=item["role"], content=_text(item["content"])))
    elif kind == "function_call":
        call = {"type": "function", "function": {"name": item["name"], "arguments": item["arguments"]}}
        if messages and messages[-1].role == "assistant":
            messages[-1].tool_calls = [*(messages[-1].tool_calls or ()), call]
        else:
            messages.append(Message(role="assistant", tool_calls=[call]))
    elif kind == "function_call_output":
        messages.append(Message(role="tool", tool_call_id=item["call_id"], content=_text(item["output"])))
    elif kind != "reasoning" and not _is_of_another_tool(
        kind
    ):  # thinking of earlier turns is left out, as templates do
        raise ValueError(f"items of type {kind!r} are not known here")


def _is_of_another_tool(kind: Any) -> bool:
    """Whether an item tells of a tool that only another server has, e.g. a search of the web."""
    return isinstance(kind, str) and kind.endswith(("_call", "_call_output"))


def _left_out_items(given: Any) -> list[str]:
    items = given if isinstance(given, list) else []
    kinds = dict.fromkeys(f"`{item['type']}`" for item in items if _is_unread(item))
    return [f"items of tools that are not known here were left out: {', '.join(kinds)}"] if kinds else []


def _is_unread(item: Any) -> bool:
    kind = item.get("type") if isinstance(item, dict) else None
    return _is_of_another_tool(kind) and kind not in ("function_call", "function_call_output")


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    for part in content:
        if part["type"] not in TEXT_PARTS:
            raise ValueError(f"parts of type {part['type']!r} are not known here")
    return join_texts(part["refusal" if part["type"] == "refusal" else "text"] for part in content)


class _Items:
    """The output items so far, and the events that each gain makes of them."""

    def __init__(self, run: RunningRequest, body: ResponsesBody):
        self.run, self.body = run, body
        self.created = time.time()
        self.output: list[dict[str, Any]] = []
        self.open = ""  # "reasoning" or "message" while the last item grows
        self.number = 0
        self.cut = ""  # why the response is incomplete

    def event(self, kind: str, **values: Any) -> dict[str, Any]:
        self.number += 1
        return {"type": kind, "sequence_number": self.number - 1, **values}

    def response(self, status: str, error: ApiError | None = None) -> dict[str, Any]:
        plan, usage = self.run.plan, self.run.usage
        return {
            "id": plan.request_id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": {"code": "server_error", "message": error.message} if error else None,
            "incomplete_details": {"reason": self.cut} if self.cut else None,
            "instructions": self.body.instructions,
            "max_output_tokens": self.body.max_output_tokens,
            "model": plan.model.name,
            "output": self.output,
            "parallel_tool_calls": self.body.parallel_tool_calls is not False,
            "temperature": plan.params.temperature,
            "top_p": plan.params.top_p,
            "tool_choice": self.body.tool_choice or "auto",
            "tools": [tool.model_dump() for tool in self.body.tools or ()],
            "metadata": self.body.metadata or {},
            "store": False,
            "usage": {
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": {"cached_tokens": usage.cached_tokens},
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            },
            **({"warnings": plan.warnings} if plan.warnings else {}),
        }

    def grow(self, gain: ParsedDelta) -> Iterator[dict[str, Any]]:
        """The events of one gain."""
        if gain.thinking:
            yield from self._write("reasoning", gain.thinking)
        for part in gain.parts:
            if isinstance(part, ToolCall):
                yield from self._call(part)
            else:
                yield from self._write("message", part)
        if gain.end is not None:
            yield from self.close()

    def _write(self, kind: str, text: str) -> Iterator[dict[str, Any]]:
        if self.open != kind:
            yield from self.close()
            yield from self._begin(kind)
        item = self.output[-1]
        item["content"][0]["text"] += text
        name = "reasoning_text" if kind == "reasoning" else "output_text"
        extra: dict[str, Any] = {} if kind == "reasoning" else {"logprobs": []}
        yield self.event(f"response.{name}.delta", **self._place(), content_index=0, delta=text, **extra)

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.output[-1]["id"], "output_index": len(self.output) - 1}

    def _begin(self, kind: str) -> Iterator[dict[str, Any]]:
        self.open = kind
        if kind == "reasoning":
            item: dict[str, Any] = {"id": new_id("rs"), "type": "reasoning", "summary": [], "content": []}
            part: dict[str, Any] = {"type": "reasoning_text", "text": ""}
        else:
            item = {"id": new_id("msg"), "type": "message", "role": "assistant", "content": []}
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        item["status"] = "in_progress"
        self.output.append(item)
        yield self.event("response.output_item.added", output_index=len(self.output) - 1, item={**item, "content": []})
        yield self.event("response.content_part.added", **self._place(), content_index=0, part=dict(part))
        item["content"] = [part]

    def close(self) -> Iterator[dict[str, Any]]:
        """Finish the item that grows, if one does."""
        if not self.open:
            return
        item, place = self.output[-1], self._place()
        part = item["content"][0]
        name, self.open = ("reasoning_text" if self.open == "reasoning" else "output_text"), ""
        extra: dict[str, Any] = {} if name == "reasoning_text" else {"logprobs": []}
        item["status"] = "completed"
        yield self.event(f"response.{name}.done", **place, content_index=0, text=part["text"], **extra)
        yield self.event("response.content_part.done", **place, content_index=0, part=part)
        yield self.event("response.output_item.done", output_index=place["output_index"], item=item)

    def _call(self, call: ToolCall) -> Iterator[dict[str, Any]]:
        yield from self.close()
        told = call_object(call)
        arguments, name = told["function"]["arguments"], told["function"]["name"]
        item = {"id": new_id("fc"), "type": "function_call", "call_id": told["id"], "name": name}
        self.output.append({**item, "arguments": arguments, "status": "completed"})
        place, blank = self._place(), {**item, "arguments": "", "status": "in_progress"}
        yield self.event("response.output_item.added", output_index=place["output_index"], item=blank)
        yield self.event("response.function_call_arguments.delta", **place, delta=arguments)
        yield self.event("response.function_call_arguments.done", **place, name=name, arguments=arguments)
        yield self.event("response.output_item.done", output_index=place["output_index"], item=self.output[-1])


async def response_events(run: RunningRequest, body: ResponsesBody) -> AsyncIterator[dict[str, Any]]:
    """All events of a response; the last one holds all of it."""
    items = _Items(run, body)
    yield items.event("response.created", response=items.response("in_progress"))
    yield items.event("response.in_progress", response=items.response("in_progress"))
    try:
        async for gain in run.gains():
            for one in items.grow(gain):
                yield one
            if gain.end is not None:
                items.cut = CUTS.get(gain.end.reason, "")
    except ApiError as error:
        yield items.event("response.failed", response=items.response("failed", error))
        return
    status = "incomplete" if items.cut else "completed"
    yield items.event(f"response.{status}", response=items.response(status))


async def stream_response(run: RunningRequest, body: ResponsesBody) -> AsyncGenerator[bytes, None]:
    """The events as a stream."""
    async for one in response_events(run, body):
        yield event(one, one["type"])


async def answer_response(run: RunningRequest, body: ResponsesBody) -> dict[str, Any]:
    """The whole response."""
    events = [one async for one in response_events(run, body)]
    response = events[-1]["response"]
    if response["status"] == "failed":
        raise ApiError(500, response["error"]["message"], code="aborted")
    return response
