"""The tables of docs/evidence.md from the experiments' result files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiment_figures import PERCENT, POINTS, mean_of_kinds

ARMS = {
    ("ablation-full", "cold_start"): "cold start alone",
    ("ablation-full", "rl_general"): "full recipe",
    ("ablation-sft", "more_chains"): "without RL: more of the same chains",
    ("ablation-no-cold-start", "rl_general"): "without cold start",
    ("ablation-format-only", "cold_start"): "cold start of brief chains alone",
    ("ablation-format-only", "rl_general"): "with a cold start of brief chains",
    ("ablation-no-stage-2", "rl_math_code"): "without stage 2: stage 1 goes on",
    ("ablation-ppo", "rl_general"): "PPO with a value model",
    ("ablation-random-reward", "rl_general"): "random reward",
    ("size-small", "cold_start"): "small, cold start",
    ("size-small", "rl_math_code"): "small, RL on maths and code",
    ("size-small", "rl_general"): "small, both RL stages",
    ("size-small-more-rl", "rl_math_code"): "small, more RL on maths and code",
    ("size-small-more-rl", "rl_general"): "small, more RL in both stages",
    ("size-large", "cold_start"): "large, cold start",
}
"""(recipe, stage) -> how the page calls it, in the order of the tables."""
KINDS = {"math": "maths", "code": "code", "instruction": "instructions"}
STAGES = {"cold_start": "before RL", "rl_math_code": "after stage 1", "rl_general": "after stage 2"}
MONITORS = {
    "loops": "loops",
    "language_mixing": "language mixing",
    "no_thinking": "no thinking",
    "self_verification": "self-verification",
    "backtracking": "backtracking",
    "subgoals": "sub-goals",
    "truncated": "cut off",
}
Report = Mapping[str, Any]


def figure(found: Mapping[str, Any], digits: int = 1, signed: bool = False) -> str:
    """A figure with its interval, e.g. "54.1 (50.2 to 58.0)"."""
    if found["mean"] is None:
        return "-"
    form = f"{'+' if signed else ''}.{digits}f"
    if found["low"] is None:
        return format(found["mean"], form)
    return f"{found['mean']:{form}} ({found['low']:{form}} to {found['high']:{form}})"


def plain(value: float | None, digits: int = 1) -> str:
    """A number, or "-" where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown lines; all columns but the first are flush right."""
    rule = "|---|" + "---:|" * (len(head) - 1)
    return [f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]


def arm_rows(report: Report) -> list[tuple[str, Report]]:
    """The arms that have figures, in the page's order, by the page's names."""
    found = {(row["recipe"], row["stage"]): row for row in report["rows"]}
    return [(label, found[key]) for key, label in ARMS.items() if key in found]


def pass_table(report: Report) -> list[str]:
    """pass@1 and pass@32 in percent by kind."""
    head = ["arm", "seeds", *(f"{word}, pass@{k}" for word in KINDS.values() for k in (1, 32))]
    rows = [
        [label, str(len(row["seeds"])), *(figure(row["kinds"][kind][f"pass@{k}"]) for kind in KINDS for k in (1, 32))]
        for label, row in arm_rows(report)
    ]
    return table(head, rows)


def change_table(report: Report) -> list[str]:
    """How many points of pass@1 each arm is above the full recipe, seed by seed."""
    rows = []
    for label, row in arm_rows(report):
        changes = row.get("against_yardstick", {"seeds": []})
        if changes["seeds"]:
            own = [changes[kind] for kind in KINDS]
            cells = [figure(each, signed=True) for each in (*own, mean_of_kinds(own, POINTS))]
            rows.append([label, str(len(changes["seeds"])), *cells])
    return table(["arm", "seeds", *KINDS.values(), "mean of the three"], rows)


def cost_table(report: Report) -> list[str]:
    """Compute, and tokens for each correct answer."""
    head = ["arm", "tokens per correct answer", "TFLOP from the base on", "core-minutes"]
    rows = [
        [label, figure(row["tokens_per_correct"], 0), plain(row["teraflop"]), minutes(row)]
        for label, row in arm_rows(report)
    ]
    return table(head, rows)


def minutes(row: Report) -> str:
    """The whole run's core-minutes, in the row of its last stage."""
    return plain(row["core_minutes"] if row["is_last"] else None)


def behaviour_table(report: Report) -> list[str]:
    """Percent of completions of up to 256 tokens that show each behaviour."""
    rows = [
        [label, *(plain(row["behaviours"][name]) for name in MONITORS)]
        for label, row in arm_rows(report)
        if row["behaviours"]
    ]
    return table(["arm", *MONITORS.values()], rows)


def rollout_table(report: Report) -> list[str]:
    """What the RL stages' own rollouts show, all steps together."""
    rows = []
    for label, row in arm_rows(report):
        if row["stage"] == "cold_start":
            continue
        for stage, shares in row["rl_behaviours"].items():
            steps = f"{shares['steps_with_updates']:.0f} of {shares['steps']:.0f}"
            cells = [plain(shares[name]) for name in ("loops", "language_mixing", "no_thinking", "truncated")]
            rows.append([label, STAGES[stage].removeprefix("after "), steps, *cells])
    return table(["arm", "RL", "steps with an update", "loops", "language mixing", "no thinking", "cut off"], rows)


def size_table(report: Report) -> list[str]:
    """Both sizes: pass@1 by kind, tokens per correct answer, compute."""
    costs_head = ["tokens per correct answer", "TFLOP", "core-minutes"]
    head = ["model", "parameters", "seeds", *KINDS.values(), "mean of the three", *costs_head]
    rows = []
    for label, row in arm_rows(report):
        own = [row["kinds"][kind]["pass@1"] for kind in KINDS]
        scores = [figure(each) for each in (*own, mean_of_kinds(own, PERCENT))]
        costs = [figure(row["tokens_per_correct"], 0), plain(row["teraflop"], 0)]
        rows.append([label, f"{row['parameters']:,.0f}", str(len(row["seeds"])), *scores, *costs, minutes(row)])
    return table(head, rows)


def generalisation_table(report: Report, recipe: str) -> list[str]:
    """Each family that no stage trained on, before and after RL, and the change in points."""
    rows = []
    for row in report["rows"]:
        if row["recipe"] == recipe:
            cells = [figure(row["stages"][stage]) if stage in row["stages"] else "-" for stage in STAGES]
            rows.append([row["family"], *cells, figure(row["change"], signed=True) if "change" in row else "-"])
    return table(["family", *STAGES.values(), "change"], rows)


def thinking_table(report: Report, recipe: str) -> list[str]:
    """Accuracy at each budget of thinking: maths and code, before and after RL, and the mean length after RL."""
    found = {(row["stage"], row["budget"]): row for row in report["rows"] if row["recipe"] == recipe}
    head = ["budget", *(f"{KINDS[kind]} {word}" for kind in KINDS for word in ("before RL", "after"))]
    rows = []
    for budget in dict.fromkeys(budget for _, budget in found):
        ends = [found.get((stage, budget)) for stage in ("cold_start", "rl_general")]
        scores = [figure(row["kinds"][kind]) if row else "-" for kind in KINDS for row in ends]
        lengths = [plain(row["mean_tokens"]) if row else "-" for row in ends]
        rows.append(["none" if budget is None else str(budget), *scores, *lengths])
    return table([*head, "tokens before RL", "after"], rows)


TABLES: dict[str, Callable[[Report], list[str]]] = {
    "ablation pass": pass_table,
    "ablation change": change_table,
    "ablation cost": cost_table,
    "ablation behaviours": behaviour_table,
    "ablation rollouts": rollout_table,
    "size": size_table,
    "size change": change_table,
    "generalisation tiny": lambda report: generalisation_table(report, "tiny"),
    "generalisation ablation-full": lambda report: generalisation_table(report, "ablation-full"),
    "thinking tiny": lambda report: thinking_table(report, "tiny"),
    "thinking ablation-full": lambda report: thinking_table(report, "ablation-full"),
}
"""Mark on the page -> its lines from the result file that its first word names."""
