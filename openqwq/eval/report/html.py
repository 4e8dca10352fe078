"""The report as one self-contained page: no script, no font, no picture from anywhere else."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..families import Mark
from . import content
from .behaviours import behaviour_pages
from .phases import stage_phases
from .run_folder import RunFolder
from .series_charts import NUM_STYLES


def render_html(run: RunFolder) -> str:
    """The page. All that a model or a recipe wrote is escaped."""
    rows = content.family_rows(run)
    means = content.kind_means(run)
    return render_page(
        "page.html",
        name=run.recipe.get("name", run.path.name),
        summary=content.summary(run),
        gate_notes=content.gate_notes(run),
        figures=content.headline_figures(run),
        targets=[{**target, "measured": content.points_text(target)} for target in run.results["targets"]],
        problems=content.problem_count(rows),
        stages=run.evaluated_stages,
        groups=[
            {
                "kind": kind,
                "means": [content.percent(mean) for mean in values],
                "rows": [row for row in rows if row.kind == kind],
            }
            for kind, values in means.items()
        ],
        score_charts=content.score_charts(run),
        training_charts=content.training_charts(run),
        preference_notes=content.preference_notes(run),
        behaviours=behaviour_pages(run),
        examples=content.examples(run, content.example_count(run)),
        times=content.time_rows(run),
        phases=stage_phases(run),
        versions=content.provenance(run),
        recipe=json.dumps(run.recipe, indent=2, ensure_ascii=False),
    )


def render_page(name: str, /, **values: Any) -> str:
    """The template of that name with these values, the style sheet and the formats of numbers and verdicts."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(_read(name)).render(
        style=_read("style.css"),
        percent=content.percent,
        percent_range=content.percent_range,
        rate=content.rate,
        short_time=content.short_time,
        mark=_mark,
        key=_key,
        **values,
    )


def _read(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _key(number: int) -> Markup:
    """A piece of curve number `number`, for legends."""
    return Markup(
        '<svg viewBox="0 0 32 8" class="key-line" aria-hidden="true"><path class="series s{}" d="M0 4H32"/></svg>'
    ).format(number % NUM_STYLES)


def _mark(mark: Mark) -> Markup:
    """A verdict in words, a sign and a colour, so that none of the three is needed to read it."""
    style, sign = {"correct": ("good", "✓"), "wrong": ("bad", "✗")}.get(mark.status, ("unsure", "?"))
    partial = f", score {mark.score:.2f}" if 0 < mark.score < 1 else ""
    reason = f": {mark.reason}" if mark.reason else ""
    return Markup('<span class="{}">{} {}{}{}</span>').format(style, sign, mark.status, partial, reason)
