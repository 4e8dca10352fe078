"""Evaluate a model on held-out problems or a public benchmark: scores with 95% intervals.

The problems are the evaluated families of a recipe (--recipe), those of a JSON-lines file (--data), or a public
benchmark (--benchmark), under its published protocol, of a local model or any OpenAI-compatible server.
With --out DIR every completion is kept there, and an interrupted evaluation resumes where it stopped.
"""

from __future__ import annotations

import argparse
from dataclasses import fields

from openqwq.errors import UserError

from ._benchmark import add_benchmark_arguments, print_list, run_benchmark_verb
from ._options import add_json_argument, add_quantization_argument, print_json

NEVER_GREEDY = "0 is greedy decoding, which QwQ's authors advise against"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL|URL",
        nargs="?",
        help="a Hugging Face folder, GGUF file or hub name; for --benchmark also a server",
    )
    parser.add_argument("--recipe", help="evaluate on the held-out problems of this recipe's [eval] families")
    parser.add_argument(
        "--benchmark", metavar="NAME", help="evaluate on a public benchmark (see --list), or on FILE.toml of your own"
    )
    parser.add_argument(
        "--data",
        metavar="FILE",
        help='evaluate on every problem of a JSON-lines file: {"question": ..., "answer": ...} or whole problems; '
        "with --benchmark: its rows in their published layout, instead of the hub's",
    )
    parser.add_argument(
        "--samples", type=int, metavar="N", help="completions per problem (default 1, or the protocol's)"
    )
    parser.add_argument("--problems", type=int, metavar="N", help="problems per family (default: the recipe's, or all)")
    parser.add_argument(
        "--out", metavar="DIR", help="folder for completions and results.json; resumes an evaluation found there"
    )
    parser.add_argument("--temperature", type=float, help=f"sampling temperature (default 0.6); {NEVER_GREEDY}")
    parser.add_argument("--top-p", type=float, help="nucleus sampling mass (default 0.95)")
    parser.add_argument("--top-k", type=int, help="top-k (default 40)")
    parser.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="maximum completion length in tokens (default: the recipe's or protocol's, or 16384)",
    )
    parser.add_argument("--seed", type=int, default=0, help="sampling seed (default 0)")
    parser.add_argument("--verifier", default="math", help="verifier for plain rows of --data (default math)")
    parser.add_argument(
        "--prompt-suffix", default="", metavar="TEXT", help="text appended to each plain question, e.g. on \\boxed{}"
    )
    add_quantization_argument(parser)
    add_json_argument(parser)
    add_benchmark_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if args.list:
        return print_list()
    _check_what(args)
    return run_benchmark_verb(args) if args.benchmark else _run_families(args)


def _check_what(args: argparse.Namespace) -> None:
    """Raise UserError where it is not clear what is evaluated on what."""
    if not args.model:
        raise UserError("no model is named", hint="a model's folder or, with --benchmark, a server's URL")
    named = [f"--{name}" for name in ("recipe", "benchmark", "data") if getattr(args, name)]
    if not named:
        raise UserError("no problems are named", hint="--recipe RECIPE, --data FILE or --benchmark NAME")
    if len(named) > 1 and named != ["--benchmark", "--data"]:
        raise UserError(f"{' and '.join(named)} do not go together", hint="take one of them out")
    if args.benchmark and (args.prompt_suffix or args.verifier != "math"):
        raise UserError(
            "`--verifier` and `--prompt-suffix` are not for --benchmark, which has its own",
            hint="take them out, or write a benchmark of your own (docs/evaluate.md)",
        )
    if not args.benchmark and (args.protocol or args.expect is not None or args.served_model):
        raise UserError("`--protocol`, `--expect` and `--served-model` are for --benchmark", hint="take them out")


def _run_families(args: argparse.Namespace) -> int:
    from openqwq.eval.report.content import percent, percent_range
    from openqwq.pipeline.evaluation import EvaluationPlan, evaluate_model

    given = {field.name: getattr(args, field.name) for field in fields(EvaluationPlan)}
    plan = EvaluationPlan(**{name: value for name, value in given.items() if value is not None})
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
