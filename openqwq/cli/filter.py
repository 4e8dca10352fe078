"""Keep the problems that a model sometimes solves and that are in no evaluation set.

Each problem of a JSON-lines file is attempted --samples times; those with a pass rate from --min to --max stay.
Problems that share --ngram consecutive words with a file of --avoid are dropped first. Rates are kept next to the
output (OUTPUT.rates.jsonl), so the same command resumes after an interruption. Prints how many were kept, and why
others were not.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from openqwq.errors import UserError

from ._options import add_json_argument, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a Hugging Face folder or hub name")
    parser.add_argument("--input", required=True, type=Path, metavar="FILE.jsonl", help="problems to filter")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.jsonl", help="file for the kept problems")
    parser.add_argument(
        "--samples", type=int, default=8, metavar="N", help="attempts per problem (default %(default)s)"
    )
    parser.add_argument("--min", type=float, default=0.1, dest="low", help="minimum pass rate (default %(default)s)")
    parser.add_argument("--max", type=float, default=0.9, dest="high", help="maximum pass rate (default %(default)s)")
    parser.add_argument("--avoid", type=Path, nargs="*", default=[], metavar="FILE", help="evaluation sets to keep out")
    parser.add_argument(
        "--ngram",
        type=int,
        default=13,
        metavar="N",
        help="consecutive words in common that drop a problem (default %(default)s)",
    )
    parser.add_argument("--temperature", type=float, default=1.0, help="sampling temperature (default %(default)s)")
    parser.add_argument(
        "--max-tokens", type=int, default=16384, metavar="N", help="maximum completion length in tokens (default 16384)"
    )
    parser.add_argument("--verifier", default="math", help="verifier for plain rows (default %(default)s)")
    parser.add_argument("--prompt-suffix", default="", metavar="TEXT", help="text appended to each plain question")
    parser.add_argument("--seed", type=int, default=0, help="sampling seed (default %(default)s)")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    _check(args)
    from openqwq.data.curation.decontaminate import NgramIndex
    from openqwq.data.sources.jsonl import read_problem_file
    from openqwq.log import logger, write_text_atomic
    from openqwq.pipeline.pass_rates import texts_to_avoid, why_dropped

    problems = read_problem_file(args.input, verifier=args.verifier, prompt_suffix=args.prompt_suffix)
    index = NgramIndex(texts_to_avoid(args.avoid), ngram=args.ngram)
    fresh = [problem for problem in problems if not index.overlap(problem.prompt)]
    logger.info("%d of %d problems share nothing with the evaluation sets", len(fresh), len(problems))
    rates = _rates(args, fresh)
    reasons = [why_dropped(rate, low=args.low, high=args.high) for rate in rates]
    kept = [problem for problem, reason in zip(fresh, reasons, strict=True) if not reason]
    lines = (json.dumps(problem.to_dict(), ensure_ascii=False) for problem in kept)
    write_text_atomic(args.output, "".join(f"{line}\n" for line in lines))
    dropped = Counter(reason for reason in reasons if reason)
    dropped["overlap"] += len(problems) - len(fresh)
    counted = {"kept": len(kept), **{f"dropped, {why}": count for why, count in sorted(dropped.items())}}
    if args.json:
        print_json(counted)
    else:
        print("\n".join(f"{name + ':':<20} {count}" for name, count in counted.items()))
    return 0


def _rates(args: argparse.Namespace, problems: list) -> list[float | None]:
    from openqwq.eval.judging import Judge
    from openqwq.inference import LLM
    from openqwq.log import logger
    from openqwq.pipeline.pass_rates import measure_pass_rates
    from openqwq.types import SamplingParams

    llm = LLM(args.model)
    params = SamplingParams(
        n=args.samples,
        temperature=args.temperature,
        top_p=1.0,
        top_k=0,
        max_tokens=args.max_tokens,
        seed=args.seed * 2**32,
    )
    return measure_pass_rates(
        problems,
        llm.engine,
        llm.require_tokenizer(),
        Judge().strict,
        params,
        args.output.with_suffix(".rates.jsonl"),
        settings={name: getattr(args, name) for name in ("model", "temperature", "max_tokens", "seed")},
        progress=lambda done, total: logger.info("%d of %d problems attempted", done, total),
    )


def _check(args: argparse.Namespace) -> None:
    if not 0 <= args.low <= args.high <= 1:
        raise UserError(f"`--min` is {args.low} and `--max` {args.high}", hint="0 <= min <= max <= 1")
    for name in ("samples", "ngram", "max_tokens"):
        if getattr(args, name) < 1:
            raise UserError(f"`--{name.replace('_', '-')}` is {getattr(args, name)}, but must be at least 1")
    if not args.output.parent.is_dir():
        raise UserError(f"`--output` is {args.output}, but there is no folder {args.output.parent}")
