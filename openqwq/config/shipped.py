"""The recipes that come with the package, by their names.

Public: shipped_recipes, find_recipe, RECIPES.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from openqwq.errors import UserError

RECIPES = Path(__file__).resolve().parents[1] / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Name, as in "tiny" or "controls/sft-only", and file of every recipe that comes with the package."""
    files = sorted(RECIPES.rglob("*.toml"), key=lambda file: (len(file.parts), file))
    return {file.relative_to(RECIPES).with_suffix("").as_posix(): file for file in files}


def find_recipe(name: str | Path) -> Path:
    """The recipe's file: a path that is there, or the name of one that comes with the package.

    Raises UserError for a name without a suffix that is neither, naming what there is.
    """
    path = Path(name)
    if path.exists() or path.suffix:
        return path
    shipped = shipped_recipes()
    if str(name) in shipped:
        return shipped[str(name)]
    near = difflib.get_close_matches(str(name), shipped, n=1)
    raise UserError(
        f"there is no recipe `{name}`, neither a file nor one that comes with the package",
        hint=f"did you mean `{near[0]}`?" if near else f"`openqwq recipe list` shows them: {', '.join(shipped)}",
    )
