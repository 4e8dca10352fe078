"""Where a stop string stands in what was sampled, and the text up to there. Plain Python: no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .requests import Decoder
    from .sequence import Sequence as Sample


def find_stop(text: str, stop: Sequence[str]) -> int | None:
    """The start of the earliest stop string in a text; None when it holds none."""
    starts = [start for string in stop if (start := text.find(string)) >= 0]
    return min(starts, default=None)


def holds_stop(decode: Callable[[Sequence[int]], str], token_ids: Sequence[int], stop: Sequence[str]) -> bool:
    """Whether the last token completed a stop string.

    Only as many last tokens are decoded as the longest stop string has bytes: every token has at least one.
    """
    window = max(len(string.encode()) for string in stop)
    return find_stop(decode(token_ids[-window:]), stop) is not None


def sample_text(tokenizer: Decoder | None, sample: Sample) -> str:
    """The decoded sample without its end token, cut before the first stop string."""
    if tokenizer is None:
        return ""
    token_ids = sample.token_ids
    if token_ids and sample.finish_reason == "stop" and token_ids[-1] in sample.request.stop_token_ids:
        token_ids = token_ids[:-1]
    if not sample.request.params.stop or sample.thinking:
        return tokenizer.decode(token_ids)
    thoughts = tokenizer.decode(token_ids[: sample.answer_start])
    answer = tokenizer.decode(token_ids[sample.answer_start :])
    return thoughts + answer[: find_stop(answer, sample.request.params.stop)]
