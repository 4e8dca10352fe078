"""Peak memory and seconds of one gradient: activations computed again or kept, logits in chunks or whole.

    python benchmarks/train_memory.py                 three tables, about four minutes on one core

Activations: a Qwen2 decoder (hidden 384, 8 layers, vocabulary 1024, float32), 16 sequences of 256 tokens in one
micro-batch. Logits: the output head of a vocabulary of 152,064 at hidden 256, 1024 trained tokens. Prompts: the
decoder again, 64 sequences of 32 + 64 tokens with 8 to a prompt. Every figure is of a process of its own, seconds the
median of some runs. Memory is the peak above what the process held before the gradient: "used" by a process whose
allocator gives back at once what is freed, "held" by one as it is, whose C library keeps freed blocks of odd sizes.
Written to benchmarks/results/train_memory.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from machine import ROOT, describe_machine

CASES = {
    "activations": ("none", "mlp", "layer"),
    "logits": ("whole", "chunked"),
    "prompts": ("each", "shared"),
}
RUNS = 3
MIB = 2**20
GIVING_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
"""glibc: every large block is mapped by itself and unmapped when it is freed."""


def main() -> int:
    """Measure all cases in turn, print the tables, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "train_memory.json")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure, args.threads)))
        return 0
    table: dict[str, dict[str, dict[str, float]]] = {}
    for what, ways in CASES.items():
        table[what] = {way: measure_apart(what, way, args.threads) for way in ways}
        print_table(what, table[what])
    report = {"command": "python benchmarks/train_memory.py", **describe_machine(), "threads": args.threads}
    args.output.write_text(json.dumps({**report, "figures": table}, indent=1) + "\n")
    return 0


def measure_apart(what: str, way: str, threads: int) -> dict[str, float]:
    """The figures of one way, from two processes of their own."""
    command = [sys.executable, __file__, "--measure", what, way, "--threads", str(threads)]
    plain = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    found = []
    for env in (plain, {**plain, **GIVING_BACK}):
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    held, used = found
    return {"used_mib": used["peak_mib"], "held_mib": held["peak_mib"], "seconds": held["seconds"]}


def measure(what: str, way: str, threads: int) -> dict[str, float]:
    """Peak MiB and median seconds of a forward and backward pass."""
    import torch

    torch.set_num_threads(threads)
    run = {"activations": activations, "logits": logits, "prompts": shared_prompts}[what](way)
    before = peak_bytes()
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return {"peak_mib": round((peak_bytes() - before) / MIB, 1), "seconds": round(median(seconds), 3)}


def peak_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def decoder():
    """A model with gradients in place, so that they are not counted."""
    import torch

    from openqwq.model import create_model, preset

    shape = {"vocab_size": 1024, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 8}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 512}
    model = create_model(preset("tiny").replace(**shape, **heads), seed=0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model


def activations(way: str):
    """A pass over 4096 tokens with activations kept, recomputed within MLPs, or within layers."""
    import torch

    from openqwq.train.optim.activations import recomputed_activations
    from openqwq.train.optim.update import accumulate, next_token_objective
    from openqwq.train.packing import document_sample, pack

    model, draw = decoder(), torch.Generator().manual_seed(0)
    samples = [document_sample(torch.randint(1024, (256,), generator=draw).tolist()) for _ in range(16)]
    batches = pack(samples, [1 / 4096] * 16, tokens_per_microbatch=4096)

    def run() -> None:
        with recomputed_activations(model, way):  # type: ignore[arg-type]
            accumulate(model, batches, next_token_objective)

    return run


def shared_prompts(way: str):
    """A pass over 8 groups of 8 completions whose prompt is computed for each, or once."""
    import torch

    from openqwq.train import packing
    from openqwq.train.optim.update import accumulate, next_token_objective

    packing.SHARED_BELOW = 0.9 if way == "shared" else 0.0
    model, draw = decoder(), torch.Generator().manual_seed(0)
    prompts = [torch.randint(1024, (32,), generator=draw).tolist() for _ in range(8)]
    samples = [
        packing.completion_sample(prompt, torch.randint(1024, (64,), generator=draw).tolist())
        for prompt in prompts
        for _ in range(8)
    ]
    batches = packing.pack(samples, [1 / 4096] * 64, tokens_per_microbatch=16384)
    return lambda: accumulate(model, batches, next_token_objective)


def logits(way: str):
    """Log-probs of 1024 tokens under 152,064 entries, and their gradient."""
    import torch

    from openqwq.train.optim.logprobs import chunked_logprobs

    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(1024, 256, generator=draw, requires_grad=True)
    weight = torch.randn(152_064, 256, generator=draw, requires_grad=True)
    hidden.grad, weight.grad = torch.zeros_like(hidden), torch.zeros_like(weight)
    targets = torch.randint(152_064, (1024,), generator=draw)

    def run() -> None:
        if way == "chunked":
            logprobs, _ = chunked_logprobs(hidden, weight, targets)
        else:
            logprobs = (hidden @ weight.T).log_softmax(-1).gather(1, targets[:, None])[:, 0]
        logprobs.sum().backward()

    return run


def print_table(what: str, rows: dict[str, dict[str, float]]) -> None:
    """A Markdown table of one comparison; the first row is what the others are compared with."""
    first = next(iter(rows.values()))
    names = list(first)
    print(f"| {what} | used, MiB | held, MiB | seconds | of the first, in this order |\n|---|---:|---:|---:|---|")
    for way, row in rows.items():
        ratios = ", ".join(f"{row[name] / first[name]:.2f}" for name in names)
        print(f"| {way} | {row['used_mib']:.0f} | {row['held_mib']:.0f} | {row['seconds']:.2f} | {ratios} |")
    print()


if __name__ == "__main__":
    raise SystemExit(main())
