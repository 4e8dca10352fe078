"""The experiments' work as resumable jobs: commands whose result file says that they are done.

A job is one run with its evaluations. Jobs run beside each other, one thread each; when time is up, the running
commands are interrupted (a training saves its state), and the next call goes on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import ROOT

RECIPES = ROOT / "recipes" / "experiments"
INTERRUPTED = 130
MISSED_TARGET = 1
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command. what: a key of the job's costs; is_done: read from the files alone."""

    what: str
    command: Callable[[], list[str]]
    is_done: Callable[[], bool]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Steps in order; folder: where the evaluations and what they cost are kept."""

    name: str
    folder: Path
    steps: Sequence[Step]

    @property
    def is_done(self) -> bool:
        return all(step.is_done() for step in self.steps)


def train_step(recipe: str, seed: int, run: Path) -> Step:
    """`openqwq train` of an experiment's recipe, resumed where it was begun."""

    def command() -> list[str]:
        words = [sys.executable, "-m", "openqwq.cli.main", "train", str(RECIPES / f"{recipe}.toml"), "--out", str(run)]
        words += ["--set", f"seed={seed}", "--set", "threads=1"]
        return [*words, "--resume"] if (run / "recipe.json").exists() else words

    return Step(what="train", command=command, is_done=lambda: (run / "final").exists())


def eval_step(checkpoint: Path, recipe: str, output: Path, *, seed: int, **options: int | None) -> Step:
    """A sampling of a checkpoint by `experiment_evals.py`, with its options."""

    def command() -> list[str]:
        words = [sys.executable, str(ROOT / "benchmarks" / "experiment_evals.py"), str(checkpoint)]
        words += [str(RECIPES / f"{recipe}.toml"), str(output), "--seed", str(seed)]
        given = {key: value for key, value in options.items() if value is not None}
        return words + [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))]

    return Step(what="evaluate", command=command, is_done=output.exists)


class Workers:
    """Runs jobs until all are done or time is up.

    deadline: on the clock of `time.monotonic`; None: no limit.
    """

    def __init__(self, jobs: int, deadline: float | None):
        self.jobs, self.deadline = jobs, deadline

    def run(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs that are not done yet when it ends. Raises SystemExit for a command that failed."""
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's background job: its children inherit that
            signal.signal(signal.SIGINT, signal.default_int_handler)
        with ThreadPoolExecutor(self.jobs) as pool:
            for finished in [pool.submit(self._run_job, job) for job in jobs]:
                finished.result()
        return [job for job in jobs if not job.is_done]

    def _run_job(self, job: Job) -> None:
        for step in job.steps:
            if step.is_done():
                continue
            if self._is_late():
                return
            print(f"{job.name}: {step.what}", file=sys.stderr, flush=True)
            code, seconds = self._run_command(step.command(), job.folder)
            add_cost(job.folder, step.what, seconds)
            if code in (INTERRUPTED, -signal.SIGINT):
                return
            if code not in (0, MISSED_TARGET) or not step.is_done():
                raise SystemExit(f"{job.name}: {' '.join(step.command())} ended with {code}; see {job.folder}/log.txt")

    def _run_command(self, command: list[str], folder: Path) -> tuple[int, float]:
        """Exit code and processor seconds of a command; interrupted when it is late."""
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **ONE_THREAD}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with open(folder / "log.txt", "a") as log:
            child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
            asked = False
            while True:
                pid, status, usage = os.wait4(child.pid, os.WNOHANG)
                if pid:
                    child.returncode = os.waitstatus_to_exitcode(status)
                    return child.returncode, usage.ru_utime + usage.ru_stime
                if self._is_late() and not asked:
                    child.send_signal(signal.SIGINT)
                    asked = True
                time.sleep(0.2)

    def _is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline


def add_cost(folder: Path, what: str, seconds: float) -> None:
    """Add processor seconds to the job's costs."""
    costs = read_costs(folder)
    costs[what] = round(costs.get(what, 0.0) + seconds, 1)
    (folder / "cost.json").write_text(json.dumps(costs) + "\n")


def read_costs(folder: Path) -> dict[str, Any]:
    """Processor seconds by "train" and "evaluate"; what a killed command had spent is not in it."""
    file = folder / "cost.json"
    return json.loads(file.read_text()) if file.exists() else {}
