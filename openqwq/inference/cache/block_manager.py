"""Which blocks of the KV cache are held, free, or kept for a prefix that may come again. Plain Python: no torch.

A block holds the keys and values of `block_size` tokens in a row. A sequence holds a table of blocks; a full block
may be held by several whose tokens are equal up to its end. A block that nobody holds any more keeps its content,
and is found by the next prompt that begins alike, until its memory is needed: least recently used first.

A prefix is found by a chain: the key of a block is its own tokens and the number of the block before it in the
chain. Numbers are never used twice, and tokens are compared in full: two prefixes are never mistaken for each other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

ROOT = 0  # chain of sequences that are computed as usual
SCALED_ROOT = -1  # and of those that YaRN is for: equal tokens have other keys and values there

Key = tuple[int, tuple[int, ...]]


@dataclass(slots=True)
class BlockTable:
    """The blocks of one sequence, in the order of its tokens.

    capacity:   tokens that the blocks hold.
    link:       chain number of the last registered block.
    num_linked: how many of the blocks are registered; the ones after them are this sequence's own.
    epoch:      when the chain was begun; chains of older weights are not continued.
    used:       with attention windows (windowed_pool.py), which of `blocks` each band of layers reads, by their places.
    """

    blocks: list[int] = field(default_factory=list)
    capacity: int = 0
    link: int = ROOT
    num_linked: int = 0
    epoch: int = 0
    used: list[list[int]] = field(default_factory=list)


def format_bytes(number: int) -> str:
    """As in "1.50 GiB" or "24.0 MiB"."""
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"


class BlockPool:
    """`num_blocks` blocks of `block_size` tokens; `prefix_caching` False keeps no content."""

    def __init__(self, num_blocks: int, block_size: int, *, prefix_caching: bool = True):
        self.num_blocks, self.block_size, self.prefix_caching = num_blocks, block_size, prefix_caching
        self.epoch = 0
        self.most_used = 0
        self._holders = [0] * num_blocks
        # The block that was freed last is the likeliest to be in the processor's cache: a stack, low numbers on top.
        self._free = list(range(num_blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._by_key: dict[Key, tuple[int, int]] = {}
        self._key_of: dict[int, Key] = {}
        self._num_links = ROOT

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free) + len(self._idle)

    def match(self, tokens: Sequence[int], root: int = ROOT) -> BlockTable:
        """A table that holds the cached blocks of the longest known prefix of these tokens, whole blocks only.

        root: which of the chains; prefixes of different roots are never taken for each other.
        """
        return self._find(tokens, root)

    def _find(self, tokens: Sequence[int], root: int) -> BlockTable:
        table = BlockTable(link=root, epoch=self.epoch)
        if not self.prefix_caching:
            return table
        size = self.block_size
        for start in range(0, len(tokens) - size + 1, size):
            found = self._by_key.get((table.link, tuple(tokens[start : start + size])))
            if found is None:
                break
            block, table.link = found
            self._hold(block)
            table.blocks.append(block)
            table.num_linked += 1
        table.capacity = len(table.blocks) * size
        return table

    def fork(self, table: BlockTable, num_full: int) -> BlockTable:
        """A table that shares the first `num_full` blocks of another."""
        blocks = table.blocks[:num_full]
        for block in blocks:
            self._hold(block)
        epoch = table.epoch if table.num_linked == num_full else -1
        return BlockTable(blocks, num_full * self.block_size, table.link, num_full, epoch)

    def can_fork(self, table: BlockTable, num_tokens: int) -> bool:
        """Whether the table still holds what a sequence reads that goes on behind its first `num_tokens`."""
        return True

    def copies(self, source: BlockTable, target: BlockTable, index: int) -> list[tuple[int, int]]:
        """(from, to) in the cache, so that block `index` of one table has the content of the other's."""
        return [(source.blocks[index], target.blocks[index])]

    def fits(self, table: BlockTable, num_tokens: int, reserve: int) -> bool:
        """Whether `extend` could make room for `num_tokens` and leave `reserve` blocks free."""
        return -(-num_tokens // self.block_size) - len(table.blocks) + reserve <= self.num_free

    def extend(self, table: BlockTable, num_tokens: int, first: int, last: int) -> bool:
        """Hold blocks until there is room for `num_tokens`; False, and nothing changed, when too few are free.

        first, last: positions that are computed next; all before `first` are in the cache.
        """
        missing = -(-max(num_tokens - table.capacity, 0) // self.block_size)
        if missing > len(self._free) + len(self._idle):
            return False
        table.blocks += [self._take() for _ in range(missing)]
        table.capacity += missing * self.block_size
        self.most_used = max(self.most_used, self.num_blocks - self.num_free)
        return True

    def register(self, table: BlockTable, tokens: Sequence[int], num_computed: int) -> None:
        """Let later prompts find the table's full blocks among the first `num_computed` tokens."""
        if not self.prefix_caching or table.epoch != self.epoch:
            return
        size = self.block_size
        for index in range(table.num_linked, num_computed // size):
            key = (table.link, tuple(tokens[index * size : (index + 1) * size]))
            found = self._by_key.get(key)
            if found is None:
                self._num_links += 1
                block = table.blocks[index]
                self._by_key[key] = found = (block, self._num_links)
                self._key_of[block] = key
            table.link = found[1]
            table.num_linked += 1

    def release(self, table: BlockTable) -> None:
        """Give up a table; the end of its chain is forgotten before the beginning."""
        for block in reversed(table.blocks):
            self._holders[block] -= 1
            if self._holders[block] == 0:
                if block in self._key_of:
                    self._idle[block] = None
                else:
                    self._discard(block)
                    self._free.append(block)
        table.blocks.clear()
        table.capacity = table.num_linked = 0
        table.link = ROOT

    def drop(self, tokens: Sequence[int], keep: int, root: int = ROOT) -> int:
        """Free the cached blocks of these tokens behind the first `keep` that nobody holds; how many there were."""
        table = self._find(tokens, root)
        freed = 0
        for block in table.blocks[keep // self.block_size :]:
            if self._holders[block] == 1:
                del self._by_key[self._key_of.pop(block)]
                freed += 1
        self.release(table)
        return freed

    def forget(self, table: BlockTable) -> list[int]:
        """Places in the cache of blocks of a table that nobody else holds; no later prompt will find them."""
        own = [block for block in table.blocks if self._holders[block] == 1]
        for block in own:
            if block in self._key_of:
                del self._by_key[self._key_of.pop(block)]
        table.epoch = -1
        return own

    def reset(self) -> None:
        """Forget every prefix: the weights have changed. Held blocks stay with their holders."""
        self.epoch += 1
        self._by_key.clear()
        self._key_of.clear()
        for block in self._idle:
            self._discard(block)
        self._free += reversed(self._idle)
        self._idle.clear()

    def _hold(self, block: int) -> None:
        self._idle.pop(block, None)
        self._holders[block] += 1

    def _take(self) -> int:
        if not self._free:
            self._evict()
        block = self._free.pop()
        self._holders[block] = 1
        return block

    def _evict(self) -> None:
        """Give the memory of the content that was not used for longest to others."""
        block, _ = self._idle.popitem(last=False)
        del self._by_key[self._key_of.pop(block)]
        self._discard(block)
        self._free.append(block)

    def _discard(self, block: int) -> None:
        """The content of a block that nobody holds is of no use any more."""
