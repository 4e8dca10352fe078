"""What a comparison of runs says, independent of how it looks: scores with differences, curves, targets, recipes."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from openqwq.errors import UserError
from openqwq.verifiers.behaviours import BEHAVIOURS

from ..families import problem_means
from ..intervals import UNKNOWN, Interval, independent_change, mean_interval, paired_change, wilson_interval
from .behaviours import behaviour_points
from .content import CURVES, Chart, is_telling, metric_points
from .run_folder import RunFolder, read_run_folder
from .series_charts import Series, series_chart

Scores = dict[str, dict[str, float]]
"""Family -> problem -> mean strict score; the problem's text is part of its name, so that equal names are equal."""

END = "its last evaluation"
_ABSENT = object()
LONGEST_VALUE = 120


@dataclass(frozen=True)
class ComparedRun:
    """A run with its label: its folder's name, or its path where names are alike."""

    label: str
    run: RunFolder

    @cached_property
    def scores(self) -> dict[str, Scores]:
        """Stage -> scores of the sampled completions."""
        found: dict[str, Scores] = {}
        for stage, rows in self.run.evaluations.items():
            marks: dict[str, list] = {}
            for row in rows:
                if row.decoding == "sampled":
                    marks.setdefault(row.family, []).append((f"{row.id}\x1f{row.prompt}", row.strict))
            found[stage] = {family: problem_means(own) for family, own in marks.items()}
        return found

    def stage_of(self, stage: str) -> str:
        """That stage, or the last evaluated one for `END`."""
        return next(reversed(self.scores), "") if stage == END else stage


@dataclass(frozen=True, slots=True)
class Cell:
    """One run's score in a row.

    change:     since the run's first evaluated stage. difference: to the first run, after the same stage.
    is_paired:  whether the difference is over the same problems.
    """

    score: Interval
    change: Interval
    difference: Interval
    is_paired: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """A family, or the mean of a kind, after one stage, with a cell for each run."""

    what: str
    is_mean: bool
    stage: str
    cells: tuple[Cell, ...]


def read_runs(paths: Sequence[str | Path]) -> list[ComparedRun]:
    """The runs in these folders, in order. Raises UserError for a folder that is no run, or is given twice."""
    folders = [Path(path).resolve() for path in paths]
    if twice := [path for path, folder in zip(paths, folders, strict=True) if folders.count(folder) > 1]:
        raise UserError(f"{twice[0]} is given twice", hint="name each run once")
    names = Counter(folder.name for folder in folders)
    labels = [
        folder.name if names[folder.name] == 1 else str(path) for path, folder in zip(paths, folders, strict=True)
    ]
    return [ComparedRun(label, read_run_folder(path)) for label, path in zip(labels, paths, strict=True)]


def score_rows(runs: Sequence[ComparedRun]) -> dict[str, list[Row]]:
    """Kind -> its mean, then its families, each after every stage in which a run was evaluated."""
    kinds: dict[str, str] = {}
    for compared in runs:
        kinds |= {family: kind for family, kind in compared.run.families.items() if family not in kinds}
    stages = compared_stages(runs)
    rows: dict[str, list[Row]] = {}
    for kind in dict.fromkeys(kinds.values()):
        families = [family for family, own in kinds.items() if own == kind]
        groups = [(f"mean of {kind}", families), *((family, [family]) for family in families)]
        rows[kind] = [
            Row(what, i == 0, stage, tuple(_cell(run, runs[0], names, stage, is_mean=i == 0) for run in runs))
            for i, (what, names) in enumerate(groups)
            for stage in stages
        ]
    return rows


def compared_stages(runs: Sequence[ComparedRun]) -> list[str]:
    """The evaluated stages of all runs in order, and `END` where the runs do not end with the same one."""
    stages = list(dict.fromkeys(stage for compared in runs for stage in compared.run.evaluated_stages))
    last = {compared.run.evaluated_stages[-1] for compared in runs if compared.run.evaluated_stages}
    return [*stages, END] if len(last) > 1 else stages


def curve_charts(runs: Sequence[ComparedRun]) -> dict[str, list[Chart]]:
    """Stage -> one chart a metric, and one a behaviour that any run shows, each with the curves of all runs."""
    stages = dict.fromkeys(stage for compared in runs for stage in compared.run.steps)
    charts: dict[str, list[Chart]] = {}
    for stage in stages:
        drawn = [_metric_chart(runs, stage, metric, *look) for metric, look in CURVES.items()]
        drawn += [_behaviour_chart(runs, stage, name) for name in BEHAVIOURS]
        if shown := [chart for chart in drawn if chart.svg]:
            charts[stage] = shown
    return charts


def target_rows(runs: Sequence[ComparedRun]) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """(what, each run's outcome or None where it has no such target or has not come so far)."""
    outcomes = [{target["what"]: target for target in compared.run.results["targets"]} for compared in runs]
    whats = dict.fromkeys(what for own in outcomes for what in own)
    return [(what, [own.get(what) for own in outcomes]) for what in whats]


def recipe_rows(runs: Sequence[ComparedRun]) -> list[tuple[str, list[str]]]:
    """(dotted key, each run's value) where the resolved recipes differ, or the versions that made the runs."""
    recipes = [{k: v for k, v in compared.run.recipe.items() if k != "name"} for compared in runs]
    versions = [compared.run.results.get("versions", {}) for compared in runs]
    return [*_differences(recipes, ""), *_differences(versions, "versions")]


def _cell(run: ComparedRun, first: ComparedRun, families: Sequence[str], stage: str, *, is_mean: bool) -> Cell:
    mine = run.stage_of(stage)
    own = _only(run.scores.get(mine, {}), families)
    score = mean_interval(own) if is_mean else wilson_interval([s for scores in own.values() for s in scores.values()])
    start = next(iter(run.scores), "")
    change = UNKNOWN if mine == start else paired_change(_only(run.scores.get(start, {}), families), own)
    if run is first:
        return Cell(score, change, UNKNOWN)
    other = _only(first.scores.get(first.stage_of(stage), {}), families)
    shared = own.keys() & other.keys()
    is_paired = all(own[family].keys() & other[family].keys() for family in shared)
    difference = (paired_change if is_paired else independent_change)(other, own)
    return Cell(score, change, difference, is_paired)


def _only(scores: Scores, families: Sequence[str]) -> Scores:
    return {family: scores[family] for family in families if scores.get(family)}


def _metric_chart(runs: Sequence[ComparedRun], stage: str, metric: str, title: str, floor: float | None) -> Chart:
    curves = [metric_points(compared.run.steps.get(stage, []), metric) for compared in runs]
    if not any(is_telling(metric, curve) for curve in curves):
        return Chart(title, "")
    series = [Series(run.label, curve, style) for style, (run, curve) in enumerate(zip(runs, curves, strict=True))]
    return Chart(title, series_chart(series, label=f"{stage}, {title}", floor=floor))


def _behaviour_chart(runs: Sequence[ComparedRun], stage: str, name: str) -> Chart:
    title = f"{BEHAVIOURS[name].title} (% of rollouts)"
    series = [
        Series(compared.label, behaviour_points(compared.run, name).get(stage, []), style)
        for style, compared in enumerate(runs)
    ]
    is_seen = any(y for each in series for _, y in each.points)
    return Chart(title, series_chart(series, label=f"{stage}, {title}", floor=0.0) if is_seen else "")


def _differences(values: Sequence[Any], key: str) -> list[tuple[str, list[str]]]:
    """Rows for what is not the same everywhere; a table that some lack is one row, not one for each of its keys."""
    if any(_is_tables(value) for value in values):
        values = [dict(enumerate(value)) if isinstance(value, list) else value for value in values]
    if all(isinstance(value, Mapping) for value in values):
        names = dict.fromkeys(name for value in values for name in value)
        return [
            row
            for name in names
            for row in _differences([value.get(name, _ABSENT) for value in values], f"{key}.{name}" if key else name)
        ]
    same = all(value is not _ABSENT and value == values[0] for value in values)
    return [] if same else [(key, [_value_text(value) for value in values])]


def _is_tables(value: Any) -> bool:
    """Whether it is a list of tables, which are compared by their number."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _value_text(value: Any) -> str:
    if value is _ABSENT:
        return "–"
    if isinstance(value, Mapping):
        return str(value.get("what") or f"a table{', kind ' + str(value['kind']) if value.get('kind') else ''}")
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def points(interval: Interval) -> str:
    """A change in points with its interval, or nothing where there is none."""
    if math.isnan(interval.mean):
        return ""
    return f"{100 * interval.mean:+.1f} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"
