"""Sample one checkpoint on held-out problems, and keep every completion's mark and length: the experiments' raw data.

    python benchmarks/experiment_evals.py CHECKPOINT RECIPE OUTPUT --samples 32 --problems 128

It can be interrupted after each family.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from openqwq.config import load_recipe
from openqwq.eval.evaluate import evaluate
from openqwq.eval.families import ScoredCompletion
from openqwq.inference import Engine
from openqwq.log import write_text_atomic
from openqwq.model import load_model
from openqwq.pipeline.machine import set_threads
from openqwq.pipeline.materials import Materials
from openqwq.tokenizer import Tokenizer
from openqwq.verifiers.behaviours import BEHAVIOURS

CLOSING_TEXT = "\n</think>\n\n"
"""What ends a thinking whose budget is spent: a tiny model knows no sentence that asks for the answer."""
EXAMPLES = 2
"""Completions of each family that are kept as text."""


def main() -> int:
    """Sample what is missing in the output file."""
    args = read_arguments()
    set_threads(1)
    measure(
        args.checkpoint,
        args.recipe,
        args.output,
        families=args.families,
        samples=args.samples,
        problems=args.problems,
        max_tokens=args.max_tokens,
        thinking_budget=args.thinking_budget,
        seed=args.seed,
    )
    return 0


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("recipe", type=Path, help="its [eval] names families and sampling")
    parser.add_argument("output", type=Path)
    parser.add_argument("--families", nargs="+", help="default: the recipe's")
    parser.add_argument("--samples", type=int, default=1, help="completions of each problem")
    parser.add_argument("--problems", type=int, default=128, help="problems of each family")
    parser.add_argument("--max-tokens", type=int, help="default: the recipe's")
    parser.add_argument("--thinking-budget", type=int, help="tokens of thinking; default: no limit")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling")
    return parser.parse_args()


def measure(
    checkpoint: Path,
    recipe: Path,
    output: Path,
    *,
    families: Sequence[str] | None,
    samples: int,
    problems: int,
    max_tokens: int | None,
    thinking_budget: int | None,
    seed: int,
) -> dict[str, Any]:
    """The output file's content: by family, for each problem the marks and lengths of its samples.

    What is done of an unfinished file lies beside it, with the suffix `.partial`.
    """
    materials = Materials(load_recipe(recipe, [f"eval.problems_per_family={problems}"]), output.parent)
    params = materials.eval_params
    params = params.replace(max_tokens=max_tokens or params.max_tokens, thinking_budget=thinking_budget)
    sampling = {"samples": samples, "problems": problems, "max_tokens": params.max_tokens, "seed": seed}
    sampling |= {"temperature": params.temperature, "top_p": params.top_p, "top_k": params.top_k}
    sampling |= {"thinking_budget": thinking_budget, "weights": file_digest(checkpoint / "model.safetensors")}
    partial = output.with_suffix(".partial")
    done: dict[str, Any] = {"sampling": sampling, "families": {}}
    for file in (partial, output):
        if file.exists():
            done = read_same(file, sampling)
            break
    waiting = [name for name in families or materials.families if name not in done["families"]]
    if waiting:
        tokenizer = Tokenizer.load(checkpoint)
        engine = Engine(load_model(checkpoint, dtype=torch.float32), tokenizer, closing_text=CLOSING_TEXT, seed=seed)
    for name in waiting:
        own = {name: materials.families[name]}
        rows = evaluate(engine, tokenizer, own, params, materials.judge, seed=seed, samples_per_problem=samples)
        done["families"][name] = condense(rows)
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(partial, json.dumps(done) + "\n")
    if waiting:
        os.replace(partial, output)
    return done


def file_digest(file: Path) -> str:
    """The first 16 hexadecimal digits of the file's SHA-256."""
    with open(file, "rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()[:16]


def read_same(output: Path, sampling: dict[str, Any]) -> dict[str, Any]:
    """What an earlier call left. Raises SystemExit where it sampled in another way."""
    found = json.loads(output.read_text())
    if found["sampling"] != sampling:
        raise SystemExit(f"{output} was sampled with {found['sampling']}, not {sampling}: remove it")
    return found


def condense(rows: Sequence[ScoredCompletion]) -> dict[str, Any]:
    """A family's completions as numbers. marks: 1 correct, 0 not, None unjudged; one list a problem, as in tokens.

    behaviours: how many of the completions show each; truncated: how many were cut at the limit.
    """
    by_problem: dict[str, list[ScoredCompletion]] = {}
    for row in rows:
        by_problem.setdefault(row.id, []).append(row)
    return {
        "kind": rows[0].kind,
        "marks": [[mark_of(row) for row in own] for own in by_problem.values()],
        "tokens": [[row.tokens for row in own] for own in by_problem.values()],
        "completions": len(rows),
        "behaviours": {
            name: sum(b.shows(row.text, row.thinking_opened) for row in rows) for name, b in BEHAVIOURS.items()
        },
        "truncated": sum(row.finish_reason == "length" for row in rows),
        "examples": [{"prompt": row.prompt, "text": row.text, "correct": mark_of(row)} for row in rows[:EXAMPLES]],
    }


def mark_of(row: ScoredCompletion) -> int | None:
    """1 for a strictly correct completion, 0 for another, None for one that nobody could judge."""
    return None if row.strict.status == "unjudged" else int(row.strict.status == "correct")


if __name__ == "__main__":
    raise SystemExit(main())
