"""Generation speed of this engine and of the peers that are installed, in turn, on the same weights and the same work.

    python benchmarks/generate.py --shape 5m --rounds 3
    python benchmarks/generate.py --shape 0.5b --rounds 1

Work: batch 1 and 32 (prompt 128, 128 new tokens), a long-tail batch as in reinforcement learning (256 prompts in
groups of 8, lengths exponential with mean 64 and at most 512), and the prefill of 1,024 tokens. Every engine runs
in a process of its own, one thread; what counts is the best round. Writes benchmarks/results/generate.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import ROOT, describe_machine

SHAPES: dict[str, dict[str, Any]] = {
    "5m": {"preset": "tiny", "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 5},
    "0.5b": {"preset": "qwen2.5-0.5b"},
}
ENGINES = {"openqwq": "torch", "openqwq int8": "torch", "transformers": "transformers"}
Work = list[tuple[list[int], int]]


def main() -> int:
    """Measure every engine in turn, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="5m")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--work", default="one,batch,tail,prefill", help="which of one,batch,tail,prefill")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "generate.json")
    parser.add_argument("--measure", nargs=2, metavar=("ENGINE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure, args.work.split(","), SHAPES[args.shape])))
        return 0
    engines = [name for name, module in ENGINES.items() if importlib.util.find_spec(module)]
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in engines}
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(SHAPES[args.shape], Path(folder) / "model")
        for _ in range(args.rounds):
            for name in engines:
                rounds[name].append(run_apart(name, f"{folder}/model", args))
    best = {name: {key: max(r[key] for r in runs) for key in runs[0]} for name, runs in rounds.items()}
    report = {"shape": args.shape, **describe_machine(), "tokens_per_s": best, "rounds": rounds}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    print_table(best)
    return 0


def run_apart(engine: str, folder: str, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--shape", args.shape, "--work", args.work, "--measure", engine, folder]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def save_checkpoint(shape: dict[str, Any], folder: Path) -> None:
    """Random weights as a Hugging Face folder."""
    from openqwq.checkpoint.huggingface import save_model
    from openqwq.model import create_model, preset

    changes = {key: value for key, value in shape.items() if key != "preset"}
    save_model(create_model(preset(shape["preset"]).replace(torch_dtype="float32", **changes), seed=0), folder)


def works(vocab: int) -> dict[str, Work]:
    """Prompts and how many tokens to sample behind each."""
    import torch

    random = torch.Generator().manual_seed(0)

    def prompt(length: int) -> list[int]:
        return torch.randint(3, vocab, (length,), generator=random).tolist()

    lengths = torch.empty(256).exponential_(1 / 64, generator=random).long().clamp(1, 512).tolist()
    groups = [prompt(64) for _ in range(32)]
    return {
        "one": [(prompt(128), 128)],
        "batch": [(prompt(128), 128) for _ in range(32)],
        "tail": [(groups[i // 8], length) for i, length in enumerate(lengths)],
        "prefill": [(prompt(1024), 1)],
    }


def measure(engine: str, folder: str, names: list[str], shape: dict[str, Any]) -> dict[str, float]:
    """Tokens per second of each work: sampled ones, or the prompt's where only one is sampled."""
    import torch

    from openqwq.model import preset

    torch.set_num_threads(1)
    run = STARTERS[engine](folder)
    vocab = shape.get("vocab_size", preset(shape["preset"]).vocab_size)
    rates = {}
    run([([5, 6, 7], 4)])
    for name, work in works(vocab).items():
        if name in names:
            started = time.perf_counter()
            run(work)
            tokens = sum(new if new > 1 else len(prompt) for prompt, new in work)
            rates[name] = tokens / (time.perf_counter() - started)
    return rates


def start_openqwq(folder: str, quantization: str | None = None) -> Callable[[Work], None]:
    from openqwq.inference import Engine
    from openqwq.model import load_model, quantize_weights
    from openqwq.types import Prompt, SamplingParams

    model = load_model(folder)
    if quantization:
        quantize_weights(model)
    engine = Engine(model, eos_token_ids=(), max_model_len=1280)

    def run(work: Work) -> None:
        params = [SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_tokens=new, seed=0) for _, new in work]
        engine.generate([Prompt(tuple(prompt)) for prompt, _ in work], params)

    return run


def start_transformers(folder: str) -> Callable[[Work], None]:
    """Static batches of at most 32, longest completion first: what `generate` offers for different lengths."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "eos_token_id": None, "pad_token_id": 0}

    def run(work: Work) -> None:
        ordered = sorted(work, key=lambda item: -item[1])
        for start in range(0, len(ordered), 32):
            batch = ordered[start : start + 32]
            ids = torch.tensor([prompt for prompt, _ in batch])
            model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=batch[0][1], **options)

    return run


STARTERS: dict[str, Callable[[str], Callable[[Work], None]]] = {
    "openqwq": start_openqwq,
    "openqwq int8": lambda folder: start_openqwq(folder, "int8"),
    "transformers": start_transformers,
}


def print_table(best: dict[str, dict[str, float]]) -> None:
    """A Markdown table of tokens per second; in brackets the ratio to `transformers` where it ran."""
    names = list(next(iter(best.values())))
    print("| engine | " + " | ".join(names) + " |\n|---|" + "---:|" * len(names))
    base = best.get("transformers")
    for engine, row in best.items():
        cells = [f"{row[name]:,.0f}" + (f" ({row[name] / base[name]:.2f})" if base else "") for name in names]
        print(f"| {engine} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    raise SystemExit(main())
