"""Build a cold start's reasoning chains; show the problems of a source, or write them to a file.

`chains` writes the chains of a supervised stage as JSON lines and prints the manifest: how many were kept by category,
how many dropped by reason. Without a teacher's URL the programmatic teachers of the tiny families make them. With one,
answers are kept next to the output (NAME.attempts.jsonl), so the same command resumes after an interruption.
`show` prints the first training problems (or texts) of a source. `problems` writes them as JSON lines, each text once,
for `openqwq filter`, `openqwq verify --admit` or another recipe, leaving out those that share --ngram consecutive words
with a file of --avoid.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openqwq.errors import UserError

from ._options import add_json_argument, add_recipe_arguments, print_json

if TYPE_CHECKING:
    from openqwq.config import Recipe, SourceConfig
    from openqwq.types import Problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two actions, each with its own options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="chains|show|problems")
    _add_chains_arguments(actions.add_parser("chains", help="write the chains of a supervised stage"))
    show = actions.add_parser("show", help="print problems of a source")
    add_recipe_arguments(show)
    show.add_argument("source", metavar="SOURCE", help="the name of a [source.NAME] table")
    show.add_argument("-n", "--count", type=int, default=3, help="number of problems (default: %(default)s)")
    add_json_argument(show)
    _add_problems_arguments(actions.add_parser("problems", help="write problems of a source to a file"))


def _add_problems_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser)
    parser.add_argument("source", metavar="SOURCE", help="the name of a [source.NAME] table")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.jsonl", help="output file for the problems")
    parser.add_argument(
        "-n", "--count", type=int, default=0, help="number of problems; required for endless sources (default: all)"
    )
    parser.add_argument(
        "--split",
        default="train",
        choices=("train", "held_out", "gate"),
        help="part of the source (default: %(default)s)",
    )
    parser.add_argument("--avoid", type=Path, nargs="*", default=[], metavar="FILE", help="evaluation sets to keep out")
    parser.add_argument(
        "--ngram", type=int, default=13, metavar="N", help="consecutive words in common (default: %(default)s)"
    )
    add_json_argument(parser)


def _add_chains_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser)
    parser.add_argument("--stage", required=True, help="the supervised stage whose `chains` are built")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.jsonl", help="output file for the chains")
    teacher = parser.add_argument_group("teacher behind an OpenAI-compatible server")
    teacher.add_argument("--teacher-url", metavar="URL", help="e.g. http://localhost:8000/v1")
    teacher.add_argument("--teacher-model", metavar="NAME", help="model name on that server")
    teacher.add_argument("--teacher-key-env", metavar="VARIABLE", default="", help="environment variable with the key")
    teacher.add_argument("--samples", type=int, default=4, help="attempts per problem (default: %(default)s)")
    teacher.add_argument("--workers", type=int, default=8, help="concurrent requests (default: %(default)s)")
    teacher.add_argument("--temperature", type=float, help="sampling temperature (default: 0.6)")
    teacher.add_argument("--max-tokens", type=int, help="maximum completion length in tokens (default: 16384)")
    teacher.add_argument(
        "--timeout", type=float, default=600.0, metavar="SECONDS", help="request timeout (default: %(default)g)"
    )


def run(args: argparse.Namespace) -> int:
    """Do the action; 0 when it is done."""
    return {"chains": _chains, "show": _show, "problems": _problems}[args.action](args)


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
        raise UserError("`--teacher-url` and `--teacher-model` only work together", hint="give both or neither")
    for name in ("samples", "workers"):
        if getattr(args, name) < 1:
            raise UserError(f"`--{name}` is {getattr(args, name)}, but must be at least 1")
    folder = args.output.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"`--output` is {args.output}, but {folder} is not a writable folder")


def _server_teacher(args: argparse.Namespace) -> Any:
    from openqwq.data.chains.server_teacher import SAMPLING, ServerTeacher

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
    from openqwq.data import build_documents, build_source, build_sources
    from openqwq.data.keys import item_key

    recipe = load_recipe(args.recipe, args.overrides, only_source=args.source)
    config = _source_config(args, recipe)
    if config.type in TEXT_TYPES:
        problems = build_sources(recipe.source) if config.type == "corpus" else {}
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


def _problems(args: argparse.Namespace) -> int:
    from openqwq.config import load_recipe
    from openqwq.data.curation.decontaminate import NgramIndex
    from openqwq.log import write_text_atomic
    from openqwq.pipeline.materials import Materials
    from openqwq.pipeline.pass_rates import texts_to_avoid

    if args.count < 0 or args.ngram < 1:
        raise UserError(f"`--count` is {args.count} and `--ngram` {args.ngram}", hint="0 or more, and 1 or more")
    recipe = load_recipe(args.recipe, args.overrides)
    found = _distinct_problems(args, _source_config(args, recipe))
    unseen = Materials(recipe, Path()).unseen if args.split == "train" else frozenset()
    trainable = [problem for problem in found if problem.prompt not in unseen]
    index = NgramIndex(texts_to_avoid(args.avoid), ngram=args.ngram)
    kept = [problem for problem in trainable if not index.overlap(problem.prompt)]
    lines = (json.dumps(problem.to_dict(), ensure_ascii=False) for problem in kept)
    write_text_atomic(args.output, "".join(f"{line}\n" for line in lines))
    held_out, overlap = len(found) - len(trainable), len(trainable) - len(kept)
    counted = {"kept": len(kept), "dropped, held out": held_out, "dropped, overlap": overlap}
    if args.json:
        print_json(counted)
    else:
        print("\n".join(f"{name + ':':<20} {count}" for name, count in counted.items()))
    return 0


def _distinct_problems(args: argparse.Namespace, config: SourceConfig) -> list[Problem]:
    """Problems of the asked split, each text once: all or the first ones of a finite source, `--count` of another."""
    from openqwq.data import build_source, held_out
    from openqwq.data.sources.finite import FiniteSource

    source = build_source(args.source, config)
    if isinstance(source, FiniteSource):
        texts: dict[str, Problem] = {}
        for problem in source.part(args.split):
            texts.setdefault(problem.prompt, problem)
        return list(texts.values())[: args.count or None]
    if not args.count:
        raise UserError(f"source `{args.source}` is endless", hint="set a number of problems: `--count 1000`")
    return held_out(source, args.count, split=args.split)


def _source_config(args: argparse.Namespace, recipe: Recipe) -> SourceConfig:
    from openqwq.config.build import suggest

    if args.source not in recipe.source:
        raise UserError(f"{args.recipe} has no source `{args.source}`", hint=suggest(args.source, recipe.source))
    return recipe.source[args.source]


def _gold(answer: Any) -> str:
    """What the verifier is given, in one line; of a reasoning-gym entry only its answer."""
    if isinstance(answer, dict) and "entry" in answer:
        answer = answer["entry"]["answer"]
    return json.dumps(answer, ensure_ascii=False)
