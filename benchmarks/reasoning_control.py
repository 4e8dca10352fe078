"""What each control of the thinking saves in tokens and costs in accuracy, on a small reasoning model.

    python benchmarks/reasoning_control.py runs/tiny/final --recipe recipes/tiny.toml

Every row answers the same held-out problems of the recipe's families with the same seeds; changes are against the row
that its group begins with, paired by problem, means over families, with 95% intervals. Thinking tokens are those before
`</think>`, what was put in included. A small model that was trained to think briefly hardly loops; so loops are looked
for a third time where it has to think on for long. Writes benchmarks/results/reasoning_control.json: counts, nothing
that is timed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from machine import ROOT, describe_machine

from openqwq.config import load_recipe
from openqwq.config.engine import CLOSING_TEXT
from openqwq.eval.evaluate import evaluate
from openqwq.eval.families import ScoredCompletion, strict_scores
from openqwq.eval.intervals import mean_interval, paired_change
from openqwq.inference import Engine
from openqwq.model import load_model
from openqwq.pipeline.machine import set_threads
from openqwq.pipeline.materials import Materials
from openqwq.tokenizer import Tokenizer, with_style
from openqwq.types import Completion, Message, Prompt, SamplingParams

SHORT_CLOSING = "\n</think>\n\n"
BUDGETS = (4, 8, 12, 16, 24, 32)
MINIMA = (16, 32)
CLOSED_AFTER = 16  # steps of the engine
ROOM = 192  # completion tokens: twice the recipe's, so that a prolonged or closed thinking leaves room to answer
REPEATS = (3, 5)
HELD = 128  # tokens of thinking that a model is held to, so that it goes round in circles


def main() -> int:
    """Ask, judge, print the tables, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model folder")
    parser.add_argument("--recipe", required=True, help="its [eval] families are asked")
    parser.add_argument("--problems", type=int, default=64, help="of each family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "reasoning_control.json")
    args = parser.parse_args()
    set_threads(0)
    asker = Asker(args.model, args.recipe, args.problems, args.seed)
    groups = {name: describe(rows, asker.tokenizer) for name, rows in asker.groups().items()}
    report = {"model": args.model, "recipe": args.recipe, "problems": args.problems, "seed": args.seed}
    report |= {"temperature": asker.params.temperature, "room": ROOM}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report | describe_machine() | {"groups": groups}, indent=1) + "\n")
    for name, rows in groups.items():
        print_table(name, rows)
    return 0


class Asker:
    """One model, one set of problems."""

    def __init__(self, folder: str, recipe: str, problems: int, seed: int):
        materials = Materials(load_recipe(recipe), Path())
        self.families = {name: found[:problems] for name, found in materials.families.items()}
        self.judge, self.seed = materials.judge, seed
        self.tokenizer, self.model = Tokenizer.load(folder), load_model(folder)
        self.params = SamplingParams(temperature=0.6, top_p=0.95, top_k=40, max_tokens=ROOM)
        self.greedy = self.params.replace(temperature=0.0, top_p=1.0, top_k=0)

    def groups(self) -> dict[str, dict[str, list[ScoredCompletion]]]:
        """Rows of every control, by group; the first of a group is what the others are compared with."""
        free = self.ask(self.params)
        budgets = {f"budget {n}": self.ask(self.params.replace(thinking_budget=n)) for n in BUDGETS}
        told = self.ask(self.params.replace(thinking_budget=16), closing_text=CLOSING_TEXT)
        minima = {f"at least {n}": self.ask(self.params.replace(min_thinking_tokens=n)) for n in MINIMA}
        styles = {f"style {name!r}": self.ask(self.params, style=name) for name in ("concise", "draft")}
        closed = self.ask(self.params, close_after=CLOSED_AFTER)
        held = self.greedy.replace(min_thinking_tokens=HELD)
        return {
            "sampled": {
                "free": free,
                **budgets,
                "budget 16, Qwen's sentence": told,
                f"closed after {CLOSED_AFTER} steps": closed,
                **minima,
                **styles,
                **self.looking_for_loops(self.params),
            },
            "greedy": {"free": self.ask(self.greedy), **self.looking_for_loops(self.greedy)},
            f"greedy, at least {HELD}": {"free": self.ask(held), **self.looking_for_loops(held)},
        }

    def looking_for_loops(self, params: SamplingParams) -> dict[str, list[ScoredCompletion]]:
        return {f"`max_repeats` {n}": self.ask(params.replace(max_repeats=n)) for n in REPEATS}

    def ask(
        self,
        params: SamplingParams,
        *,
        style: str | None = None,
        close_after: int | None = None,
        closing_text: str = SHORT_CLOSING,
    ) -> list[ScoredCompletion]:
        """One completion of every problem, judged."""
        engine = Engine(self.model, self.tokenizer, closing_text=closing_text, max_model_len=1024)
        policy = engine if close_after is None else ClosingPolicy(engine, close_after)
        encoder = StyledEncoder(self.tokenizer, style)
        return evaluate(policy, encoder, self.families, params, self.judge, seed=self.seed)


class StyledEncoder:
    """The tokenizer, with a style in every conversation."""

    def __init__(self, tokenizer: Tokenizer, style: str | None):
        self.encode, self._tokenizer, self._style = tokenizer.encode, tokenizer, style

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        return self._tokenizer.encode_chat(with_style(messages, self._style))

    def opens_thinking(self, prompt_ids: Sequence[int]) -> bool:
        return self._tokenizer.opens_thinking(prompt_ids)


class ClosingPolicy:
    """Runs requests one batch at a time and closes each one's thinking when it has run for some steps."""

    def __init__(self, engine: Engine, steps: int):
        self.engine, self.steps = engine, steps

    def generate(self, prompts: Sequence[Prompt], params: Sequence[SamplingParams]) -> list[list[Completion]]:
        done: dict[str, list[Completion]] = {}
        size = self.engine.config.max_num_seqs
        for start in range(0, len(prompts), size):
            batch = list(zip(prompts, params, strict=True))[start : start + size]
            names = [self.engine.add_request(p.token_ids, own, str(start + i)) for i, (p, own) in enumerate(batch)]
            step = 0
            while self.engine.has_unfinished:
                done |= {output.request_id: output.outputs for output in self.engine.step()}
                step += 1
                if step == self.steps:
                    for name in names:
                        self.engine.close_thinking(name)
        return [done[str(i)] for i in range(len(prompts))]


def describe(rows: dict[str, list[ScoredCompletion]], tokenizer: Tokenizer) -> dict[str, dict[str, Any]]:
    """Tokens and accuracy of every row, and both against the first."""
    first = next(iter(rows.values()))
    table = {}
    for name, own in rows.items():
        accuracy, change = mean_interval(strict_scores(own)), paired_change(strict_scores(first), strict_scores(own))
        tokens = fmean(row.tokens for row in own)
        table[name] = {
            "n": len(own),
            "tokens": tokens,
            "tokens_saved": 1 - tokens / fmean(row.tokens for row in first),
            "thinking_tokens": fmean(num_thinking(row, tokenizer) for row in own),
            "accuracy": accuracy.to_dict(),
            "change": change.to_dict(),
            "kinds": {kind: accuracy_of(own, kind) for kind in sorted({row.kind for row in own})},
            "cut": fmean(row.finish_reason == "length" for row in own),
            "repetition": fmean(row.finish_reason == "repetition" for row in own),
        }
    return table


def num_thinking(row: ScoredCompletion, tokenizer: Tokenizer) -> int:
    """Tokens before `</think>`; all of them where it did not come."""
    thinking, end, _ = row.text.partition("</think>")
    return len(tokenizer.encode(thinking)) if end else row.tokens


def accuracy_of(rows: list[ScoredCompletion], kind: str) -> float:
    return mean_interval(strict_scores([row for row in rows if row.kind == kind])).mean


def print_table(name: str, rows: dict[str, dict[str, Any]]) -> None:
    """A Markdown table."""
    print(f"\n| {name} | tokens | saved | thinking | accuracy | change, 95% interval | cut |")
    print("|---|---:|---:|---:|---:|---|---:|")
    for label, row in rows.items():
        change = row["change"]
        moved = f"{100 * change['mean']:+.1f} ({100 * change['low']:+.1f} to {100 * change['high']:+.1f})"
        print(
            f"| {label} | {row['tokens']:.1f} | {row['tokens_saved']:.0%} | {row['thinking_tokens']:.1f} | "
            f"{row['accuracy']['mean']:.1%} | {'' if label == 'free' else moved} | {row['cut']:.1%} |"
        )


if __name__ == "__main__":
    raise SystemExit(main())
