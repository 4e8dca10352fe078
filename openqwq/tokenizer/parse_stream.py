"""Reading a completion while it is written: thinking, answer and Hermes tool calls from pieces of text.

Whatever the pieces, what comes out joined is the same; `parse.py` reads whole texts with these very classes.
Every character is looked at once, but for the body of a call that turns out to be none, which is read again as text.

Public: ThinkingStream, ToolCallStream, CallError.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from openqwq.types import ToolCall

from .call_json import read_tool_call
from .special_tokens import THINK_END, THINK_START, TOOL_CALL_END, TOOL_CALL_START


class ThinkingStream:
    """Splits a completion at the first `</think>`.

    opened: the prompt ended inside a thinking block, as QwQ's template leaves it. Otherwise thinking counts only
            where the text begins with `<think>`.
    Newlines around the thinking, and those before the answer, are left out.
    """

    def __init__(self, opened: bool):
        self.opened = opened
        self.closed = False
        self._phase: Literal["start", "thinking", "gap", "answer"] = "start"
        self._held = ""  # may yet become a tag
        self._newlines = 0  # held back: they count only if thinking continues after them
        self._begun = False

    @property
    def thinking(self) -> bool:
        """Whether what comes next belongs to the thinking, as far as can be told."""
        return self._phase == "thinking" or (self._phase == "start" and self.opened)

    def push(self, text: str) -> tuple[str, str]:
        """The thinking and the answer that this piece completes; either may be empty."""
        text, self._held = self._held + text, ""
        if self._phase == "start":
            text = self._begin(text)
        thinking = ""
        if self._phase == "thinking":
            thinking, text = self._think(text)
        return thinking, self._answer(text)

    def finish(self) -> tuple[str, str]:
        """What was held back, now that nothing follows."""
        text, self._held = self._held, ""
        if self.thinking:
            return self._grow(text) if text.strip("\n") else "", ""
        self._phase = "gap" if self._phase == "start" else self._phase
        return "", self._answer(text)

    def _begin(self, text: str) -> str:
        """Decide whether the text opens with a tag; what is left to be read in the next phase."""
        body = text.lstrip()
        if len(body) < len(THINK_START) and THINK_START.startswith(body):
            self._held = text
            return ""
        if body.startswith(THINK_START):
            self._phase = "thinking"
            return body.removeprefix(THINK_START)
        self._phase = "thinking" if self.opened else "gap"
        return text

    def _think(self, text: str) -> tuple[str, str]:
        thinking, tag, rest = text.partition(THINK_END)
        if tag:
            self.closed = True
            self._phase = "gap"
            return self._grow(thinking), rest
        kept = len(text) - partial_tag(text, THINK_END)
        self._held = text[kept:]
        return self._grow(text[:kept]), ""

    def _grow(self, text: str) -> str:
        """The thinking so far, one piece further, without newlines at its ends."""
        body = text.rstrip("\n")
        if not body:
            self._newlines += len(text)
            return ""
        before, self._newlines = "\n" * self._newlines, len(text) - len(body)
        if self._begun:
            return before + body
        self._begun = True
        return body.lstrip("\n")

    def _answer(self, text: str) -> str:
        if self._phase == "gap":
            text = text.lstrip("\n")
            if text:
                self._phase = "answer"
        return text


@dataclass(frozen=True, slots=True)
class CallError:
    """A `<tool_call>` that could not be read: where it begins in the answer, and why. Its text stays text."""

    position: int
    reason: str

    def __str__(self) -> str:
        return f"tool call at character {self.position}: {self.reason}"


class ToolCallStream:
    """Takes the calls out of an answer. Nothing of a call is given out before its JSON is whole and sound.

    Text between and after calls is kept, in lines of its own; whitespace alone between calls is not.
    A call may end with the text, or with a part of `</tool_call>`, instead of the whole tag.
    """

    def __init__(self) -> None:
        self._held = ""  # may yet become a tag
        self._blank = ""  # whitespace that is kept only if more than whitespace follows
        self._position = 0  # characters of the answer that lie before `_held`
        self._call: _CallReader | None = None
        self._call_position = 0
        self._num_calls = 0
        self._line_begun = False  # text was given out since the last call
        self._any_text = False

    def push(self, text: str) -> list[str | ToolCall | CallError]:
        """Text, calls and errors that this piece completes, in order."""
        found: list[str | ToolCall | CallError] = []
        while text:
            text = self._read_text(text, found) if self._call is None else self._read_call(text, found)
        return found

    def finish(self) -> list[str | ToolCall | CallError]:
        """What was held back, now that nothing follows."""
        found: list[str | ToolCall | CallError] = []
        while self._call is not None:
            rest = self._settle(self._call.finish(), found)
            while rest:
                rest = self._read_text(rest, found) if self._call is None else self._read_call(rest, found)
        self._keep(self._held, found)
        if self._blank and not self._num_calls:
            found.append(self._blank)
        self._held = self._blank = ""
        return found

    def _read_text(self, text: str, found: list[str | ToolCall | CallError]) -> str:
        """Read up to a call's tag; what follows the tag."""
        text, self._held = self._held + text, ""
        before, tag, rest = text.partition(TOOL_CALL_START)
        if not tag:
            kept = len(text) - partial_tag(text, TOOL_CALL_START)
            before, self._held = text[:kept], text[kept:]
        self._keep(before, found)
        self._position += len(before)
        if tag:
            self._call, self._call_position = _CallReader(), self._position
            self._position += len(tag)
        return rest

    def _read_call(self, text: str, found: list[str | ToolCall | CallError]) -> str:
        assert self._call is not None
        outcome = self._call.push(text)
        return "" if outcome is None else self._settle(outcome, found)

    def _settle(self, outcome: _Outcome, found: list[str | ToolCall | CallError]) -> str:
        """Note a call or an error; the text to be read on from there."""
        self._call = None
        if isinstance(outcome.value, ToolCall):
            found.append(outcome.value)
            self._position += outcome.length
            self._num_calls += 1
            self._line_begun = False
            self._blank = ""
        else:
            found.append(CallError(self._call_position, outcome.value))
            self._keep(TOOL_CALL_START, found)
        return outcome.rest

    def _keep(self, text: str, found: list[str | ToolCall | CallError]) -> None:
        """Give text out, but for whitespace that may turn out to stand beside a call."""
        if not text:
            return
        if not self._line_begun:
            text = self._blank + text
            self._blank = ""
            if not text.strip():
                self._blank = text
                return
            self._line_begun = True
            if self._num_calls:
                text = "\n" * self._any_text + text.lstrip("\n")
            self._any_text = True
        body = text.rstrip("\n")
        if body:
            found.append(self._blank + body)
            self._blank = text[len(body) :]
        else:
            self._blank += text


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How reading a call ended.

    value:  the call, or why there is none.
    length: characters after the opening tag that belong to the call.
    rest:   the text to be read on: what follows the call, or all that follows the opening tag where there is none.
    """

    value: ToolCall | str
    length: int
    rest: str


class _CallReader:
    """Reads what follows `<tool_call>`: a JSON object, then the closing tag, the next call's or the end."""

    def __init__(self) -> None:
        self._body: list[str] = []  # up to the object's end
        self._tail = ""  # after it
        self._stack = ""  # open brackets
        self._in_string = self._escaped = False
        self._ended = False

    def push(self, text: str) -> _Outcome | None:
        """The outcome, once this piece decides it."""
        if not self._ended:
            end = self._scan(text)
            if end < 0:
                self._body.append(text)
                return self._broken("its JSON is broken")
            self._body.append(text[:end])
            text = text[end:]
        return self._look_behind(text) if self._ended else None

    def finish(self) -> _Outcome:
        """The outcome, now that nothing follows."""
        if not self._ended:
            return self._broken("its JSON does not end")
        tail = self._tail.strip()
        if TOOL_CALL_END.startswith(tail):  # cut off at a token limit or a stop string
            return self._whole("")
        if TOOL_CALL_START.startswith(tail):
            return self._whole(tail)
        return self._broken("text follows its JSON")

    def _scan(self, text: str) -> int:
        """Characters of this piece that belong to the object; -1 where it cannot be one."""
        for position, character in enumerate(text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._in_string = False
            elif not self._stack:
                if character == "{":
                    self._stack = "{"
                elif not character.isspace():
                    return -1
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._stack += character
            elif character in "}]":
                if self._stack[-1] != ("{" if character == "}" else "["):
                    return -1
                self._stack = self._stack[:-1]
                if not self._stack:
                    self._ended = True
                    return position + 1
            elif character not in _OUTSIDE_STRINGS:
                return -1
        return len(text)

    def _look_behind(self, text: str) -> _Outcome | None:
        self._tail += text
        tail = self._tail.lstrip()
        if tail.startswith(TOOL_CALL_END):
            return self._whole(tail.removeprefix(TOOL_CALL_END))
        if tail.startswith(TOOL_CALL_START):
            return self._whole(tail)
        if TOOL_CALL_END.startswith(tail) or TOOL_CALL_START.startswith(tail):
            return None
        return self._broken("text follows its JSON")

    def _whole(self, rest: str) -> _Outcome:
        body = "".join(self._body)
        try:
            call = read_tool_call(body)
        except ValueError as error:
            return self._broken(str(error))
        return _Outcome(call, len(body) + len(self._tail) - len(rest), rest)

    def _broken(self, reason: str) -> _Outcome:
        return _Outcome(reason, 0, "".join(self._body) + self._tail)


def partial_tag(text: str, tag: str) -> int:
    """How many last characters of a text may be the beginning of a tag that is not whole yet."""
    for length in range(min(len(tag) - 1, len(text)), 0, -1):
        if text.endswith(tag[:length]):
            return length
    return 0


_OUTSIDE_STRINGS = frozenset(" \t\n\r:,0123456789+-.eEtrufalsn")
