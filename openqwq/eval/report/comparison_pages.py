"""A comparison of runs as a self-contained page and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from ..intervals import Interval
from . import comparison, content
from .comparison import Cell, ComparedRun, points
from .html import render_page
from .markdown import plain, table


def comparison_html(runs: Sequence[ComparedRun]) -> str:
    """The page. All that a recipe or a file's name says is escaped."""
    rows = comparison.score_rows(runs)
    cells = [cell for own in rows.values() for row in own for cell in row.cells]
    return render_page(
        "comparison.html",
        labels=[compared.label for compared in runs],
        runs=[
            {
                "label": compared.label,
                "name": str(compared.run.recipe.get("name", "")),
                "summary": content.summary(compared.run),
                "notes": content.gate_notes(compared.run),
                "met": targets_met(compared),
            }
            for compared in runs
        ],
        stages=comparison.compared_stages(runs),
        score_rows=rows,
        unpaired=any(not cell.is_paired for cell in cells),
        target_rows=comparison.target_rows(runs),
        charts=comparison.curve_charts(runs),
        recipe_rows=comparison.recipe_rows(runs),
        points=points,
        points_text=content.points_text,
        tone=_tone,
    )


def comparison_markdown(runs: Sequence[ComparedRun]) -> str:
    """The tables; the curves are on the page only."""
    labels = [compared.label for compared in runs]
    summaries = [(c.label, f"{c.run.recipe.get('name', '')}: {content.summary(c.run)}", targets_met(c)) for c in runs]
    notes = [f"**{plain(c.label)}**: {plain(note)}" for c in runs for note in content.gate_notes(c.run)]
    scores = [
        (row.what, row.stage, *(_cell(cell, labels[0]) for cell in row.cells))
        for rows in comparison.score_rows(runs).values()
        for row in rows
    ]
    parts = ["# " + plain(", ".join(labels)), table(("run", "what ran", "targets met"), summaries, left=2), *notes]
    parts += ["## Held-out problems, before and after", _NOTE]
    parts += [table(("family", "after stage", *labels), scores, left=2)]
    if targets := comparison.target_rows(runs):
        lines = [(what, *(_target(outcome) for outcome in outcomes)) for what, outcomes in targets]
        parts += ["## Targets", table(("target", *labels), lines, left=1)]
    differing = [(key, *values) for key, values in comparison.recipe_rows(runs)]
    same = "Nothing: the runs have the same recipe, seed and versions."
    parts += ["## What differs", table(("key", *labels), differing, left=1 + len(labels)) if differing else same]
    return "\n\n".join(parts) + "\n"


_NOTE = (
    "Percent correct, strict, with its 95% interval. Then in points with 95% intervals: since the run's first "
    "evaluation, and the difference to the first run after the same stage."
)


def targets_met(compared: ComparedRun) -> str:
    """How many of the targets that could be judged are met, as "4 of 5"."""
    targets = compared.run.results["targets"]
    return f"{sum(target['met'] for target in targets)} of {len(targets)}" if targets else "–"


def _cell(cell: Cell, first: str) -> str:
    text = f"{content.percent(cell.score.mean)} ({content.percent_range(cell.score)})"
    if content.percent_range(cell.score) == "":
        return "–"
    if change := points(cell.change):
        text += f"; since start {change}"
    if difference := points(cell.difference):
        text += f"; vs {first}{'' if cell.is_paired else ', other problems,'} {difference}"
    return text


def _target(outcome) -> str:
    if outcome is None:
        return "–"
    return f"{'met' if outcome['met'] else 'MISSED'}: {content.points_text(outcome)}, goal {outcome['goal']}"


def _tone(difference: Interval) -> str:
    """A colour only where the interval leaves no doubt about the sign."""
    return "good" if difference.low > 0 else "bad" if difference.high < 0 else "unsure"
