"""Preference pairs for the reward model: a text that does what was asked against a spoilt one.

The rejected text differs in one named way (off topic, scrambled, repetitive, unfinished), so the reward
model learns what the rule verifiers cannot see: whether the text is about the topic and reads well.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from openqwq.errors import UserError
from openqwq.types import Problem

from .instructions import TOPICS, Rule, write_text
from .keys import item_key
from .sources import ProblemSource

FLAWS = ("off topic", "scrambled", "repetitive", "unfinished")


@dataclass(frozen=True)
class PreferencePair:
    """A problem with a better and a worse answer (no thinking: the reward model reads answers)."""

    problem: Problem
    chosen: str
    rejected: str
    flaw: str


def build_pairs(source: ProblemSource, count: int, *, seed: int, first: int = 0) -> list[PreferencePair]:
    """`count` pairs from position `first` on; positions do not overlap between training and held-out pairs."""
    return [_pair(source, item_key("pairs", seed, source.name, index)) for index in range(first, first + count)]


def _pair(source: ProblemSource, key: int) -> PreferencePair:
    problem = source.problem("pairs", key)
    if "topic" not in problem.metadata:
        raise UserError(f"source `{source.name}` gives no preference pairs", hint='use a source of type "instructions"')
    rng = Random(key)
    topic = problem.metadata["topic"]
    rules = [Rule(**rule) for rule in problem.metadata["rules"]]
    chosen = write_text(topic, rules, rng)
    flaw = rng.choice(FLAWS)
    return PreferencePair(problem, chosen, _spoil(chosen, flaw, topic, rules, rng), flaw)


def _spoil(text: str, flaw: str, topic: str, rules: list[Rule], rng: Random) -> str:
    words = text.split(" ")
    if flaw == "off topic":
        other = rng.choice([t for t in TOPICS if t != topic])
        free = [rule for rule in rules if not rule.id.startswith("keywords:")]
        return write_text(other, free, rng)
    if flaw == "scrambled" and len(words) > 2:
        while True:
            shuffled = rng.sample(words, len(words))
            if shuffled != words:
                return " ".join(shuffled)
    if flaw == "repetitive":
        at = rng.randrange(len(words))
        return " ".join([*words[:at], *[words[at]] * rng.randint(3, 5), *words[at + 1 :]])
    return " ".join(words[: max(1, len(words) // 2)]) if len(words) > 1 else text + text
