"""A synthetic run folder in the shape that `openqwq train` writes, with hostile text in it."""

import json
import math
import random

from openqwq.eval.families import Mark, ScoredCompletion, summarise
from openqwq.log import append_jsonl

STAGES = {"pretrain": "pretrain", "cold_start": "sft", "rl_math_code": "rl", "rl_general": "rl"}
FAMILIES = {"chain_sum": "math", "gcd": "math", "python_functions": "code", "instructions": "instruction"}
SCORE = {"pretrain": 0.0, "cold_start": 0.35, "rl_math_code": 0.7, "rl_general": 0.72}
HOSTILE = '<script>alert("x")</script> & </pre> ``` | `code`'


def make_run_folder(path, problems=40, stages=tuple(STAGES)):
    """Writes the folder and returns its path; scores rise stage by stage."""
    draw = random.Random(0)
    (path / "eval").mkdir(parents=True)
    entries = []
    for stage in stages:
        rows = [_completion(stage, family, kind, i, draw) for family, kind in FAMILIES.items() for i in range(problems)]
        for row in rows:
            append_jsonl(path / "eval" / f"{stage}.jsonl", row.to_row())
        entries.append({"name": stage, "families": {f: r.to_dict() for f, r in summarise(rows).items()}})
        for step in range(60):
            append_jsonl(path / "metrics.jsonl", _metrics(stage, step, draw))
    results = {
        "stages": entries,
        "gates": {"rl_general": {"steps": 12, "fell": "math fell from 0.700 to 0.640"}},
        "seconds": dict(zip(stages, (95.2, 41.0, 310.5, 122.4), strict=False)),
        "seed": 3,
        "versions": {"openqwq": "0.1.0", "torch": "2.13.0", "python": "3.11.2"},
        "targets": [
            _target("Stage 1 lifts held-out maths by at least 20 points", 34.2, True),
            _target("Stage 2 lifts instruction following by at least 20 points", 11.0, False),
        ],
    }
    (path / "results.json").write_text(json.dumps(results))
    recipe = {
        "name": "synthetic",
        "seed": 3,
        "model": {"preset": "tiny", "path": ""},
        "stage": {name: {"kind": kind} for name, kind in STAGES.items()},
        "eval": {"show_problems": 10},
    }
    (path / "recipe.json").write_text(json.dumps(recipe))
    return path


def _completion(stage, family, kind, number, draw):
    right = draw.random() < SCORE[stage]
    mark = Mark("correct", 1.0) if right else Mark("wrong", 0.0, f"12 is not {HOSTILE}")
    free = Mark("correct", 1.0) if right or draw.random() < 0.2 else Mark("wrong", 0.0)
    text = f"{number}+48={number + 48}\n</think>\n\n\\boxed{{{number + 48}}}"
    if number == 0:
        text, mark = f"{HOSTILE}\n</think>\n\n{HOSTILE}", Mark("unjudged", 0.0, "deadline")
    if kind == "code":
        text = "keep the even ones\nsum them\n</think>\n\n```python\ndef f(xs):\n    return sum(xs)\n```"
    return ScoredCompletion(
        family=family,
        kind=kind,
        id=f"{family}/held_out/{number}",
        prompt=f"State the final answer to the following arithmetic problem: {number} + 48 - 12 =\n{HOSTILE}",
        text=text,
        tokens=20 + number,
        finish_reason="stop",
        strict=mark,
        format_free=free,
    )


def _metrics(stage, step, draw):
    row = {"stage": stage, "step": step, "loss": 3 * math.exp(-step / 20) + draw.gauss(0, 0.05)}
    if STAGES[stage] == "rl":
        row |= {
            "reward": 0.35 + 0.4 * step / 60 + draw.gauss(0, 0.05),
            "completion_tokens_mean": 30 + step / 3 + draw.gauss(0, 2),
            "entropy": 0.6 - step / 200 + draw.gauss(0, 0.02),
            "mismatch_max": 3e-6 + abs(draw.gauss(0, 1e-6)),
        }
    return row


def _target(what, mean, met):
    got = {"mean": mean, "low": mean - 4.1, "high": mean + 4.1}
    return {"what": what, "goal": "change >= +20.0, low end >= +10.0", "got": got, "met": met}
