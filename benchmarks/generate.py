"""Generation speed of this engine and of the peers that are installed, in turn, on the same weights and the same work.

    python benchmarks/generate.py                              # the 5M shape, one round: some minutes
    python benchmarks/generate.py --shape 5m --rounds 3
    python benchmarks/generate.py --shape 0.5b --rounds 2 --limit-s 1800

Work: batch 1 and 32 (prompt 128, 128 new tokens), a long-tail batch as in reinforcement learning (256 prompts in
groups of 8, lengths exponential with mean 64 and at most 512), and the prefill of 1,024 tokens. Every engine does every
work in a process of its own, on one thread; what counts is the best round. What took longer than the limit and which
peers are absent is said. Every measurement is written at once to benchmarks/results/generate.json: the same command
goes on where it was interrupted, and `--fresh` begins anew.
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

from openqwq.model import Quantization

SHAPES: dict[str, dict[str, Any]] = {
    "5m": {"preset": "tiny", "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 5},
    "0.5b": {"preset": "qwen2.5-0.5b"},
}
PEERS = {
    "transformers": "transformers",
    "llama.cpp": "llama_cpp",
    "OpenVINO GenAI": "openvino_genai",
    "onnxruntime-genai": "onnxruntime_genai",
    "vLLM": "vllm",
}
WORKS = ("one", "batch", "tail", "prefill")
Work = list[tuple[list[int], int]]
Report = dict[str, Any]


def main() -> int:
    """Measure what is not measured yet, in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="5m")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--engines", default=",".join(STARTERS), help="which of " + ", ".join(STARTERS))
    parser.add_argument("--work", default=",".join(WORKS), help="which of " + ", ".join(WORKS))
    parser.add_argument("--limit-s", type=float, default=300, help="of one measurement (default: %(default)s)")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured of this shape before")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "generate.json")
    parser.add_argument("--measure", nargs=3, metavar=("ENGINE", "WORK", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure, SHAPES[args.shape])))
        return 0
    report = read_report(args.output)
    shape: Report = report["shapes"].setdefault(args.shape, {})
    if args.fresh:
        shape.clear()
    rounds, absent = shape.setdefault("rounds", {}), absent_peers()
    shape["absent"] = absent
    engines = [name for name in args.engines.split(",") if name not in absent]
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(SHAPES[args.shape], Path(folder) / "model")
        for number in range(args.rounds):
            for name in args.work.split(","):
                for engine in engines:
                    done = rounds.setdefault(engine, {}).setdefault(name, [])
                    if len(done) <= number:
                        done.append(run_apart(engine, name, f"{folder}/model", args))
                        shape["tokens_per_s"] = best_of(rounds)
                        write_report(report, args.output)
    print_table(shape)
    return 0


def absent_peers() -> dict[str, str]:
    """Why a peer takes no part."""
    absent = {name: "not installed" for name, module in PEERS.items() if not importlib.util.find_spec(module)}
    unread = "installed, but reads no Hugging Face folder as it is: it would need a conversion"
    return {name: absent.get(name, unread) for name in PEERS if name in absent or name not in STARTERS}


def read_report(path: Path) -> Report:
    """What an earlier run has measured on a machine like this one; else an empty report."""
    report = {**describe_machine(), "shapes": {}}
    if path.exists():
        former = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key, value in report.items() if key != "shapes" and former.get(key) != value]
        if changed and "shapes" in former:
            print(f"{path} is of another {', '.join(changed)}: measured anew", file=sys.stderr)
        elif "shapes" in former:
            report = former
    return report


def write_report(report: Report, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def run_apart(engine: str, work: str, folder: str, args: argparse.Namespace) -> float | None:
    """Tokens per second, measured in a process of its own; None where it took longer than the limit."""
    print(f"{engine}, {work} ...", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, "--shape", args.shape, "--measure", engine, work, folder]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=args.limit_s, check=False)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        raise SystemExit(f"{engine} failed at {work}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def best_of(rounds: Report) -> dict[str, dict[str, float | None]]:
    """The best round of each engine and work; None where all took too long."""
    return {
        engine: {work: max((rate for rate in rates if rate), default=None) for work, rates in works.items()}
        for engine, works in rounds.items()
    }


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


def measure(engine: str, name: str, folder: str, shape: dict[str, Any]) -> float:
    """Tokens per second of one work: sampled ones, or the prompt's where only one is sampled."""
    import torch

    from openqwq.model import preset

    torch.set_num_threads(1)
    run = STARTERS[engine](folder)
    vocab = shape.get("vocab_size", preset(shape["preset"]).vocab_size)
    run([([5, 6, 7], 4)])
    work = works(vocab)[name]
    started = time.perf_counter()
    run(work)
    tokens = sum(new if new > 1 else len(prompt) for prompt, new in work)
    return tokens / (time.perf_counter() - started)


def start_openqwq(folder: str, quantization: Quantization | None = None) -> Callable[[Work], None]:
    from openqwq.inference import Engine
    from openqwq.model import load_model, quantize_weights
    from openqwq.types import Prompt, SamplingParams

    model = load_model(folder)
    if quantization:
        quantize_weights(model, quantization)
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
    "openqwq bf16": lambda folder: start_openqwq(folder, "bf16"),
    "openqwq int8": lambda folder: start_openqwq(folder, "int8"),
    "openqwq int4": lambda folder: start_openqwq(folder, "int4"),
    "transformers": start_transformers,
}


def print_table(shape: Report) -> None:
    """A Markdown table of tokens per second; in brackets the ratio to `transformers` where it ran."""
    best = shape["tokens_per_s"]
    names = [name for name in WORKS if any(name in row for row in best.values())]
    print("| engine | " + " | ".join(names) + " |\n|---|" + "---:|" * len(names))
    base = best.get("transformers", {})
    for engine, row in best.items():
        cells = []
        for name in names:
            rate, other = row.get(name), base.get(name)
            ratio = f" ({rate / other:.2f})" if rate and other else ""
            cells.append((f"{rate:,.0f}{ratio}" if rate else "over the limit") if name in row else "")
        print(f"| {engine} | " + " | ".join(cells) + " |")
    for peer, reason in shape["absent"].items():
        print(f"\n{peer}: {reason}")


if __name__ == "__main__":
    raise SystemExit(main())
