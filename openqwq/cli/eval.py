"""Evaluate a model on held-out problems: strict and format-free scores with 95% intervals.

The problems are the evaluated families of a recipe (--recipe), or those of a JSON-lines file (--data).
With --out DIR every completion is kept there, and an interrupted evaluation resumes where it stopped.
"""

from __future__ import annotations

import argparse
from dataclasses import fields

from ._options import add_json_argument, add_quantization_argument, print_json

NEVER_GREEDY = "0 is greedy decoding, which QwQ's authors advise against"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a Hugging Face folder, GGUF file or hub name")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--recipe", help="evaluate on the held-out problems of this recipe's [eval] families")
    what.add_argument(
        "--data",
        metavar="FILE",
        help='evaluate on every problem of a JSON-lines file: {"question": ..., "answer": ...} or whole problems',
    )
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="completions per problem (default 1)")
    parser.add_argument("--problems", type=int, metavar="N", help="problems per family (default: the recipe's, or all)")
    parser.add_argument(
        "--out", metavar="DIR", help="folder for rows.jsonl and results.json; resumes an evaluation found there"
    )
    parser.add_argument(
        "--temperature", type=float, default=0.6, help=f"sampling temperature (default 0.6); {NEVER_GREEDY}"
    )
    parser.add_argument("--top-p", type=float, default=0.95, help="nucleus sampling mass (default 0.95)")
    parser.add_argument("--top-k", type=int, default=40, help="top-k (default 40)")
    parser.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="maximum completion length in tokens (default: the recipe's, or 16384)",
    )
    parser.add_argument("--seed", type=int, default=0, help="sampling seed (default 0)")
    parser.add_argument("--verifier", default="math", help="verifier for plain rows of --data (default math)")
    parser.add_argument(
        "--prompt-suffix", default="", metavar="TEXT", help="text appended to each plain question, e.g. on \\boxed{}"
    )
    add_quantization_argument(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    from openqwq.eval.report.content import percent, percent_range
    from openqwq.pipeline.evaluation import EvaluationPlan, evaluate_model

    plan = EvaluationPlan(**{field.name: getattr(args, field.name) for field in fields(EvaluationPlan)})
    results = evaluate_model(plan)
    if args.json:
        print_json({family: result.to_dict() for family, result in results.items()})
        return 0
    print(
        f"{'family':<24} {'n':>6} {'strict':>7} {'95% interval':>14} {'free':>7} "
        f"{'tokens':>8} {'cut off':>8} {'unjudged':>9}"
    )
    for family, r in results.items():
        interval = percent_range(r.strict)
        print(
            f"{family:<24} {r.n:>6} {percent(r.strict.mean):>7} {interval:>14} {percent(r.format_free.mean):>7} "
            f"{r.mean_tokens:>8.1f} {percent(r.truncated):>8} {r.unjudged:>9}"
        )
    return 0
