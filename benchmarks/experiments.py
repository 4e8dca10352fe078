"""The evidence of docs/evidence.md: four experiments on what reinforcement learning does to a tiny model.

    python benchmarks/experiments.py ablation --jobs 2       # seven arms, three seeds
    python benchmarks/experiments.py size                    # a small model with RL against one of 20 times its size
    python benchmarks/experiments.py generalisation          # a harder level, unseen families: evaluation only
    python benchmarks/experiments.py thinking                # accuracy against the thinking budget: evaluation only
    python benchmarks/experiments.py ablation --only ablation-full-0 --seeds 0 --minutes 10
    python benchmarks/experiments.py collect                 # only the result files and the tables of the page

Everything is resumable: what is finished is read again, trainings go on from their last checkpoint. The evaluations are
of the runs of `ablation-full`, and of further run folders that `--subjects` names. After each call the result files
`benchmarks/results/{ablation,size,generalisation,thinking}.json` and the tables in docs/evidence.md hold what is done.
Exit code 1: something is left to do.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiment_jobs import Job, Workers, eval_step, train_step
from experiment_results import collect
from machine import ROOT

ABLATION = {
    "ablation-full": ("cold_start", "rl_general"),
    "ablation-sft": ("more_chains",),
    "ablation-no-cold-start": ("rl_general",),
    "ablation-format-only": ("cold_start", "rl_general"),
    "ablation-no-stage-2": ("rl_math_code",),
    "ablation-ppo": ("rl_general",),
    "ablation-random-reward": ("rl_general",),
}
"""Recipe under recipes/experiments -> the stages whose checkpoints are evaluated."""
SIZE = {
    "size-small": ("cold_start", "rl_math_code", "rl_general"),
    "size-small-more-rl": ("rl_math_code", "rl_general"),
    "size-large": ("cold_start",),
}
BEFORE_AND_AFTER = ("cold_start", "rl_math_code", "rl_general")
BUDGETS = (0, 4, 8, 12, 16, 24, 32, 48, None)


def main() -> int:
    """Do what is missing, collect, write."""
    args = read_arguments()
    left: list[Job] = []
    if args.experiment != "collect":
        jobs = [job for job in all_jobs(args) if not args.only or job.name in args.only]
        deadline = time.monotonic() + 60 * args.minutes if args.minutes else None
        left = Workers(args.jobs, deadline).run(jobs)
    collect(args.runs, args.results, args.page)
    if left:
        print(f"left to do: {' '.join(job.name for job in left)}; the same command goes on", file=sys.stderr)
    return 1 if left else 0


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=["ablation", "size", "generalisation", "thinking", "collect"])
    parser.add_argument("--only", nargs="+", metavar="ARM-SEED", help="these runs alone, e.g. ablation-full-0")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--minutes", type=float, help="stop after so long; the next call goes on")
    parser.add_argument("--subjects", nargs="+", type=Path, default=[], help="finished run folders to evaluate as well")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "experiments", help="folder of the runs")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "evidence.md")
    args = parser.parse_args()
    args.runs, args.results = args.runs.resolve(), args.results.resolve()
    args.subjects = [run.resolve() for run in args.subjects]
    return args


def all_jobs(args: argparse.Namespace) -> list[Job]:
    """The experiment's jobs, seed by seed, so that whole sets of arms are finished first."""
    if args.experiment in ("ablation", "size"):
        arms = ABLATION if args.experiment == "ablation" else SIZE
        make = ablation_job if args.experiment == "ablation" else size_job
        return [make(recipe, stages, seed, args.runs) for seed in args.seeds for recipe, stages in arms.items()]
    make_evaluation = generalisation_job if args.experiment == "generalisation" else thinking_job
    return [make_evaluation(run, args.runs) for run in subjects(args.subjects, args.runs, args.seeds)]


def ablation_job(recipe: str, stages: Sequence[str], seed: int, runs: Path) -> Job:
    """Training, 32 samples of 128 problems a family, and a few completions of up to 256 tokens for the monitors."""
    run, folder = runs / f"{recipe}-{seed}", runs / "evals" / f"{recipe}-{seed}"
    steps = [train_step(recipe, seed, run)]
    for stage in stages:
        at = (run / "checkpoints" / stage, "ablation-full")
        steps.append(eval_step(*at, folder / f"{stage}.pass.json", samples=32, problems=128, seed=seed))
        long = folder / f"{stage}.long.json"
        steps.append(eval_step(*at, long, samples=2, problems=64, max_tokens=256, seed=seed))
    return Job(name=f"{recipe}-{seed}", folder=folder, steps=steps)


def size_job(recipe: str, stages: Sequence[str], seed: int, runs: Path) -> Job:
    """Training, and 4 samples of 256 problems a family after each stage."""
    run, folder = runs / f"{recipe}-{seed}", runs / "evals" / f"{recipe}-{seed}"
    steps = [train_step(recipe, seed, run)]
    for stage in stages:
        at, output = run / "checkpoints" / stage, folder / f"{stage}.size.json"
        steps.append(eval_step(at, "ablation-full", output, samples=4, problems=256, seed=seed))
    return Job(name=f"{recipe}-{seed}", folder=folder, steps=steps)


def subjects(named: Sequence[Path], runs: Path, seeds: Sequence[int]) -> list[Path]:
    """The finished run folders that are evaluated before and after RL."""
    own = [runs / f"ablation-full-{seed}" for seed in seeds]
    found = [run for run in [*own, *named] if (run / "final").exists()]
    if not found:
        raise SystemExit("no finished run to evaluate: run `ablation` first, or name folders with --subjects")
    return found


def subject_name(run: Path) -> tuple[str, int]:
    """ "tiny-0" and 0: the recipe's name with the seed, and the seed."""
    recipe = json.loads((run / "recipe.json").read_text())
    return f"{recipe['name']}-{recipe['seed']}", recipe["seed"]


def generalisation_job(run: Path, runs: Path) -> Job:
    """4 samples of 256 problems of each family that no stage trained on, before and after RL."""
    return evaluation_job(run, runs, "generalisation", {"generalisation": {"samples": 4, "problems": 256}})


def thinking_job(run: Path, runs: Path) -> Job:
    """2 samples of 128 problems of each trained family at each budget of thinking, before and after RL."""
    options = {"samples": 2, "problems": 128, "max_tokens": 192}
    names = {budget: f"thinking-{'none' if budget is None else budget}" for budget in BUDGETS}
    return evaluation_job(
        run, runs, "ablation-full", {name: {**options, "thinking_budget": budget} for budget, name in names.items()}
    )


def evaluation_job(run: Path, runs: Path, recipe: str, ways: Mapping[str, Mapping[str, int | None]]) -> Job:
    """The checkpoints before and after RL sampled in each way: a file's name and the options."""
    name, seed = subject_name(run)
    folder = runs / "evals" / name
    steps = [
        eval_step(run / "checkpoints" / stage, recipe, folder / f"{stage}.{way}.json", seed=seed, **options)
        for stage in BEFORE_AND_AFTER
        for way, options in ways.items()
    ]
    return Job(name=name, folder=folder, steps=steps)


if __name__ == "__main__":
    raise SystemExit(main())
