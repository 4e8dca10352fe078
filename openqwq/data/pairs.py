"""Preference pairs for the reward model: a text that does what was asked against a spoilt one.

The rejected text differs in one named way (off topic, scrambled, repetitive, unfinished), so the reward
model learns what the rule verifiers cannot see: whether the text is about the topic and reads well.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from openqwq.errors import UserError
from openqwq.types import Problem

from .keys import item_key
from .sources.build import ProblemSource
from .sources.instructions import TOPICS, Rule, write_text

FLAWS = ("off topic", "scrambled", "repetitive", "unfinished")
SHORT_FLAWS = ("off topic", "repetitive")
"""Flaws that a text of one or two words can have; the others need something to scramble or to cut."""


@dataclass(frozen=True)
class PreferencePair:
    """A problem with a better and a worse answer (no thinking: the reward model reads answers)."""

    problem: Problem
    chosen: str
    rejected: str
    flaw: str


def build_pairs(
    source: ProblemSource, count: int, *, seed: int, first: int = 0, exclude: frozenset[str] = frozenset()
) -> list[PreferencePair]:
    """`count` pairs from position `first` on; positions do not overlap between training and held-out pairs.

    exclude: texts of held-out problems, of which no pair is made.
    """
    return [_pair(source, _draw(source, seed, index, exclude)) for index in range(first, first + count)]


def _draw(source: ProblemSource, seed: int, index: int, exclude: frozenset[str]) -> int:
    """The key of a position's problem: the first one that is not held out."""
    for parts in ((index,), *((index, again) for again in range(1, 1000))):
        key = item_key("pairs", seed, source.name, *parts)
        if source.problem("pairs", key).prompt not in exclude:
            return key
    raise UserError(
        f"source `{source.name}` gives no preference pairs: 1000 problems in a row were held-out ones",
        hint="widen the source's `config`, or lower `eval.problems_per_family`",
    )


def _pair(source: ProblemSource, key: int) -> PreferencePair:
    problem = source.problem("pairs", key)
    if "topic" not in problem.metadata:
        raise UserError(f"source `{source.name}` gives no preference pairs", hint='use a source of type "instructions"')
    rng = Random(key)
    topic = problem.metadata["topic"]
    rules = [Rule(**rule) for rule in problem.metadata["rules"]]
    chosen = write_text(topic, rules, rng)
    flaw = rng.choice([flaw for flaw in FLAWS if flaw in SHORT_FLAWS or len(set(chosen.split(" "))) > 2])
    return PreferencePair(problem, chosen, _spoil(chosen, flaw, topic, rules, rng), flaw)


def _spoil(text: str, flaw: str, topic: str, rules: list[Rule], rng: Random) -> str:
    words = text.split(" ")
    if flaw == "off topic":
        free = [rule for rule in rules if not rule.id.startswith("keywords:")]
        others = [other for other in TOPICS if other != topic]
        return next(t for t in (write_text(rng.choice(others), free, rng) for _ in range(100)) if t != text)
    if flaw == "scrambled":
        orders = (rng.sample(words, len(words)) for _ in range(100))
        return " ".join(next(order for order in orders if order != words))
    if flaw == "repetitive":
        at = rng.randrange(len(words))
        return " ".join([*words[:at], *[words[at]] * rng.randint(3, 5), *words[at + 1 :]])
    return " ".join(words[: len(words) // 2])
