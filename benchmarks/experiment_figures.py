"""Figures from the experiments' raw data: pass@k, tokens per correct answer, compute, and 95% intervals.

Two sorts of interval: over problems within a run (what other problems would have given), and over seeds (what
another run would have given; Student's t). A kind's figure is the mean over its families.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from math import comb
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from tiny import T_95

from openqwq.eval.intervals import Interval, mean_interval, paired_change, wilson_interval

RESAMPLES = 1000
FLOPS_PER_TRAINED_TOKEN, FLOPS_PER_SAMPLED_TOKEN = 6, 2
"""Per parameter: forward and backward, forward alone (arXiv:2001.08361, section 2.1); attention is left out."""
Families = Mapping[str, Mapping[str, Any]]


def pass_at_k(marks: Sequence[int | None], k: int) -> float | None:
    """Unbiased estimate that one of k samples is correct (arXiv:2107.03374, eq. 1); None with fewer judged samples."""
    judged = [mark for mark in marks if mark is not None]
    if len(judged) < k:
        return None
    return 1.0 - comb(len(judged) - sum(judged), k) / comb(len(judged), k)


def scores(families: Families, k: int, kind: str = "") -> dict[str, dict[str, float]]:
    """Family -> problem -> pass@k, of the families of a kind or of all."""
    found = {}
    for name, family in families.items():
        if not kind or family["kind"] == kind:
            values = {str(i): pass_at_k(marks, k) for i, marks in enumerate(family["marks"])}
            found[name] = {i: value for i, value in values.items() if value is not None}
    return found


def kind_figures(families: Families, ks: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Kind -> pass@k in percent with its interval over problems, and tokens for each correct answer."""
    kinds = dict.fromkeys(family["kind"] for family in families.values())
    figures = {}
    for kind in kinds:
        own = {name: family for name, family in families.items() if family["kind"] == kind}
        passes = {f"pass@{k}": percent(problem_interval(scores(own, k)).to_dict()) for k in ks}
        figures[kind] = {**passes, "tokens_per_correct": tokens_per_correct(own)}
    return figures


def problem_interval(families: Mapping[str, Mapping[str, float]]) -> Interval:
    """The mean over families with a normal interval; Wilson's for a single family, which holds near 0 and 1 as well."""
    if len(families) == 1:
        return wilson_interval(list(next(iter(families.values())).values()))
    return mean_interval(families)


def family_figures(families: Families) -> dict[str, dict[str, Any]]:
    """Family -> pass@1 in percent with Wilson's interval over problems, mean tokens, share cut off."""
    return {
        name: {
            **percent(problem_interval(scores({name: family}, 1)).to_dict()),
            "mean_tokens": fmean(t for own in family["tokens"] for t in own),
            "truncated": 100 * family["truncated"] / family["completions"],
        }
        for name, family in families.items()
    }


def percent(interval: Mapping[str, float]) -> dict[str, float]:
    """The interval times 100."""
    return {key: 100 * value for key, value in interval.items()}


def tokens_per_correct(families: Families) -> dict[str, float | None]:
    """Sampled tokens for each correct answer, wrong answers' tokens included; bootstrap over problems.

    None where no answer is correct, or none in some resamples.
    """
    pairs = [
        [(sum(tokens), sum(mark or 0 for mark in marks)) for marks, tokens in zip(f["marks"], f["tokens"], strict=True)]
        for f in families.values()
    ]
    return bootstrap(pairs, lambda drawn: ratio([pair for family in drawn for pair in family]))


def ratio(pairs: Sequence[tuple[int, int]]) -> float | None:
    """Tokens over correct answers."""
    correct = sum(pair[1] for pair in pairs)
    return sum(pair[0] for pair in pairs) / correct if correct else None


def bootstrap(groups: Sequence[Sequence[Any]], statistic: Callable[[list[list[Any]]], float | None]) -> dict[str, Any]:
    """The statistic with its percentile interval over items resampled within each group; the same on every machine."""
    draw = random.Random(0)
    found = [statistic([draw.choices(group, k=len(group)) for group in groups]) for _ in range(RESAMPLES)]
    known = sorted(value for value in found if value is not None)
    whole = len(known) == RESAMPLES
    return {
        "mean": statistic([list(group) for group in groups]),
        "low": known[int(0.025 * RESAMPLES)] if whole else None,
        "high": known[int(0.975 * RESAMPLES)] if whole else None,
    }


PERCENT, POINTS, COUNT = (0.0, 100.0), (-100.0, 100.0), (0.0, math.inf)
"""What a score in percent, a change of such scores, and a number of tokens can be."""


def over_seeds(figures: Sequence[Mapping[str, float | None]], bounds: tuple[float, float]) -> dict[str, Any]:
    """The mean of the runs' figures with Student's t interval; of a single run: its own interval over problems.

    figures: {mean, low, high} of each run. All None where one has no mean. over: what the interval is over.
    bounds:  what the figure can be. The interval is cut there, which takes nothing from its coverage.
    """
    means = [figure["mean"] for figure in figures]
    values = [value for value in means if value is not None]
    if not values or len(values) < len(means):
        return {"mean": None, "low": None, "high": None, "over": "seeds", "by_seed": means}
    if len(values) == 1:
        return {**figures[0], "over": "problems", "by_seed": values}
    mean, half = fmean(values), T_95[len(values)] * stdev(values) / len(values) ** 0.5
    low, high = max(bounds[0], mean - half), min(bounds[1], mean + half)
    return {"mean": mean, "low": low, "high": high, "over": "seeds", "by_seed": values}


def mean_of_kinds(figures: Sequence[Mapping[str, Any]], bounds: tuple[float, float]) -> dict[str, Any]:
    """The mean of several kinds' figures over the same seeds, each kind counted once; the interval as `over_seeds`."""
    by_seed = list(zip(*(figure["by_seed"] for figure in figures), strict=True))
    means = [None if None in own else fmean(own) for own in by_seed]
    return over_seeds([{"mean": mean, "low": None, "high": None} for mean in means], bounds)


def change(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Any]:
    """The change of a kind's pass@1 in points over runs paired by seed; of a single pair: paired by problem.

    before, after: the families of each run, in the same order of seeds, on the same problems.
    """
    pairs = zip(before, after, strict=True)
    changes = [percent(paired_change(scores(b, 1, kind), scores(a, 1, kind)).to_dict()) for b, a in pairs]
    return over_seeds(changes, POINTS)


def behaviour_shares(families: Families) -> dict[str, float]:
    """Behaviour -> percent of all completions that show it, with those cut off as `truncated`."""
    total = sum(family["completions"] for family in families.values())
    names = next(iter(families.values()))["behaviours"]
    shares = {name: 100 * sum(f["behaviours"][name] for f in families.values()) / total for name in names}
    return {**shares, "truncated": 100 * sum(f["truncated"] for f in families.values()) / total}


def run_compute(run: Path, until: str) -> dict[str, Any]:
    """Trained and sampled tokens of a run by stage up to one, and teraFLOP; evaluations and gates are not counted.

    A value model doubles the training, and is asked for the values of all trained tokens once before. is_whole: whether
    the stage is the run's last.
    """
    recipe = json.loads((run / "recipe.json").read_text())
    parameters = count_parameters(run / "final" / "model.safetensors")
    names = list(recipe["stage"])
    stages = {name: {"trained": 0, "sampled": 0} for name in names[: names.index(until) + 1]}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "step" in row and row["stage"] in stages:
            stages[row["stage"]]["trained"] += row["tokens_train"]
            stages[row["stage"]]["sampled"] += row.get("tokens_generate", 0)
    flops = 0
    for name, tokens in stages.items():
        per_token = FLOPS_PER_TRAINED_TOKEN
        if recipe["stage"][name].get("advantage") == "gae":
            per_token = 2 * FLOPS_PER_TRAINED_TOKEN + FLOPS_PER_SAMPLED_TOKEN
        flops += parameters * (per_token * tokens["trained"] + FLOPS_PER_SAMPLED_TOKEN * tokens["sampled"])
    whole = len(stages) == len(names)
    return {"parameters": parameters, "stages": stages, "teraflop": flops / 1e12, "is_whole": whole}


def count_parameters(file: Path) -> int:
    """Numbers in a safetensors file; tied weights stand in it once."""
    from safetensors import safe_open

    total = 0
    with safe_open(file, framework="numpy") as tensors:
        for name in tensors.keys():  # noqa: SIM118 (the handle is no mapping)
            size = 1
            for length in tensors.get_slice(name).get_shape():
                size *= length
            total += size
    return total


def rl_behaviours(run: Path) -> dict[str, dict[str, float | None]]:
    """RL stage -> percent of its rollouts that show each behaviour, the reward, and the share of steps with updates."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "behaviours" in row:
            found.setdefault(row["stage"], []).append(row)
    return {stage: _stage_behaviours(rows) for stage, rows in found.items()}


def _stage_behaviours(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    shares = {name: 100 * fmean(row["behaviours"][name] for row in rows) for name in rows[0]["behaviours"]}
    return {
        **shares,
        "truncated": 100 * fmean(row["truncated"] for row in rows),
        "accuracy_first": rows[0]["accuracy"],
        "accuracy_last": rows[-1]["accuracy"],
        "steps": len(rows),
        "steps_with_updates": sum(row["updates"] > 0 for row in rows),
        "entropy_last": rows[-1]["entropy"],
    }
