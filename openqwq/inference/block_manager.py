"""Which sequence sits in which slot of the KV cache.

A slot is one contiguous block of `max_model_len` positions. The active slots are kept a prefix
0..num_active-1, so that every step works on views of the cache and of the batch tensors: arrivals
fill the holes that finished sequences left, and the last rows move into holes that remain.
"""

from __future__ import annotations

from .sequence import NO_SLOT, Sequence


class SlotTable:
    """The sequences by slot. `None` is a hole, left by a sequence that has ended."""

    def __init__(self, num_slots: int):
        if num_slots < 1:
            raise ValueError(f"num_slots is {num_slots}, but at least 1 is needed")
        self.num_slots = num_slots
        self.rows: list[Sequence | None] = []
        self.holes: list[int] = []

    @property
    def num_free(self) -> int:
        return self.num_slots - len(self.rows) + len(self.holes)

    def active(self) -> list[Sequence]:
        """The sequences in slot order; only while there are no holes."""
        assert not self.holes
        return [sequence for sequence in self.rows if sequence is not None]

    def take(self, sequence: Sequence) -> None:
        """Give the lowest free slot to a sequence."""
        assert self.num_free > 0 and sequence.slot == NO_SLOT
        if self.holes:
            sequence.slot = self.holes.pop()
            self.rows[sequence.slot] = sequence
        else:
            sequence.slot = len(self.rows)
            self.rows.append(sequence)

    def free(self, sequences: list[Sequence]) -> None:
        """Take the slots back; they are holes until they are filled or closed."""
        for sequence in sequences:
            self.rows[sequence.slot] = None
            self.holes.append(sequence.slot)
            sequence.slot = NO_SLOT
        self.holes.sort(reverse=True)

    def close_holes(self) -> list[tuple[int, int]]:
        """Move the last rows into the remaining holes: (from, to) pairs, no slot in two of them."""
        moves = []
        for hole in sorted(self.holes):
            while self.rows and self.rows[-1] is None:
                self.rows.pop()
            if hole >= len(self.rows):
                break
            sequence = self.rows.pop()
            assert sequence is not None
            moves.append((sequence.slot, hole))
            self.rows[hole] = sequence
            sequence.slot = hole
        self.holes.clear()
        return moves
