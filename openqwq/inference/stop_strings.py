"""Where a stop string stands in what was sampled, and the text up to there. Plain Python: no torch.

Public: find_stop, search_start, holds_stop, sample_end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

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
