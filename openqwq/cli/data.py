"""Build a cold start's reasoning chains, or show the problems of a source.

`chains` writes the chains of a supervised stage as JSON lines and prints the manifest: how many were kept by category,
how many dropped by reason. Without a teacher's URL the programmatic teachers of the tiny families make them. With one,
answers are kept beside the output (NAME.attempts.jsonl): the same command goes on where it was cut short.
`show` prints the first training problems (or texts) of a source.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

from openqwq.errors import UserError

from ._options import add_json_argument, add_recipe_arguments, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two actions, each with its own options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="chains|show")
    _add_chains_arguments(actions.add_parser("chains", help="write the chains of a supervised stage"))
    show = actions.add_parser("show", help="print problems of a source")
    add_recipe_arguments(show)
    show.add_argument("source", metavar="SOURCE", help="the name of a [source.NAME] table")
    show.add_argument("-n", "--count", type=int, default=3, help="how many (default: %(default)s)")
    add_json_argument(show)


def _add_chains_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser)
    parser.add_argument("--stage", required=True, help="the supervised stage whose `chains` are built")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.jsonl", help="where the chains go")
    teacher = parser.add_argument_group("teacher behind an OpenAI-compatible server")
    teacher.add_argument("--teacher-url", metavar="URL", help="e.g. http://localhost:8000/v1")
    teacher.add_argument("--teacher-model", metavar="NAME", help="the model's name at that server")
    teacher.add_argument("--teacher-key-env", metavar="VARIABLE", default="", help="environment variable with the key")
    teacher.add_argument("--samples", type=int, default=4, help="attempts at a problem (default: %(default)s)")
    teacher.add_argument("--workers", type=int, default=8, help="requests at one time (default: %(default)s)")
    teacher.add_argument("--temperature", type=float, help="sampling temperature (default: 0.6)")
    teacher.add_argument("--max-tokens", type=int, help="longest completion (default: 16384)")
    teacher.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="default: %(default)g")


def run(args: argparse.Namespace) -> int:
    """Do the action; 0 when it is done."""
    return _chains(args) if args.action == "chains" else _show(args)


def _chains(args: argparse.Namespace) -> int:
    from openqwq.config import SFTStage, load_recipe
    from openqwq.data import write_chains
    from openqwq.pipeline.materials import Materials

    _check_chain_options(args)
    recipe = load_recipe(args.recipe, args.overrides)
    stage = recipe.stage.get(args.stage)
    if not isinstance(stage, SFTStage) or not stage.chains:
        names = [name for name, s in recipe.stage.items() if isinstance(s, SFTStage) and s.chains]
        raise UserError(
            f"{args.recipe} has no stage `{args.stage}` that builds chains",
            hint=f"stages that do: {', '.join(names) or 'none'}",
        )
    with tempfile.TemporaryDirectory() as folder:
        chains, manifest = Materials(recipe, Path(folder)).build_chains(
            stage,
            teacher=_server_teacher(args) if args.teacher_url else None,
            workers=args.workers if args.teacher_url else 1,
        )
    write_chains(args.output, chains, manifest)
    print_json(manifest.to_dict())
    return 0


def _check_chain_options(args: argparse.Namespace) -> None:
    if bool(args.teacher_url) != bool(args.teacher_model):
        raise UserError("`--teacher-url` and `--teacher-model` are only of use together", hint="give both, or none")
    for name in ("samples", "workers"):
        if getattr(args, name) < 1:
            raise UserError(f"`--{name}` is {getattr(args, name)}, and 1 is the least")
    folder = args.output.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"`--output` is {args.output}, but {folder} is no folder that can be written to")


def _server_teacher(args: argparse.Namespace) -> Any:
    from openqwq.data.teacher import SAMPLING, ServerTeacher

    given = {"temperature": args.temperature, "max_tokens": args.max_tokens}
    return ServerTeacher(
        args.teacher_url,
        args.teacher_model,
        samples=args.samples,
        api_key_env=args.teacher_key_env,
        sampling=SAMPLING | {name: value for name, value in given.items() if value is not None},
        timeout_s=args.timeout,
        attempts_file=args.output.with_suffix(".attempts.jsonl"),
    )


def _show(args: argparse.Namespace) -> int:
    from openqwq.config import TEXT_TYPES, load_recipe
    from openqwq.config.build import suggest
    from openqwq.data import build_documents, build_source, build_sources
    from openqwq.data.keys import item_key

    recipe = load_recipe(args.recipe, args.overrides)
    if args.source not in recipe.source:
        raise UserError(f"{args.recipe} has no source `{args.source}`", hint=suggest(args.source, recipe.source))
    config = recipe.source[args.source]
    if config.type in TEXT_TYPES:
        problems = build_sources(recipe.source)
        texts = build_documents(recipe.source, {args.source: 1.0}, problems, seed=recipe.seed)
        rows: list[Any] = list(islice(texts, args.count))
        blocks = [text.rstrip("\n") for text in rows]
    else:
        source = build_source(args.source, config)
        keys = [item_key("train", "show", recipe.seed, args.source, i) for i in range(args.count)]
        shown = [source.problem("train", key) for key in keys]
        rows = [problem.to_dict() for problem in shown]
        blocks = [f"{p.prompt}\n-> {p.verifier}: {_gold(p.answer)}" for p in shown]
    if args.json:
        print_json(rows)
    else:
        print("\n\n".join(blocks))
    return 0


def _gold(answer: Any) -> str:
    """What the verifier is given, in one line; of a reasoning-gym entry only its answer."""
    if isinstance(answer, dict) and "entry" in answer:
        answer = answer["entry"]["answer"]
    return json.dumps(answer, ensure_ascii=False)
