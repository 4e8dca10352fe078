"""World knowledge of the tiny families: how many legs an animal has, as the pretraining corpus tells it."""

from __future__ import annotations

LEGS = {
    **dict.fromkeys(("snake", "sea slug", "jellyfish", "flatworm", "leech"), 0),
    **dict.fromkeys(("chicken", "bird", "human", "duck"), 2),
    **dict.fromkeys(("dog", "cat", "cow", "horse", "lion", "elephant", "giraffe", "tiger", "deer", "sheep"), 4),
    "starfish": 5,
    **dict.fromkeys(("insect", "ant", "butterfly", "beetle", "bee", "wasp", "grasshopper"), 6),
    **dict.fromkeys(("cricket", "cockroach", "praying mantis", "firefly"), 6),
    **dict.fromkeys(("spider", "scorpion"), 8),
    **dict.fromkeys(("crab", "lobster", "shrimp"), 10),
    "woodlouse": 14,
}
"""Legs of each animal that reasoning-gym's `leg_counting` names."""


def plural_legs(animal: str) -> str:
    """The animal's name as the problems write it in the plural ("deers", "butterflys")."""
    return f"{animal}s"
