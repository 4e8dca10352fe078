"""When the engine takes a hand in a sample's thinking: budget, minimum, loops, and closing it on request.

To close is to put a sentence and `</think>` behind the last token, in the same request: the model then answers from
what it has. The sentence is the one of Qwen's documentation on thinking budgets. To prolong is to take back
`</think>` or an end token and to put "Wait" in its place (s1, arXiv:2501.19393). Plain Python: no torch.

A thinking ends where its text first holds `</think>`, as `tokenizer.ThinkingStream` reads it: at the token of that
name, or at the last of several that spell it. What such a last token holds behind the tag is text of the answer, but
stop strings and grammars begin behind the token.
"""

from __future__ import annotations

from functools import lru_cache

from openqwq.config.engine import CLOSING_TEXT
from openqwq.errors import UserError
from openqwq.tokenizer import Tokenizer
from openqwq.tokenizer.special_tokens import THINK_END
from openqwq.types import SamplingParams

from .constraints.loop_detector import LoopDetector
from .sequence import Sequence

PROLONGING_TEXT = "\nWait"


class Reasoning:
    """The token ids that thinking is made of, for one tokenizer.

    closing_text: must hold `</think>`; a model that knows no such sentence does better with "\\n</think>\\n\\n".
    """

    def __init__(self, tokenizer: Tokenizer, closing_text: str = CLOSING_TEXT):
        if THINK_END not in closing_text:
            raise UserError(f"the closing text {closing_text!r} does not hold {THINK_END}")
        self.end_id = tokenizer.token_id(THINK_END)  # None: it is spelled out of several tokens
        self.closing_ids = tokenizer.encode(closing_text)
        self.prolonging_ids = tokenizer.encode(PROLONGING_TEXT)
        self.is_open = tokenizer.opens_thinking
        self._decode = tokenizer.decode
        self._ends_line = lru_cache(maxsize=None)(lambda token_id: b"\n" in tokenizer.token_bytes(token_id))
        last = THINK_END[-1].encode()
        self._may_end = lru_cache(maxsize=None)(lambda token_id: last in tokenizer.token_bytes(token_id))

    @classmethod
    def of(cls, tokenizer: object, closing_text: str = CLOSING_TEXT) -> Reasoning | None:
        """None for what is no whole tokenizer."""
        return cls(tokenizer, closing_text) if isinstance(tokenizer, Tokenizer) else None

    def detector(self, params: SamplingParams) -> LoopDetector | None:
        return None if params.max_repeats is None else LoopDetector(params.max_repeats, self._ends_line)

    def ends(self, sample: Sequence) -> bool:
        """Whether the token just sampled ends the thinking: as `</think>`, or as the last of several that spell it."""
        token_id = sample.token_ids[-1]
        if token_id == self.end_id or not self._may_end(token_id):
            return token_id == self.end_id
        return THINK_END in self._decode(sample.token_ids[-len(THINK_END) :])  # every token has at least a byte

    def is_too_short(self, sample: Sequence) -> bool:
        """Whether the token just sampled would end thinking that has to continue; that token does not count."""
        request = sample.request
        if len(sample.token_ids) > request.params.min_thinking_tokens:
            return False
        return self.ends(sample) or sample.ends_at(sample.token_ids[-1])

    def is_spent(self, sample: Sequence) -> bool:
        """Whether the thinking has reached its budget."""
        budget = sample.request.params.thinking_budget
        return budget is not None and len(sample.token_ids) >= budget

    def note_end(self, sample: Sequence) -> None:
        """The thinking is over: what waits for the answer begins."""
        sample.thinking = False
        sample.answer_start = len(sample.token_ids)
        if sample.guide is not None:
            sample.guide.thinking, sample.guide.answer_start = False, sample.answer_start
        if sample.loops is not None:
            sample.loops.clear()


def needs_reasoning(params: SamplingParams) -> bool:
    """Whether a request asks for something that only a tokenizer with thinking tokens can do."""
    return params.thinking_budget is not None or params.min_thinking_tokens > 0
