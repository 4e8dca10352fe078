"""Which decoding sequence sits in which row of the batch tensors. Plain Python: no torch.

The active rows are kept a prefix 0..num_active-1, so that every step works on views of the tensors: arrivals
fill the holes that finished sequences left, and the last rows move into holes that remain.
"""

from __future__ import annotations

from .sequence import NO_ROW, Sequence


class RowTable:
    """The sequences by row. `None` is a hole, left by a sequence that has ended."""

    def __init__(self, num_rows: int):
        if num_rows < 1:
            raise ValueError(f"num_rows is {num_rows}, but at least 1 is needed")
        self.num_rows = num_rows
        self.rows: list[Sequence | None] = []
        self.holes: list[int] = []

    @property
    def num_active(self) -> int:
        return len(self.rows) - len(self.holes)

    @property
    def num_free(self) -> int:
        return self.num_rows - len(self.rows) + len(self.holes)

    def active(self) -> list[Sequence]:
        """The sequences in row order; only while there are no holes."""
        assert not self.holes
        return [sequence for sequence in self.rows if sequence is not None]

    def take(self, sequence: Sequence) -> None:
        """Give the lowest free row to a sequence."""
        assert self.num_free > 0 and sequence.row == NO_ROW
        if self.holes:
            sequence.row = self.holes.pop()
            self.rows[sequence.row] = sequence
        else:
            sequence.row = len(self.rows)
            self.rows.append(sequence)

    def free(self, sequences: list[Sequence]) -> None:
        """Take the rows back; they are holes until they are filled or closed."""
        for sequence in sequences:
            self.rows[sequence.row] = None
            self.holes.append(sequence.row)
            sequence.row = NO_ROW
        self.holes.sort(reverse=True)

    def close_holes(self) -> list[tuple[int, int]]:
        """Move the last rows into the remaining holes: (from, to) pairs, no row in two of them."""
        moves = []
        for hole in sorted(self.holes):
            while self.rows and self.rows[-1] is None:
                self.rows.pop()
            if hole >= len(self.rows):
                break
            sequence = self.rows.pop()
            assert sequence is not None
            moves.append((sequence.row, hole))
            self.rows[hole] = sequence
            sequence.row = hole
        self.holes.clear()
        return moves
