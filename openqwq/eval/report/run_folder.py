"""A run folder read back: what the report is made of. Works on a run that is still going on."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openqwq.errors import UserError
from openqwq.eval.families import ScoredCompletion
from openqwq.eval.intervals import UNKNOWN, Interval
from openqwq.log import read_jsonl


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run's files, parsed.

    results:     `results.json`.  recipe: `recipe.json`, the resolved one.
    steps:       stage -> its rows of `metrics.jsonl`, evaluation rows left out.
    evaluations: stage -> its scored completions, for the stages whose file is there.
    """

    path: Path
    results: dict[str, Any]
    recipe: dict[str, Any]
    steps: dict[str, list[dict[str, Any]]]
    evaluations: dict[str, list[ScoredCompletion]]

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
    results = _read_json(path / "results.json")
    recipe = _read_json(path / "recipe.json")
    metrics = path / "metrics.jsonl"
    steps: dict[str, list[dict[str, Any]]] = {}
    for row in read_jsonl(metrics) if metrics.exists() else []:
        if "step" in row and row.get("event", "step") == "step":
            steps.setdefault(str(row.get("stage", "")), []).append(row)
    evaluations = {}
    for stage in results["stages"]:
        file = path / "eval" / f"{stage['name']}.jsonl"
        if file.exists():
            evaluations[stage["name"]] = [ScoredCompletion.from_row(row) for row in read_jsonl(file)]
    return RunFolder(path, results, recipe, steps, evaluations)


def _interval(entry: dict[str, float | None] | None) -> Interval:
    if entry is None:
        return UNKNOWN
    values = [entry[key] for key in ("mean", "low", "high")]
    return Interval(*(math.nan if value is None else float(value) for value in values))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path.parent} is not the folder of a run: it has no {path.name}",
            hint="give the folder that `openqwq train --out` wrote; results.json appears after its first evaluation",
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
