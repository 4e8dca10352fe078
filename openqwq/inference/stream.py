"""A sample's text while it grows, piece by piece. Plain Python: no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from openqwq.tokenizer import StreamDecoder, Tokenizer


class TextStream:
    """Pieces of text that are final: half characters and what may become a stop string wait for the rest.

    The pieces joined, the last one of `finish` included, are the finished completion's text.
    """

    def __init__(self, tokenizer: Tokenizer | None, stop: Sequence[str] = ()):
        self._decoder = StreamDecoder(tokenizer) if tokenizer else None
        self._stop = tuple(stop)
        self._held = ""
        self._num_sent = 0

    def push(self, token_ids: Iterable[int]) -> str:
        """The text that these tokens make final; may be empty."""
        if self._decoder is None:
            return ""
        text = self._held + "".join(map(self._decoder.push, token_ids))
        end = len(text) - held_length(text, self._stop)
        self._held = text[end:]
        self._num_sent += end
        return text[:end]

    def finish(self, text: str) -> str:
        """What is left of the completion's whole text."""
        return text[self._num_sent :]


def held_length(text: str, stop: Sequence[str]) -> int:
    """How many of the last characters begin a stop string without completing it."""
    longest = 0
    for string in stop:
        for length in range(min(len(string) - 1, len(text)), longest, -1):
            if text.endswith(string[:length]):
                longest = length
                break
    return longest
