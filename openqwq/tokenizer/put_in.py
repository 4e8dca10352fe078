"""Text that is put into a template stays text: no control token comes out of what a user, a tool or a document wrote.

Where such text spells an added token, an invisible mark is set into the spelling before the template is rendered, and
taken out again: the rendered text is the same, and the places of the marks are known. The tokenizer then reads no added
token across such a place. Text that spells none, which is nearly all, goes the way it always went.

Public: Rendered, PutInText, control_tokens, unmark.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from .special_tokens import THINK_END, THINK_START, TOOL_CALL_END, TOOL_CALL_START

OWN_TAGS = frozenset((THINK_START, THINK_END, TOOL_CALL_START, TOOL_CALL_END))
"""What the assistant's turns may spell: it is read back from them as the model wrote it."""
MARKS = tuple(map(chr, range(0xFDD0, 0xFDF0)))
"""Unicode's noncharacters: for use inside programs, never in text that is exchanged."""

BRACKETED = re.compile(r"[<\[{|\uff5c].*[>\]}|\uff5c]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt's text, and the places in it (between two characters) that no added token may span."""

    text: str
    breaks: tuple[int, ...] = ()

    def ended(self, suffix: str) -> Rendered:
        """Without white space at its end, and with a suffix that is the template's own."""
        text = self.text.rstrip()
        return Rendered(text + suffix, tuple(place for place in self.breaks if place <= len(text)))


def control_tokens(added: Iterable[tuple[str, bool]]) -> list[str]:
    """Of added tokens (text, whether special) those that mean something: not the runs of white space or words."""
    return [text for text, special in added if text and (special or BRACKETED.fullmatch(text))]


class PutInText:
    """Finds a tokenizer's control tokens in text that may not have them."""

    def __init__(self, tokens: Iterable[str]):
        self.tokens = sorted(tokens, key=len, reverse=True)
        self._heads = {token[:n] for token in self.tokens for n in range(1, len(token))}
        self._tails = {token[n:] for token in self.tokens for n in range(1, len(token))}

    @cached_property
    def _spelled(self) -> re.Pattern[str]:
        """Finds where a token begins, those that overlap included."""
        return re.compile(f"(?=({'|'.join(map(re.escape, self.tokens))}))" if self.tokens else r"(?!)")

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.tokens), default=1)

    def breaks(self, text: str, allowed: frozenset[str] = frozenset()) -> list[int]:
        """Where a text must be broken to have no added token but the allowed ones, whatever stands around it."""
        places = {match.start() + 1 for match in self._spelled.finditer(text) if match[1] not in allowed}
        for n in range(1, min(self._longest, len(text) + 1)):
            if text[-n:] in self._heads:
                places.add(len(text) - n + 1)
            if text[:n] in self._tails:
                places.add(0)
        return sorted(places)

    def spanning(self, text: str, breaks: Sequence[int]) -> list[int]:
        """Those of the breaks across which the whole text spells a token."""
        return [place for place in breaks if self._is_spanned(text, place)]

    def _is_spanned(self, text: str, place: int) -> bool:
        start = max(place - self._longest + 1, 0)
        near = self._spelled.finditer(text[start : place + self._longest - 1])
        return any(match.start() < place - start < match.start() + len(match[1]) for match in near)

    def mark_turns(
        self,
        turns: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
    ) -> tuple[list[dict[str, Any]], list[Any] | None, dict[str, Any], str]:
        """The same with marks, and the mark; "" where nothing needs one."""
        marker = _Marker(self, "")
        marked = marker.turns(turns), marker.value(tools), marker.value(variables)
        if not marker.found:
            return [dict(turn) for turn in turns], list(tools) if tools else None, dict(variables), ""
        written = json.dumps([turns, tools, variables], ensure_ascii=False, default=str)
        escaped = written.lower()
        mark = next(m for m in MARKS if m not in written and _escape(m) not in escaped)
        marker = _Marker(self, mark)
        marked = marker.turns(turns), marker.value(tools), marker.value(variables)
        return *marked, mark


def unmark(text: str, mark: str) -> Rendered:
    """The text that a template gave for marked values, without the marks, and where they stood."""
    if not mark:
        return Rendered(text)
    text = re.sub(re.escape(_escape(mark)), mark, text, flags=re.IGNORECASE)  # a template's own `tojson` may escape it
    pieces = text.split(mark)
    places, length = [], 0
    for piece in pieces[:-1]:
        length += len(piece)
        places.append(length)
    return Rendered("".join(pieces), tuple(places))


def _escape(mark: str) -> str:
    return f"\\u{ord(mark):04x}"


class _Marker:
    """Sets a mark into all strings of a value; `found` says whether one needed it."""

    def __init__(self, put_in: PutInText, mark: str):
        self.put_in, self.mark, self.found = put_in, mark, False

    def turns(self, turns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [dict(self._turn(turn)) for turn in turns]

    def _turn(self, turn: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for key, value in turn.items():
            own = turn["role"] == "assistant" and key == "content"
            yield key, value if key == "role" else self.value(value, OWN_TAGS if own else frozenset())

    def value(self, value: Any, allowed: frozenset[str] = frozenset()) -> Any:
        if isinstance(value, str):
            return self._text(value, allowed)
        if isinstance(value, Mapping):
            return {self.value(key): self.value(own) for key, own in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(own) for own in value]
        return value

    def _text(self, text: str, allowed: frozenset[str]) -> str:
        places = self.put_in.breaks(text, allowed)
        if not places:
            return text
        self.found = True
        ends = [0, *places, len(text)]
        return self.mark.join(text[start:end] for start, end in pairwise(ends))
