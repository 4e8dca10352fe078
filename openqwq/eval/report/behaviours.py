"""What the report says of behaviours: how often each shows over the training and after it, and where, in examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openqwq.verifiers.behaviours import BEHAVIOURS, Behaviour, Span

from ..families import Mark, ScoredCompletion
from .run_folder import RunFolder
from .series_charts import Series, series_chart

MAX_EXAMPLES = 3
CONTEXT = 160
"""Characters shown on either side of the first match."""
LONGEST_MATCH = 320
"""Characters shown of a match: a loop can be as long as the completion."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A behaviour in the sampled held-out completions after one stage.

    shown, of: completions with it, and all.
    correct_with, correct_without: percent correct of the judged ones; None where there are none.
    """

    stage: str
    shown: int
    of: int
    correct_with: float | None
    correct_without: float | None


@dataclass(frozen=True, slots=True)
class BehaviourExample:
    """A completion around its first match. pieces: (text, whether it is a match)."""

    where: str
    family: str
    prompt: str
    mark: Mark
    pieces: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class BehaviourPage:
    """One behaviour. shares: (stage, percent of its first tenth of steps, percent of its last) while training."""

    name: str
    title: str
    rule: str
    svg: str
    shares: tuple[tuple[str, float, float], ...]
    held_out: tuple[HeldOut, ...]
    examples: tuple[BehaviourExample, ...]
    seen_in_training: bool

    @property
    def seen(self) -> bool:
        """Whether any rollout or held-out completion showed it."""
        return self.seen_in_training or bool(self.examples) or any(held.shown for held in self.held_out)


def behaviour_pages(run: RunFolder) -> list[BehaviourPage]:
    """One page a behaviour; empty when no stage counted any and nothing was evaluated."""
    counted = behaviour_points(run, next(iter(BEHAVIOURS)))
    return [_page(run, name, behaviour) for name, behaviour in BEHAVIOURS.items() if counted or run.evaluations]


def behaviour_points(run: RunFolder, name: str) -> dict[str, list[tuple[float, float]]]:
    """Stage -> (step, percent of the rollouts that show the behaviour), for the stages that counted it."""
    points: dict[str, list[tuple[float, float]]] = {}
    for stage, rows in run.steps.items():
        for row in rows:
            share = (row.get("behaviours") or {}).get(name)
            if share is not None:
                points.setdefault(stage, []).append((float(row["step"]), 100 * float(share)))
    return points


def excerpt(text: str, spans: Sequence[Span]) -> tuple[tuple[str, bool], ...]:
    """The text around its first match in pieces, the matches within it marked; dots where it was cut."""
    first, end = spans[0]
    start = max(0, first - CONTEXT)
    stop = min(len(text), min(end, first + LONGEST_MATCH) + CONTEXT)
    pieces = [("…", False)] if start else []
    at = start
    for begin, finish in spans:
        begin, finish = max(begin, at), min(finish, stop)
        if begin >= stop:
            break
        pieces += [(text[at:begin], False), (text[begin:finish], True)]
        at = max(at, finish)
    pieces += [(text[at:stop], False), ("…" if stop < len(text) else "", False)]
    return tuple(piece for piece in pieces if piece[0])


def _page(run: RunFolder, name: str, behaviour: Behaviour) -> BehaviourPage:
    points = behaviour_points(run, name)
    sampled = {stage: [r for r in rows if r.decoding == "sampled"] for stage, rows in run.evaluations.items()}
    showing = {
        stage: [behaviour.shows(row.text, row.thinking_opened) for row in rows] for stage, rows in sampled.items()
    }
    return BehaviourPage(
        name=name,
        title=behaviour.title,
        rule=behaviour.rule,
        svg=_chart(run, name, behaviour.title),
        shares=tuple((stage, _mean(own[: _tenth(own)]), _mean(own[-_tenth(own) :])) for stage, own in points.items()),
        held_out=tuple(_held_out(stage, rows, showing[stage]) for stage, rows in sampled.items()),
        examples=tuple(_logged(run, behaviour) or _evaluated(sampled, showing, behaviour)),
        seen_in_training=any(y for own in points.values() for _, y in own),
    )


def _chart(run: RunFolder, name: str, title: str) -> str:
    """The stages one after the other; the canary's second curve is the share that was paid."""
    series, dividers = [], []
    for style, metric in enumerate([name, "paid_hack_canary"] if name == "hack_canary" else [name]):
        offset = 0.0
        for stage, points in behaviour_points(run, metric).items():
            if not style:
                dividers.append((offset, stage))
            series.append(Series("", [(offset + x, y) for x, y in points], style))
            offset += points[-1][0] + 1
    return series_chart(series, label=f"{title}, percent of rollouts", floor=0.0, dividers=dividers)


def _held_out(stage: str, rows: Sequence[ScoredCompletion], shows: Sequence[bool]) -> HeldOut:
    marks = [(row.strict, shown) for row, shown in zip(rows, shows, strict=True) if row.strict.status != "unjudged"]
    return HeldOut(
        stage,
        sum(shows),
        len(rows),
        _percent_correct([mark for mark, shown in marks if shown]),
        _percent_correct([mark for mark, shown in marks if not shown]),
    )


def _logged(run: RunFolder, behaviour: Behaviour) -> list[BehaviourExample]:
    """The first, the middle and the last logged rollout with the behaviour, whatever their verdict."""
    found = [row for row in run.samples if behaviour.shows(str(row.get("text", "")), row.get("thinking_opened"))]
    return [_from_sample(found[i], behaviour) for i in _spread(len(found))]


def _evaluated(
    sampled: Mapping[str, Sequence[ScoredCompletion]], showing: Mapping[str, Sequence[bool]], behaviour: Behaviour
) -> list[BehaviourExample]:
    """Where no logged rollout has it: held-out completions of the last stage that has any with it."""
    for stage in reversed(list(sampled)):
        found = [row for row, shown in zip(sampled[stage], showing[stage], strict=True) if shown]
        if found:
            return [_from_evaluation(found[i], stage, behaviour) for i in _spread(len(found))]
    return []


def _from_evaluation(row: ScoredCompletion, stage: str, behaviour: Behaviour) -> BehaviourExample:
    pieces = excerpt(row.text, behaviour.find(row.text, row.thinking_opened))
    return BehaviourExample(f"held out, after {stage}", row.family, row.prompt, row.strict, pieces)


def _from_sample(row: dict[str, Any], behaviour: Behaviour) -> BehaviourExample:
    text = str(row["text"])
    return BehaviourExample(
        where=f"{row.get('stage')}, step {row.get('step')}",
        family=str(row.get("source", "")),
        prompt=str(row.get("prompt", "")),
        mark=Mark(row.get("verdict", "unjudged"), float(row.get("score") or 0.0), str(row.get("reason") or "")),
        pieces=excerpt(text, behaviour.find(text, row.get("thinking_opened"))),
    )


def _spread(count: int) -> list[int]:
    """Up to MAX_EXAMPLES positions from the first to the last, evenly spaced."""
    if count <= MAX_EXAMPLES:
        return list(range(count))
    return [round(i * (count - 1) / (MAX_EXAMPLES - 1)) for i in range(MAX_EXAMPLES)]


def _tenth(points: Sequence[tuple[float, float]]) -> int:
    return max(1, len(points) // 10)


def _mean(points: Sequence[tuple[float, float]]) -> float:
    return sum(y for _, y in points) / len(points)


def _percent_correct(marks: Sequence[Mark]) -> float | None:
    return 100 * sum(mark.status == "correct" for mark in marks) / len(marks) if marks else None
