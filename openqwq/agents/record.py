"""The tokens of an episode as they were given and drawn: appended only, never rendered again.

`history = "keep"`: each prompt is the former ids and what was put in since: one segment. `history = "strip"`, QwQ's own
template: the next prompt is the former one without its opened thinking, the answer's ids as they were drawn, and what
was put in: a segment a turn. Text that is put in has no control tokens.

Public: Segment, TokenRecord, HISTORIES.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from openqwq.errors import UserError
from openqwq.tokenizer import Tokenizer
from openqwq.types import Completion, Message, Prompt

History = Literal["keep", "strip"]
HISTORIES = ("keep", "strip")
ANSWER = "answer-of-the-former-turn"


@dataclass(slots=True)
class Segment:
    """A prompt and what followed it. loss_mask: 1 for drawn tokens, 0 for those put in; their log-prob is 0."""

    prompt_ids: list[int]
    completion_ids: list[int] = field(default_factory=list)
    loss_mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def append(self, ids: Sequence[int], logprobs: Sequence[float] | None = None) -> None:
        """Ids that were put in, or drawn with these log-probs."""
        self.completion_ids += ids
        self.loss_mask += [int(logprobs is not None)] * len(ids)
        self.logprobs += logprobs if logprobs is not None else [0.0] * len(ids)

    @property
    def ids(self) -> list[int]:
        return self.prompt_ids + self.completion_ids


class TokenRecord:
    """The segments of one episode. `segments` only grows.

    Raises UserError for an unknown history, and for "strip" where the tokenizer has no thinking tokens.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        history: History = "keep",
    ):
        if history not in HISTORIES:
            raise UserError(f"`history` is {history!r}, but must be one of {', '.join(HISTORIES)}")
        if history == "strip":
            self._think_ids = (tokenizer.think_start_id, tokenizer.think_end_id)
        self.tokenizer, self.history = tokenizer, history
        self._tools = list(tools) or None
        self.segments = [Segment(tokenizer.encode_chat(messages, tools=self._tools))]
        self._turn_start = 0
        self.opened = tokenizer.opens_thinking(self.segments[0].prompt_ids)

    @property
    def prompt(self) -> Prompt:
        """What the policy continues now."""
        return Prompt(tuple(self.segments[-1].ids), thinking_opened=self.opened)

    def append_drawn(self, completion: Completion) -> None:
        """A turn as it was sampled; tokens that the sampler put in itself are masked."""
        segment = self.segments[-1]
        self._turn_start = len(segment.completion_ids)
        segment.append(completion.token_ids, completion.logprobs)
        for start, end in completion.inserted:
            for place in range(self._turn_start + start, self._turn_start + end):
                segment.loss_mask[place] = 0

    def append_results(self, texts: Sequence[str]) -> None:
        """What the tools of the last turn gave, up to the next opened assistant turn."""
        segment = self.segments[-1]
        if self.history == "keep":
            segment.append(self._put_in_ids(texts, segment.completion_ids[-1:]))
        else:
            drawn = segment.completion_ids[self._turn_start :]
            former = [*self._without_opened_thinking(segment.ids[: len(segment.ids) - len(drawn)])]
            former += self._answer_ids(drawn)
            self.segments.append(Segment(former + self._put_in_ids(texts, drawn[-1:])))
        self._turn_start = len(self.segments[-1].completion_ids)
        self.opened = self.tokenizer.opens_thinking(self.segments[-1].ids)

    def _put_in_ids(self, texts: Sequence[str], last: Sequence[int]) -> list[int]:
        """Ids of the template's text between an answer and the next one; the end of turn is there once."""
        messages = [Message("user", "-"), Message("assistant", ANSWER), *(Message("tool", text) for text in texts)]
        rendered = self.tokenizer.render(messages)
        start = rendered.text.index(ANSWER) + len(ANSWER)
        end = self.tokenizer.end_of_turn
        if last and last[0] in self.tokenizer.eos_token_ids and rendered.text.startswith(end, start):
            start += len(end)
        breaks = [place - start for place in rendered.breaks if place > start]
        return self.tokenizer.encode(rendered.text[start:], breaks)

    def _without_opened_thinking(self, prompt_ids: Sequence[int]) -> list[int]:
        """A prompt that ends before the `<think>` that it opened."""
        ids = list(prompt_ids)
        if not self.opened:
            return ids
        place = len(ids) - 1 - ids[::-1].index(self._think_ids[0])
        return ids[:place]

    def _answer_ids(self, drawn: Sequence[int]) -> list[int]:
        """The drawn ids behind `</think>` and the newlines after it."""
        ids = list(drawn)
        if self._think_ids[1] not in ids:
            return ids
        place = ids.index(self._think_ids[1]) + 1
        while place < len(ids) and self.tokenizer.token_bytes(ids[place]).strip(b"\n") == b"":
            place += 1
        return ids[place:]
