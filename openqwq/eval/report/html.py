"""The report as one self-contained page: no script, no font, no picture from anywhere else."""

from __future__ import annotations

import json
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from openqwq.eval.families import Mark
from openqwq.eval.report import content
from openqwq.eval.report.run_folder import RunFolder


def render_html(run: RunFolder) -> str:
    """The page. All that a model or a recipe wrote is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string((files(__package__) / "page.html").read_text(encoding="utf-8"))
    rows = content.family_rows(run)
    means = content.kind_means(run)
    return template.render(
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
        examples=content.examples(run, content.example_count(run)),
        times=content.time_rows(run),
        versions=content.provenance(run),
        recipe=json.dumps(run.recipe, indent=2, ensure_ascii=False),
        percent=content.percent,
        percent_range=content.percent_range,
        mark=_mark,
    )


def _mark(mark: Mark) -> Markup:
    """A verdict in words, a sign and a colour, so that none of the three is needed to read it."""
    style, sign = {"correct": ("good", "✓"), "wrong": ("bad", "✗")}.get(mark.status, ("unsure", "?"))
    partial = f", score {mark.score:.2f}" if 0 < mark.score < 1 else ""
    reason = f": {mark.reason}" if mark.reason else ""
    return Markup('<span class="{}">{} {}{}{}</span>').format(style, sign, mark.status, partial, reason)
