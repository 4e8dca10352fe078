"""Options that several verbs share, so that they read and behave alike.

Public: add_recipe_arguments, add_json_argument, print_json.
"""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """RECIPE and any number of `--set a.b=value`; read them as `args.recipe` and `args.overrides`."""
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's TOML file, e.g. recipes/tiny.toml")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="A.B=VALUE",
        action="append",
        default=[],
        help="change one value of the recipe, e.g. --set stage.rl.learning_rate=3e-6; may be repeated",
    )


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """`--json`: machines read stdout."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2))
