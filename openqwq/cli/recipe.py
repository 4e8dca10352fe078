"""Show a recipe with every value resolved, or check it.

`show` prints the recipe as it will run, parents and defaults filled in, as a TOML file that can be run again.
`check` makes all that `train` would make before its first step, but for weights: sources, verifiers, held-out problems,
files of chains. It says in one line what the recipe does and what was not checked, or what is wrong (exit 2).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openqwq.config import Recipe, load_recipe, recipe_to_dict
from openqwq.errors import UserError
from openqwq.log import counted

from ._options import add_json_argument, add_recipe_arguments, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("show", "check"))
    add_recipe_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    return _check(args) if args.action == "check" else _show(args)


def _show(args: argparse.Namespace) -> int:
    tables = recipe_to_dict(load_recipe(args.recipe, args.overrides))
    if args.json:
        print_json(tables)
    else:
        print(to_toml(tables), end="")
    return 0


def _check(args: argparse.Namespace) -> int:
    try:
        recipe = load_recipe(args.recipe, args.overrides)
        unchecked = _preflight(recipe)
    except UserError as error:
        if args.json:
            print_json({"ok": False, "error": error.message, "hint": error.hint})
        raise
    if args.json:
        print_json({"ok": True, "name": recipe.name, "stages": list(recipe.stage), "not_checked": unchecked})
    else:
        print(f"{args.recipe}: ok: {_summary(recipe)}")
        for what in unchecked:
            print(f"not checked: {what}")
    return 0


def _preflight(recipe: Recipe) -> list[str]:
    from openqwq.pipeline.materials import Materials
    from openqwq.pipeline.preflight import preflight

    return preflight(Materials(recipe, Path("runs") / recipe.name))


def _summary(recipe: Recipe) -> str:
    stages = " -> ".join(f"{name} ({stage.kind})" for name, stage in recipe.stage.items())
    families, targets = len(recipe.eval.families), len(recipe.target)
    return f"{stages}; {families} {'family' if families == 1 else 'families'} evaluated, {counted(targets, 'target')}"


def to_toml(tables: Mapping[str, Any], prefix: str = "") -> str:
    """The tables as TOML; what is None is left out. Small tables of plain values stand on one line."""
    plain, nested = [], []
    for key, value in tables.items():
        if isinstance(value, Mapping) and _needs_header(value):
            header = f"{prefix}{_key(key)}"
            body = to_toml(value, f"{header}.")
            own = not all(isinstance(v, Mapping) and _needs_header(v) for v in value.values())
            nested.append(f"\n[{header}]\n{body}" if own else body)
        elif not prefix and isinstance(value, list) and value and isinstance(value[0], Mapping):
            nested += [f"\n[[{_key(key)}]]\n{to_toml(item, key + '.')}" for item in value]
        elif value is not None:
            plain.append(f"{_key(key)} = {_inline(value)}\n")
    return "".join(plain + nested)


def _needs_header(table: Mapping[str, Any]) -> bool:
    return len(table) > 4 or any(isinstance(value, Mapping) for value in table.values())


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _inline(key)


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_inline(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    # JSON's texts, numbers and booleans are TOML's, but for the one control character that JSON leaves bare
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
