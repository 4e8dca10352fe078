"""Blocks whose parts are freed one by one: the pool of a cache with attention windows. Plain Python: no torch.

To the scheduler a block is a number, as ever: shared, forked, found again by its tokens. Its memory is a page for each
band of layers (model/windows.py). A page is taken when the block's tokens are computed, and goes back to the pool when
the band's window has left it behind in every sequence that holds the block; a token that its own chunk's end does not
see any more never gets one. A sequence that ends leaves the pages that it still had to its blocks.

A prefix is found again where what its next token sees is still there: anywhere below the smallest window, and at the
end of a sequence, so that a conversation goes on where it was. Elsewhere it is computed anew.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from openqwq.errors import UserError

from .block_manager import ROOT, BlockPool, BlockTable, format_bytes

NOBODYS_PAGE = 0  # what is written there is never read
SPARE_BLOCKS = 4  # of a band and a sequence: a block that is begun at either end, and guesses


class Band(Protocol):
    """Of model/windows.py: which blocks a band of layers sees; sinks are 0 where the window has no end."""

    @property
    def sinks(self) -> int: ...
    @property
    def window(self) -> int | None: ...
    def first_seen(self, block: int) -> int: ...


def pages_of_one(bands: Collection[Band], num_blocks: int) -> int:
    """Pages that a sequence of so many blocks holds at most: a window's past beside a chunk's end."""
    reach = (None if band.window is None else band.sinks + 2 * band.window + SPARE_BLOCKS for band in bands)
    return sum(num_blocks if most is None else min(num_blocks, most) for most in reach)


def fit_pages(bands: Collection[Band], num_blocks: int, max_num_seqs: int, page_bytes: int, memory: int) -> int:
    """How many pages the memory holds, nobody's included. Raises UserError where not even one sequence fits.

    num_blocks: of a sequence of `max_model_len`.
    """
    least = pages_of_one(bands, num_blocks)
    num_pages = min(max_num_seqs * least + 1, memory // page_bytes)
    if num_pages <= least:
        raise UserError(
            f"one sequence of `max_model_len` needs {format_bytes((least + 1) * page_bytes)} of KV cache with these "
            f"attention windows, but `kv_cache_memory` is {format_bytes(memory)}",
            hint="lower `max_model_len`, narrow the windows or raise `kv_cache_memory`",
        )
    return num_pages


class WindowedPool(BlockPool):
    """`num_pages` pages, of which one is nobody's, for `num_numbers` blocks of `block_size` tokens.

    assignments: (band, block, page) wherever a block gets a page or loses it, in order: for the cache's side.
    `num_blocks`, `num_free` and `most_used` count pages.
    """

    def __init__(
        self,
        bands: Sequence[Band],
        num_numbers: int,
        num_pages: int,
        block_size: int,
        assignments: list[tuple[int, int, int]],
        *,
        prefix_caching: bool = True,
    ):
        super().__init__(num_numbers, block_size, prefix_caching=prefix_caching)
        self.num_blocks, self._bands, self._assignments = num_pages - 1, list(bands), assignments
        self._free_pages = list(range(num_pages - 1, NOBODYS_PAGE, -1))
        self._num_idle_pages = 0  # that no sequence uses
        self._pages: list[dict[int, int]] = [{} for _ in bands]  # by block
        self._users: list[dict[int, int]] = [{} for _ in bands]  # sequences that use a block's page

    @property
    def num_free(self) -> int:
        """Pages that no sequence uses."""
        return len(self._free_pages) + self._num_idle_pages

    def match(self, tokens: Sequence[int], root: int = ROOT) -> BlockTable:
        """As without windows, cut where a band would lack a page that the next token sees."""
        table = self._find(tokens, root)
        number = self._whole(table.blocks)
        if number < len(table.blocks):
            link = self._by_key[self._key_of[table.blocks[number - 1]]][1] if number else root
            self.release(BlockTable(table.blocks[number:]))
            table = BlockTable(table.blocks[:number], number * self.block_size, link, number, self.epoch)
        self._use_seen(table, number)
        for band, blocks in enumerate(self._pages):
            for block in table.blocks:
                if block in blocks and not self._users[band].get(block):
                    self._free_page(band, block)
        return table

    def fork(self, table: BlockTable, num_full: int) -> BlockTable:
        forked = super().fork(table, num_full)
        self._use_seen(forked, num_full)
        return forked

    def can_fork(self, table: BlockTable, num_tokens: int) -> bool:
        """Whether its windows have not moved on; the block of the next token may have to be copied."""
        next_block, part = divmod(num_tokens, self.block_size)
        return all(
            used.issuperset(_seen(band, next_block, next_block + bool(part)))
            for band, used in zip(self._bands, map(set, table.used), strict=True)
        )

    def copies(self, source: BlockTable, target: BlockTable, index: int) -> list[tuple[int, int]]:
        pairs = source.blocks[index], target.blocks[index]
        return [(pages[pairs[0]], pages[pairs[1]]) for pages in self._pages]

    def fits(self, table: BlockTable, num_tokens: int, reserve: int) -> bool:
        num_blocks = -(-num_tokens // self.block_size)
        wanted = pages_of_one(self._bands, num_blocks) - sum(map(len, table.used))
        numbers = num_blocks - len(table.blocks) + reserve
        return wanted + reserve * len(self._bands) <= self.num_free and numbers <= len(self._free) + len(self._idle)

    def extend(self, table: BlockTable, num_tokens: int, first: int, last: int) -> bool:
        """Let go what the token at `first` does not see; then blocks for all tokens, and pages up to `last`."""
        missing = -(-max(num_tokens - table.capacity, 0) // self.block_size)
        table.used = table.used or [[] for _ in self._bands]
        start, end = first // self.block_size, last // self.block_size
        wanted = []
        for number, band in enumerate(self._bands):
            self._slide(number, band, table, start)
            used = table.used[number]
            new = max(start, used[-1] + 1 if used else 0)
            wanted += [(number, place) for place in _seen(band, end, end + 1) if place >= new]
        if missing > len(self._free) + len(self._idle) or len(wanted) > self.num_free:
            return False
        table.blocks += [self._take() for _ in range(missing)]
        table.capacity += missing * self.block_size
        while len(self._free_pages) < len(wanted):
            self._evict()
        for number, place in wanted:
            self._give_page(number, table, place)
        self.most_used = max(self.most_used, self.num_blocks - self.num_free)
        return True

    def release(self, table: BlockTable) -> None:
        left = []
        for number, used in enumerate(table.used):
            for place in used:
                block = table.blocks[place]
                self._leave(number, block)
                left.append((number, block))
        table.used = []
        super().release(table)
        for number, block in left:
            if self._holders[block] and not self._users[number].get(block, 1):
                self._free_page(number, block)

    def forget(self, table: BlockTable) -> list[int]:
        own = set(super().forget(table))
        used = [[table.blocks[place] for place in places] for places in table.used]
        return [NOBODYS_PAGE] + [self._pages[band][b] for band, blocks in enumerate(used) for b in blocks if b in own]

    def _whole(self, blocks: Sequence[int]) -> int:
        """How many of the blocks may be gone on from: every band has what the next token would see."""
        best = 0
        behind = [0] * len(self._bands)  # pages in a row up to here, behind the sinks
        lacks_sink = [False] * len(self._bands)
        for place, block in enumerate(blocks):
            for number, band in enumerate(self._bands):
                there = block in self._pages[number]
                if place < band.sinks:
                    lacks_sink[number] |= not there
                else:
                    behind[number] = behind[number] + 1 if there else 0
            seen = (place + 1 - band.first_seen(place + 1) for band in self._bands)
            if not any(lacks_sink) and all(have >= need for have, need in zip(behind, seen, strict=True)):
                best = place + 1
        return best

    def _use_seen(self, table: BlockTable, next_block: int) -> None:
        """Use what a token of the next block sees."""
        table.used = [_seen(band, next_block, next_block) for band in self._bands]
        for users, places in zip(self._users, table.used, strict=True):
            for place in places:
                block = table.blocks[place]
                self._num_idle_pages -= not users[block]
                users[block] += 1

    def _slide(self, number: int, band: Band, table: BlockTable, block: int) -> None:
        """Leave the pages behind the sinks that tokens of a block, and later ones, do not see."""
        first, used = band.first_seen(block), table.used[number]
        gone = [place for place in used if band.sinks <= place < first]
        for own in (table.blocks[place] for place in gone):
            self._leave(number, own)
            if not self._users[number][own]:
                self._free_page(number, own)
        if gone:
            table.used[number] = [place for place in used if not band.sinks <= place < first]

    def _leave(self, number: int, block: int) -> None:
        users = self._users[number]
        users[block] -= 1
        self._num_idle_pages += not users[block]

    def _give_page(self, number: int, table: BlockTable, place: int) -> None:
        block, page = table.blocks[place], self._free_pages.pop()
        self._pages[number][block], self._users[number][block] = page, 1
        self._assignments.append((number, block, page))
        table.used[number].append(place)

    def _free_page(self, number: int, block: int) -> None:
        """Take back the page of a block that nobody uses."""
        self._free_pages.append(self._pages[number].pop(block))
        self._assignments.append((number, block, NOBODYS_PAGE))
        self._users[number].pop(block)
        self._num_idle_pages -= 1

    def _discard(self, block: int) -> None:
        for number, pages in enumerate(self._pages):
            if block in pages:
                self._free_page(number, block)


def _seen(band: Band, block: int, end: int) -> list[int]:
    """Places before `end` that tokens of a block see."""
    return [*range(min(band.sinks, end)), *range(band.first_seen(block), end)]
