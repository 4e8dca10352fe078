"""What a person sees during a run: a bar on a terminal, else one line a step, both on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from openqwq.eval.families import FamilyResult
from openqwq.eval.report.content import duration
from openqwq.log import logger

SHOWN = {
    "reward": "reward {:.3f}",
    "accuracy": "accuracy {:.3f}",
    "completion_tokens_mean": "length {:.1f}",
    "kl": "kl {:.4f}",
    "grad_norm": "grad {:.2f}",
    "entropy": "entropy {:.3f}",
    "mismatch_max": "mismatch {:.1e}",
}
"""The metrics of a step that people see, in this order, with the same numbers as in `metrics.jsonl`.

Before them comes `loss` where there is no reward: of on-policy RL it is nearly always 0.
"""
HEARTBEAT_S = 30.0
"""Off a terminal a step or an evaluation that takes longer than this says so, again and again."""
ON_A_BAR = {"reward": "reward {:.2f}", "accuracy": "accuracy {:.2f}", "completion_tokens_mean": "length {:.0f}"}
"""Those that stand beside a bar, which has to fit into a terminal of 80 columns; `loss` where there is no reward."""
TIMED = ("seconds_generate", "seconds_verify", "seconds_train")


class Display(Protocol):
    """Something that shows how far a run is."""

    def stage(self, name: str) -> None: ...
    def step(self, row: Mapping[str, Any], done: int, total: int) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...


class Countdown:
    """Seconds left in a stage, from the steps made since this process began it."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._first: int | None = None

    def left(self, done: int, total: int) -> float | None:
        """None until a step has been timed."""
        if self._first is None:
            self._first = done - 1
        made = done - self._first
        return (time.monotonic() - self._since) / made * (total - done) if made > 0 else None


class Heartbeat:
    """Logs at intervals that the same thing is still in progress: "rl: step 4 of 100 has taken 60 s so far"."""

    def __init__(self, every_s: float):
        self._every_s, self._what, self._since = every_s, "", time.monotonic()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, what: str) -> None:
        """Something else goes on from now on."""
        self._what, self._since = what, time.monotonic()
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, name="openqwq-heartbeat", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Say no more."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _beat(self) -> None:
        told = self._since
        while not self._closed.wait(max(0.0, max(self._since, told) + self._every_s - time.monotonic())):
            now = time.monotonic()
            if now - max(self._since, told) >= self._every_s:
                told = now
                logger.info("%s has taken %.0f s so far", self._what, now - self._since)


class LineDisplay:
    """One line a step through the package's log."""

    def __init__(self, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._countdown = Countdown()
        self._heartbeat = Heartbeat(heartbeat_s)

    def stage(self, name: str) -> None:
        self._countdown = Countdown()
        logger.info("stage %s", name)
        self._heartbeat.begin(f"{name}: the first step")

    def step(self, row: Mapping[str, Any], done: int, total: int) -> None:
        what = "the evaluation" if done == total else f"step {done + 1} of {total}"
        self._heartbeat.begin(f"{row['stage']}: {what}")
        left = self._countdown.left(done, total)
        remaining = "" if left is None else f"  {duration(left)} left"
        logger.info("%s %d/%d  %s%s", row["stage"], done, total, describe_step(row), remaining)

    def note(self, text: str) -> None:
        logger.info("%s", text)

    def close(self) -> None:
        self._heartbeat.close()


class BarDisplay:
    """A bar for the stage that runs, with its last step's numbers beneath the finished stages' lines."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=5),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=Console(stderr=True),
        )
        self._progress.start()
        self._task: Any = None
        self._countdown = Countdown()

    def stage(self, name: str) -> None:
        self._countdown = Countdown()
        if self._task is not None:
            self._progress.stop_task(self._task)
        self._task = self._progress.add_task(name, total=None, numbers="")

    def step(self, row: Mapping[str, Any], done: int, total: int) -> None:
        left = self._countdown.left(done, total)
        parts = [text.format(row[name]) for name, text in ON_A_BAR.items() if row.get(name) is not None]
        numbers = "  ".join(parts) or describe_step({"loss": row.get("loss")})
        numbers += "" if left is None else f"  {int(left) // 60}:{int(left) % 60:02d} left"
        self._progress.update(self._task, completed=done, total=total, numbers=numbers)

    def note(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        self._progress.stop()


class NoDisplay:
    """For the ranks beside the first one: one display tells of all."""

    def stage(self, name: str) -> None: ...
    def step(self, row: Mapping[str, Any], done: int, total: int) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...


def open_display(*, is_shown: bool = True) -> Display:
    """A bar where stderr is a terminal, lines elsewhere; neither where it is not to be shown."""
    if not is_shown:
        return NoDisplay()
    return BarDisplay() if sys.stderr.isatty() else LineDisplay()


def describe_step(row: Mapping[str, Any]) -> str:
    """A step's numbers in words, with the seconds of its parts."""
    shown = SHOWN if "reward" in row else {"loss": "loss {:.3f}", **SHOWN}
    parts = [text.format(row[key]) for key, text in shown.items() if isinstance(row.get(key), int | float)]
    if (groups := row.get("groups_sampled")) and (share := row.get("groups_with_signal")) is not None:
        parts.append(f"signal {round(share * groups)}/{groups}")
    parts += [f"{name} {value:.3f}" for name, value in row.get("parts", {}).items() if value is not None]
    seconds = [f"{key.removeprefix('seconds_')} {row[key]:.2f}s" for key in TIMED if key in row]
    return "  ".join([*parts, *seconds])


def describe_results(stage: str, results: Mapping[str, FamilyResult]) -> str:
    """One line of a stage's evaluation: the strict percentage of every family."""
    scores = "  ".join(f"{family} {100 * result.strict.mean:.1f}" for family, result in results.items())
    return f"{stage} on held-out problems, strict %: {scores}"


def format_bytes(size: int) -> str:
    """ "3.7 MB", in powers of 1000 as disks are sold."""
    value, units = float(size), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{size} bytes" if units[0] == "bytes" else f"{value:.3g} {units[0]}"


def results_table(results: Mapping[str, Mapping[str, FamilyResult]], stages: Sequence[str]) -> str:
    """The closing table in percent: each family's strict score with its interval, and its format-free one, by stage.

    The last stage's greedy score ends the row where there is one.
    """
    rows = [["family", *stages, "greedy"], ["", *(HEAD for _ in stages), "strict"]]
    for family, result in results[stages[-1]].items():
        greedy = "" if result.greedy is None else f"{100 * result.greedy.mean:6.1f}"
        rows.append([family, *(_cell(results[stage].get(family)) for stage in stages), greedy])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


HEAD = "strict  95% interval  free"


def _cell(result: FamilyResult | None) -> str:
    if result is None:
        return "-"
    strict, free = (100 * value for value in (result.strict.mean, result.format_free.mean))
    interval = f"{100 * result.strict.low:.1f}-{100 * result.strict.high:.1f}"
    return f"{strict:6.1f}  {interval:>12}  {free:4.1f}"
