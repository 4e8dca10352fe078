"""Tokens per second of training and generation at the tiny shape, as a share of this machine's GEMM peak.

    python benchmarks/throughput.py

Each figure is taken in a process of its own, the settings in turn (A B A B ...), so that a noisy machine
hits all of them alike: the package's defaults, a heap that keeps freed buffers (not a default: it has to
pay first), and one thread. Writes
benchmarks/results/throughput.json. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from machine import ROOT, describe_machine

SETTINGS = {"defaults": {}, "kept heap": {"heap": True}, "one thread": {"threads": 1}}


def main() -> int:
    """Measure every setting in turn, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "throughput.json")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(**json.loads(args.measure))))
        return 0
    rows: dict[str, list[dict]] = {name: [] for name in SETTINGS}
    for _ in range(args.rounds):
        for name, setting in SETTINGS.items():
            command = [sys.executable, __file__, "--measure", json.dumps(setting)]
            rows[name].append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    table = {name: {key: median(r[key] for r in runs) for key in runs[0]} for name, runs in rows.items()}
    report = {"command": "python benchmarks/throughput.py", **describe_machine(), "median": table, "rounds": rows}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    print_table(table)
    return 0


def measure(heap: bool = False, threads: int = 0) -> dict[str, float]:
    """GEMM peak in GFLOP/s; training and generation in tokens/s and as a share of that peak."""
    import torch

    from openqwq.model import load_model
    from openqwq.pipeline.machine import set_threads

    if heap:
        keep_heap()
    set_threads(threads)
    model = load_model("tiny")
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2)
    peak = gemm_peak(torch)
    train, generate = training_rate(torch, model), generation_rate(model)
    return {
        "gemm_gflops": peak,
        "train_tokens_per_s": train,
        "train_share": 6 * matrices * train / peak / 1e9,
        "generate_tokens_per_s": generate,
        "generate_share": 2 * matrices * generate / peak / 1e9,
    }


def keep_heap() -> None:
    """Let glibc's heap keep freed blocks of up to 32 MiB (M_MMAP_THRESHOLD -3, M_TRIM_THRESHOLD -1 of malloc.h)."""
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 32 << 20)
    libc.mallopt(-1, 2**31 - 1)


def gemm_peak(torch) -> float:
    """The best of some square products of 2,048, in GFLOP/s."""
    a, b = torch.randn(2, 2048, 2048)
    return max(2 * 2048**3 / seconds(lambda: a @ b) / 1e9 for _ in range(8))


def training_rate(torch, model) -> float:
    """Tokens per second of whole steps (forward, backward, clipping, fused AdamW) on packed sequences of 40 to 120."""
    from openqwq.config import SFTStage
    from openqwq.train.optim.optimizer import build_optimizer
    from openqwq.train.optim.update import next_token_objective, update
    from openqwq.train.packing import document_sample, pack

    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(40, 121, (200,), generator=random).tolist()
    samples = [document_sample(torch.randint(3, 1000, (n,), generator=random).tolist()) for n in lengths]
    batches = pack(samples, [1 / sum(lengths)] * len(samples), tokens_per_microbatch=4096)
    optimizer = build_optimizer(model, SFTStage())

    def step() -> None:
        update(model, optimizer, batches, next_token_objective, learning_rate=1e-4, max_grad_norm=1.0)

    step()
    return sum(lengths) / min(seconds(step) for _ in range(4))


def generation_rate(model) -> float:
    """Sampled tokens per second of 32 prompts of 24 tokens with 8 samples of 64 tokens each, prefill included."""
    from openqwq.inference import Engine
    from openqwq.types import Prompt, SamplingParams

    engine = Engine(model, eos_token_ids=())
    prompts = [Prompt(tuple(3 + (i * 7 + j * 13) % 900 for j in range(24))) for i in range(32)]
    params = SamplingParams(n=8, temperature=1.0, top_p=1.0, top_k=0, max_tokens=64, seed=0)
    engine.generate(prompts[:4], params)
    return 32 * 8 * 64 / min(seconds(lambda: engine.generate(prompts, params)) for _ in range(3))


def seconds(work) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def print_table(table: dict[str, dict[str, float]]) -> None:
    """A Markdown table; ratios are to the first row."""
    print("| setting | train tok/s | of GEMM peak | ratio | generate tok/s | of GEMM peak | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    first = next(iter(table.values()))
    for name, row in table.items():
        train, generate = row["train_tokens_per_s"], row["generate_tokens_per_s"]
        print(
            f"| {name} | {train:,.0f} | {row['train_share']:.0%} | {train / first['train_tokens_per_s']:.2f} "
            f"| {generate:,.0f} | {row['generate_share']:.0%} | {generate / first['generate_tokens_per_s']:.2f} |"
        )


if __name__ == "__main__":
    raise SystemExit(main())
