"""Train a model by a recipe: its stages in order, an evaluation after each, a report.

The run folder (default runs/NAME) holds the checkpoints, metrics.jsonl, samples.jsonl, results.json and
report.html. An interrupted or killed run continues from its last checkpoint with --resume.
Exit code 1: the run finished, but missed a target that its recipe sets, or a stage made no update in any step.

Under `torchrun --nproc-per-node N -m openqwq train ...` N processes share each step's rollouts and gradient.

One RL stage can also be run in two halves, e.g. on two machines: --rollout-only writes the rollouts of its steps to a
file, --replay trains on such a file.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from openqwq.errors import UserError

from ._options import add_recipe_arguments

if TYPE_CHECKING:
    from openqwq.config import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser)
    parser.add_argument("--out", metavar="DIR", help="run folder (default: runs/NAME, with the recipe's name)")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing run in the folder")
    halves = parser.add_mutually_exclusive_group()
    halves.add_argument(
        "--rollout-only", metavar="FILE.jsonl", help="only sample an RL stage's rollouts, into this file"
    )
    halves.add_argument("--replay", metavar="FILE.jsonl", help="train an RL stage on the rollouts in this file")
    parser.add_argument(
        "--stage", default="", metavar="NAME", help="RL stage for --rollout-only and --replay (default: the first)"
    )


def run(args: argparse.Namespace) -> int:
    from openqwq.config import load_recipe

    if args.resume and args.overwrite:
        raise UserError("`--resume` continues a run and `--overwrite` replaces it", hint="give one of them")
    recipe = load_recipe(args.recipe, args.overrides)
    out = Path(args.out or Path("runs") / recipe.name)

    from openqwq.train.distributed import is_first_launched, launched_ranks

    if args.rollout_only or args.replay:
        if launched_ranks() > 1:
            raise UserError("`--rollout-only` and `--replay` run in one process", hint="start them without torchrun")
        with _telling_how_to_resume(args, out):
            return _run_half(args, recipe, out)
    if args.stage:
        raise UserError("`--stage` only works with `--rollout-only` or `--replay`", hint="remove it")

    from openqwq import pipeline
    from openqwq.pipeline.folder import disk_use
    from openqwq.pipeline.progress import format_bytes, results_table

    with _telling_how_to_resume(args, out):
        outcome = pipeline.run(recipe, out, resume=args.resume, overwrite=args.overwrite)
    if not is_first_launched():
        return 0
    tuned = [name for name in outcome.results if recipe.stage[name].kind != "pretrain"]
    if outcome.results:
        print(results_table(outcome.results, tuned or list(outcome.results)))
        print()
    for target in outcome.targets:
        print(f"{'met   ' if target.met else 'MISSED'}  {target.what}: {target.change} points, goal: {target.goal}")
    for what, name in (
        ("checkpoint", "final"),
        ("metrics", "metrics.jsonl"),
        ("samples", "samples.jsonl"),
        ("report", "report.html"),
    ):
        print(f"{what + ':':<12}{out / name}")
    sizes = disk_use(out)
    resumable = format_bytes(sizes.get("run_state", 0))
    print(
        f"{'disk:':<12}{format_bytes(sum(sizes.values()))}, of it {resumable} in run_state/, which only --resume needs"
    )
    outcome.raise_if_missed()
    return 0


@contextmanager
def _telling_how_to_resume(args: argparse.Namespace, out: Path) -> Iterator[None]:
    """Name the command that resumes, when this one is interrupted."""
    try:
        yield
    except KeyboardInterrupt as error:
        words = [args.recipe, "--out", str(out), *(part for change in args.overrides for part in ("--set", change))]
        for name in ("rollout_only", "replay", "stage"):
            if value := getattr(args, name):
                words += [f"--{name.replace('_', '-')}", value]
        error.args = (f"continue with: openqwq train {shlex.join(words)} --resume",)
        raise


def _run_half(args: argparse.Namespace, recipe: Recipe, out: Path) -> int:
    """Only the rollouts of a stage, or only the training on them."""
    from openqwq.pipeline.halves import train_on_rollouts, write_stage_rollouts

    if args.rollout_only:
        count = write_stage_rollouts(recipe, out, Path(args.rollout_only), stage=args.stage, resume=args.resume)
        print(f"rollouts:   {args.rollout_only} ({count})")
    else:
        model = train_on_rollouts(recipe, out, Path(args.replay), stage=args.stage, resume=args.resume)
        print(f"checkpoint: {model}")
        print(f"metrics:    {out / 'replay' / 'metrics.jsonl'}")
    return 0
