"""Options that several verbs share, so that they read and behave alike.

Public: add_recipe_arguments, add_quantization_argument, add_engine_arguments, check_model, engine_options,
read_bytes,
add_style_argument, add_json_argument, print_json.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

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


def add_quantization_argument(parser: argparse.ArgumentParser) -> None:
    """`--quantization`: weights rounded as they are read."""
    parser.add_argument(
        "--quantization",
        choices=("bf16", "int8", "int4"),
        help="round the weights as they are read: a half, a quarter, an eighth of float32's memory "
        "(default: as the folder holds them)",
    )


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """How a model runs, with vLLM's names; read them with `engine_options(args)`."""
    add_quantization_argument(parser)
    parser.add_argument(
        "--speculative-config",
        metavar="JSON",
        help='guess tokens, e.g. \'{"model": "small/model", "num_speculative_tokens": 4}\' or, from what stands in '
        'the prompt, \'{"method": "ngram", "num_speculative_tokens": 4}\'',
    )
    parser.add_argument(
        "--kv-cache-memory",
        type=read_bytes,
        metavar="SIZE",
        help="memory for the KV cache, e.g. 8GiB (default: half of what a GPU has free, or 2GiB on a CPU)",
    )
    parser.add_argument(
        "--gpu-memory-utilization",
        type=float,
        metavar="SHARE",
        help="instead of it: the share of a GPU for weights and cache together, e.g. 0.9",
    )
    parser.add_argument(
        "--max-num-batched-tokens",
        type=int,
        metavar="N",
        help="tokens of one pass, longer prompts go in chunks: fewer let others on sooner (8192)",
    )
    parser.add_argument(
        "--kv-cache-dtype",
        choices=("auto", "float32", "bfloat16", "int8"),
        default="auto",
        help="what the KV cache is kept in; bfloat16 and int8 hold more tokens and round (auto: the model's own)",
    )
    parser.add_argument(
        "--rope-scaling",
        metavar="JSON",
        help='YaRN for what is longer than the trained window, e.g. \'{"rope_type": "yarn", "factor": 4.0, '
        '"original_max_position_embeddings": 32768}\'; what fits stays plain',
    )
    parser.add_argument(
        "--attention-window",
        metavar="KEY=VALUE,...",
        help="free what attention hardly looks at: tokens=1024 for every layer, or mass=0.99,text=FILE for windows "
        "that hold that share of each layer's attention on a text (default: all layers see everything)",
    )


def check_model(name: str) -> None:
    """Raises UserError for a path that is not there, before anything heavy is imported."""
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).suffix == ".gguf"
    if is_path and not Path(name).expanduser().exists():
        raise UserError(f"there is no model at `{name}`", hint="give a model folder, a hub name such as Qwen/QwQ-32B")


def engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """Options of `LLM` that were given. Raises UserError for a configuration that is none."""
    options: dict[str, Any] = {"kv_cache_dtype": args.kv_cache_dtype, "quantization": args.quantization}
    for name in ("speculative_config", "rope_scaling"):
        if getattr(args, name) is not None:
            options[name] = _read_object(f"--{name.replace('_', '-')}", getattr(args, name))
    for name in ("kv_cache_memory", "gpu_memory_utilization", "max_num_batched_tokens", "attention_window"):
        if getattr(args, name) is not None:
            options[name] = getattr(args, name)
    return options


def read_bytes(text: str) -> int:
    """Bytes from "8GiB", "512 MiB" or a whole number of them. Raises ArgumentTypeError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]iB|)", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size, as 8GiB and 512MiB are")
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
        help="ask in the system turn for concise thinking, or for drafts of 5 words a step (Chain of Draft)",
    )


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """`--json`: machines read stdout."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2))
