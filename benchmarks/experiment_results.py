"""The experiments' raw data, run by run, made into `benchmarks/results/*.json` and the tables of docs/evidence.md."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiment_figures import (
    COUNT,
    PERCENT,
    Families,
    behaviour_shares,
    change,
    family_figures,
    kind_figures,
    over_seeds,
    rl_behaviours,
    run_compute,
    tokens_per_correct,
)
from experiment_jobs import read_costs
from experiment_tables import STAGES, TABLES
from machine import describe_machine

PASS_KS = (1, 2, 4, 8, 16, 32)
DIGITS = 4
"""Decimals of the figures in the result files."""
Entry = dict[str, Any]


def collect(runs: Path, results: Path, page: Path) -> None:
    """Write the result file of each experiment that has data, and its tables into the page where there is one."""
    for name, gather in GATHER.items():
        report = gather(runs)
        if report is None:
            continue
        results.mkdir(parents=True, exist_ok=True)
        report = {"command": f"python benchmarks/experiments.py {name}", **describe_machine(), **rounded(report)}
        (results / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    if page.exists():
        page.write_text(fill_page(page.read_text(encoding="utf-8"), results), encoding="utf-8")


def fill_page(text: str, results: Path) -> str:
    """The page with the tables between `<!-- NAME -->` and `<!-- end -->` made anew from the result files."""
    for name, table in TABLES.items():
        file = results / f"{name.split(' ')[0]}.json"
        if file.exists():
            lines = table(json.loads(file.read_text()))
            block = "\n".join([f"<!-- {name} -->", *lines, "<!-- end -->"])
            text = re.sub(rf"<!-- {re.escape(name)} -->.*?<!-- end -->", lambda _, b=block: b, text, flags=re.DOTALL)
    return text


def rounded(value: Any) -> Any:
    """The value with its numbers rounded."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return round(value, DIGITS) if isinstance(value, float) else value


def evaluations(runs: Path, what: str, pattern: str = "*") -> list[Entry]:
    """The evaluations of a sort that there are: {recipe, seed, stage, what, families}, by recipe, seed and stage."""
    found = []
    for file in sorted((runs / "evals").glob(f"{pattern}/*.{what}.json")):
        recipe, _, seed = file.parent.name.rpartition("-")
        stage, which, _ = file.name.split(".")
        families = json.loads(file.read_text())["families"]
        found.append({"recipe": recipe, "seed": int(seed), "stage": stage, "what": which, "families": families})
    return found


def gather_ablation(runs: Path) -> Entry | None:
    """pass@k by kind, tokens per correct answer, behaviours and compute of every arm."""
    return arms(runs, evaluations(runs, "pass", "ablation-*"), PASS_KS, ("ablation-full", "rl_general"))


def gather_size(runs: Path) -> Entry | None:
    """pass@1 by kind, tokens per correct answer and compute of both sizes after each stage."""
    return arms(runs, evaluations(runs, "size", "size-*"), (1,), ("size-large", "cold_start"))


def arms(runs: Path, found: Sequence[Entry], ks: Sequence[int], yardstick: tuple[str, str]) -> Entry | None:
    """A row for each recipe and stage over its seeds, and every run by itself.

    yardstick: the recipe and stage that the others are compared with.
    """
    if not found:
        return None
    entries = [run_entry(runs, entry, ks) for entry in found]
    rows = []
    for recipe, stage in dict.fromkeys((e["recipe"], e["stage"]) for e in entries):
        own = [e for e in entries if (e["recipe"], e["stage"]) == (recipe, stage)]
        kinds = {
            kind: {
                name: over_seeds(
                    [e["kinds"][kind][name] for e in own], COUNT if name == "tokens_per_correct" else PERCENT
                )
                for name in own[0]["kinds"][kind]
            }
            for kind in own[0]["kinds"]
        }
        row = {"recipe": recipe, "stage": stage, "is_last": own[0]["is_last"]}
        row |= {"seeds": [e["seed"] for e in own], "kinds": kinds}
        row["tokens_per_correct"] = over_seeds([e["tokens_per_correct"] for e in own], COUNT)
        for key in ("parameters", "teraflop", "core_minutes"):
            row[key] = sum(e[key] for e in own) / len(own)
        row["behaviours"] = mean_of([e["behaviours"] for e in own if "behaviours" in e])
        row["rl_behaviours"] = {
            name: mean_of([e["rl_behaviours"][name] for e in own]) for name in own[0]["rl_behaviours"]
        }
        if (recipe, stage) != yardstick:
            row["against_yardstick"] = compare(found, yardstick, (recipe, stage), list(kinds))
        rows.append(row)
    return {"yardstick": list(yardstick), "rows": rows, "runs": entries}


def compare(found: Sequence[Entry], one: tuple[str, str], other: tuple[str, str], kinds: Sequence[str]) -> Entry:
    """The change of each kind's pass@1 from one recipe's stage to another's, over the seeds that both have."""
    by_seed = [
        {e["seed"]: e["families"] for e in found if (e["recipe"], e["stage"]) == which} for which in (one, other)
    ]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    before, after = ([families[seed] for seed in seeds] for families in by_seed)
    return {"seeds": seeds, **({kind: change(before, after, kind) for kind in kinds} if seeds else {})}


def run_entry(runs: Path, found: Entry, ks: Sequence[int]) -> Entry:
    """One run's figures after a stage; compute and core-minutes are of the whole run's training."""
    name = f"{found['recipe']}-{found['seed']}"
    families: Families = found["families"]
    entry = {key: found[key] for key in ("recipe", "seed", "stage")}
    entry["kinds"] = kind_figures(families, ks)
    entry["families"] = family_figures(families)
    entry["tokens_per_correct"] = tokens_per_correct(families)
    compute = run_compute(runs / name, until=found["stage"])
    entry["is_last"] = compute["is_whole"]
    entry |= {"parameters": compute["parameters"], "teraflop": compute["teraflop"], "stages": compute["stages"]}
    entry["core_minutes"] = read_costs(runs / "evals" / name)["train"] / 60
    made = rl_behaviours(runs / name)
    entry["rl_behaviours"] = {stage: shares for stage, shares in made.items() if stage in compute["stages"]}
    long = runs / "evals" / name / f"{found['stage']}.long.json"
    if long.exists():
        entry["behaviours"] = behaviour_shares(json.loads(long.read_text())["families"])
    return entry


def mean_of(entries: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """The mean of each key over entries with the same keys; None where one is None."""
    if not entries:
        return {}
    columns = {key: [entry[key] for entry in entries] for key in entries[0]}
    return {key: None if None in values else sum(values) / len(values) for key, values in columns.items()}


def gather_generalisation(runs: Path) -> Entry | None:
    """pass@1 of each family that no stage trained on, stage by stage, and its change over RL."""
    return before_and_after(evaluations(runs, "generalisation"), by_family)


def gather_thinking(runs: Path) -> Entry | None:
    """pass@1 of each kind and mean length at each budget of thinking, stage by stage."""
    return before_and_after(evaluations(runs, "thinking-*"), by_budget)


def before_and_after(found: Sequence[Entry], rows_of: Callable[[Sequence[Entry]], list[Entry]]) -> Entry | None:
    """The rows of each recipe's evaluations."""
    recipes = dict.fromkeys(entry["recipe"] for entry in found)
    rows = [
        {"recipe": recipe, **row} for recipe in recipes for row in rows_of([e for e in found if e["recipe"] == recipe])
    ]
    return {"rows": rows} if rows else None


def by_family(found: Sequence[Entry]) -> list[Entry]:
    """A row for each family: its score after every stage, and the change from the first to the last."""
    stages = [stage for stage in STAGES if any(entry["stage"] == stage for entry in found)]
    rows = []
    for family in found[0]["families"]:
        own = {
            stage: [{family: e["families"][family]} for e in found if e["stage"] == stage and family in e["families"]]
            for stage in stages
        }
        scored = {
            stage: over_seeds([family_figures(each)[family] for each in families], PERCENT)
            for stage, families in own.items()
        }
        seeds = sorted({e["seed"] for e in found})
        row = {"family": family, "seeds": seeds, "stages": scored}
        if len({len(families) for families in own.values()}) == 1:
            row["change"] = change(own[stages[0]], own[stages[-1]], "")
        rows.append(row)
    return rows


def by_budget(found: Sequence[Entry]) -> list[Entry]:
    """A row for each stage and budget."""
    rows = []
    for stage, what in dict.fromkeys((entry["stage"], entry["what"]) for entry in found):
        own = [e for e in found if (e["stage"], e["what"]) == (stage, what)]
        budget = what.removeprefix("thinking-")
        kinds = [kind_figures(e["families"], (1,)) for e in own]
        lengths = [[figure["mean_tokens"] for figure in family_figures(e["families"]).values()] for e in own]
        rows.append(
            {
                "stage": stage,
                "budget": None if budget == "none" else int(budget),
                "seeds": [e["seed"] for e in own],
                "kinds": {kind: over_seeds([k[kind]["pass@1"] for k in kinds], PERCENT) for kind in kinds[0]},
                "mean_tokens": sum(sum(each) / len(each) for each in lengths) / len(lengths),
            }
        )
    return sorted(rows, key=lambda row: (row["stage"], row["budget"] is None, row["budget"] or 0))


GATHER: dict[str, Callable[[Path], Entry | None]] = {
    "ablation": gather_ablation,
    "size": gather_size,
    "generalisation": gather_generalisation,
    "thinking": gather_thinking,
}
"""Result file -> what it holds; None where there is no data."""
