"""What the report says, independent of how it looks: tables, curves and examples from a run folder."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openqwq.log import counted

from ..families import ScoredCompletion
from ..intervals import Interval
from .charts import curve_chart, stage_chart
from .run_folder import RunFolder
from .series_charts import Series, series_chart

CURVES: dict[str, tuple[str, float | None]] = {
    "loss": ("Loss (nats per token)", None),
    "reward": ("Reward", 0.0),
    "accuracy": ("Accuracy on training problems", 0.0),
    "completion_tokens_mean": ("Completion length (tokens)", 0.0),
    "entropy": ("Entropy (nats per token)", 0.0),
    "mismatch_max": ("Largest |rollout − policy| log-prob difference", 0.0),
    "groups_with_signal": ("Share of groups with signal", 0.0),
    "grad_norm": ("Gradient norm", 0.0),
    "truncated": ("Share of rollouts that were cut off", 0.0),
    "unjudged": ("Share of rollouts without a verdict", 0.0),
    "clip_share": ("Share of tokens with a clipped ratio", 0.0),
    "kl": ("KL to the reference (nats per token)", 0.0),
    "staleness_mean": ("Age of the weights that sampled (steps)", 0.0),
    "value_explained": ("Share of the returns that values explain", 0.0),
}
"""Metrics that are drawn, with their titles and the value that the vertical axis reaches down to."""
SHOWN_AT_0 = ("loss", "reward", "accuracy", "mismatch_max", "groups_with_signal")
"""Metrics of which even a line at 0 says something."""
TABLES: dict[str, tuple[str, str]] = {
    "sources": ("Accuracy on training problems, by source", "accuracy"),
    "gate": ("Regression gate: held-out score, by kind", ""),
}
"""Metrics by name of a source or kind, each a curve: title, and the entry that is drawn (empty: the number itself)."""
PREFERENCES = {"loss": "Loss (nats per pair)", "accuracy": "Accuracy on training pairs"}
"""Titles where a reward model is trained."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One family after one stage."""

    strict: Interval
    format_free: Interval
    greedy: Interval


@dataclass(frozen=True, slots=True)
class FamilyRow:
    """One family with its scores after each evaluated stage."""

    family: str
    kind: str
    n: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A held-out problem's completion after one stage, for the side-by-side view."""

    stage: str
    completion: ScoredCompletion


@dataclass(frozen=True, slots=True)
class Example:
    """A held-out problem with its answers before and after RL."""

    family: str
    id: str
    prompt: str
    before: Answer
    after: Answer


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing with its caption. legend: the names of its curves, in the order of the style sheet's looks."""

    title: str
    svg: str
    legend: tuple[str, ...] = ()


def family_rows(run: RunFolder) -> list[FamilyRow]:
    """The before/after table: one row a family, one cell a stage."""
    last = run.results["stages"][-1]["families"] if run.results["stages"] else {}
    return [
        FamilyRow(
            family,
            kind,
            int(last.get(family, {}).get("n", 0)),
            tuple(
                Cell(*(run.score(stage, family, which) for which in ("strict", "format_free", "greedy")))
                for stage in run.evaluated_stages
            ),
        )
        for family, kind in run.families.items()
    ]


def kind_means(run: RunFolder) -> dict[str, list[float]]:
    """Kind -> the mean strict score of its families after each evaluated stage."""
    means: dict[str, list[float]] = {}
    for kind in dict.fromkeys(run.families.values()):
        families = [family for family, k in run.families.items() if k == kind]
        means[kind] = [
            _mean([run.score(stage, family, "strict").mean for family in families]) for stage in run.evaluated_stages
        ]
    return means


def score_charts(run: RunFolder) -> list[Chart]:
    """One chart a family: strict and format-free score after every stage."""
    stages = run.evaluated_stages
    charts = []
    for family, kind in run.families.items():
        strict = [run.score(stage, family, "strict") for stage in stages]
        free = [run.score(stage, family, "format_free") for stage in stages]
        charts.append(Chart(f"{family} · {kind}", stage_chart(stages, strict, free, label=family)))
    return charts


def training_charts(run: RunFolder) -> dict[str, list[Chart]]:
    """Stage -> the curves of the metrics that its rows hold."""
    charts: dict[str, list[Chart]] = {}
    for stage, rows in run.steps.items():
        titles = PREFERENCES if run.stage_kind(stage) == "reward_model" else {}
        drawn = []
        for metric, (title, floor) in CURVES.items():
            title = titles.get(metric, title)
            points = metric_points(rows, metric)
            if is_telling(metric, points):
                drawn.append(Chart(title, curve_chart(points, label=f"{stage}, {title}", floor=floor)))
        drawn += [_table_chart(stage, rows, *table) for table in TABLES.items()]
        if shown := [chart for chart in drawn if chart.svg]:
            charts[stage] = shown
    return charts


def metric_points(rows: Sequence[dict[str, Any]], metric: str) -> list[tuple[float, float]]:
    """(step, value) where the rows have a number."""
    return [(float(r["step"]), float(r[metric])) for r in rows if isinstance(r.get(metric), (int, float))]


def is_telling(metric: str, points: Sequence[tuple[float, float]]) -> bool:
    """Whether a curve of the metric says something: most do not where they are 0 throughout."""
    return metric in SHOWN_AT_0 or any(y for _, y in points)


def _table_chart(stage: str, rows: Sequence[dict[str, Any]], metric: str, look: tuple[str, str]) -> Chart:
    """One curve for each name in a table of the rows; nothing for a single one, which is in the other curves."""
    title, entry = look
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in (row.get(metric) or {}).items():
            value = value.get(entry) if entry else value
            if value is not None:
                curves.setdefault(name, []).append((float(row["step"]), float(value)))
    if len(curves) < 2 and entry:
        return Chart(title, "")
    series = [Series(name, points, style) for style, (name, points) in enumerate(curves.items())]
    svg = series_chart(series, label=f"{stage}, {title}", floor=0.0, smooth=bool(entry))
    return Chart(title, svg, tuple(curves))


def preference_notes(run: RunFolder) -> dict[str, str]:
    """Reward-model stage -> one sentence about its held-out pairs."""
    notes = {}
    for stage, rows in run.steps.items():
        last = rows[-1]
        if last.get("held_out_accuracy") is not None:
            notes[stage] = (
                f"On {last['held_out_pairs']} held-out pairs the chosen answer scores higher in "
                f"{percent(last['held_out_accuracy'])}%; the stated probabilities miss the measured ones by "
                f"{percent(last['held_out_calibration_error'])} points (expected calibration error)."
            )
    return notes


def examples(run: RunFolder, count: int) -> list[Example]:
    """Held-out problems answered before and after RL: the first of every family in turn, whatever their outcome."""
    stages = run.before_and_after_rl()
    if stages is None or not all(stage in run.evaluations for stage in stages):
        return []
    before, after = (
        {(r.family, r.id): r for r in reversed(run.evaluations[stage]) if r.decoding == "sampled"} for stage in stages
    )
    by_family: dict[str, list[tuple[str, str]]] = {family: [] for family in run.families}
    for row in run.evaluations[stages[0]]:
        key = (row.family, row.id)
        if key in after and key not in by_family.setdefault(row.family, []):
            by_family[row.family].append(key)
    turns = max((len(keys) for keys in by_family.values()), default=0)
    in_turn = [keys[i] for i in range(turns) for keys in by_family.values() if i < len(keys)]
    return [
        Example(*key, before[key].prompt, Answer(stages[0], before[key]), Answer(stages[1], after[key]))
        for key in in_turn[:count]
    ]


def summary(run: RunFolder) -> str:
    """One sentence under the title: what ran, from which seed, for how long."""
    model = run.recipe.get("model", {})
    start = (
        f"from {near_path(model['path'], run.path)}"
        if model.get("path")
        else f"from random weights, shape {model.get('preset')}"
    )
    seconds = math.fsum(run.results.get("seconds", {}).values())
    done = len(run.results.get("seconds", {}))
    planned = len(run.recipe.get("stage", {}))
    stages = counted(done, "stage") if done == planned else f"{done} of {counted(planned, 'stage')} so far"
    return f"{stages} {start}, seed {run.results.get('seed', 0)}, {duration(seconds)} with their evaluations."


def near_path(path: str, run: Path) -> str:
    """A folder as seen from the working folder, else from the deepest folder that it shares with the run.

    Hub names and relative paths are left as they are; of a path that shares nothing, the last two parts stay.
    """
    if not Path(path).is_absolute():
        return path
    shared = Path(os.path.commonpath([path, run.resolve()]))
    for folder in (Path.cwd(), shared):
        if folder != Path(folder.anchor) and Path(path).is_relative_to(folder):
            return str(Path(path).relative_to(folder))
    return str(Path(*Path(path).parts[-2:])).lstrip(os.sep)


def gate_notes(run: RunFolder) -> list[str]:
    """One sentence for each stage that its regression gate ended."""
    return [
        f"The regression gate ended {stage} after {gate['steps']} steps ({gate['fell']}); its last good weights stand."
        for stage, gate in run.results.get("gates", {}).items()
    ]


def headline_figures(run: RunFolder) -> list[dict[str, str]]:
    """Per kind, the mean strict score before RL and at the run's end; empty until RL has been evaluated."""
    stages = run.before_and_after_rl()
    if stages is None:
        return []
    first, last = run.evaluated_stages.index(stages[0]), len(run.evaluated_stages) - 1
    names = f"{run.evaluated_stages[first]} to {run.evaluated_stages[last]}"
    return [
        {"kind": kind, "before": percent(means[first]), "after": percent(means[last]), "stages": names}
        for kind, means in kind_means(run).items()
    ]


def problem_count(rows: Sequence[FamilyRow]) -> str:
    """How many problems a family, in words: "512" or "480 to 512"."""
    counts = sorted({row.n for row in rows})
    if not counts:
        return "no"
    return f"{counts[0]} a family" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} a family"


def example_count(run: RunFolder) -> int:
    """How many examples the recipe asks for."""
    return int(run.recipe.get("eval", {}).get("show_problems", 10))


def time_rows(run: RunFolder) -> list[dict[str, str]]:
    """Seconds by stage with their share, and the sum."""
    seconds = run.results.get("seconds", {})
    total = math.fsum(seconds.values())
    rows = [(stage, s) for stage, s in seconds.items()] + [("all", total)]
    return [
        {"stage": stage, "duration": duration(s), "share": f"{100 * s / total:.0f}%" if total else "–"}
        for stage, s in rows
    ]


def provenance(run: RunFolder) -> dict[str, str]:
    """The seed and the versions that made the run."""
    return {"seed": str(run.results.get("seed", 0)), **{k: str(v) for k, v in run.results.get("versions", {}).items()}}


def percent(value: float) -> str:
    """A share as a number of percent with one decimal, or a dash."""
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def rate(value: float) -> str:
    """A number of percent, with as many digits as tell a rare thing from nothing: 0, 0.03, 4.4, 31."""
    if value == 0:
        return "0"
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.095 else f"{value:.1g}"


def percent_range(interval: Interval) -> str:
    """The interval in percent, or nothing where it is not known."""
    return "" if math.isnan(interval.low) else f"{percent(interval.low)} to {percent(interval.high)}"


def points_text(target: dict[str, Any]) -> str:
    """A target's measured change with its interval, in points."""
    got = target["got"]
    if got["mean"] is None:
        return "not measured"
    return f"{got['mean']:+.1f} ({got['low']:+.1f} to {got['high']:+.1f})"


def short_time(seconds: float) -> str:
    """Seconds of a part of a step: 1.27 s, 47 ms, 0.38 ms."""
    if seconds >= 0.1:
        return f"{seconds:.3g} s"
    return f"{1000 * seconds:.2g} ms"


def duration(seconds: float) -> str:
    """Seconds for people: 42 s, 3 min 07 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if not math.isnan(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan
