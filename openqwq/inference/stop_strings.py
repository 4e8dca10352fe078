"""Where a stop string stands in what was sampled, the text up to there, and that text as it grows. No torch.

Public: find_stop, search_start, holds_stop, sample_end, TextStream, held_length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from openqwq.tokenizer import StreamDecoder, Tokenizer

if TYPE_CHECKING:
    from .requests import TextDecoder
    from .sequence import Sequence as Sample


def find_stop(text: str, stop: Sequence[str], first: int = 0) -> tuple[int, str] | None:
    """The earliest stop string in a text from character `first` on, and where it starts; None when there is none."""
    found = [(start, string) for string in stop if (start := text.find(string, first)) >= 0]
    return min(found, key=lambda place: place[0], default=None)


def search_start(sample: Sample) -> int:
    """The first token that a stop string may begin with: of the answer, and behind the least length."""
    return max(sample.answer_start, sample.request.params.min_tokens)


def holds_stop(
    decode: Callable[[Sequence[int]], str], token_ids: Sequence[int], stop: Sequence[str], start: int = 0
) -> bool:
    """Whether the last token completed a stop string that begins at token `start` or later.

    Only as many last tokens are decoded as the longest stop string has bytes: every token has at least one.
    """
    window = max(len(string.encode()) for string in stop)
    start = max(start, len(token_ids) - window)
    return start < len(token_ids) and find_stop(decode(token_ids[start:]), stop) is not None


def sample_end(tokenizer: TextDecoder | None, sample: Sample) -> tuple[str, str | int | None]:
    """The decoded sample without its end token, cut before the first stop string; `Completion.stop_reason`."""
    request, token_ids = sample.request, sample.token_ids
    ended_by: str | int | None = None
    if token_ids and sample.finish_reason == "stop" and token_ids[-1] in request.stop_token_ids:
        ended_by = token_ids[-1] if token_ids[-1] in request.params.stop_token_ids else None
        token_ids = token_ids[:-1]
    if tokenizer is None:
        return "", ended_by
    if not request.params.stop or sample.thinking:
        return tokenizer.decode(token_ids), ended_by
    thoughts = tokenizer.decode(token_ids[: sample.answer_start])
    answer = tokenizer.decode(token_ids[sample.answer_start :])
    kept = tokenizer.decode(token_ids[sample.answer_start : search_start(sample)])
    if (found := find_stop(answer, request.params.stop, len(kept))) is None:
        return thoughts + answer, ended_by
    return thoughts + answer[: found[0]], found[1]


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
