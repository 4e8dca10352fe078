"""Problem sources: a source turns an integer key into a problem, always the same one.

Public: `ProblemSource`, `build_source`, `build_sources`, `held_out`, `distinct`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Protocol

from openqwq.config import TEXT_TYPES, SourceConfig
from openqwq.errors import UserError
from openqwq.log import logger
from openqwq.types import Problem
from openqwq.verifiers import check_verifier_name

from ..keys import item_key
from .environments import EnvironmentSource
from .finite import FiniteSource
from .gym import GymSource
from .huggingface import HuggingFaceSource
from .instructions import InstructionSource
from .jsonl import JsonlSource
from .python_functions import FunctionSource
from .python_source import python_source

_TYPES: dict[str, Callable[[str, SourceConfig], Any]] = {
    "reasoning_gym": GymSource,
    "python_functions": FunctionSource,
    "instructions": InstructionSource,
    "jsonl": JsonlSource,
    "python": python_source,
    "huggingface": HuggingFaceSource,
    "verifiers": EnvironmentSource,
}
_OF_ALL = {"type", "kind", "config", "verifier", "verifier_options"}
_FIELDS = {
    "reasoning_gym": {"dataset", "prompt_suffix"},
    "python_functions": {"prompt_suffix"},
    "instructions": set[str](),
    "jsonl": {"path", "held_out_path", "prompt_suffix"},
    "python": {"path", "held_out_path", "prompt_suffix"},
    "huggingface": {"dataset", "path", "prompt_suffix"},
    "verifiers": {"dataset", "prompt_suffix"},
    "corpus": set[str](),
    "text": {"path"},
}
"""What each type reads of a source's table besides what all read."""


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
        near = get_close_matches(config.type, _TYPES, n=1)
        known = ", ".join(sorted(_TYPES))
        hint = f"did you mean `{near[0]}`? ({known})" if near else f"types of problem sources: {known}"
        raise UserError(f"source `{name}` has the type `{config.type}`, which does not exist", hint=hint)
    _refuse_unread(name, config)
    if config.verifier:
        try:
            check_verifier_name(config.verifier)
        except UserError as error:
            raise UserError(
                f"problems of the source `{name}` ask for the verifier `{config.verifier}`, which is not there",
                hint=error.hint,
            ) from error
    return _TYPES[config.type](name, config)


def _refuse_unread(name: str, config: SourceConfig) -> None:
    """Raise UserError for a value that the type of source would not look at."""
    for field in dataclasses.fields(config):
        of_all = {"type", "config"} if config.type in TEXT_TYPES else _OF_ALL
        if field.name in of_all or field.name in _FIELDS[config.type]:
            continue
        if value := getattr(config, field.name):
            raise UserError(
                f"`{field.name}` is {value!r} in source `{name}`, but the type `{config.type}` does not read it",
                hint="take it out",
            )


def build_sources(configs: Mapping[str, SourceConfig]) -> dict[str, ProblemSource]:
    """All problem sources of a recipe, the text sources left out. Raises UserError as `build_source` does."""
    for name, config in configs.items():
        if config.type in TEXT_TYPES:
            _refuse_unread(name, config)
    return {name: build_source(name, c) for name, c in configs.items() if c.type not in TEXT_TYPES}


def held_out(source: ProblemSource, count: int, *, split: str = "held_out") -> list[Problem]:
    """`count` problems with distinct texts, the same ones in every run, from keys that training never uses.

    Of a finite source with fewer of them all are given. Raises UserError when a generator cannot give so many.
    """
    keys = (item_key(split, source.name, index) for index in range(20 * count))
    problems = distinct((source.problem(split, key) for key in keys), count)
    if len(problems) < count and isinstance(source, FiniteSource):
        problems = distinct(source.part(split), count)
        if split == "held_out" and len(problems) < count:
            logger.info("source `%s` has %d held-out problems, of %d asked for", source.name, len(problems), count)
    elif len(problems) < count:
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
