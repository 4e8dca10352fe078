"""Train a model by a recipe: its stages in order, an evaluation after each, a report.

The run folder (default runs/NAME) holds the checkpoints, metrics.jsonl, samples.jsonl, results.json and
report.html. An interrupted or killed run goes on with --resume where its last checkpoint stands.
Exit code 1: the run finished, but missed a target that its recipe sets.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ._options import add_recipe_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser)
    parser.add_argument("--out", metavar="DIR", help="the run folder; default runs/NAME, NAME being the recipe's")
    parser.add_argument("--resume", action="store_true", help="continue the run in the folder")


def run(args: argparse.Namespace) -> int:
    from openqwq.config import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    out = Path(args.out or Path("runs") / recipe.name)

    from openqwq import pipeline
    from openqwq.pipeline.progress import results_table

    try:
        outcome = pipeline.run(recipe, out, resume=args.resume)
    except KeyboardInterrupt:
        from openqwq.log import logger

        logger.info("continue with: openqwq train %s --out %s --resume", args.recipe, out)
        raise
    tuned = [name for name in outcome.results if recipe.stage[name].kind != "pretrain"]
    if outcome.results:
        print(results_table(outcome.results, tuned or list(outcome.results)))
        print()
    for target in outcome.targets:
        got = f"{target.got.mean:+.1f} ({target.got.low:+.1f} to {target.got.high:+.1f})"
        print(f"{'met   ' if target.met else 'MISSED'}  {target.what}: {got} points, goal: {target.goal}")
    for what, name in (
        ("checkpoint", "final"),
        ("metrics", "metrics.jsonl"),
        ("samples", "samples.jsonl"),
        ("report", "report.html"),
    ):
        print(f"{what + ':':<12}{out / name}")
    outcome.raise_if_missed()
    return 0
