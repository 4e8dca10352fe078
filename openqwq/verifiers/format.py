"""The shape of a completion: one thinking block that is closed, then an answer."""

from __future__ import annotations

from typing import ClassVar

from openqwq.types import Problem, Verdict

from .base import THINK_CLOSE, THINK_OPEN, Verifier


class FormatVerifier(Verifier):
    """Correct for [`<think>`] thinking `</think>` answer: the tags once each, nothing before, a non-empty answer.

    The opening tag may be missing where the prompt has written it, as QwQ's chat template does.
    require_thinking: an empty thinking block is wrong.
    """

    name: ClassVar[str] = "format"
    needs_answer: ClassVar[bool] = False

    def __init__(self, *, require_thinking: bool = False):
        super().__init__()
        self.require_thinking = require_thinking

    def __call__(self, problem: Problem, completion: str) -> Verdict:
        thinking, closed, answer = completion.partition(THINK_CLOSE)
        if not closed:
            return Verdict.wrong("thinking not closed")
        if problem.thinking_opened is False and THINK_OPEN not in thinking:
            return Verdict.wrong("thinking not opened")
        before, opened, rest = thinking.partition(THINK_OPEN)
        if opened:
            if before.strip():
                return Verdict.wrong("text before the thinking")
            thinking = rest
        if THINK_OPEN in thinking or THINK_OPEN in answer or THINK_CLOSE in answer:
            return Verdict.wrong("more than one thinking block")
        if self.require_thinking and not thinking.strip():
            return Verdict.wrong("empty thinking")
        if not answer.strip():
            return Verdict.wrong("empty answer")
        return Verdict.correct()
