"""Small charts as inline SVG: a curve over steps, and scores with intervals over stages.

Colours are the page's CSS classes, so that one drawing reads in light and in dark; the numbers are in
a `<title>` for screen readers. Nothing here is scaled to look dramatic: scores always span 0 to 100.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ..intervals import Interval

WIDTH, HEIGHT = 320, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 26
MAX_POINTS = 240
"""Curves with more points are averaged in bins: finer than the drawing's pixels is only weight."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear scale from data to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        return self.start + (self.end - self.start) * ((value - self.low) / span if span else 0.5)


def curve_chart(points: Sequence[Point], *, label: str, floor: float | None = None) -> str:
    """A metric over steps: the raw values faint, their running mean strong.

    floor: a value that the vertical axis must reach down to, e.g. 0 for lengths. NaN points are left out.
    """
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    if not finite:
        return ""
    binned = bin_points(finite)
    ys = [y for _, y in finite]
    ticks = nice_ticks(min([*ys, *([] if floor is None else [floor])]), max(ys))
    xs = Axis(finite[0][0], finite[-1][0], LEFT, WIDTH - RIGHT)
    y_axis = Axis(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    description = f"{label}: {format_tick(finite[0][1])} at step {finite[0][0]:g}, {format_tick(finite[-1][1])} at "
    body = [
        *draw_grid(ticks, y_axis),
        draw_path(binned, xs, y_axis, "raw"),
        draw_path(running_mean(binned), xs, y_axis, "line"),
        draw_text(LEFT, HEIGHT - 8, f"{finite[0][0]:g}", "start"),
        draw_text(WIDTH - RIGHT, HEIGHT - 8, f"step {finite[-1][0]:g}", "end"),
    ]
    return draw_svg(body, f"{description}step {finite[-1][0]:g}")


def stage_chart(stages: Sequence[str], strict: Sequence[Interval], free: Sequence[Interval], *, label: str) -> str:
    """A family's strict scores with their intervals, and its format-free ones dashed, stage after stage, in percent."""
    y_axis = Axis(0, 100, HEIGHT - BOTTOM, TOP)
    gap = (WIDTH - LEFT - RIGHT) / max(1, len(stages))
    centres = [LEFT + gap * (i + 0.5) for i in range(len(stages))]
    body = [
        *draw_grid([0, 25, 50, 75, 100], y_axis),
        *_stage_series(centres, free, y_axis, "free"),
        *_stage_series(centres, strict, y_axis, "line"),
    ]
    for x, stage, score in zip(centres, stages, strict, strict=True):
        body.append(draw_text(x, HEIGHT - 8, shorten(stage, int(gap / 6)), "middle"))
        if math.isfinite(score.mean):
            body.append(draw_text(x, _label_height(score, y_axis), f"{100 * score.mean:.0f}", "middle", "value"))
    known = [(stage, score) for stage, score in zip(stages, strict, strict=True) if math.isfinite(score.mean)]
    numbers = ", ".join(f"{stage} {100 * score.mean:.1f} percent" for stage, score in known)
    return draw_svg(body, f"{label}: {numbers}")


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers that enclose [low, high], evenly spaced."""
    if high <= low:
        pad = abs(low) * 0.1
        low, high = (low - pad, high + pad) if pad else (0.0, 1.0)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * i for i in range(first, last + 1)]


def format_tick(value: float) -> str:
    """A short number: 0, 0.25, 120, 1.5e-06."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def shorten(name: str, length: int) -> str:
    """A stage's name cut to a length with an ellipsis."""
    return name if len(name) <= length else name[: max(1, length - 1)] + "…"


def _stage_series(centres: Sequence[float], scores: Sequence[Interval], y_axis: Axis, style: str) -> list[str]:
    known = [(x, s) for x, s in zip(centres, scores, strict=True) if math.isfinite(s.mean)]
    body = [draw_path([(x, 100 * s.mean) for x, s in known], lambda x: x, y_axis, style)]
    for x, score in known:
        if style == "line":
            low, high = y_axis(100 * score.low), y_axis(100 * score.high)
            body.append(f'<path class="bar" d="M{x:.1f} {low:.1f}V{high:.1f}"/>')
        body.append(f'<circle class="{style}" cx="{x:.1f}" cy="{y_axis(100 * score.mean):.1f}" r="3"/>')
    return body


def _label_height(score: Interval, y_axis: Axis) -> float:
    """Below the interval, clear of the format-free point that lies above it; above where there is no room."""
    below = y_axis(100 * score.low) + 13
    return below if below < y_axis.start - 2 else y_axis(100 * score.high) - 6


def draw_grid(ticks: Sequence[float], y_axis: Axis) -> list[str]:
    """A line across for each tick, with its number on the left."""
    body = []
    for tick in ticks:
        y = y_axis(tick)
        body.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        body.append(draw_text(LEFT - 6, y + 3.5, format_tick(tick), "end"))
    return body


def draw_path(points: Sequence[Point], x_axis, y_axis: Axis, style: str) -> str:
    """A line through the points; empty without any."""
    if not points:
        return ""
    steps = " ".join(f"{'M' if i == 0 else 'L'}{x_axis(x):.1f} {y_axis(y):.1f}" for i, (x, y) in enumerate(points))
    return f'<path class="{style}" d="{steps}"/>'


def draw_text(x: float, y: float, text: str, anchor: str, style: str = "tick") -> str:
    """A text, escaped."""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def draw_svg(body: Sequence[str], description: str, height: int = HEIGHT) -> str:
    """A drawing with its description for screen readers."""
    title = escape(description)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}"><title>{title}</title>'
        + "".join(body)
        + "</svg>"
    )


def bin_points(points: Sequence[Point]) -> list[Point]:
    """At most MAX_POINTS means of consecutive points."""
    size = math.ceil(len(points) / MAX_POINTS)
    chunks = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in c) / len(c), sum(y for _, y in c) / len(c)) for c in chunks]


def running_mean(points: Sequence[Point]) -> list[Point]:
    """Means over a window of a tenth of the points, centred, cut off at both ends."""
    half = len(points) // 20
    means = []
    for i, (x, _) in enumerate(points):
        window = points[max(0, i - half) : i + half + 1]
        means.append((x, sum(y for _, y in window) / len(window)))
    return means
