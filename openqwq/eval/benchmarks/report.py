"""A run's results as lines for a terminal and as report.md.

Public: `summary_lines`, `report_markdown`, `list_lines`.
"""

from __future__ import annotations

from collections.abc import Sequence

from openqwq.log import counted

from ..intervals import Interval
from .benchmark import Benchmark
from .results import Results
from .run import Plan


def list_lines(benchmarks: Sequence[Benchmark]) -> list[str]:
    """A table of benchmarks with the protocols that they have."""
    lines = [
        f"{'benchmark':<14} {'protocol':<12} {'problems':>8} {'samples':>8} {'max tokens':>11} {'temp':>5} "
        f"{'top_p':>6} {'top_k':>6}  verifier"
    ]
    for benchmark in benchmarks:
        for number, p in enumerate(benchmark.protocols):
            name = "" if number else benchmark.name
            lines.append(
                f"{name:<14} {p.name:<12} {benchmark.num_problems:>8} {p.samples:>8} {p.max_tokens:>11} "
                f"{p.temperature:>5g} {p.top_p:>6g} {p.top_k:>6}  {_verifier(benchmark)}"
            )
        hub = f"{benchmark.source.hub} {benchmark.source.subset}".strip()
        needs = f"; {benchmark.needs}" if benchmark.needs else ""
        lines.append(f"{'':<14} needs {f'{hub} from the hub, or ' if hub else ''}--data FILE{needs}")
    return lines


def summary_lines(plan: Plan, results: Results) -> list[str]:
    """What a run shows, short."""
    lines = [
        f"{results.benchmark}, protocol {_protocol(plan, results)}: {results.problems} problems, "
        f"{counted(results.samples_per_problem, 'sample')} each"
    ]
    lines.append(f"score            {_score(results)}")
    if results.judged:
        lines += [
            f"same problems    {_range(results.same)}  (95%, another run of these problems)",
            f"new problems     {_range(results.new)}  (95%, problems of the same kind)",
        ]
    lines += [f"pass@{k:<11} {100 * value:.1f}" for k, value in results.pass_at.items()]
    shares = ", ".join(f"{name} {100 * share:.1f}%" for name, share in results.shares.items() if share)
    lines.append(f"samples          {shares or 'none'}")
    if results.tokens_mean is not None:
        lines.append(f"tokens           mean {results.tokens_mean:.0f}, 95th percentile {results.tokens_p95}")
    lines += [f"note             {note}" for note in _notes(plan, results)]
    if results.comparison is not None:
        lines.append(f"expected {results.comparison.expected:<7g} {_comparison(results)}")
    return lines


def report_markdown(plan: Plan, results: Results) -> str:
    """The whole report."""
    sampling = ", ".join(f"{name} {value:g}" for name, value in plan.protocol.sampling().items())
    rows = [
        ("model", f"`{plan.model}`" + (f" at {plan.server}" if plan.server else "")),
        ("protocol", f"{_protocol(plan, results)} ({plan.protocol.source}): {sampling}"),
        ("data", f"{plan.data.origin}, sha256 `{plan.data.sha256}`"),
        ("verifier", _verifier(plan.benchmark) + f", version {plan.verifier().version}"),
        ("score", _score(results)),
        ("same problems, 95%", _range(results.same)),
        ("new problems, 95%", _range(results.new)),
        *((f"pass@{k}", f"{100 * value:.1f}") for k, value in results.pass_at.items()),
        *((f"samples {name}", f"{100 * share:.1f}%") for name, share in results.shares.items()),
    ]
    if results.tokens_mean is not None:
        rows.append(("tokens", f"mean {results.tokens_mean:.0f}, 95th percentile {results.tokens_p95}"))
    lines = [f"# {plan.benchmark.name}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows]
    if notes := _notes(plan, results):
        lines += ["", *(f"- {note}" for note in notes)]
    if results.comparison is not None:
        lines += ["", "## Against the expected score", "", _comparison(results)]
    if results.budgets:
        lines += ["", "## Score by token limit", "", "| limit | score |", "|---|---|"]
        lines += [f"| {limit} | {100 * score:.1f} |" for limit, score in results.budgets.items()]
    if plan.benchmark.published:
        lines += ["", "## Published scores", "", "| model | score | samples | source |", "|---|---|---|---|"]
        lines += [f"| {p.model} | {p.score:g} | {p.samples or '?'} | {p.source} |" for p in plan.benchmark.published]
    return "\n".join(lines) + "\n"


def _notes(plan: Plan, results: Results) -> list[str]:
    """What has to be known to read the score."""
    notes = []
    if results.sampled < results.expected:
        missing = results.expected - results.sampled
        notes.append(f"{missing} of {results.expected} samples are missing (errors.jsonl says why): run it again")
    for reason, count in results.unjudged_reasons.items():
        notes.append(f"{count} samples could not be judged: {reason}")
    if plan.data.origin == "own file" and plan.benchmark.source.files:
        notes.append("the data file is none of the known published files")
    if results.without_bad is not None:
        notes.append(f"{100 * results.without_bad:.1f} without {results.known_bad} problems that are known to be bad")
    if results.cut_early:
        notes.append(
            f"{results.cut_early} samples were cut off below {plan.protocol.max_tokens} tokens, by the model's window "
            "or the server's limit"
        )
    if results.without_thinking:
        notes.append(f"{results.without_thinking} of {results.sampled} samples have no thinking block")
    if results.needed is not None:
        notes.append(
            f"to tell two models 2 points apart on these problems: {counted(results.needed, 'sample')} of each problem"
        )
    return notes


def _comparison(results: Results) -> str:
    c = results.comparison
    if c is None or results.judged == 0:
        return "cannot tell: nothing is judged"
    d = c.difference
    samples = f"{c.expected_samples} samples a problem" if c.expected_samples else "taken as exact"
    return (
        f"{c.verdict} with {c.expected:g} ({samples}): difference {d.mean:+.1f}, 95% {d.low:+.1f} to {d.high:+.1f}, "
        f"margin {c.margin:g}"
    )


def _protocol(plan: Plan, results: Results) -> str:
    part = f", the first {results.problems} of {len(plan.data.problems)} problems"
    return results.protocol + (part if results.problems < len(plan.data.problems) else "")


def _score(results: Results) -> str:
    if results.score is not None:
        return f"{100 * results.score:.1f}"
    return (
        f"between {100 * results.low:.1f} and {100 * results.high:.1f} "
        f"({results.judged} of {results.expected} samples judged)"
    )


def _range(interval: Interval) -> str:
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}" if interval.mean == interval.mean else "unknown"


def _verifier(benchmark: Benchmark) -> str:
    options = ", ".join(f"{name}={value}" for name, value in benchmark.verifier_options.items())
    return benchmark.verifier + (f" ({options})" if options else "")
