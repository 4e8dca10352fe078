"""The cold start's fixed set of reasoning chains: built by teachers, filtered by our own verifiers.

A chain is kept only if its answer is right and its thinking neither loops, nor mixes languages, nor
contradicts or guesses the answer (the filters of the Qwen3 report, arXiv:2505.09388, section 4.1).
The manifest counts the kept ones by category and the dropped ones by reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from openqwq.errors import UserError
from openqwq.types import Problem
from openqwq.verifiers import Verifier, get_verifier

from .keys import item_key
from .sources import ProblemSource
from .teachers import teach

Teacher = Callable[[Problem, Random], tuple[str, str]]
"""A problem and a random generator to (thinking, answer)."""


@dataclass(frozen=True)
class Chain:
    """One demonstration: the problem, the thinking, the answer."""

    problem: Problem
    thinking: str
    answer: str

    @property
    def completion(self) -> str:
        """What follows a prompt that ends in an open thinking tag."""
        return f"{self.thinking}\n</think>\n\n{self.answer}"

    def to_dict(self) -> dict[str, Any]:
        return {"problem": self.problem.to_dict(), "thinking": self.thinking, "answer": self.answer}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Chain:
        """Inverse of `to_dict`."""
        return cls(Problem.from_dict(row["problem"]), row["thinking"], row["answer"])


@dataclass
class Manifest:
    """How many chains were kept by category, and how many were dropped by reason."""

    kept: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        return {"kept": dict(self.kept), "dropped": dict(self.dropped), "total": sum(self.kept.values())}


def build_chains(
    sources: Mapping[str, ProblemSource],
    counts: Mapping[str, int],
    *,
    seed: int,
    exclude: frozenset[str] = frozenset(),
    teacher: Teacher = teach,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[list[Chain], Manifest]:
    """`counts[name]` chains of each source, all of different problems, and the manifest.

    options: verifier options by source name.
    Raises UserError when a teacher fails so often that the set cannot be filled.
    """
    chains: list[Chain] = []
    manifest = Manifest()
    for name, wanted in counts.items():
        verify_options = (options or {}).get(name, {})
        chains += _one_category(sources[name], wanted, seed, exclude, teacher, verify_options, manifest)
    Random(seed).shuffle(chains)
    return chains, manifest


def _one_category(
    source: ProblemSource,
    wanted: int,
    seed: int,
    exclude: frozenset[str],
    teacher: Teacher,
    verifier_options: Mapping[str, Any],
    manifest: Manifest,
) -> list[Chain]:
    kept: dict[str, Chain] = {}
    verifiers: dict[str, Verifier] = {}
    for index in range(20 * wanted + 100):
        if len(kept) == wanted:
            break
        key = item_key("chains", seed, source.name, index)
        problem = source.problem("chains", key)
        if problem.prompt in exclude or problem.prompt in kept:
            continue
        chain = Chain(problem, *teacher(problem, Random(key)))
        name = problem.verifier
        verifiers.setdefault(name, get_verifier(name, **verifier_options))
        reason = rejection(chain, verifiers[name])
        if reason:
            manifest.dropped[reason] += 1
        else:
            kept[problem.prompt] = chain
    if len(kept) < wanted:
        raise UserError(
            f"only {len(kept)} of {wanted} chains of `{source.name}` could be built",
            hint=f"dropped: {dict(manifest.dropped)}; widen the source, or use a better teacher",
        )
    manifest.kept[source.name] += wanted
    return list(kept.values())


GUESSING = re.compile(r"\b(i guess|just guess|let me guess|can't tell|probably just|not sure but)\b", re.IGNORECASE)


def rejection(chain: Chain, verifier: Verifier) -> str:
    """Why the chain is dropped; empty when it is kept."""
    if not chain.thinking.strip():
        return "no thinking"
    if GUESSING.search(chain.thinking):
        return "guessing"
    for name, reason in (("repetition", "repetitive"), ("language", "language-mixed")):
        if get_verifier(name)(chain.problem, chain.completion).status == "wrong":
            return reason
    verdict = verifier(chain.problem, chain.completion)
    if verdict.status != "correct":
        return "unjudged" if verdict.status == "unjudged" else "wrong answer"
    return "" if thinking_agrees(chain) else "thinking inconsistent with answer"


def thinking_agrees(chain: Chain) -> bool:
    """Whether a boxed answer is what the thinking arrives at: its last number, where it has numbers."""
    boxed = re.findall(r"\\boxed\{(-?\d+)\}", chain.answer)
    numbers = re.findall(r"-?\d+", chain.thinking)
    if not boxed or not numbers:
        return True
    return boxed[-1] in numbers
