"""De-duplication against evaluation sets by shared n-grams of words (GPT-3 has 13, arXiv:2005.14165, appendix C)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_WORD = re.compile(r"\w+")
NGRAM = 13
"""Words; shorter ones meet by chance in problems that differ only in their numbers."""


def words_of(text: str) -> list[str]:
    """The text's words in lower case, without marks and accents of compatibility forms."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


class NgramIndex:
    """The n-grams of texts that training must not see. A text shorter than n counts as one n-gram, whole."""

    def __init__(self, texts: Iterable[str], *, ngram: int = NGRAM):
        if ngram < 1:
            raise ValueError(f"ngram is {ngram}, but must be 1 or more")
        self.ngram = ngram
        self._seen = {gram for text in texts for gram in self._grams(text)}

    def overlap(self, text: str) -> str:
        """The first n-gram of the text that is in the index, as words with spaces; empty when there is none."""
        return next((" ".join(gram) for gram in self._grams(text) if gram in self._seen), "")

    def _grams(self, text: str) -> Iterable[tuple[str, ...]]:
        words = words_of(text)
        if not words:
            return
        for start in range(max(1, len(words) - self.ngram + 1)):
            yield tuple(words[start : start + self.ngram])
