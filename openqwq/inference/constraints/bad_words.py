"""Token sequences that must not be written, found by walking back from the last token. Plain Python: no torch.

Public: BadWords.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Node:
    """What the last tokens are when they are read backwards: `before` leads to one token more of them."""

    before: dict[int, _Node] = field(default_factory=dict)
    forbidden: list[int] = field(default_factory=list)


class BadWords:
    """The tokens that would complete a word, whatever their number: a step costs the longest match, not the list.

    always: those that are words by themselves, or the last token of one behind nothing.
    """

    def __init__(self, words: Iterable[Sequence[int]]):
        self._root = _Node()
        for word in dict.fromkeys(map(tuple, words)):
            node = self._root
            for token_id in reversed(word[:-1]):
                node = node.before.setdefault(token_id, _Node())
            node.forbidden += word[-1:]
        self.always = tuple(self._root.forbidden)

    def next_of(self, token_ids: Sequence[int]) -> list[int]:
        """Tokens that may not follow these, but for those of `always`."""
        forbidden: list[int] = []
        node = self._root
        for token_id in reversed(token_ids):
            if (further := node.before.get(token_id)) is None:
                break
            node = further
            forbidden += node.forbidden
        return forbidden
