"""Options that several verbs share, so that they read and behave alike.

Public: add_recipe_arguments, add_quantization_argument, add_engine_arguments, add_engine_argument, check_model,
engine_options, read_bytes, add_style_argument, add_json_argument, print_json.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from openqwq.config.engine import EngineConfig, ModelOptions, option_choices, option_texts
from openqwq.errors import UserError

UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def add_recipe_arguments(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """RECIPE and any number of `--set a.b=value`; read them as `args.recipe` and `args.overrides`."""
    nargs: dict[str, Any] = {"nargs": "?", "default": ""} if optional else {}
    parser.add_argument(
        "recipe", metavar="RECIPE", **nargs, help="a recipe's TOML file, or the name of a shipped one, e.g. tiny"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="A.B=VALUE",
        action="append",
        default=[],
        help="change one value of the recipe, e.g. --set stage.rl.learning_rate=3e-6; may be repeated",
    )


SHARED: dict[str, dict[str, Any]] = {
    "quantization": {},
    "speculative_config": {"metavar": "JSON"},
    "kv_cache_memory": {"metavar": "SIZE"},
    "gpu_memory_utilization": {"type": float, "metavar": "SHARE"},
    "max_num_batched_tokens": {"type": int, "metavar": "N"},
    "kv_cache_dtype": {},
    "kernels": {},
    "rope_scaling": {"metavar": "JSON"},
    "attention_window": {"metavar": "KEY=VALUE,..."},
}
"""The options that every verb with an engine has, and what argparse needs to know of each."""
SIZES = ("max_model_len", "max_num_seqs", "seed")
"""The options that only some verbs have."""


def add_quantization_argument(parser: argparse.ArgumentParser) -> None:
    """`--quantization`: weights rounded as they are read."""
    add_engine_argument(parser, "quantization")


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """How a model runs, with vLLM's names; read them with `engine_options(args)`."""
    for name, form in SHARED.items():
        if name == "kv_cache_memory":
            form = {**form, "type": read_bytes}
        add_engine_argument(parser, name, **form)


def add_engine_argument(parser: argparse.ArgumentParser, name: str, **form: Any) -> None:
    """One option of `ModelOptions` or `EngineConfig`, with its default and explanation; `form`: for argparse."""
    cls = EngineConfig if name in option_texts(EngineConfig) else ModelOptions
    form = {"default": getattr(cls(), name), **form}
    if name in option_choices(cls):
        form["choices"] = option_choices(cls)[name]
    text = option_texts(cls)[name].rstrip(".").replace(" None: ", " Default: ").replace("%", "%%")
    first = text.partition(" ")[0]
    text = (first.lower() if first.istitle() else first) + text[len(first) :]
    if form["default"] is not None:
        text += " (default: %(default)s)"
    parser.add_argument(f"--{name.replace('_', '-')}", help=text, **form)


def check_model(name: str) -> None:
    """Raises UserError for a path that is not there, before anything heavy is imported."""
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).suffix == ".gguf"
    if is_path and not Path(name).expanduser().exists():
        raise UserError(f"there is no model at `{name}`", hint="give a model folder or a hub name such as Qwen/QwQ-32B")


def engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """Options of `LLM`. Raises UserError for JSON that is not an object."""
    options = {name: getattr(args, name) for name in (*SHARED, *SIZES) if getattr(args, name, None) is not None}
    for name in ("speculative_config", "rope_scaling"):
        if name in options:
            options[name] = _read_object(f"--{name.replace('_', '-')}", options[name])
    return options


def read_bytes(text: str) -> int:
    """Bytes from "8GiB", "512 MiB" or a whole number of them. Raises ArgumentTypeError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]iB|)", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 8GiB or 512MiB")
    return int(float(found[1]) * UNITS[found[2]])


def _read_object(option: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"`{option}` is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"`{option}` is not a JSON object")
    return value


def add_style_argument(parser: argparse.ArgumentParser) -> None:
    """`--style`: the system turn asks the model to think in fewer words."""
    parser.add_argument(
        "--style",
        choices=("concise", "draft"),
        help="system prompt that asks for concise thinking, or for drafts of 5 words per step (Chain of Draft)",
    )


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """`--json`: machines read stdout."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2))
