"""Where a stop string stands in what was sampled. Plain Python: no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence


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
