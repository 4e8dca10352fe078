"""`openqwq.train(...)`: a recipe with reward functions and problems that are handed in from Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openqwq.config import Recipe, SourceConfig, recipe_from_tables
from openqwq.data.sources.python_source import Rows, given_rows
from openqwq.verifiers import given_verifiers
from openqwq.verifiers.registry import Given

if TYPE_CHECKING:
    from openqwq.pipeline import RunOutcome


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    out: str | Path | None = None,
    *,
    verifiers: Mapping[str, Given] | None = None,
    sources: Mapping[str, Rows] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> RunOutcome:
    """Run a recipe into the folder `out` (default runs/NAME) and give what `pipeline.run` gives.

    recipe:    the path of a TOML file, its tables as a dict, or a `Recipe`.
    verifiers: reward functions by the names that the recipe calls them. They run in worker processes forked now.
    sources:   rows, or functions that make them, by the names of sources. A source that the recipe does not describe
               is judged by the one verifier that is handed in, if it is one, else by `math`.
    Raises UserError for what the user can fix, before any weights are loaded where that is possible.
    """
    with ExitStack() as stack:
        codes = stack.enter_context(given_verifiers(verifiers or {}))
        data = stack.enter_context(given_rows(sources or {}))
        resolved = _resolve(recipe, list(sources or {}), list(verifiers or {}))
        from openqwq.pipeline import run  # torch comes in here, after the fork

        code = {f"verifiers.{name}": digest for name, digest in codes.items()}
        code |= {f"sources.{name}": digest for name, digest in data.items()}
        folder = out or Path("runs") / resolved.name
        return run(resolved, folder, resume=resume, overwrite=overwrite, code=code)


def _resolve(recipe: str | Path | Mapping[str, Any] | Recipe, sources: list[str], verifiers: list[str]) -> Recipe:
    described: dict[str, Any] = {"type": "python", "verifier": verifiers[0] if len(verifiers) == 1 else ""}
    if isinstance(recipe, Recipe):
        own = {name: SourceConfig(**described) for name in sources if name not in recipe.source}
        return dataclasses.replace(recipe, source={**recipe.source, **own})
    return recipe_from_tables(recipe, dict.fromkeys(sources, described))
