"""The report as Markdown: the same tables and examples, for terminals and code review."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from ..families import Mark
from . import content
from .behaviours import BehaviourPage, HeldOut, behaviour_pages
from .phases import StagePhases, stage_phases
from .run_folder import RunFolder


def render_markdown(run: RunFolder) -> str:
    """The report's text; the curves are in `report.html` only."""
    parts = [f"# {plain(str(run.recipe.get('name', run.path.name)))}", content.summary(run)]
    parts += [f"**{plain(note)}**" for note in content.gate_notes(run)]
    if run.results["targets"]:
        parts += ["## Targets", _targets(run)]
    parts += ["## Held-out problems, before and after", _NOTE, _scores(run)]
    if notes := content.preference_notes(run):
        parts += ["## Reward models", *(f"{plain(stage)}: {note}" for stage, note in notes.items())]
    if pages := behaviour_pages(run):
        parts += ["## Behaviours", _BEHAVIOUR_NOTE, _behaviours(pages)]
        parts += [text for page in pages if page.examples for text in _behaviour_examples(page)]
    if examples := content.examples(run, content.example_count(run)):
        parts += ["## The same problems before and after reinforcement learning"]
        parts += [_example(example) for example in examples]
    times = [(row["stage"], row["duration"], row["share"]) for row in content.time_rows(run)]
    parts += ["## Where the time went", table(("stage", "time", "share"), times, left=1)]
    parts += [_phases(stage) for stage in stage_phases(run)]
    parts += ["## How it was made", table(("what", "value"), content.provenance(run).items(), left=2)]
    parts += ["## The resolved recipe", fence(json.dumps(run.recipe, indent=2, ensure_ascii=False), "json")]
    return "\n\n".join(parts) + "\n"


_NOTE = (
    "Percent correct: strict score with its 95% interval, then the format-free score "
    "(an answer found anywhere), then greedy decoding's strict score where it was measured."
)
_BEHAVIOUR_NOTE = (
    "Percent of completions that show each behaviour, found by its usual wordings in English. In training: of all "
    "rollouts in the first and the last tenth of the stage's steps. Held out: of the sampled completions after the "
    "stage, and how many of those with and without it are correct. In the examples, matches stand in ⟦ ⟧."
)


def fence(text: str, language: str = "") -> str:
    """A code block that no run of backticks inside the text can close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"


def _targets(run: RunFolder) -> str:
    rows = [
        (target["what"], target["goal"], content.points_text(target), "yes" if target["met"] else "NO")
        for target in run.results["targets"]
    ]
    return table(("target", "goal", "measured, in points", "met"), rows, left=2)


def _scores(run: RunFolder) -> str:
    rows = [
        (row.family, row.kind, str(row.n), *(_cell(cell) for cell in row.cells)) for row in content.family_rows(run)
    ]
    for kind, means in content.kind_means(run).items():
        rows.append((f"mean of {kind}", kind, "", *(content.percent(mean) for mean in means)))
    return table(("family", "kind", "problems", *run.evaluated_stages), rows, left=2)


def _cell(cell: content.Cell) -> str:
    text = f"{content.percent(cell.strict.mean)} ({content.percent_range(cell.strict)})"
    text += f" / {content.percent(cell.format_free.mean)}"
    return text if cell.greedy.mean != cell.greedy.mean else f"{text} / {content.percent(cell.greedy.mean)}"


def _example(example: content.Example) -> str:
    parts = [f"### {plain(example.family)} · {plain(example.id)}", fence(example.prompt)]
    for answer in (example.before, example.after):
        done = answer.completion
        free = done.format_free.status
        parts.append(f"**{plain(answer.stage)}**: {_mark(done.strict)}; format-free {free}; {done.tokens} tokens")
        parts.append(fence(done.text))
    return "\n\n".join(parts)


def _behaviours(pages: Sequence[BehaviourPage]) -> str:
    stages = [f"in {stage}" for stage, *_ in pages[0].shares]
    stages += [f"held out, {held.stage}" for held in pages[0].held_out]
    rows = [
        (
            f"{page.title} ({page.rule})",
            *(f"{content.rate(first)} → {content.rate(last)}" for _, first, last in page.shares),
            *(_held_out(held) for held in page.held_out),
        )
        for page in pages
    ]
    return table(("behaviour", *stages), rows, left=1)


def _held_out(held: HeldOut) -> str:
    text = content.rate(100 * held.shown / held.of if held.of else 0.0)
    if held.correct_with is None or held.correct_without is None:
        return text
    return f"{text} ({content.rate(held.correct_with)}% correct, others {content.rate(held.correct_without)}%)"


def _behaviour_examples(page: BehaviourPage) -> list[str]:
    parts = [f"### {page.title}"]
    for example in page.examples:
        parts.append(f"{plain(example.where)} · {plain(example.family)} · {_mark(example.mark)}")
        parts.append(fence("".join(f"⟦{text}⟧" if is_match else text for text, is_match in example.pieces)))
    return parts


def _phases(stage: StagePhases) -> str:
    rows = [
        (s.phase, content.short_time(s.a_step), "beside" if s.percent is None else f"{content.rate(s.percent)}%")
        for s in stage.shares
    ]
    return f"### {plain(stage.stage)}\n\n" + table(("phase", "a step", "share"), rows, left=1)


def _mark(mark: Mark) -> str:
    return f"{mark.status} ({plain(mark.reason)})" if mark.reason else mark.status


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int) -> str:
    """A Markdown table whose first `left` columns are aligned left, the others right."""
    lines = ["| " + " | ".join(plain(cell) for cell in head) + " |"]
    lines.append("|" + "|".join(":---" if i < left else "---:" for i in range(len(head))) + "|")
    lines += ["| " + " | ".join(plain(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def plain(text: str) -> str:
    """One line of text that starts no Markdown or HTML of its own."""
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", " ".join(text.split()))
