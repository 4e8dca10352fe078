"""`/v1/chat/completions`: OpenAI's form, with thinking in `reasoning_content` and `reasoning`.

Public: plan_chat, answer_chat, stream_chat, left_out.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Any

import openqwq
from openqwq.tokenizer import normalize_messages
from openqwq.types import ToolCall

from .engine import ServedModel
from .errors import ApiError, error_body, unsupported, wrong
from .generation import ChatRequest, ParsedDelta, RunningRequest, how_ended
from .prompts import chat_prompt, check_length, continued_prompt
from .response_format import answer_form, choose_tools
from .sampling import sampling_params, thinking_budget, warn_of_greedy
from .schemas import ChatBody, Echoed, Message, Tool
from .sse import event, to_json
from .state import Server, new_id

# Minus infinity is no JSON number; OpenAI writes this for it.
LEAST_LOGPROB = -9999.0
MAX_NAMED = 8  # fields in one warning
FINGERPRINT = f"openqwq-{openqwq.__version__}"


def plan_chat(server: Server, body: ChatBody) -> ChatRequest:
    """The checked request. Raises ApiError naming the field that is wrong."""
    model = server.model(body.model)
    _refuse_unsupported(body)
    tools = choose_tools(body.tools or [], body.tool_choice)
    budget = thinking_budget(body)
    make_prompt = continued_prompt if _continues(body) else chat_prompt
    prompt_ids, opened = make_prompt(
        model,
        body.messages,
        tools,
        variables=body.chat_template_kwargs,
        thinks=budget != 0,
        style=body.prompt_style,
    )
    room = check_length(model, prompt_ids, "messages")
    warnings = left_out("messages", body.messages)
    named = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    params = sampling_params(
        model, body, max_tokens=getattr(body, named), room=room, warnings=warnings, max_tokens_name=named
    )
    form, form_field = answer_form(body, tools)
    if opened is None and form_field in ("response_format", "structured_outputs"):
        raise wrong(form_field, "holds for whole answers, but the last turn of `messages` begins this one")
    params = params.replace(structured=form, logprobs=(body.top_logprobs or 0) if body.logprobs else None)
    if opened:
        params = params.replace(thinking_budget=budget, min_thinking_tokens=body.min_thinking_tokens or 0)
        warn_of_greedy(params, warnings)
    elif budget or body.min_thinking_tokens:
        warnings.append("the prompt opens no thinking, so bounds on it have no effect")
    return ChatRequest(
        request_id=new_id("chatcmpl"),
        model=model,
        prompt_ids=prompt_ids,
        params=params,
        opened=opened,
        reads_calls=bool(tools),
        max_calls=1 if body.parallel_tool_calls is False else None,
        shows_thinking=body.include_reasoning,
        form_field=form_field,
        history=partial(_history, model, body, tools),
        warnings=warnings,
    )


def _history(
    model: ServedModel, body: ChatBody, tools: Sequence[Tool], text: str, calls: Sequence[ToolCall]
) -> list[int]:
    """Token ids of the conversation with an answer behind it, as a client sends it back."""
    told = list(body.messages)
    if _continues(body):
        text = normalize_messages([told.pop().model_dump(include={"role", "content"})])[0]["content"] + text
    told.append(Message(role="assistant", content=text, tool_calls=[call_object(call) for call in calls] or None))
    return chat_prompt(model, told, tools, variables=body.chat_template_kwargs, add_generation_prompt=False)[0]


def left_out(where: str, turns: Sequence[Echoed]) -> list[str]:
    """A warning that names what the history holds and nobody here reads; none where all is read."""
    names = [f"`{where}[{i}].{name}`" for i, turn in enumerate(turns) for name in turn.unknown_fields()]
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return [f"not known here and left out: {', '.join(names[:MAX_NAMED])}{more}"] if names else []


def _continues(body: ChatBody) -> bool:
    """Whether the last turn is to be written on rather than answered: vLLM's word for it, then DeepSeek's."""
    return bool(body.continue_final_message) or bool(body.messages[-1].prefix)


def _refuse_unsupported(body: ChatBody) -> None:
    if body.add_generation_prompt is not None and body.add_generation_prompt == _continues(body):
        raise wrong("add_generation_prompt", "is true for a new turn, and false with `continue_final_message`")
    if body.store:
        raise unsupported("store", "this server keeps nothing")
    if body.top_logprobs and not body.logprobs:
        raise wrong("top_logprobs", "needs `logprobs`")
    if body.stream_options is not None and not body.stream:
        raise wrong("stream_options", "needs `stream`")


async def answer_chat(run: RunningRequest, body: ChatBody) -> dict[str, Any]:
    """The whole answer."""
    gains: list[list[ParsedDelta]] = [[] for _ in range(run.plan.params.n)]
    async for gain in run.gains():
        gains[gain.index].append(gain)
    choices = [_choice(run.plan, index, own, bool(body.logprobs)) for index, own in enumerate(gains)]
    return _envelope(run, "chat.completion", choices=choices, usage=run.usage.to_dict())


def _choice(plan: ChatRequest, index: int, gains: Sequence[ParsedDelta], logprobs: bool) -> dict[str, Any]:
    thinking = "".join(gain.thinking for gain in gains)
    content = "".join(gain.text for gain in gains)
    calls = [part for gain in gains for part in gain.parts if isinstance(part, ToolCall)]
    message: dict[str, Any] = {"role": "assistant", "content": content or None, "refusal": None}
    if thinking:
        message |= {"reasoning_content": thinking, "reasoning": thinking}
    if calls:
        message["tool_calls"] = [call_object(call) for call in calls]
    end = gains[-1].end
    assert end is not None
    shown = _merge_logprobs(plan, gains) if logprobs else None
    return {"index": index, "message": message, "logprobs": shown, **how_ended(end)}


async def stream_chat(run: RunningRequest, body: ChatBody) -> AsyncGenerator[bytes, None]:
    """The answer as chunks: thinking first, then the answer, whole calls in two deltas each, then how it ended."""
    plan = run.plan
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    usage = {"usage": None} if with_usage else {}
    begun: set[int] = set()
    num_calls = [0] * plan.params.n
    try:
        async for gain in run.gains():
            deltas = _deltas(gain, num_calls)
            if gain.index not in begun:
                begun.add(gain.index)
                deltas.insert(0, {"role": "assistant", "content": ""})
            if not deltas and gain.end is None and not body.logprobs:
                continue
            for position, delta in enumerate(deltas or [{}]):
                choice: dict[str, Any] = {"index": gain.index, "delta": delta, "finish_reason": None, "logprobs": None}
                if body.logprobs and position == 0:
                    choice["logprobs"] = _logprobs(plan, gain)
                yield event(_envelope(run, "chat.completion.chunk", choices=[choice], **usage))
            if gain.end is not None:
                choice = {"index": gain.index, "delta": {}, "logprobs": None, **how_ended(gain.end)}
                extra = {"warnings": plan.warnings} if plan.warnings else {}
                yield event(_envelope(run, "chat.completion.chunk", choices=[choice], **usage, **extra))
        if with_usage:
            yield event(_envelope(run, "chat.completion.chunk", choices=[], usage=run.usage.to_dict()))
    except ApiError as error:
        yield event(error_body(error.status_code, error.message, error.param, error.code))
    yield b"data: [DONE]\n\n"


def _deltas(gain: ParsedDelta, num_calls: list[int]) -> list[dict[str, Any]]:
    deltas: list[dict[str, Any]] = []
    if gain.thinking:
        deltas.append({"reasoning_content": gain.thinking, "reasoning": gain.thinking})
    for part in gain.parts:
        if isinstance(part, str):
            deltas.append({"content": part})
            continue
        position, num_calls[gain.index] = num_calls[gain.index], num_calls[gain.index] + 1
        call = call_object(part)
        arguments = call["function"].pop("arguments")
        call["function"]["arguments"] = ""
        deltas.append({"tool_calls": [{"index": position, **call}]})
        deltas.append({"tool_calls": [{"index": position, "function": {"arguments": arguments}}]})
    return deltas


def _envelope(run: RunningRequest, kind: str, **rest: Any) -> dict[str, Any]:
    answer = {
        "id": run.plan.request_id,
        "object": kind,
        "created": int(time.time()),
        "model": run.plan.model.name,
        "system_fingerprint": FINGERPRINT,
        **rest,
    }
    if kind == "chat.completion" and run.plan.warnings:
        answer["warnings"] = run.plan.warnings
    return answer


def call_object(call: ToolCall) -> dict[str, Any]:
    """A call in OpenAI's form, its arguments as JSON text."""
    arguments = to_json(call.arguments).decode("utf-8")
    return {"id": new_id("call"), "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _logprobs(plan: ChatRequest, gain: ParsedDelta) -> dict[str, Any]:
    """Of the answer's tokens under `content`, as OpenAI has it; of the thinking's under `reasoning_content`."""
    entries = token_logprobs(plan, gain)
    thought = entries[: gain.thought] if plan.shows_thinking else []
    return {"content": entries[gain.thought :], "reasoning_content": thought, "refusal": None}


def _merge_logprobs(plan: ChatRequest, gains: Sequence[ParsedDelta]) -> dict[str, Any]:
    each = [_logprobs(plan, gain) for gain in gains]
    merged = {key: [entry for own in each for entry in own[key]] for key in ("content", "reasoning_content")}
    return {**merged, "refusal": None}


def token_logprobs(plan: ChatRequest, gain: ParsedDelta) -> list[dict[str, Any]]:
    """One entry for each token: its text, its bytes, its log-prob as the model has it, before temperature and cuts."""
    tokenizer, wanted = plan.model.tokenizer, plan.params.logprobs or 0

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        raw = tokenizer.token_bytes(token_id)
        text = raw.decode("utf-8", "replace")
        return {"token": text, "logprob": max(logprob, LEAST_LOGPROB), "bytes": list(raw)}

    entries = []
    for position, token_id in enumerate(gain.token_ids):
        known = gain.top_logprobs[position] if position < len(gain.top_logprobs) else {}
        likeliest = sorted(known.items(), key=lambda item: -item[1])[:wanted]
        logprob = known.get(token_id, gain.logprobs[position])
        entries.append({**entry(token_id, logprob), "top_logprobs": [entry(*item) for item in likeliest]})
    return entries
