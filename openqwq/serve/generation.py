"""One request in the engine, read as it grows: thinking, answer and calls of each of its samples.

Every face of the API (chat, completions, responses, messages) is made of these gains.

Public: ChatRequest, RunningRequest, ParsedDelta, End, Usage.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any

from openqwq.errors import UserError
from openqwq.log import logger
from openqwq.tokenizer import CallError, ThinkingStream, ToolCallStream
from openqwq.tokenizer.special_tokens import THINK_END
from openqwq.types import SamplingParams, ToolCall

from .engine import Delta, PreparesTurns, ServedModel
from .errors import ApiError
from .state import Server

# A program that goes on with a conversation does so sooner, and gains nothing; a person reads first.
PAUSE_BEFORE_PREPARING_S = 0.1
CLOSING_TAG = THINK_END.encode()
# Other requests wait no longer for one that has much to read.
SLICE_S = 0.01


@dataclass(slots=True, kw_only=True)
class ChatRequest:
    """A checked request.

    opened:         whether the prompt ends inside a thinking block; None: the completion is not taken apart.
    reads_calls:    whether tool calls are looked for in the answer.
    max_calls:      calls after which a sample ends; None: no bound.
    shows_thinking: whether thinking is sent to the client; it is counted in any case.
    form_field:     the request's field that says which form the answer has; empty where it is free.
    history:        token ids of the conversation with an answer's text and calls behind it, as the next turn's prompt
                    begins; None where there is no conversation.
    warnings:       what the client should know though the request runs.
    """

    request_id: str
    model: ServedModel
    prompt_ids: list[int]
    params: SamplingParams
    opened: bool | None = None
    reads_calls: bool = False
    max_calls: int | None = None
    shows_thinking: bool = True
    form_field: str = ""
    history: Callable[[str, list[ToolCall]], list[int]] | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Usage:
    """Tokens of a request.

    reasoning_tokens: of the `completion_tokens`.
    cached_tokens:    of the `prompt_tokens`: those that were not computed again.
    """

    prompt_tokens: int
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0

    def to_dict(self) -> dict[str, Any]:
        """In the form of chat completions."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


@dataclass(frozen=True, slots=True)
class End:
    """How a sample ended: "stop", "length", "tool_calls", "malformed_tool_call", or the engine's own reason.

    stop_reason: the stop string or the id among `stop_token_ids` that ended it.
    """

    reason: str
    stop_reason: str | int | None = None


def how_ended(end: End | None) -> dict[str, Any]:
    """The fields of a choice in OpenAI's forms; `stop_reason` is vLLM's."""
    return {"finish_reason": end and end.reason, "stop_reason": end and end.stop_reason}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedDelta:
    """The new text, tool calls and tokens of one sample.

    parts:    answer text and calls, in order.
    thought:  how many of `token_ids` belong to the thinking, its closing tag included.
    """

    index: int
    thinking: str
    parts: tuple[str | ToolCall, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top_logprobs: tuple[Mapping[int, float], ...]
    thought: int
    end: End | None = None

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))


class _Sample:
    """Takes one sample's text apart while it grows."""

    def __init__(self, plan: ChatRequest, index: int):
        self.plan, self.index = plan, index
        self.thinking = None if plan.opened is None else ThinkingStream(plan.opened)
        self.calls = ToolCallStream() if plan.reads_calls else None
        self.num_tokens = self.num_thought = self.num_calls = 0
        self.last_bytes = b""  # of the thinking, fewer than its closing tag has
        self.errors: list[str] = []
        self.ended = False

    def read(self, delta: Delta) -> ParsedDelta:
        was_thinking = self.thinking is not None and self.thinking.thinking
        thinking, answer = self.thinking.push(delta.text) if self.thinking else ("", delta.text)
        parts = list(self.calls.push(answer)) if self.calls else [answer]
        if delta.finish_reason is not None:
            if self.thinking:
                last_thinking, last_answer = self.thinking.finish()
                thinking += last_thinking
                parts += self.calls.push(last_answer) if self.calls else [last_answer]
            parts += self.calls.finish() if self.calls else []
        self.errors += [str(part) for part in parts if isinstance(part, CallError)]
        thought = self._count_thought(delta, was_thinking)
        self.num_tokens += len(delta.token_ids)
        self.num_thought += thought
        kept, full = self._bound_calls([p for p in parts if p and not isinstance(p, CallError)])
        self.num_calls += sum(isinstance(part, ToolCall) for part in kept)
        reason = "stop" if full else delta.finish_reason
        self.ended = reason is not None
        return ParsedDelta(
            index=self.index,
            thinking=thinking if self.plan.shows_thinking else "",
            parts=tuple(kept),
            token_ids=delta.token_ids,
            logprobs=delta.logprobs,
            top_logprobs=delta.top_logprobs,
            thought=thought,
            end=None if reason is None else self._end(reason, delta),
        )

    def _bound_calls(self, parts: list[Any]) -> tuple[list[Any], bool]:
        """The parts up to the last call that is allowed, and whether that call is among them."""
        if self.plan.max_calls is None:
            return parts, False
        left = self.plan.max_calls - self.num_calls
        for position, part in enumerate(parts):
            left -= isinstance(part, ToolCall)
            if left == 0 and isinstance(part, ToolCall):
                return parts[: position + 1], True
        return parts, False

    def _count_thought(self, delta: Delta, was_thinking: bool) -> int:
        """Tokens up to the one that completes the first `</think>`, which may be spelled out of several."""
        if not was_thinking or self.thinking is None:
            return 0
        for position, token_id in enumerate(delta.token_ids):
            text = self.last_bytes + self.plan.model.tokenizer.token_bytes(token_id)
            if CLOSING_TAG in text:
                return position + 1
            self.last_bytes = text[1 - len(CLOSING_TAG) :]
        return len(delta.token_ids)

    def _end(self, reason: str, delta: Delta) -> End:
        warnings = self.plan.warnings
        where = f"sample {self.index}: " if self.plan.params.n > 1 else ""
        warnings += [f"{where}{error}; it was left in the text" for error in self.errors]
        if self.thinking and self.thinking.thinking and self.num_tokens:
            warnings.append(
                f"{where}all {self.num_tokens} tokens went into thinking that was not closed, so there is no answer; "
                "raise `max_completion_tokens`, or set `thinking_budget`"
            )
        if reason == "stop" and self.num_calls:
            return End("tool_calls")
        if reason == "stop" and self.errors:
            return End("malformed_tool_call")
        return End(reason, delta.stop_reason)


class RunningRequest:
    """A request from its admission to its end. `close` it in every case; it can be closed twice."""

    def __init__(self, plan: ChatRequest, server: Server):
        self.plan, self.server, self.metrics = plan, server, server.metrics
        self.usage = Usage(len(plan.prompt_ids))
        self._samples = [_Sample(plan, index) for index in range(plan.params.n)]
        self._stack = AsyncExitStack()
        self._first: Delta | None = None
        self._deltas: Any = None
        self._token_ids = list(plan.prompt_ids)
        self._parts: list[str | ToolCall] = []
        self._ready = False  # for the conversation's next turn

    async def start(self) -> None:
        """Enter the engine and wait for the first token. Raises ApiError for a request that cannot run."""
        plan = self.plan
        self._stack.enter_context(self.server.admission.admit(plan.params.n))
        self._stack.enter_context(self.metrics.running(len(plan.prompt_ids)))
        self._started = time.monotonic()
        stream = plan.model.engine.generate(plan.prompt_ids, plan.params, plan.request_id)
        self._deltas = await self._stack.enter_async_context(aclosing(stream))  # type: ignore[type-var]
        try:
            self._first = await anext(self._deltas)
        except UserError as error:
            await self.close()
            raise self._refused(error) from error
        except BaseException:
            await self.close()
            raise
        self.metrics.time_to_first_token.observe(time.monotonic() - self._started)

    def _refused(self, error: UserError) -> ApiError:
        """What the engine will not run, with the request's own name for the form of an answer."""
        message = f"{error.message}; {error.hint}" if error.hint else error.message
        if "`structured" not in message:
            return ApiError(400, message)
        field = self.plan.form_field
        return ApiError(400, re.sub(r"`structured[.\w]*`", f"`{field}`", message), param=field, code="invalid_value")

    async def gains(self) -> AsyncIterator[ParsedDelta]:
        """Gains of all samples until each has ended. Raises ApiError where the engine gave up on one."""
        last = slice_began = time.monotonic()
        first_texts = []
        delta = self._first
        while delta is not None:
            sample = self._samples[delta.index]
            if delta.index == 0:  # the others share the first one's prompt
                self.usage.cached_tokens = max(self.usage.cached_tokens, delta.num_cached_tokens)
            if delta.index == 0:
                first_texts.append(delta.text)
            if delta.finish_reason == "abort" and not sample.ended:
                raise ApiError(500, delta.error or "the request was aborted", code="aborted")
            if delta.index == 0 and delta.finish_reason is not None:
                self.server.keep(self.plan.request_id, "".join(first_texts))
            if not sample.ended:
                gain = sample.read(delta)
                now = time.monotonic()
                self._count(gain, now - last)
                last = now
                self._note(gain)
                yield gain
            if all(s.ended for s in self._samples):
                break
            if time.monotonic() - slice_began > SLICE_S:  # what waits in the queue is read without ever waiting
                await asyncio.sleep(0)
                slice_began = time.monotonic()
            delta = await anext(self._deltas, None)

    def _count(self, gain: ParsedDelta, seconds: float) -> None:
        self.usage.completion_tokens += len(gain.token_ids)
        self.usage.reasoning_tokens += gain.thought
        self.metrics.generated(len(gain.token_ids), gain.thought)
        if self.usage.completion_tokens > len(gain.token_ids):
            self.metrics.inter_token.observe(seconds)

    def _note(self, gain: ParsedDelta) -> None:
        """Keep what the next turn will begin with; of several samples it is not known which goes on."""
        if self.plan.history is not None and self.plan.params.n == 1:
            self._token_ids += gain.token_ids
            self._parts += gain.parts
            self._ready = gain.end is not None and bool(self._parts)

    async def close(self) -> None:
        """Leave the engine: what still runs is aborted. After a whole answer, make ready for the next turn."""
        await self._stack.aclose()
        if self._ready and isinstance(self.plan.model.engine, PreparesTurns):
            self._ready = False
            self.server.spawn(self._prepare_next(self.plan.model.engine))

    async def _prepare_next(self, engine: PreparesTurns) -> None:
        """Have the engine forget the thoughts, which the next prompt will not hold, and compute what it will."""
        await asyncio.sleep(PAUSE_BEFORE_PREPARING_S)
        assert self.plan.history is not None
        text = "".join(part for part in self._parts if isinstance(part, str))
        calls = [part for part in self._parts if isinstance(part, ToolCall)]
        try:
            history = await asyncio.to_thread(self.plan.history, text, calls)
            await engine.prepare_turn(history, self._token_ids, self.plan.params.max_tokens)
        except (ApiError, UserError, RuntimeError) as error:  # the next turn will be computed when it comes
            logger.debug("the turn after %s was not prepared: %s", self.plan.request_id, error)
