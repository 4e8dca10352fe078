"""Charts of several curves, and of where the time of steps went, as inline SVG in the manner of `charts.py`.

A curve is told from its neighbours by colour and by dashes; the legend beside the chart has the same classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Point,
    bin_points,
    draw_grid,
    draw_path,
    draw_svg,
    draw_text,
    format_tick,
    nice_ticks,
    running_mean,
    shorten,
)

NUM_STYLES = 8
"""Curve styles of the page's style sheet: further curves begin anew."""
PHASES = ("generate", "verify", "wait", "train", "sync", "gate", "idle")
"""Phases of a step in the order in which they are stacked; each has its colour in the style sheet."""
MAX_COLUMNS = 90
"""Columns of a chart of phases: more steps are averaged."""


@dataclass(frozen=True, slots=True)
class Series:
    """A named curve. style: number of its look in the style sheet."""

    name: str
    points: Sequence[Point]
    style: int = 0


def series_chart(
    series: Sequence[Series],
    *,
    label: str,
    floor: float | None = None,
    dividers: Sequence[tuple[float, str]] = (),
    smooth: bool = True,
) -> str:
    """All curves on the same axes; empty when none has a point.

    floor:    a value that the vertical axis must reach down to.
    dividers: (x, name) of vertical lines, each with the name of what begins there.
    smooth:   draw running means instead of the values.
    """
    drawn = [Series(s.name, _drawn_points(s.points, smooth), s.style) for s in series]
    points = [point for each in drawn for point in each.points]
    if not points:
        return ""
    ys = [y for _, y in points]
    ticks = nice_ticks(min([*ys, *([] if floor is None else [floor])]), max(ys))
    x_axis = Axis(min(x for x, _ in points), max(x for x, _ in points), LEFT, WIDTH - RIGHT)
    y_axis = Axis(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    body = [*draw_grid(ticks, y_axis), *_draw_dividers(dividers, x_axis)]
    for each in drawn:
        style = f"series s{each.style % NUM_STYLES}"
        body.append(draw_path(each.points, x_axis, y_axis, style))
        if len(each.points) == 1:  # a line of one point would not be seen
            [(x, y)] = each.points
            body.append(f'<circle class="{style}" cx="{x_axis(x):.1f}" cy="{y_axis(y):.1f}" r="3"/>')
    body.append(draw_text(LEFT, HEIGHT - 8, f"{x_axis.low:g}", "start"))
    body.append(draw_text(WIDTH - RIGHT, HEIGHT - 8, f"step {x_axis.high:g}", "end"))
    return draw_svg(body, f"{label}: " + "; ".join(_describe(s) for s in drawn if s.points))


def _drawn_points(points: Sequence[Point], smooth: bool) -> list[Point]:
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    binned = bin_points(finite) if finite else []
    return running_mean(binned) if smooth else binned


def phase_chart(rows: Sequence[Mapping[str, float]], *, label: str) -> str:
    """Seconds of each step, its phases stacked in `PHASES`' order; neighbouring steps averaged where there are many.

    rows: seconds by phase, a step each.
    """
    if not rows:
        return ""
    columns = _average(rows)
    top = max(sum(column.values()) for column in columns)
    ticks = nice_ticks(0.0, top)
    y_axis = Axis(0.0, ticks[-1], HEIGHT - BOTTOM, TOP)
    width = (WIDTH - LEFT - RIGHT) / len(columns)
    body = draw_grid(ticks, y_axis)
    for i, column in enumerate(columns):
        base = 0.0
        for phase in PHASES:
            seconds = column[phase]
            high, low = y_axis(base + seconds), y_axis(base)
            if low - high >= 0.05:
                body.append(_box(LEFT + i * width, high, max(width - 0.4, 0.3), low - high, phase))
            base += seconds
    body.append(draw_text(LEFT, HEIGHT - 8, "first step", "start"))
    body.append(draw_text(WIDTH - RIGHT, HEIGHT - 8, f"{len(rows)} steps", "end"))
    return draw_svg(body, f"{label}: at most {top:.3g} seconds a step")


def step_chart(spans: Sequence[tuple[str, float, float]], *, label: str) -> str:
    """One step from left to right, a line for each of its phases. spans: (phase, start, end) in seconds."""
    if not spans:
        return ""
    names = [phase for phase in PHASES if any(span[0] == phase for span in spans)]
    end = max(span[2] for span in spans)
    ticks = nice_ticks(0.0, end)
    left, row = 64, 20
    height = TOP + row * len(names) + BOTTOM
    x_axis = Axis(0.0, ticks[-1], left, WIDTH - RIGHT)
    body = []
    for tick in ticks:
        body.append(f'<path class="grid" d="M{x_axis(tick):.1f} {TOP}V{height - BOTTOM}"/>')
        body.append(draw_text(x_axis(tick), height - 8, f"{format_tick(tick)} s", "middle"))
    for i, name in enumerate(names):
        body.append(draw_text(left - 8, TOP + row * i + 14, name, "end"))
    for phase, begin, finish in spans:
        x, y = x_axis(begin), TOP + row * names.index(phase) + 3
        body.append(_box(x, y, max(x_axis(finish) - x, 0.8), row - 6, phase))
    return draw_svg(body, f"{label}: {end:.3g} seconds", height=height)


def _average(rows: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    size = math.ceil(len(rows) / MAX_COLUMNS)
    parts = [rows[i : i + size] for i in range(0, len(rows), size)]
    return [{phase: sum(row.get(phase, 0.0) for row in part) / len(part) for phase in PHASES} for part in parts]


def _draw_dividers(dividers: Sequence[tuple[float, str]], x_axis: Axis) -> list[str]:
    body = []
    for i, (start, name) in enumerate(dividers):
        x = x_axis(start)
        end = x_axis(dividers[i + 1][0]) if i + 1 < len(dividers) else float(WIDTH - RIGHT)
        if start > x_axis.low:
            body.append(f'<path class="divider" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        body.append(draw_text(x + 2, TOP - 3, shorten(name, max(1, int((end - x) / 6))), "start"))
    return body


def _box(x: float, y: float, width: float, height: float, phase: str) -> str:
    return f'<rect class="p-{phase}" x="{x:.1f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"/>'


def _describe(series: Series) -> str:
    (first, start), (last, end) = series.points[0], series.points[-1]
    name = f"{series.name} " if series.name else ""
    return f"{name}{format_tick(start)} at step {first:g}, {format_tick(end)} at step {last:g}"
