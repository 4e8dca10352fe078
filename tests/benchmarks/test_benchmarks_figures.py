"""The figures that the README and the pages state are those of the result files."""

import json
from pathlib import Path
from statistics import fmean

import pytest

ROOT = Path(__file__).parents[2]
WORKS = ("one", "batch", "tail", "prefill")
NARROW = {"bf16": ("bf16", "BF16"), "int8": ("int8", "Q8_0"), "int4": ("int4", "Q4_0")}


def read_results(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def read_page(name):
    return " ".join((ROOT / name).read_text().split())


def read_table(page, heading, number=0):
    """The rows of a section's table, the first or a later one, without its head."""
    section = (ROOT / page).read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    tables = [part for part in section.split("\n\n") if part.startswith("|")]
    rows = [line.strip("|").split("|") for line in tables[number].splitlines()]
    return [[cell.strip(" *") for cell in row] for row in rows[2:]]


@pytest.fixture(scope="module")
def rates():
    """Tokens per second by engine and work."""
    engines = read_results("generate")["shapes"]["5m, 1 thread"]["engines"]
    return {name: row["tokens_per_s"] for name, row in engines.items()}


def fastest(rates, names, work):
    """The engine among those named, ours left out, that is the fastest at this work."""
    return max((name for name in names if not name.startswith("openqwq")), key=lambda name: rates[name].get(work) or 0)


def test_the_engines_are_as_fast_as_measured(rates):
    names = {"OpenQwQ": "openqwq", "transformers, continuous batching": "transformers continuous", "vLLM, CPU": "vLLM"}
    rows = read_table("docs/inference.md", "Speed on a CPU")
    assert len(rows) == 7
    for name, *cells in rows:
        own = rates[names.get(name, name)]
        assert [cell.removesuffix(" (static batches)") for cell in cells] == [f"{own[work]:,.0f}" for work in WORKS]


def test_the_larger_shape_is_as_fast_as_measured():
    engines = read_results("generate")["shapes"]["0.5b, 1 thread"]["engines"]
    rows = read_table("docs/inference.md", "Speed on a CPU", 1)
    shown = {cell for _, *cells in rows for cell in cells if cell}
    assert shown == {f"{row['tokens_per_s']['one']:.1f} ({row['share']:.0%})" for row in engines.values()}
    ours = [f"openqwq{kind}" for kind in ("", " bf16", " int8", " int4")]
    assert rows[0][1:] == [f"{engines[e]['tokens_per_s']['one']:.1f} ({engines[e]['share']:.0%})" for e in ours]


@pytest.mark.parametrize("kind", NARROW)
def test_narrow_weights_are_as_fast_as_measured(rates, kind):
    peer = fastest(rates, [name for name in rates if name.endswith(NARROW[kind])], "one")
    words = f"{kind} {rates[f'openqwq {kind}']['one']:,.0f} ({peer.rpartition(' ')[0]} {rates[peer]['one']:,.0f})"
    assert words in read_page("docs/inference.md")


def test_the_readmes_engine_is_as_much_faster_as_measured(rates):
    whole = [name for name in rates if not name.endswith(sum(NARROW.values(), ()))]
    times = [rates["openqwq"][work] / rates[fastest(rates, whole, work)][work] for work in WORKS]
    kinds = ("times in a single stream", "in a batch of 32", "in a long-tailed one", "in reading prompts")
    words = ", ".join(f"{number:.1f} {kind}" for number, kind in zip(times, kinds, strict=True))
    assert f"by {words}" in read_page("README.md")


def test_the_readmes_sizes_score_as_measured():
    rows = {(row["recipe"], row["stage"]): row for row in read_results("size")["rows"]}
    small, large = rows["size-small", "rl_general"], rows["size-large", "cold_start"]
    means = [fmean(row["kinds"][kind]["pass@1"]["mean"] for kind in row["kinds"]) for row in (small, large)]
    page = read_page("README.md")
    sizes = f"{small['parameters'] / 1e6:.2f}M", f"{large['parameters'] / 1e6:.0f}M"
    assert f"{sizes[0]} parameters with RL reach {means[0]:.1f}%, {sizes[1]} without RL reach {means[1]:.1f}%" in page
    assert round(large["teraflop"] / small["teraflop"]) == 10 and "at ten times the compute" in page
    changes = small["against_yardstick"]
    assert changes["instruction"]["mean"] < 0 < min(changes[kind]["mean"] for kind in ("math", "code"))


def test_the_readmes_range_over_seeds_is_as_measured():
    ranges = []
    for kind in ("math", "code", "instruction"):
        means = []
        for run in (run for run in read_results("tiny")["runs"] if run["arm"] == "tiny"):
            [last] = [stage for stage in run["results"]["stages"] if stage["name"] == "rl_general"]
            means.append(100 * fmean(f["strict"]["mean"] for f in last["families"].values() if f["kind"] == kind))
        ranges.append(f"{min(means):.1f} to {max(means):.1f}")
    assert f"ranges over seeds from {ranges[0]}, {ranges[1]} and {ranges[2]}" in read_page("README.md")


def test_steps_take_as_long_as_measured():
    median = read_results("rl_step")["median"]
    times = {}
    rows = read_table("docs/rl.md", "Speed")
    systems = [(work, system) for work in ("equal", "long_tail") for system in ("ours", "plain", "trl")]
    for (_, _, *cells, ratio), (work, system) in zip(rows, systems, strict=True):
        own, theirs = median[work][system], median[work]["trl"]["step_s"]
        digits = 1 if own["step_s"] > 10 else 2
        assert cells == [f"{own[key]:.{digits}f}" for key in ("step_s", "generate_s", "train_s")]
        times[work, system] = f"{theirs / own['step_s']:.{0 if theirs > 10 else 1}f}"
        assert ratio == ("" if system == "trl" else times[work, system])
    words = f"{times['equal', 'ours']} times as long where completions are of equal length and "
    assert words + f"{times['long_tail', 'ours']} times as long" in read_page("README.md")
