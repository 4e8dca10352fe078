"""The figures of `benchmarks/generate.py` as tables."""

from __future__ import annotations

from typing import Any

from . import CONTINUOUS, ENGINES, KINDS, OURS, STATIC

Report = dict[str, Any]
WHOLE_AGREEMENT, NARROW_AGREEMENT = 0.95, 0.25


def agreement(reference: list[list[int]], tokens: list[list[int]]) -> dict[str, float]:
    """The shares of prompts whose first token, and of all tokens, that are the reference's; 0 where there are none."""
    rows = list(zip(reference, tokens, strict=False))
    number = sum(map(len, reference))
    same = sum(a == b for row, other in rows for a, b in zip(row, other, strict=False))
    first = sum(row[:1] == other[:1] for row, other in rows)
    return {"first": first / max(len(reference), 1), "all": same / max(number, 1)}


def ranked(engine: str, row: Report) -> bool:
    """Whether its tokens are near enough to the reference's that its speed counts."""
    shares = row.get("agreement", {"first": 0.0, "all": 0.0})
    if ENGINES[engine].kind == "float32":
        return shares["first"] == 1 and shares["all"] >= WHOLE_AGREEMENT
    return shares["first"] >= NARROW_AGREEMENT


def summarize(shape: Report) -> None:
    """The best round of each engine and work (None where all took too long), and decoding's share of memory's rate."""
    for row in shape["engines"].values():
        rounds = row["rounds"].items()
        row["tokens_per_s"] = {work: max(filter(None, rates), default=None) for work, rates in rounds if rates}
        decoded = row.get("decode_tokens_per_s")
        row["share"] = decoded * row["bytes"] / shape["read_bytes_per_s"] if decoded else None


def ours_of(engine: str) -> str:
    """Our engine with weights as wide."""
    kind = ENGINES[engine].kind
    return OURS if kind == "float32" else f"{OURS} {kind}"


def table(shape: Report, kind: str) -> list[str]:
    """Markdown lines: tokens per second of the engines of one precision; in brackets how often ours is as fast."""
    engines = {e: row for e, row in shape["engines"].items() if ENGINES[e].kind == kind}
    rates = {engine: row.get("tokens_per_s", {}) for engine, row in engines.items()}
    works = list(dict.fromkeys(work for row in rates.values() for work in row))
    if not works:
        return []
    lines = ["| engine | " + " | ".join(works) + " | share of memory | same first / all |"]
    lines.append("|---|" + "---:|" * (len(works) + 2))
    for engine, row in engines.items():
        cells = [cell(engine, rates[engine], rates.get(ours_of(engine), {}), work, row) for work in works]
        share = f"{row['share']:.0%}" if row.get("share") else ""
        same = row.get("agreement")
        cells += [share, f"{same['first']:.0%} / {same['all']:.0%}" if same else ""]
        lines.append(f"| {engine} | " + " | ".join(cells) + " |")
    return lines


def cell(engine: str, rates: Report, ours: Report, work: str, row: Report) -> str:
    """`806 (1.23x)`: its tokens per second, and ours over them where both are ranked."""
    if work not in rates:
        return ""
    if not rates[work]:
        return "over the limit"
    base = ours.get(work)
    ratio = f" ({base / rates[work]:.2f}x)" if base and engine != ours_of(engine) and ranked(engine, row) else ""
    return f"{rates[work]:,.{0 if rates[work] >= 100 else 1}f}{ratio}"


def print_report(name: str, shape: Report) -> None:
    """A table for each precision, and what the figures do not say."""
    print(f"{name}: {shape['read_bytes_per_s'] / 1e9:.1f} GB/s read from memory")
    print("tokens per second; in brackets ours / theirs")
    for kind in KINDS:
        if lines := table(shape, kind):
            print(f"\n{kind}\n\n" + "\n".join(lines))
    print()
    for engine, row in shape["engines"].items():
        if "failed" in row:
            print(f"{engine}: failed at {row['failed']}")
        elif not ranked(engine, row):
            print(f"{engine}: its tokens differ from {shape['reference']}'s; not ranked")
    for form in (CONTINUOUS, STATIC):
        names = [engine for engine in shape["engines"] if ENGINES[engine].form == form]
        print(f"{form}: " + ", ".join(name for name in names if ENGINES[name].kind == "float32"))
    for peer in shape["absent"]:
        print(f"absent: {peer}")
