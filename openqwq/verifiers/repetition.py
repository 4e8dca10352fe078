"""Loops: completions that say the same words again and again."""

from __future__ import annotations

import re
from typing import ClassVar

from openqwq.types import Problem, Verdict

from .base import Verifier

_WORD = re.compile(r"\w+|[^\w\s]")


class RepetitionVerifier(Verifier):
    """Wrong when more than `max_share` of the text's n-grams repeat an earlier one.

    ngram:     words and punctuation marks of one n-gram.
    min_words: shorter texts are always right, since a few words repeat by nature.
    `details["repeated_share"]` holds the measured share in [0, 1].
    """

    name: ClassVar[str] = "repetition"
    needs_answer: ClassVar[bool] = False

    def __init__(self, *, ngram: int = 8, max_share: float = 0.3, min_words: int = 64):
        super().__init__()
        self.ngram = ngram
        self.max_share = max_share
        self.min_words = min_words

    def __call__(self, problem: Problem, completion: str) -> Verdict:
        words = _WORD.findall(completion)
        share = repeated_share(words, self.ngram)
        details = {"repeated_share": share}
        if len(words) >= self.min_words and share > self.max_share:
            return Verdict.wrong("repetition", details=details)
        return Verdict.correct(details=details)


def repeated_share(words: list[str], ngram: int) -> float:
    """The share of n-grams that occurred before; 0 for texts of fewer than two n-grams."""
    grams = [tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
