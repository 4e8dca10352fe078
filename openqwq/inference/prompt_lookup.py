"""Guesses at the next tokens, to be checked in one pass: prompt lookup. Plain Python: no torch.

The last tokens are looked for earlier in prompt and completion; what followed them there is the guess (Saxena 2023,
prompt lookup decoding). A guess never changes what is sampled: every place of it is sampled with the noise that is
its own anyway, and the first one that differs from the guess ends it. So the tokens are those of plain decoding.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_GRAM = 4
SHORTEST_GRAM = 2


class PromptLookup:
    """Where each run of 2 to 4 tokens of one sequence was last followed by something."""

    def __init__(self) -> None:
        self._next: list[dict[tuple[int, ...], int]] = [{} for _ in range(LONGEST_GRAM + 1)]
        self._num_seen = 0

    def propose(self, token_ids: Sequence[int], num_tokens: int) -> list[int]:
        """At most `num_tokens` tokens that may follow; token_ids: the whole sequence, never shorter than before."""
        for end in range(max(self._num_seen, 1), len(token_ids)):
            for size in range(SHORTEST_GRAM, min(LONGEST_GRAM, end) + 1):
                self._next[size][tuple(token_ids[end - size : end])] = end
        self._num_seen = len(token_ids)
        for size in range(min(LONGEST_GRAM, len(token_ids)), SHORTEST_GRAM - 1, -1):
            start = self._next[size].get(tuple(token_ids[-size:]))
            if start is not None:
                return self._unroll(token_ids, start, num_tokens)
        return []

    @staticmethod
    def _unroll(token_ids: Sequence[int], start: int, num_tokens: int) -> list[int]:
        """The tokens from `start` on; behind the last one, the repetition goes on."""
        period = len(token_ids) - start
        return [token_ids[start + i % period] for i in range(num_tokens)]
