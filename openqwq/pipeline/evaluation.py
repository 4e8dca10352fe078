"""Evaluation of a model outside a run: on a recipe's families or on a file, resumable problem by problem."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from openqwq.config import load_recipe
from openqwq.data.sources.jsonl import read_problem_file
from openqwq.errors import UserError
from openqwq.eval.evaluate import evaluate
from openqwq.eval.families import FamilyResult, ScoredCompletion, summarise
from openqwq.eval.judging import Judge
from openqwq.inference import Engine
from openqwq.log import append_jsonl, logger, read_json, write_text_atomic
from openqwq.model import Quantization, load_model, resolve_folder
from openqwq.tokenizer import Tokenizer
from openqwq.types import Problem, SamplingParams

from .folder import json_value, read_scored
from .machine import choose_device, set_threads
from .materials import Materials

PROBLEMS_PER_ROUND = 256
"""Problems sampled before their rows are written: what an interruption can lose."""
MAX_TOKENS = 16_384


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """What to evaluate and how; the fields are the options of `openqwq eval`."""

    model: str
    recipe: str | None = None
    data: str | None = None
    verifier: str = "math"
    prompt_suffix: str = ""
    samples: int = 1
    problems: int | None = None
    out: str | None = None
    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 40
    max_tokens: int | None = None
    seed: int = 0
    quantization: Quantization | None = None


def evaluate_model(plan: EvaluationPlan) -> dict[str, FamilyResult]:
    """One result a family. Raises UserError for a model, recipe or file that cannot be used."""
    if plan.samples < 1:
        raise UserError(f"`--samples` is {plan.samples}, but at least 1 is needed")
    set_threads(0)
    families, judge, longest = _problems(plan)
    out = _open_folder(plan)
    rows = _read_whole(out, plan.samples) if out else []
    waiting = _waiting(families, rows)
    if waiting:
        rows += _sample(plan, waiting, judge, longest, out)
    order = {family: i for i, family in enumerate(families)}
    results = summarise(sorted(rows, key=lambda row: order[row.family]))
    if out:
        text = json.dumps(json_value({f: r.to_dict() for f, r in results.items()}), indent=2)
        write_text_atomic(out / "results.json", text + "\n")
    return results


def _problems(plan: EvaluationPlan) -> tuple[dict[str, list[Problem]], Judge, int]:
    """The families, their judge, and the longest completion."""
    if plan.recipe:
        recipe = load_recipe(plan.recipe)
        if not recipe.eval.families:
            raise UserError(f"{plan.recipe} names no families under [eval]", hint="add `families`, or use `--data`")
        materials = Materials(recipe, Path())
        families = {name: problems[: plan.problems] for name, problems in materials.families.items()}
        return families, materials.judge, plan.max_tokens or recipe.eval.max_completion_tokens
    path = Path(str(plan.data))
    problems = read_problem_file(path, verifier=plan.verifier, prompt_suffix=plan.prompt_suffix)
    return {path.stem: problems[: plan.problems]}, Judge(), plan.max_tokens or MAX_TOKENS


def _open_folder(plan: EvaluationPlan) -> Path | None:
    """The folder with its plan written down; an evaluation of another plan is not mixed in."""
    if plan.out is None:
        return None
    out = Path(plan.out)
    out.mkdir(parents=True, exist_ok=True)
    described = {key: value for key, value in asdict(plan).items() if key not in ("out", "problems")}
    saved = out / "plan.json"
    if not saved.exists():
        write_text_atomic(saved, json.dumps(described, indent=2) + "\n")
        (out / "rows.jsonl").touch()
    elif found := _differences(read_json(saved), described):
        raise UserError(
            f"{out} holds an evaluation with another {', '.join(f'`{key}`' for key in found)}",
            hint="continue it with the same options, or choose another `--out`",
        )
    return out


def _differences(saved: dict[str, Any], given: dict[str, Any]) -> list[str]:
    return [key for key in given if saved.get(key) != given[key]]


def _read_whole(out: Path, samples: int) -> list[ScoredCompletion]:
    """The rows of problems whose samples are all there; what a killed writer left besides is taken out of the file."""
    file = out / "rows.jsonl"
    rows = read_scored(file)
    counts = Counter((row.family, row.id, row.prompt) for row in rows)
    whole = [row for row in rows if counts[row.family, row.id, row.prompt] == samples]
    write_text_atomic(file, "".join(json.dumps(row.to_row(), ensure_ascii=False) + "\n" for row in whole))
    return whole


def _waiting(families: dict[str, list[Problem]], rows: Sequence[ScoredCompletion]) -> list[tuple[str, Problem]]:
    done = {(row.family, row.id, row.prompt) for row in rows}
    return [
        (family, problem)
        for family, problems in families.items()
        for problem in problems
        if (family, problem.id, problem.prompt) not in done
    ]


def _sample(
    plan: EvaluationPlan, waiting: list[tuple[str, Problem]], judge: Judge, longest: int, out: Path | None
) -> list[ScoredCompletion]:
    """Rows of the waiting problems, written round by round, a problem's samples together."""
    folder = resolve_folder(plan.model)
    device = choose_device()
    dtype = torch.float32 if device.type == "cpu" else None
    model = load_model(folder, device=device, dtype=dtype, quantization=plan.quantization or "stored")
    tokenizer = Tokenizer.load(folder)
    engine = Engine(model, tokenizer)
    params = SamplingParams(temperature=plan.temperature, top_p=plan.top_p, top_k=plan.top_k, max_tokens=longest)
    rows: list[ScoredCompletion] = []
    for start in range(0, len(waiting), PROBLEMS_PER_ROUND):
        families: dict[str, list[Problem]] = {}
        for family, problem in waiting[start : start + PROBLEMS_PER_ROUND]:
            families.setdefault(family, []).append(problem)
        new = evaluate(engine, tokenizer, families, params, judge, seed=plan.seed, samples_per_problem=plan.samples)
        if out:
            _append(out / "rows.jsonl", new)
        rows += new
        logger.info("%d of %d problems", min(start + PROBLEMS_PER_ROUND, len(waiting)), len(waiting))
    return rows


def _append(file: Path, rows: Sequence[ScoredCompletion]) -> None:
    for row in rows:
        append_jsonl(file, row.to_row())
