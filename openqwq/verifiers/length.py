"""How long a completion is, as a score: a soft limit, a cosine, or a budget that the problem sets.

Public: `LengthVerifier`. Three shapes:
- "overlong" (DAPO, arXiv:2503.14476, eq. 13, shifted from [-1, 0] to [0, 1]): 1 up to `limit - buffer`, then falling
  in a line to 0 at `limit`.
- "cosine" (arXiv:2502.03373, eq. 1, for right answers): from 1 at length 0 to 0 at `limit` along half a cosine.
- "target" (L1, arXiv:2503.04697, eq. 1): 1 at the target, falling in a line to 0 at `buffer` tokens off it.
The cosine for wrong answers, which pays length, is left out: combine with the answer's verifier as a gate.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from openqwq.errors import UserError
from openqwq.types import Problem, Verdict

from .base import Verifier

if TYPE_CHECKING:
    from openqwq.tokenizer import Tokenizer

SHAPES = ("overlong", "cosine", "target")


class LengthVerifier(Verifier):
    """Correct at full score (for "cosine": below the limit), else wrong with the shape's score.

    shape:     one of `SHAPES`.
    limit:     the length from which on the score is 0 ("overlong", "cosine").
    buffer:    the width of the fall: before the limit ("overlong"), to either side of the target ("target").
    target:    the length asked for ("target"); 0: the problem's own, `metadata["target_length"]`.
    tokenizer: folder of the tokenizer whose tokens are counted; empty: characters are.
    `details["length"]` holds the measured length. The text is counted, so a sampled sequence of tokens that the
    tokenizer would write otherwise may differ by a few.
    """

    name: ClassVar[str] = "length"
    needs_answer: ClassVar[bool] = False

    def __init__(
        self, *, shape: str = "overlong", limit: int = 16384, buffer: int = 4096, target: int = 0, tokenizer: str = ""
    ):
        super().__init__()
        if shape not in SHAPES:
            raise UserError(f"option `shape` of verifier `length` is {shape!r}", hint=f"it takes {', '.join(SHAPES)}")
        if limit <= 0 or buffer <= 0 or (shape == "overlong" and buffer > limit):
            raise UserError(
                f"`limit` {limit} and `buffer` {buffer} of verifier `length` must be positive, buffer <= limit"
            )
        self.shape = shape
        self.limit = limit
        self.buffer = buffer
        self.target = target
        self.tokenizer = tokenizer

    def __call__(self, problem: Problem, completion: str) -> Verdict:
        length = self._count(completion)
        details: dict[str, Any] = {"length": length}
        if self.shape == "target":
            target = self.target or problem.metadata.get("target_length")
            if not isinstance(target, int) or isinstance(target, bool) or target <= 0:
                return Verdict.unjudged("the problem sets no target length")
            details["target"] = target
            score = max(0.0, 1 - abs(length - target) / self.buffer)
            return _verdict(score, score == 1, "off target", details)
        if self.shape == "cosine":
            score = (1 + math.cos(math.pi * min(length, self.limit) / self.limit)) / 2
            return _verdict(score, length < self.limit, "too long", details)
        score = min(1.0, max(0.0, (self.limit - length) / self.buffer))
        return _verdict(score, score == 1, "too long", details)

    def _count(self, text: str) -> int:
        return len(self._encoder.encode(text)) if self.tokenizer else len(text)

    @cached_property
    def _encoder(self) -> Tokenizer:
        from openqwq.tokenizer import Tokenizer

        return Tokenizer.load(self.tokenizer)


def _verdict(score: float, holds: bool, reason: str, details: dict[str, Any]) -> Verdict:
    if holds:
        return Verdict.correct(score=score, details=details)
    return Verdict.wrong(reason, score=score, details=details)
