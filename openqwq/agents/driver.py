"""Plays an episode: asks a model for turns and runs the calls, each in a thread with a deadline.

Public: AgentRun, Model, ServerModel, in_thread.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from openqwq.errors import UserError
from openqwq.json_client import ChatClient, NoAnswer
from openqwq.sandbox.cancellation import Ticket
from openqwq.tokenizer import parse_tool_calls
from openqwq.types import Completion, ToolCall

from .episode import Act, Done, Draw, Episode, Stop, Turn
from .tools import Context, Result, Tool

GRACE_S = 5.0
"""Beyond its deadline, for a call that ends itself there."""
REQUEST_S = 600.0

T = TypeVar("T")
Approve = Callable[[ToolCall], Awaitable[bool]]


class Model(Protocol):
    """What draws turns: token ids where the episode keeps them, else the parts of a message."""

    async def draw(self, draw: Draw) -> Completion | Turn: ...

    def stop(self) -> None:
        """End the turn that is being drawn, from the event loop's thread."""


class AgentRun:
    """One run of an episode. `stop` ends a tool that runs, else the run.

    approve: asked before each call of a tool that `asks`.
    observe: told each turn and each result as it comes.
    """

    def __init__(
        self,
        episode: Episode,
        model: Model,
        context: Context,
        approve: Approve,
        observe: Callable[[ToolCall | None, Turn | Result], None] = lambda call, event: None,
    ):
        self.episode, self.model, self.context = episode, model, context
        self.approve, self.observe = approve, observe
        self._running: Ticket | None = None
        self._task: asyncio.Future[Any] | None = None

    async def run(self) -> Stop:
        """Play to the end, and say why it ended."""
        while not isinstance(step := self.episode.next(), Done):
            if isinstance(step, Draw):
                await self._draw(step)
            else:
                await self._act(step)
        return step.stop

    def stop(self) -> None:
        """End the tool that runs; a second time, or where none runs, the run."""
        if self._running is not None:
            self._running.cancel()
            self._running = None
            return
        self.episode.cancel()
        self.model.stop()
        if self._task is not None:
            self._task.cancel()

    async def _draw(self, step: Draw) -> None:
        self._task = asyncio.ensure_future(self.model.draw(step))
        try:
            drawn = await self._task
        except asyncio.CancelledError:
            if self.episode.stop is None:
                raise
            return
        finally:
            self._task = None
        if isinstance(drawn, Turn):
            self.episode.give_turn(drawn)
        else:
            drawn_turn = self.episode.give_completion(drawn)
        self.observe(None, drawn if isinstance(drawn, Turn) else drawn_turn)

    async def _act(self, step: Act) -> None:
        results = []
        for call in step.calls:
            result = await self._call(call)
            if self.episode.stop is not None:
                return
            self.observe(call, result)
            results.append(result)
        self.episode.give_results(results)

    async def _call(self, call: ToolCall) -> Result:
        tool = self.episode.toolbox.tools[call.name]
        if tool.asks and not await self._approved(call):
            return Result("denied", "denied")
        started = time.monotonic()
        result = await self._within_deadline(tool, call.arguments)
        return replace(result, seconds=time.monotonic() - started)

    async def _approved(self, call: ToolCall) -> bool:
        """The user's word; False where the run is stopped while it waits for it."""
        self._task = asyncio.ensure_future(self.approve(call))
        try:
            return await self._task
        except asyncio.CancelledError:
            if self.episode.stop is None:
                raise
            return False
        finally:
            self._task = None

    async def _within_deadline(self, tool: Tool, arguments: Mapping[str, Any]) -> Result:
        """The result on the files, which stay as they were where none came in time or the call was stopped."""
        ticket = Ticket()
        own = Context(dict(self.context.files), ticket)
        self._running = ticket
        work = asyncio.ensure_future(in_thread(tool.call, arguments, own))
        deadline = time.monotonic() + tool.deadline_s + GRACE_S
        while not work.done() and time.monotonic() < deadline and self._running is ticket:
            await asyncio.wait([work], timeout=0.05)
        stopped = self._running is not ticket
        self._running = None
        if not work.done():
            ticket.cancel()
            await asyncio.wait([work], timeout=GRACE_S)
        if stopped:
            return Result("error: the call was stopped by the user", "denied")
        if not work.done():
            return Result("error: the tool did not end before its deadline", "failed")
        result = work.result()
        self.context.files.clear()
        self.context.files.update(own.files)
        return result


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """What a function gives, run in a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if not future.done():
            future.set_exception(error) if error else future.set_result(value)

    def work() -> None:
        value, fault = None, None
        try:
            value = function(*args)
        except BaseException as error:
            fault = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, value, fault)

    threading.Thread(target=work, daemon=True, name="openqwq-agent").start()
    return await future


class ServerModel:
    """A model of an OpenAI-compatible server. Raises UserError where it gives no answer."""

    def __init__(
        self, url: str, model: str, tools: list[dict[str, Any]], sampling: Mapping[str, Any], key_env: str = ""
    ):
        self._client = ChatClient(url, model, key_env=key_env, timeout_s=REQUEST_S, retries=2)
        self._tools, self._sampling = tools, dict(sampling)

    async def draw(self, draw: Draw) -> Turn:
        return await in_thread(self._ask, draw)

    def stop(self) -> None:
        """The request's answer is no longer waited for."""

    def _ask(self, draw: Draw) -> Turn:
        sampling = {**self._sampling, **({"tools": self._tools} if self._tools else {})}
        sampling["max_tokens"] = min(sampling.get("max_tokens", draw.max_tokens), draw.max_tokens)
        try:
            return self._client.ask(self._client.body(draw.messages, sampling), _read_turn)
        except NoAnswer as error:
            raise UserError(str(error), hint="is the server running?") from error


def _read_turn(response: Mapping[str, Any]) -> Turn:
    """The parts of a server's answer; calls that it left in the text are read as well."""
    choice = response["choices"][0]
    message = choice["message"]
    answer, calls, errors = str(message.get("content") or ""), [], []
    for entry in message.get("tool_calls") or ():
        try:
            function = entry["function"]
            arguments = json.loads(function.get("arguments") or "{}")
            if not isinstance(arguments, dict):
                raise ValueError("its arguments are no object")
            calls.append(ToolCall(str(function["name"]), arguments))
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            errors.append(f"{type(error).__name__}: {error}")
    if not message.get("tool_calls"):
        answer, found, notes = parse_tool_calls(answer)
        calls, errors = list(found), list(notes)
    reason = "length" if choice.get("finish_reason") == "length" else "stop"
    usage = response.get("usage") or {}
    return Turn(
        thinking=str(message.get("reasoning_content") or message.get("reasoning") or ""),
        answer=answer,
        calls=() if reason == "length" else tuple(calls),
        errors=() if reason == "length" else tuple(errors),
        finish_reason=reason,
        num_tokens=int(usage.get("completion_tokens") or 0),
    )
