"""Show, check or list recipes, or begin one for your own model and data.

`show` prints the recipe as it will run, parents and defaults filled in, as a TOML file that can be run again.
`check` makes all that `train` would make before its first step, but for weights: sources, verifiers, held-out problems,
files of chains. It says in one line what the recipe does and what was not checked, or what is wrong (exit 2).
`list` names the recipes that come with the package; each is run by its name, as in `openqwq train tiny`.
`init FILE --model MODEL --data ROWS.jsonl` writes a recipe that trains that model on those rows.
"""

from __future__ import annotations

import argparse
import json
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openqwq.config import Recipe, load_recipe, recipe_to_dict
from openqwq.errors import UserError
from openqwq.log import counted

from ._options import add_json_argument, add_recipe_arguments, print_json

SHOWN = 88  # characters of a description in a list
TEMPLATE = """\
# Reinforcement learning of your own model on your own rows. Every setting: `openqwq recipe show`, docs/train.md.

[model]
path = {model}

# A model whose template opens no thinking block learns QwQ's form with this:
# [tokenizer]
# chat_template = "qwq"

[source.mine]
type = "jsonl"
path = {data}
# held_out_path = "test.jsonl"   # rows to evaluate on; without it a tenth of the rows is held out
verifier = {verifier}

[stage.rl]
kind = "rl"
mix = {{ mine = 1.0 }}
steps = 100
prompts_per_step = 16
samples_per_prompt = 8
max_completion_tokens = 1024
learning_rate = 1e-6

[eval]
families = ["mine"]
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("show", "check", "list", "init"))
    add_recipe_arguments(parser, optional=True)
    parser.add_argument("--model", default="", metavar="MODEL", help="init: a model folder or hub name")
    parser.add_argument("--data", default="", metavar="ROWS.jsonl", help="init: rows with `question` and `answer`")
    parser.add_argument(
        "--verifier", default="math", metavar="NAME", help="init: a verifier or FILE.py:FUNCTION (math)"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    if args.action == "list":
        return _list(args)
    if not args.recipe:
        raise UserError(f"`recipe {args.action}` needs a recipe", hint=f"as in `openqwq recipe {args.action} tiny`")
    return {"check": _check, "show": _show, "init": _init}[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from openqwq.config import shipped_recipes

    rows = {name: _first_comment(file) for name, file in shipped_recipes().items()}
    if args.json:
        print_json(rows)
    else:
        width = max(map(len, rows))
        print("\n".join(f"{name:<{width}}  {text}" for name, text in rows.items()))
    return 0


def _first_comment(file: Path) -> str:
    """The first sentence of the comment at a recipe's head."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    sentence, _, _ = " ".join(lines).partition(". ")
    return textwrap.shorten(sentence.rstrip("."), SHOWN, placeholder=" ...")


def _init(args: argparse.Namespace) -> int:
    from openqwq.log import write_text_atomic

    path = Path(args.recipe)
    if path.exists():
        raise UserError(f"{path} exists already", hint="choose another name, or delete it")
    if not args.model or not args.data:
        raise UserError(
            "`recipe init` needs a model and data",
            hint=f"openqwq recipe init {path} --model Qwen/Qwen2.5-0.5B-Instruct --data problems.jsonl",
        )
    folder = path.parent.resolve()
    values = {
        "model": _relative(args.model, folder),
        "data": _relative(args.data, folder),
        "verifier": args.verifier,
    }
    text = TEMPLATE.format(**{name: _inline(value) for name, value in values.items()})
    write_text_atomic(path, text)
    print(f"{path} is written; check it with `openqwq recipe check {path}`, run it with `openqwq train {path}`")
    return 0


def _relative(name: str, folder: Path) -> str:
    """A file or folder as the recipe in `folder` names it; a hub name as it is."""
    return os.path.relpath(Path(name).resolve(), folder) if Path(name).exists() else name


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
