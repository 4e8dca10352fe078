"""`/v1/completions`: texts or token ids continued as they stand, nothing taken apart.

Public: plan_completions, answer_completions, stream_completions.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from .chat import token_logprobs
from .engine import ServedModel
from .errors import ApiError, error_body, unsupported, wrong
from .generation import ChatRequest, ParsedDelta, RunningRequest, Usage, how_ended
from .prompts import check_length, text_prompt
from .sampling import sampling_params
from .schemas import CompletionBody
from .sse import event
from .state import Server, new_id

# OpenAI's default, kept since clients of this old endpoint rely on it.
DEFAULT_MAX_TOKENS = 16


def plan_completions(server: Server, body: CompletionBody) -> list[ChatRequest]:
    """One checked request for each prompt. Raises ApiError naming the field that is wrong."""
    model = server.model(body.model)
    _refuse_unsupported(body)
    prompts = _prompts(model, body.prompt)
    if body.stream and len(prompts) > 1:
        raise unsupported("stream", "several prompts cannot be streamed at once")
    plans = []
    for number, prompt_ids in enumerate(prompts):
        warnings: list[str] = []
        params = sampling_params(
            model,
            body,
            max_tokens=body.max_tokens or DEFAULT_MAX_TOKENS,
            room=check_length(model, prompt_ids, "prompt"),
            warnings=warnings,
            max_tokens_name="max_tokens",
        )
        params = params.replace(logprobs=body.logprobs)
        plans.append(
            ChatRequest(
                request_id=new_id(f"cmpl-{number}"),
                model=model,
                prompt_ids=prompt_ids,
                params=params,
                warnings=warnings,
            )
        )
    return plans


def _refuse_unsupported(body: CompletionBody) -> None:
    if body.echo:
        raise unsupported("echo", "the prompt is not repeated here")
    if body.suffix:
        raise unsupported("suffix", "this server only continues texts")
    if body.best_of not in (None, 1, body.n):
        raise unsupported("best_of", "every sample is returned; ask for `n`")


def _prompts(model: ServedModel, prompt: Any) -> list[list[int]]:
    """The token ids of every prompt: a text, token ids, or a list of either."""
    if isinstance(prompt, str):
        return [text_prompt(model, prompt, "prompt")]
    if isinstance(prompt, list) and prompt:
        if all(type(item) is int for item in prompt):
            return [_checked(model, prompt, "prompt")]
        if all(isinstance(item, str) for item in prompt):
            return [text_prompt(model, item, f"prompt[{i}]") for i, item in enumerate(prompt)]
        if all(isinstance(item, list) and all(type(i) is int for i in item) for item in prompt):
            return [_checked(model, item, f"prompt[{i}]") for i, item in enumerate(prompt)]
    raise wrong("prompt", "is a text, a list of token ids, or a list of either")


def _checked(model: ServedModel, ids: list[int], param: str) -> list[int]:
    outside = [token_id for token_id in ids if not 0 <= token_id < model.vocab_size]
    if outside:
        raise wrong(param, f"{outside[0]} is not a token id; the vocabulary has {model.vocab_size}")
    return ids


async def answer_completions(runs: Sequence[RunningRequest], body: CompletionBody) -> dict[str, Any]:
    """The whole answer; choices are in the prompts' order, the samples of one prompt together."""
    choices: list[dict[str, Any]] = []
    usage = Usage(0)
    for run in runs:
        gains: list[list[ParsedDelta]] = [[] for _ in range(run.plan.params.n)]
        async for gain in run.gains():
            gains[gain.index].append(gain)
        for own in gains:
            end = own[-1].end
            assert end is not None
            choices.append(
                {
                    "index": len(choices),
                    "text": "".join(gain.text for gain in own),
                    "logprobs": _logprobs(run.plan, own) if body.logprobs is not None else None,
                    **how_ended(end),
                }
            )
        usage.prompt_tokens += run.usage.prompt_tokens
        usage.completion_tokens += run.usage.completion_tokens
        usage.cached_tokens += run.usage.cached_tokens
    return _envelope(runs[0], choices=choices, usage=usage.to_dict(), warned=[w for r in runs for w in r.plan.warnings])


async def stream_completions(run: RunningRequest, body: CompletionBody) -> AsyncGenerator[bytes, None]:
    """The samples of one prompt as they grow."""
    try:
        async for gain in run.gains():
            if not gain.text and gain.end is None and body.logprobs is None:
                continue
            choice = {
                "index": gain.index,
                "text": gain.text,
                "logprobs": _logprobs(run.plan, [gain]) if body.logprobs is not None else None,
                **how_ended(gain.end),
            }
            warned = run.plan.warnings if gain.end else []
            yield event(_envelope(run, choices=[choice], warned=warned))
        if body.stream_options is not None and body.stream_options.include_usage:
            yield event(_envelope(run, choices=[], usage=run.usage.to_dict()))
    except ApiError as error:
        yield event(error_body(error.status_code, error.message, error.param, error.code))
    yield b"data: [DONE]\n\n"


def _envelope(run: RunningRequest, *, warned: Sequence[str] = (), **rest: Any) -> dict[str, Any]:
    head = {"id": run.plan.request_id, "object": "text_completion", "created": int(time.time())}
    return {**head, "model": run.plan.model.name, **rest, **({"warnings": list(warned)} if warned else {})}


def _logprobs(plan: ChatRequest, gains: Sequence[ParsedDelta]) -> dict[str, Any]:
    entries = [entry for gain in gains for entry in token_logprobs(plan, gain)]
    likeliest = [{top["token"]: top["logprob"] for top in entry["top_logprobs"]} for entry in entries]
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": likeliest if plan.params.logprobs else None,
        "text_offset": None,
    }
