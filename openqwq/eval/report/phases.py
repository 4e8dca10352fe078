"""Where the time of reinforcement-learning steps went: seconds by phase, and one step from its start to its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .run_folder import RunFolder
from .series_charts import PHASES, phase_chart, step_chart

BESIDE = ("generate", "verify")
LEAST_GATE = 1e-3
"""A stage without a gate asks each step whether a look is due; that share of its time is no gate."""


@dataclass(frozen=True, slots=True)
class PhaseShare:
    """A phase's seconds a step, and its percent of the steps' time; None where it ran beside the other phases."""

    phase: str
    a_step: float
    percent: float | None


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
            # sampling beside the training has time of its own, and only the wait for it is the step's
            beside = BESIDE if any("seconds_wait" in row for row in timed.values()) else ()
            seconds = {
                step: {phase: float(row.get(f"seconds_{phase}") or 0.0) for phase in PHASES}
                for step, row in timed.items()
            }
            found.append(_stage(run, stage, seconds, beside))
    return found


def _stage(run: RunFolder, stage: str, seconds: dict[int, dict[str, float]], beside: Sequence[str]) -> StagePhases:
    own = {step: {phase: s for phase, s in row.items() if phase not in beside} for step, row in seconds.items()}
    totals = {phase: math.fsum(row[phase] for row in seconds.values()) for phase in PHASES}
    whole = math.fsum(total for phase, total in totals.items() if phase not in beside)
    shares = tuple(
        PhaseShare(phase, total / len(seconds), None if phase in beside else 100 * total / whole if whole else 0.0)
        for phase, total in totals.items()
        if total and (phase != "gate" or total >= LEAST_GATE * whole)
    )
    by_length = sorted(own, key=lambda step: sum(own[step].values()))
    median = by_length[len(by_length) // 2]
    spans = _spans(run, stage, median)
    return StagePhases(
        stage,
        shares,
        phase_chart(list(own.values()), label=f"{stage}, seconds a step by phase"),
        median,
        step_chart(spans, label=f"{stage}, step {median}"),
    )


def _spans(run: RunFolder, stage: str, step: int) -> list[tuple[str, float, float]]:
    """The step's phases as (phase, start, end), in seconds from the first one's start; gaps are idle."""
    rows = [row for row in run.timeline if row.get("stage") == stage and row.get("step") == step]
    rows.sort(key=lambda row: float(row["start"]))
    spans: list[tuple[str, float, float]] = []
    end = 0.0
    for row in rows:
        start = float(row["start"]) - float(rows[0]["start"])
        if start > end:
            spans.append(("idle", end, start))
        end = max(end, start + float(row["seconds"]))
        spans.append((str(row["phase"]), start, start + float(row["seconds"])))
    return spans
