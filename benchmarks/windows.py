"""What windows that follow attention mass cost and save: peak bytes of the KV cache, and recall of needles.

    python benchmarks/windows.py

A small model learns to recall: in texts of 512 tokens, names are given values, and asked for again. It is trained here,
from random weights, in about two minutes on one core. Then the mass of its attention is measured on texts of the same
two kinds, with many look-ups (as in training) and with few (as when it is asked), and it is asked for one name at the
end of new texts, greedily, by the engine: with full attention, with windows that hold a share of each layer's mass, and
with one window for all layers. Writes benchmarks/results/windows.json.

A text is 32 words in a chain that each predicts the next of four, with names and values strewn in. The needle's value
is given once, at a depth of 0 (the text's beginning) to 1; other names are given values around it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from machine import ROOT, describe_machine

from openqwq.eval.intervals import wilson_interval
from openqwq.inference import Engine
from openqwq.model import AttentionWindows, create_model, measure_attention_mass, preset
from openqwq.train.optim.muon import Muon
from openqwq.types import Prompt, SamplingParams

WORDS, NAMES = 32, 32  # and as many values
LENGTH, NUM_PAIRS = 512, 8
SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SHAPE["initializer_range"] = 0.12  # heads that look things up form late from smaller weights
MASSES = (0.8, 0.9, 0.95, 0.99, 0.999)
WIDTHS = (64, 128, 256)
DEPTHS = 8
ENOUGH = 0.98  # recall in training, before texts grow longer


def main() -> int:
    """Train, measure, ask, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000, help="of training, at most")
    parser.add_argument("--needles", type=int, default=400, help="texts that are asked about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "windows.json")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = create_model(
        preset("tiny").replace(vocab_size=WORDS + 2 * NAMES, num_hidden_layers=args.layers, **SHAPE), seed=args.seed
    )
    trained = train(model, args.steps)
    texts = Texts(args.seed + 1)
    dense = measure_attention_mass(model, [texts.training(LENGTH)[0].tolist() for _ in range(16)])
    sparse = measure_attention_mass(model, [texts.needle(i / 15)[0] for i in range(16)])
    needles = [texts.needle(i % DEPTHS / (DEPTHS - 1)) for i in range(args.needles)]
    choices = {"full attention": None}
    choices |= {f"{share:.1%} of the mass, many look-ups": dense.windows(share) for share in MASSES}
    choices |= {f"{share:.1%} of the mass, few look-ups": sparse.windows(share) for share in MASSES}
    choices |= {
        f"{share:.1%} of each head's, many look-ups": dense.windows(share, heads="each") for share in MASSES[:2]
    }
    choices |= {f"{width} tokens": AttentionWindows((width,) * args.layers) for width in WIDTHS}
    rows = {name: ask(model, windows, needles) for name, windows in choices.items()}
    report = {"length": LENGTH, "layers": args.layers, "seed": args.seed, **trained, "needles": len(needles)}
    report["held"] = {"many look-ups": dense.held, "few look-ups": sparse.held}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report | describe_machine() | {"table": rows}, indent=1) + "\n")
    print_table(rows)
    return 0


class Texts:
    """Random texts: a chain of words with names and values in it."""

    def __init__(self, seed: int):
        self.random = torch.Generator().manual_seed(seed)
        self.followers = torch.randint(WORDS, (WORDS, 4), generator=torch.Generator().manual_seed(0))

    def _draw(self, number: int, most: int) -> torch.Tensor:
        return torch.randint(most, (number,), generator=self.random)

    def _words(self, length: int) -> torch.Tensor:
        choices, words = self._draw(length, 4).tolist(), [0]
        table = self.followers.tolist()
        for choice in choices[1:]:
            words.append(table[words[-1]][choice])
        return torch.tensor(words)

    def _pairs(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Different names, and a value for each."""
        names = WORDS + torch.randperm(NAMES, generator=self.random)[:number]
        return names, WORDS + NAMES + self._draw(number, NAMES)

    def training(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A text [T] in which every name comes several times, and [T] where a value can be known."""
        num_pairs = min(length // 16, NUM_PAIRS)
        text, names_values = self._words(length), self._pairs(num_pairs)
        known = torch.zeros(length, dtype=torch.bool)
        number = min(length // 4, 48)
        places = (torch.randperm(length // 2 - 1, generator=self.random)[:number] * 2).sort().values
        which = self._draw(number, num_pairs)
        for column, values in enumerate(names_values):
            text[places + column] = values[which]
        seen: set[int] = set()
        for place, pair in zip(places.tolist(), which.tolist(), strict=True):
            known[place + 1] = pair in seen
            seen.add(pair)
        return text, known

    def repeated(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Random tokens [T] that come again and again after 8 to T / 2 others, and [T] which of them can be known."""
        period = 8 + int(self._draw(1, length // 2 - 7))
        tokens = self._draw(period, WORDS + 2 * NAMES)
        return tokens[torch.arange(length) % period], torch.arange(length) > period

    def needle(self, depth: float) -> tuple[list[int], int, float]:
        """A prompt that ends with a name, the value that it was given at that depth, and the depth."""
        text, (names, values) = self._words(LENGTH - 1), self._pairs(NUM_PAIRS)
        place = 2 * round(depth * (LENGTH // 2 - 3))
        others = [p for p in torch.randperm(LENGTH // 2 - 2, generator=self.random).tolist() if 2 * p != place]
        for pair, at in enumerate([place, *(2 * p for p in others[: NUM_PAIRS - 1])]):
            text[at], text[at + 1] = names[pair], values[pair]
        return [*text[:-1].tolist(), int(names[0])], int(values[0]), depth


def train(model: Any, most: int) -> dict[str, Any]:
    """Next-token training until known values are recalled, on texts that grow longer.

    First come random tokens that come again after a number of others, another one in each text: heads that look back
    to what stood behind the same token form much sooner there than where only some tokens can be known.
    """
    texts, started = Texts(0), time.perf_counter()
    hidden = [
        p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name and "lm_head" not in name
    ]
    taken = set(map(id, hidden))
    rest = [p for p in model.parameters() if id(p) not in taken]
    optimizers = [torch.optim.AdamW(rest, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0), Muon(hidden, lr=0.01)]
    step, smooth = 0, 0.0
    for make, length, batch in ((texts.repeated, 64, 32), (texts.training, 128, 24), (texts.training, LENGTH, 8)):
        smooth = 0.0
        while step < most and smooth < ENOUGH:
            ids, known = map(torch.stack, zip(*(make(length) for _ in range(batch)), strict=True))
            logits = model(ids[:, :-1]).flatten(0, 1)
            asked, following = known[:, 1:].flatten(), ids[:, 1:].flatten()
            losses = torch.nn.functional.cross_entropy(logits, following, reduction="none")
            (0.1 * losses.mean() + losses[asked].mean()).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            recall = (logits.argmax(-1) == following)[asked].float().mean().item()
            smooth, step = 0.9 * smooth + 0.1 * recall, step + 1
            if step % 50 == 0:
                print(f"step {step} length {length} recall {recall:.3f}", flush=True)
    return {"steps": step, "training_s": round(time.perf_counter() - started), "training_recall": round(smooth, 4)}


def ask(model: Any, windows: AttentionWindows | None, needles: list[tuple[list[int], int, float]]) -> dict[str, Any]:
    """Recall, by depth too, and the most bytes that one prompt's cache took, computed in chunks of 64 tokens."""
    engine = Engine(
        model,
        eos_token_ids=(),
        max_model_len=LENGTH + 1,
        max_num_seqs=1,
        max_num_batched_tokens=64,
        prefix_caching=False,
        attention_windows=windows,
    )
    params = SamplingParams(temperature=0.0, max_tokens=1)
    results = engine.generate([Prompt(tuple(prompt)) for prompt, _, _ in needles], params)
    right = [completion.token_ids[0] == value for [completion], (_, value, _) in zip(results, needles, strict=True)]
    recall = wilson_interval(right)
    by_depth = {
        f"{depth:.2f}": sum(r for r, n in zip(right, needles, strict=True) if n[2] == depth)
        / sum(n[2] == depth for n in needles)
        for depth in sorted({depth for _, _, depth in needles})
    }
    return {
        "windows": None if windows is None else list(windows.layers),
        "peak_kv_bytes": engine.stats().kv_bytes_most,
        "recall": recall.mean,
        "interval": [recall.low, recall.high],
        "by_depth": by_depth,
    }


def print_table(rows: dict[str, dict[str, Any]]) -> None:
    """A Markdown table."""
    whole = rows["full attention"]["peak_kv_bytes"]
    print("| attention | windows, in tokens | peak KV bytes | | recall | 95% interval |\n|---|---|---:|---:|---:|---|")
    for name, row in rows.items():
        windows = "" if row["windows"] is None else ", ".join("all" if w is None else str(w) for w in row["windows"])
        share, (low, high) = row["peak_kv_bytes"] / whole, row["interval"]
        print(
            f"| {name} | {windows} | {row['peak_kv_bytes']:,} | {share:.0%} | {row['recall']:.1%} | "
            f"{low:.1%} to {high:.1%} |"
        )


if __name__ == "__main__":
    raise SystemExit(main())
