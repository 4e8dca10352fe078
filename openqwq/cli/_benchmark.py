"""`openqwq eval --benchmark`: from options to a plan and a sampler, and from results to an exit code.

Public: add_benchmark_arguments, run_benchmark_verb, print_list.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from openqwq.errors import UserError

from ._options import print_json

OVERRIDES = ("samples", "temperature", "top_p", "top_k", "max_tokens")
"""Options that change a value of the protocol."""


def add_benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that only benchmarks have."""
    group = parser.add_argument_group("public benchmarks (--benchmark)")
    group.add_argument("--list", action="store_true", help="show the benchmarks, their protocols and what they need")
    group.add_argument("--protocol", metavar="NAME", help="one of the benchmark's published protocols")
    group.add_argument("--expect", type=float, metavar="SCORE", help="compare with this score; exit 1 if inconsistent")
    group.add_argument("--margin", type=float, default=2.0, metavar="POINTS", help="for --expect (default 2)")
    group.add_argument("--served-model", metavar="NAME", help="the model's name at the server, where MODEL is a URL")
    group.add_argument("--key-env", metavar="VARIABLE", default="", help="environment variable with the server's key")
    group.add_argument("--workers", type=int, default=8, metavar="N", help="requests to a server at once (default 8)")
    group.add_argument("--timeout", type=float, default=3600.0, metavar="SECONDS", help="of one request (default 3600)")
    group.add_argument("--retries", type=int, default=6, metavar="N", help="of a failed request (default 6)")


def print_list() -> int:
    """Show the benchmarks."""
    from openqwq.eval.benchmarks.catalogue import BENCHMARKS
    from openqwq.eval.benchmarks.report import list_lines

    print("\n".join(list_lines(BENCHMARKS)))
    return 0


def run_benchmark_verb(args: argparse.Namespace) -> int:
    """Run, write the folder and print the results; 1 where they miss samples or contradict --expect."""
    import json

    from openqwq.eval.benchmarks.folder import BenchmarkFolder
    from openqwq.eval.benchmarks.report import report_markdown, summary_lines
    from openqwq.eval.benchmarks.results import summarise_run
    from openqwq.eval.benchmarks.run import default_folder, run_benchmark
    from openqwq.log import logger

    is_url = args.model.startswith(("http://", "https://"))
    _check(args, is_url)
    plan = _plan(args, is_url)
    folder = BenchmarkFolder(
        Path(args.out) if args.out else default_folder(plan.model, plan.benchmark.name), plan.to_dict()
    )
    logger.info("run folder: %s", folder.path)
    try:
        if len(folder.samples) < len(plan.asked) * plan.protocol.samples:
            sampler = _server(args, bool(folder.samples)) if is_url else _local(args)
        else:
            sampler = _nothing
        run_benchmark(plan, sampler, folder)
    finally:
        results = summarise_run(plan, folder, expect=args.expect, margin=args.margin)
        if results.sampled:
            folder.write("results.json", json.dumps(results.to_dict(), indent=2, ensure_ascii=False) + "\n")
            folder.write("report.md", report_markdown(plan, results))
    if args.json:
        print_json(results.to_dict())
    else:
        print("\n".join(summary_lines(plan, results)))
    contradicted = results.comparison is not None and results.comparison.verdict == "not consistent"
    return int(contradicted or not results.is_whole)


def _nothing(requests):
    yield from ()


def _check(args: argparse.Namespace, is_url: bool) -> None:
    for name in ("samples", "problems", "max_tokens", "workers"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"`--{name.replace('_', '-')}` is {value}, but at least 1 is needed")
    if is_url and not args.served_model:
        raise UserError(f"{args.model} is a server, but its model is not named", hint="name it: --served-model NAME")
    if is_url and args.quantization:
        raise UserError("`--quantization` is for models that run here, not for a server", hint="take it out")
    if args.expect is not None and not 0 <= args.expect <= 100:
        raise UserError(f"`--expect` is {args.expect:g}, but scores are from 0 to 100")
    if args.margin < 0:
        raise UserError(f"`--margin` is {args.margin:g}, but must be at least 0")


def _plan(args: argparse.Namespace, is_url: bool):
    from openqwq.eval.benchmarks.catalogue import find_benchmark
    from openqwq.eval.benchmarks.load import load_data
    from openqwq.eval.benchmarks.own import read_benchmark
    from openqwq.eval.benchmarks.run import Plan

    data = Path(args.data) if args.data else None
    if args.benchmark.endswith(".toml"):
        benchmark, beside = read_benchmark(Path(args.benchmark))
        data = data or beside
    else:
        benchmark = find_benchmark(args.benchmark)
    protocol = benchmark.protocol(args.protocol)
    changed = {key: getattr(args, key) for key in OVERRIDES if getattr(args, key) is not None}
    changed = {key: value for key, value in changed.items() if getattr(protocol, key) != value}
    if changed or args.problems is not None:
        protocol = replace(protocol, **changed, name="custom", source=f"`{protocol.name}`, changed")
    return Plan(
        model=args.served_model if is_url else args.model,
        server=args.model if is_url else "",
        benchmark=benchmark,
        protocol=protocol,
        data=load_data(benchmark, data),
        problems=args.problems,
        seed=args.seed,
        settings=(("quantization", args.quantization),) if args.quantization else (),
    )


def _server(args: argparse.Namespace, keeps_refusals: bool):
    from openqwq.eval.benchmarks.samplers import ServerSampler
    from openqwq.json_client import ChatClient

    client = ChatClient(
        args.model, args.served_model, key_env=args.key_env, timeout_s=args.timeout, retries=args.retries
    )
    return ServerSampler(client, workers=args.workers, keeps_refusals=keeps_refusals)


def _local(args: argparse.Namespace):
    from openqwq.eval.benchmarks.samplers import PolicySampler
    from openqwq.inference import LLM
    from openqwq.pipeline.machine import set_threads

    set_threads(0)
    llm = LLM(args.model, quantization=args.quantization)
    return PolicySampler(llm.engine, llm.require_tokenizer())
