"""Finds the point at which a sample goes round in circles. Plain Python: no torch.

Two signs. A pattern of tokens that follows itself without a gap: the last four tokens stood before at a distance
that has stayed the same for whole repetitions. And a line that has come often among the last lines, whatever stands
between. Both are counted token by token, in constant time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

GRAM = 4  # tokens that make two places look alike
MIN_PATTERN_TOKENS = 24  # what is repeated, all repetitions together: rules and dots in a table are shorter
MIN_LINE_TOKENS = 6
LINES_PER_REPEAT = 4  # a line is looked for among the last 4 * max_repeats


class LoopDetector:
    """`push` every token; it answers whether the sample loops by now.

    max_repeats: how often a pattern or a line may not come.
    ends_line:   whether a token ends a line.
    """

    def __init__(self, max_repeats: int, ends_line: Callable[[int], bool]):
        self.max_repeats, self._ends_line = max_repeats, ends_line
        self.clear()

    def clear(self) -> None:
        """Forget everything: what comes now is another text."""
        self._tokens: deque[int] = deque(maxlen=GRAM)
        self._last_seen: dict[tuple[int, ...], int] = {}
        self._num_tokens = self._distance = self._run = 0
        self._line: list[int] = []
        self._lines: deque[tuple[int, ...]] = deque(maxlen=LINES_PER_REPEAT * self.max_repeats)

    def push(self, token_id: int) -> bool:
        return self._pattern_repeats(token_id) | self._line_repeats(token_id)

    def _pattern_repeats(self, token_id: int) -> bool:
        self._tokens.append(token_id)
        self._num_tokens += 1
        gram = tuple(self._tokens)
        if len(gram) < GRAM:
            return False
        distance = self._num_tokens - self._last_seen.get(gram, -1)
        found, self._last_seen[gram] = gram in self._last_seen, self._num_tokens
        self._run = self._run + 1 if found and distance == self._distance else int(found)
        self._distance = distance if found else 0
        repeated = self._run + GRAM - 1  # tokens that equal those one distance before
        whole = repeated >= (self.max_repeats - 1) * self._distance
        return found and whole and repeated + self._distance >= MIN_PATTERN_TOKENS

    def _line_repeats(self, token_id: int) -> bool:
        self._line.append(token_id)
        if not self._ends_line(token_id):
            return False
        line, self._line = tuple(self._line), []
        if len(line) < MIN_LINE_TOKENS:
            return False
        self._lines.append(line)
        return self._lines.count(line) >= self.max_repeats
