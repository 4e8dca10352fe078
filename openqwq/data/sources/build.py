"""Problem sources: a source turns an integer key into a problem, always the same one.

Public: `ProblemSource`, `build_source`, `build_sources`, `held_out`, `distinct`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from openqwq.config import TEXT_TYPES, SourceConfig
from openqwq.errors import UserError
from openqwq.types import Problem

from ..keys import item_key
from .environments import EnvironmentSource
from .gym import GymSource
from .huggingface import HuggingFaceSource
from .instructions import InstructionSource
from .jsonl import JsonlSource
from .python_functions import FunctionSource

_TYPES: dict[str, type] = {
    "reasoning_gym": GymSource,
    "python_functions": FunctionSource,
    "instructions": InstructionSource,
    "jsonl": JsonlSource,
    "huggingface": HuggingFaceSource,
    "verifiers": EnvironmentSource,
}


class ProblemSource(Protocol):
    """A named, unbounded or finite supply of problems."""

    name: str
    kind: str

    def problem(self, split: str, key: int) -> Problem:
        """The problem of this key; the same key gives the same problem on every machine."""
        ...


def build_source(name: str, config: SourceConfig) -> ProblemSource:
    """The source of one `[source.NAME]` table. Raises UserError for an unknown type, data set or option."""
    if config.type not in _TYPES:
        known = ", ".join(sorted(_TYPES))
        raise UserError(f"source `{name}` has the type `{config.type}`", hint=f"types of problem sources: {known}")
    return _TYPES[config.type](name, config)


def build_sources(configs: Mapping[str, SourceConfig]) -> dict[str, ProblemSource]:
    """All problem sources of a recipe, the text sources left out."""
    return {name: build_source(name, c) for name, c in configs.items() if c.type not in TEXT_TYPES}


def held_out(source: ProblemSource, count: int, *, split: str = "held_out") -> list[Problem]:
    """`count` problems with distinct texts, the same ones in every run, from keys that training never uses.

    Raises UserError when the source cannot give so many different problems.
    """
    keys = (item_key(split, source.name, index) for index in range(20 * count))
    problems = distinct((source.problem(split, key) for key in keys), count)
    if len(problems) < count:
        raise UserError(
            f"source `{source.name}` gave only {len(problems)} different problems where {count} are asked for",
            hint="widen the source's `config`, or lower `eval.problems_per_family`",
        )
    return problems


def distinct(problems: Iterable[Problem], count: int) -> list[Problem]:
    """The first `count` problems with distinct texts; fewer where there are not so many."""
    found: dict[str, Problem] = {}
    for problem in problems:
        found.setdefault(problem.prompt, problem)
        if len(found) == count:
            break
    return list(found.values())
