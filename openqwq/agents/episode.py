"""One episode of a model and its tools, without input or output: what to do next, given what happened.

    step = episode.next()
    Draw -> the policy continues the prompt  -> episode.give_turn(turn)
    Act  -> the calls are made, or refused   -> episode.give_results(results)
    Done -> the record is complete

The same loop serves token ids (a `TokenRecord` keeps them) and servers that speak messages.

Public: Limits, Turn, Draw, Act, Done, Episode, turn_of.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from openqwq.tokenizer import Tokenizer, parse_completion
from openqwq.types import Completion, Message, Prompt, ToolCall

from .record import TokenRecord
from .tools import Result, Toolbox

REPEATS_NOTED, REPEATS_ENDED = 3, 5
REPEAT_NOTE = "\n[this is the same call with the same result as before]"

Stop = Literal[
    "answered", "length", "turns", "calls", "tokens", "context", "malformed", "repeated", "void", "failed", "over",
    "cancelled", "abort",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of an episode; the first one that is met ends it.

    max_tokens:  sampled over all turns.
    max_context: tokens of a prompt and its turn.
    end_on_failure: a tool that failed by the machine's fault ends the episode (training); else the model reads it.
    """

    max_turns: int = 20
    max_calls: int = 64
    max_tokens: int = 65536
    max_context: int | None = None
    end_on_failure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What the model wrote, in parts.

    calls:  readable ones; errors: a note for each unreadable one.
    closed: False where the thinking never ended.
    """

    thinking: str = ""
    answer: str = ""
    calls: tuple[ToolCall, ...] = ()
    errors: tuple[str, ...] = ()
    finish_reason: str = "stop"
    num_tokens: int = 0
    closed: bool = True
    error: str = ""


@dataclass(frozen=True, slots=True)
class Draw:
    """The policy's move. prompt: None where there is no token record; max_tokens: what the budget leaves."""

    prompt: Prompt | None
    messages: tuple[Mapping[str, Any], ...]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Act:
    """The tools' move: calls whose names and arguments are right."""

    calls: tuple[ToolCall, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """The end, and why."""

    stop: Stop


@dataclass(slots=True)
class Played:
    """A turn and the result of each of its calls, in order."""

    turn: Turn
    results: tuple[Result, ...] = ()


@dataclass(slots=True)
class Episode:
    """The state of one episode.

    record:   keeps the token ids; None: messages only.
    messages: the conversation as OpenAI's API writes it.
    """

    messages: list[Mapping[str, Any]]
    toolbox: Toolbox
    limits: Limits = field(default_factory=Limits)
    record: TokenRecord | None = None
    turns: list[Played] = field(default_factory=list)
    stop: Stop | None = None
    num_tokens: int = 0
    num_calls: int = 0
    _calls: tuple[ToolCall, ...] = ()
    _made: Counter[str] = field(default_factory=Counter)
    _malformed: bool = False

    @classmethod
    def begin(
        cls,
        messages: Sequence[Message],
        toolbox: Toolbox,
        limits: Limits | None = None,
        tokenizer: Tokenizer | None = None,
        history: Literal["keep", "strip"] = "keep",
    ) -> Episode:
        """An episode before its first turn; with a tokenizer it keeps token ids."""
        record = TokenRecord(tokenizer, messages, toolbox.schemas, history) if tokenizer else None
        rows: list[Mapping[str, Any]] = [{"role": m.role, "content": m.content} for m in messages]
        return cls(rows, toolbox, limits or Limits(), record)

    def next(self) -> Draw | Act | Done:
        """What has to happen now; asking again changes nothing but for a limit that is met."""
        if self.stop is None and not self._calls:
            self.stop = self._met_limit()
        if self.stop is not None:
            return Done(self.stop)
        if self._calls:
            return Act(self._calls)
        prompt = self.record.prompt if self.record else None
        room = self.limits.max_tokens - self.num_tokens
        if prompt and self.limits.max_context:
            room = min(room, self.limits.max_context - len(prompt.token_ids))
        return Draw(prompt, tuple(self.messages), room)

    def _met_limit(self) -> Stop | None:
        if len(self.turns) >= self.limits.max_turns:
            return "turns"
        if self.num_calls >= self.limits.max_calls:
            return "calls"
        if self.num_tokens >= self.limits.max_tokens:
            return "tokens"
        if self.record and self.limits.max_context:
            return "context" if len(self.record.prompt.token_ids) >= self.limits.max_context else None
        return None

    def give_completion(self, completion: Completion) -> Turn:
        """A turn that was sampled as token ids."""
        assert self.record is not None
        turn = turn_of(completion, self.record.opened)
        self.record.append_drawn(completion)
        self.give_turn(turn)
        return turn

    def give_turn(self, turn: Turn) -> None:
        """The model's turn; what it may call is asked for next."""
        self.turns.append(Played(turn))
        self.num_tokens += turn.num_tokens
        if turn.finish_reason == "abort":
            self.stop = "abort"
        elif turn.finish_reason in ("length", "repetition"):
            self.stop = "length" if turn.finish_reason == "length" else "repeated"
        elif not turn.closed or not (turn.answer.strip() or turn.calls or turn.errors):
            self.stop = "void"
        elif turn.errors:
            self._refuse_unreadable(turn)
        elif not turn.calls:
            self.messages.append({"role": "assistant", "content": turn.answer})
            self.stop = "answered"
        else:
            self._take_calls(turn)

    def _refuse_unreadable(self, turn: Turn) -> None:
        """Nothing of a turn with an unreadable call is done; a second such turn in a row ends the episode."""
        if self._malformed:
            self.stop = "malformed"
            return
        self._malformed = True
        texts = tuple(f"error: the call cannot be read: {error}" for error in turn.errors)
        self.turns[-1].results = tuple(Result(text, "error") for text in texts)
        self.messages.append({"role": "assistant", "content": turn.answer})
        self.messages.append({"role": "user", "content": "\n".join(texts)})
        if self.record:
            self.record.append_results(texts)

    def _take_calls(self, turn: Turn) -> None:
        faults = [self.toolbox.fault(call) for call in turn.calls]
        self._malformed = False
        self._calls = tuple(call for call, fault in zip(turn.calls, faults, strict=True) if not fault)
        if not self._calls:
            self._close_turn([])

    def give_results(self, results: Sequence[Result], *, over: bool = False) -> None:
        """What the calls that were asked for came to, in their order. over: the environment has ended."""
        if len(results) != len(self._calls):
            raise ValueError(f"{len(self._calls)} calls were made, but {len(results)} results were given")
        noted = [self._note_repeat(call, result) for call, result in zip(self._calls, results, strict=True)]
        self.num_calls += len(results)
        self._close_turn(noted)
        if self.stop is None and over:
            self.stop = "over"
        if self.limits.end_on_failure and any(result.status == "failed" for result in results):
            self.stop = "failed"

    def _note_repeat(self, call: ToolCall, result: Result) -> Result:
        key = json.dumps([call.name, call.arguments, result.text], sort_keys=True, default=str)
        self._made[key] += 1
        if self._made[key] >= REPEATS_ENDED:
            self.stop = "repeated"
        if self._made[key] >= REPEATS_NOTED:
            return Result(result.text + REPEAT_NOTE, result.status, result.cut, result.seconds)
        return result

    def _close_turn(self, made: Sequence[Result]) -> None:
        """Put the results in: those that were made, and a reason for each call that could not be."""
        played, given = self.turns[-1], iter(made)
        results = []
        for call in played.turn.calls:
            fault = self.toolbox.fault(call)
            results.append(Result(f"error: {fault}", "error") if fault else next(given))
        played.results, self._calls = tuple(results), ()
        names = [f"call_{len(self.turns)}_{i}" for i in range(len(results))]
        self.messages.append(
            {
                "role": "assistant",
                "content": played.turn.answer,
                "tool_calls": [_written(call, name) for call, name in zip(played.turn.calls, names, strict=True)],
            }
        )
        for result, name in zip(results, names, strict=True):
            self.messages.append({"role": "tool", "tool_call_id": name, "content": result.text})
        if self.record:
            self.record.append_results([result.text for result in results])

    def cancel(self) -> None:
        """End the episode where it stands."""
        self.stop, self._calls = self.stop or "cancelled", ()

    @property
    def answer(self) -> str:
        """The text of the last turn's answer; "" before the first one."""
        return self.turns[-1].turn.answer if self.turns else ""


def turn_of(completion: Completion, opened: bool) -> Turn:
    """The parts of a sampled turn; calls in its thinking do not count, nor any in a turn that was cut."""
    parsed = parse_completion(completion.text, opened)
    cut = completion.finish_reason != "stop"
    return Turn(
        thinking=parsed.thinking,
        answer=parsed.answer,
        calls=() if cut else parsed.tool_calls,
        errors=() if cut else parsed.errors,
        finish_reason=completion.finish_reason,
        num_tokens=len(completion.token_ids),
        closed=parsed.closed or not opened,
        error=completion.error,
    )


def _written(call: ToolCall, name: str) -> dict[str, Any]:
    function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    return {"id": name, "type": "function", "function": function}
