"""Options that several verbs share, so that they read and behave alike.

Public: add_recipe_arguments, add_engine_arguments, engine_options, add_json_argument, print_json.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from openqwq.errors import UserError


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


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """How a model runs, with vLLM's names; read them with `engine_options(args)`."""
    parser.add_argument(
        "--speculative-config",
        metavar="JSON",
        help='guess tokens, e.g. \'{"model": "small/model", "num_speculative_tokens": 4}\' or, from what stands in '
        'the prompt, \'{"method": "ngram", "num_speculative_tokens": 4}\'',
    )


def engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """Options of `LLM` that were given. Raises UserError for a configuration that is none."""
    options: dict[str, Any] = {}
    if args.speculative_config is not None:
        try:
            config = json.loads(args.speculative_config)
        except ValueError as error:
            raise UserError(f"`--speculative-config` is not JSON: {error}") from error
        if not isinstance(config, dict):
            raise UserError("`--speculative-config` is not a JSON object")
        options["speculative_config"] = config
    return options


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """`--json`: machines read stdout."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2))
