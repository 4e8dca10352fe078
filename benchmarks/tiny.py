"""The tiny recipe and its control arms over several seeds: what each lifts, with intervals.

    python benchmarks/tiny.py                       # three arms, three seeds, about an hour on two cores
    python benchmarks/tiny.py --jobs 2              # two runs at a time, each on one thread
    python benchmarks/tiny.py --arms tiny --seeds 0

Runs `openqwq train` for each arm and seed in turn (finished runs are kept and read again), prints a
table and writes benchmarks/results/tiny.json with the machine and the versions.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev

from machine import ROOT, describe_machine

ARMS = {
    "tiny": "recipes/tiny.toml",
    "random-reward": "recipes/controls/random-reward.toml",
    "sft-only": "recipes/controls/sft-only.toml",
}
STEPS = (("stage 1", "cold_start", "rl_math_code"), ("stage 2", "rl_math_code", "rl_general"))
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}
"""Student's t for a 95% interval of a mean over so many seeds."""


def main() -> int:
    """Run what is missing, collect, print, write."""
    args = read_arguments()
    threads = 0 if args.jobs == 1 else 1
    with ThreadPoolExecutor(args.jobs) as pool:
        wanted = [pool.submit(run_arm, arm, seed, args.runs, threads) for arm in args.arms for seed in args.seeds]
        runs = [run.result() for run in wanted]
    table = [row for arm in args.arms for row in arm_rows(arm, [r for r in runs if r["arm"] == arm])]
    report = {
        "command": " ".join(["python", "benchmarks/tiny.py", *sys.argv[1:]]),
        **describe_machine(),
        "table": table,
        "runs": runs,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    print_table(table)
    print(f"written: {args.output}", file=sys.stderr)
    return 0


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; above 1 each has one thread")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "bench", help="folder of the runs")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "tiny.json")
    return parser.parse_args()


def run_arm(arm: str, seed: int, folder: Path, threads: int) -> dict:
    """One run's results; a run that was begun is resumed, a finished one is only read."""
    out = folder / f"{arm}-{seed}"
    command = [sys.executable, "-m", "openqwq.cli.main", "train", ARMS[arm], "--out", str(out)]
    command += ["--set", f"seed={seed}", "--set", f"threads={threads}"]
    if (out / "recipe.json").exists():
        command.append("--resume")
    if not (out / "final").exists():  # written last; the report is there while the run goes on
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        if done.returncode not in (0, 1):
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    results = json.loads((out / "results.json").read_text())
    return {"arm": arm, "seed": seed, "results": results}


def arm_rows(arm: str, runs: list[dict]) -> list[dict]:
    """What each stage of the arm changes for each kind of problem, in points, over the seeds."""
    rows = []
    for label, before, after in STEPS:
        for kind in ("math", "code", "instruction"):
            scores = [(kind_mean(r["results"], before, kind), kind_mean(r["results"], after, kind)) for r in runs]
            scores = [(b, a) for b, a in scores if b is not None and a is not None]
            if scores:
                rows.append({"arm": arm, "stage": label, "kind": kind, **change(scores)})
    return rows


def kind_mean(results: dict, stage: str, kind: str) -> float | None:
    """Mean strict score of the kind's families after a stage; None where the run has no such stage."""
    for row in results["stages"]:
        if row["name"] == stage:
            return mean(f["strict"]["mean"] for f in row["families"].values() if f["kind"] == kind)
    return None


def change(scores: list[tuple[float, float]]) -> dict:
    """Means over seeds, and the change in points with its 95% interval over seeds (Student's t)."""
    changes = [100 * (after - before) for before, after in scores]
    half = T_95[len(changes)] * stdev(changes) / len(changes) ** 0.5 if len(changes) in T_95 else None
    return {
        "before": 100 * mean(b for b, _ in scores),
        "after": 100 * mean(a for _, a in scores),
        "change": mean(changes),
        "low": mean(changes) - half if half is not None else None,
        "high": mean(changes) + half if half is not None else None,
        "by_seed": changes,
    }


def print_table(table: list[dict]) -> None:
    """A Markdown table."""
    print(
        "| arm | stage | kind | before | after | change (points) | 95% over seeds |\n|---|---|---|---:|---:|---:|---|"
    )
    for row in table:
        interval = f"{row['low']:+.1f} to {row['high']:+.1f}" if row["low"] is not None else "one seed"
        print(
            f"| {row['arm']} | {row['stage']} | {row['kind']} | {row['before']:.1f} | {row['after']:.1f} "
            f"| {row['change']:+.1f} | {interval} |"
        )


if __name__ == "__main__":
    raise SystemExit(main())
