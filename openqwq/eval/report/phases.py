"""Where the time of reinforcement-learning steps went: seconds by phase, and one step from its start to its end."""

from __future__ import annotations

import math
from dataclasses import dataclass

from openqwq.eval.report.run_folder import RunFolder
from openqwq.eval.report.series_charts import PHASES, phase_chart, step_chart

LEAST_GATE = 1e-3
"""A stage without a gate asks each step whether a look is due; that share of its time is no gate."""


@dataclass(frozen=True, slots=True)
class PhaseShare:
    """A phase's seconds: in all, a step, and as percent of the stage's steps."""

    phase: str
    seconds: float
    a_step: float
    percent: float


@dataclass(frozen=True, slots=True)
class StagePhases:
    """The phases of one stage, with drawings of all its steps and of the one of median length (`step`)."""

    stage: str
    shares: tuple[PhaseShare, ...]
    steps_svg: str
    step: int
    step_svg: str


def stage_phases(run: RunFolder) -> list[StagePhases]:
    """The stages whose steps are timed by phase."""
    found = []
    for stage, rows in run.steps.items():
        timed = {int(row["step"]): row for row in rows if "seconds_generate" in row}
        if timed:
            seconds = {
                step: {phase: float(row.get(f"seconds_{phase}") or 0.0) for phase in PHASES}
                for step, row in timed.items()
            }
            found.append(_stage(run, stage, seconds))
    return found


def _stage(run: RunFolder, stage: str, seconds: dict[int, dict[str, float]]) -> StagePhases:
    totals = {phase: math.fsum(row[phase] for row in seconds.values()) for phase in PHASES}
    whole = math.fsum(totals.values())
    shares = tuple(
        PhaseShare(phase, total, total / len(seconds), 100 * total / whole if whole else 0.0)
        for phase, total in totals.items()
        if total and (phase != "gate" or total >= LEAST_GATE * whole)
    )
    by_length = sorted(seconds, key=lambda step: sum(seconds[step].values()))
    median = by_length[len(by_length) // 2]
    spans = _spans(run, stage, median)
    return StagePhases(
        stage,
        shares,
        phase_chart(list(seconds.values()), label=f"{stage}, seconds a step by phase"),
        median,
        step_chart(spans, label=f"{stage}, step {median}"),
    )


def _spans(run: RunFolder, stage: str, step: int) -> list[tuple[str, float, float]]:
    """The step's phases as (phase, start, end), in seconds from the first one's start; gaps are idle."""
    rows = [row for row in run.timeline if row.get("stage") == stage and row.get("step") == step]
    rows.sort(key=lambda row: float(row["start"]))
    spans: list[tuple[str, float, float]] = []
    for row in rows:
        start = float(row["start"]) - float(rows[0]["start"])
        if spans and start - spans[-1][2] > 0:
            spans.append(("idle", spans[-1][2], start))
        spans.append((str(row["phase"]), start, start + float(row["seconds"])))
    return spans
