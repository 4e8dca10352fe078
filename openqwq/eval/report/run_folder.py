"""A run folder read back: what the report is made of. Works on a running run."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openqwq.errors import UserError
from openqwq.log import read_jsonl

from ..families import ScoredCompletion
from ..intervals import UNKNOWN, Interval


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run's files, parsed.

    results:     `results.json`.  recipe: `recipe.json`, the resolved one.
    steps:       stage -> its rows of `metrics.jsonl`, evaluation rows left out.
    evaluations: stage -> its scored completions, for the stages whose file is there.
    samples:     rows of `samples.jsonl`: some rollouts of the training.
    timeline:    rows of `timeline.jsonl`: when each phase of each step began, and its seconds.
    """

    path: Path
    results: dict[str, Any]
    recipe: dict[str, Any]
    steps: dict[str, list[dict[str, Any]]]
    evaluations: dict[str, list[ScoredCompletion]]
    samples: list[dict[str, Any]]
    timeline: list[dict[str, Any]]

    @property
    def evaluated_stages(self) -> list[str]:
        return [stage["name"] for stage in self.results["stages"]]

    @property
    def families(self) -> dict[str, str]:
        """Family -> kind, kinds together, in the recipe's order."""
        kinds = {f: r["kind"] for stage in self.results["stages"] for f, r in stage["families"].items()}
        order = list(dict.fromkeys(kinds.values()))
        return dict(sorted(kinds.items(), key=lambda item: order.index(item[1])))

    def score(self, stage: str, family: str, which: str) -> Interval:
        """A family's "strict", "format_free" or "greedy" score after a stage; NaN where there is none."""
        for entry in self.results["stages"]:
            if entry["name"] == stage:
                return _interval(entry["families"].get(family, {}).get(which))
        return UNKNOWN

    def stage_kind(self, stage: str) -> str:
        return str(self.recipe.get("stage", {}).get(stage, {}).get("kind", ""))

    def before_and_after_rl(self) -> tuple[str, str] | None:
        """The last evaluated stage before reinforcement learning and the last one of it, if both are there."""
        rl = [stage for stage in self.evaluated_stages if self.stage_kind(stage) == "rl"]
        if not rl:
            return None
        earlier = self.evaluated_stages[: self.evaluated_stages.index(rl[0])]
        return (earlier[-1], rl[-1]) if earlier else None


def read_run_folder(path: str | Path) -> RunFolder:
    """The run in that folder. Raises UserError when it is not a run folder, or its files are not readable."""
    path = Path(path)
    results = _read_json(path / "results.json", "stages")
    recipe = _read_json(path / "recipe.json", "stage")
    steps: dict[str, list[dict[str, Any]]] = {}
    for row in _read_rows(path / "metrics.jsonl"):
        if "step" in row and row.get("event", "step") == "step":
            steps.setdefault(str(row.get("stage", "")), []).append(row)
    evaluations = {}
    for stage in results["stages"]:
        file = path / "eval" / f"{stage['name']}.jsonl"
        if file.exists():
            evaluations[stage["name"]] = _read_completions(file)
    samples, timeline = (_read_rows(path / name) for name in ("samples.jsonl", "timeline.jsonl"))
    return RunFolder(path, results, recipe, steps, evaluations, samples, timeline)


def _read_completions(file: Path) -> list[ScoredCompletion]:
    try:
        return [ScoredCompletion.from_row(row) for row in _read_rows(file)]
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} holds something else than scored completions: {error}") from None


def _read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; none where there is no file."""
    return read_jsonl(file) if file.exists() else []


def _interval(entry: dict[str, float | None] | None) -> Interval:
    if entry is None:
        return UNKNOWN
    values = [entry[key] for key in ("mean", "low", "high")]
    return Interval(*(math.nan if value is None else float(value) for value in values))


def _read_json(path: Path, key: str) -> dict[str, Any]:
    """The table in the file, which must have that key."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        why = f"it has no {path.name}" if path.parent.is_dir() else "there is no such folder"
        raise _no_run(path.parent, why) from None
    except NotADirectoryError:
        raise _no_run(path.parent, "it is a file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(table, dict) or key not in table:
        raise _no_run(path.parent, f"its {path.name} has no `{key}`")
    return table


def _no_run(folder: Path, why: str) -> UserError:
    return UserError(
        f"{folder} is not the folder of a run: {why}",
        hint="give the folder that `openqwq train --out` wrote",
    )
