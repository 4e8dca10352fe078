"""Stable integer keys: each generated item is a pure function of its key, so a cursor is only a step number."""

from __future__ import annotations

import hashlib
from random import Random

SPLITS = ("train", "held_out", "gate", "chains", "pairs", "corpus")
"""Keys of different splits never meet: the split is written into the key's top bits."""


def item_key(split: str, *parts: str | int) -> int:
    """A 56-bit integer from the parts, the same on every machine; keys of two splits are disjoint."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=6).digest()
    return (SPLITS.index(split) << 48) | int.from_bytes(digest, "big")


def item_rng(split: str, *parts: str | int) -> Random:
    """A random generator seeded with the item's key."""
    return Random(item_key(split, *parts))
