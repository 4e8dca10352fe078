"""Seconds of one reinforcement-learning step, TRL's GRPOTrainer and ours in turn, on the same model and the same work.

    python benchmarks/rl_step.py                              both workloads, one round: 5 to 8 minutes on two cores
    python benchmarks/rl_step.py --work equal --rounds 3      one of them, three times
    python benchmarks/rl_step.py --rounds 3 --resume          two rounds more; figures that the file has are kept
    python benchmarks/rl_step.py --systems ours plain ahead   ours alone: as above, not batch-invariant, overlapped

A Qwen2 decoder (hidden 256, 4 layers, 4 heads, 2 kv heads, vocabulary 512, float32) with random weights, one byte a
token, the share of digits as the reward. `equal`: 8 prompts of 32 tokens, 8 completions of exactly 64 tokens each.
`long_tail`: 32 prompts, 8 completions each, of 64 tokens in the mean and at most 512 (each token ends its completion
with a chance of 1/64). Each figure is taken in a process of its own, the systems in turn, and written to
benchmarks/results/rl_step.json at once. TRL is measured where `trl` is installed, or with another Python: --trl-python.
Ours is measured as recipes run it: in the batch-invariant mode.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from statistics import median

from machine import ROOT, describe_machine

WORK = {
    "equal": {"prompts": 8, "samples": 8, "longest": 64, "ends": False, "steps": 4},
    "long_tail": {"prompts": 32, "samples": 8, "longest": 512, "ends": True, "steps": 2},
}
SYSTEMS = {
    "ours": {"batch_invariant": "auto"},
    "plain": {"batch_invariant": "off"},
    "ahead": {"batch_invariant": "auto", "max_staleness": 1},
    "trl": {},
}
PROMPT_TOKENS, MEAN_TOKENS, VOCABULARY, PAD, END, FIRST_BYTE = 32, 64, 512, 0, 1, 2
WARMUP = 1
ALPHABET = "0123456789+-*= abcdefgh"


def main() -> int:
    """Measure both systems in turn, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, help="timed steps of one figure; default: 4 of equal, 2 of long_tail")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--work", nargs="*", choices=WORK, default=list(WORK))
    parser.add_argument("--systems", nargs="*", choices=SYSTEMS, default=["ours", "trl"])
    parser.add_argument("--resume", action="store_true", help="measure only what the output file lacks")
    parser.add_argument("--trl-python", default=sys.executable, help="a Python that has TRL")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "rl_step.json")
    parser.add_argument("--measure", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        work = WORK[args.work[0]]
        steps = (args.steps or work["steps"]) + WARMUP
        if args.measure == "trl":
            print(json.dumps(measure_trl(args.model, work, steps, args.threads)))
        else:
            print(json.dumps(measure_ours(args.model, work, steps, args.threads, SYSTEMS[args.measure])))
        return 0
    peak = measure_peak(args.threads)
    figures = json.loads(args.output.read_text())["figures"] if args.resume and args.output.exists() else []
    measure_all(args, figures, peak)
    print_table(summarise(figures, peak))
    return 0


def measure_all(args: argparse.Namespace, figures: list[dict], peak: float) -> None:
    """Add the figures that are missing, systems in turn, and write the file after each."""
    report = {"command": "python benchmarks/rl_step.py", **describe_machine(), "threads": args.threads}
    report["gemm_gflops"] = peak
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder) / "model")
        for number, work, system in product(range(args.rounds), args.work, args.systems):
            if any((f["round"], f["work"], f["system"]) == (number, work, system) for f in figures):
                continue
            started = time.perf_counter()
            figure = measure_one(args, Path(folder) / "model", work, system)
            if figure is not None:
                print(f"{work}, {system}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
                figures.append({"round": number, "work": work, "system": system, **figure})
                table = summarise(figures, peak)
                args.output.write_text(json.dumps({**report, "median": table, "figures": figures}, indent=1) + "\n")


def measure_one(args: argparse.Namespace, model: Path, work: str, system: str) -> dict | None:
    """One figure, from a process of its own; None, and why, where it cannot be taken."""
    python = args.trl_python if system == "trl" else sys.executable
    command = [python, __file__, "--measure", system, "--model", str(model), "--work", work]
    command += ["--threads", str(args.threads), *(["--steps", str(args.steps)] if args.steps else [])]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(args.threads))
    if done.returncode:
        print(f"{system} cannot be measured: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def environment(threads: int) -> dict[str, str]:
    """No network, and the same threads for both."""
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": str(ROOT),
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }


def write_model(folder: Path) -> None:
    """Random weights whose first hidden dimension is a constant, so that the head can hold a bias for the end token."""
    import torch

    from openqwq.checkpoint.huggingface import save_model
    from openqwq.model import DecoderConfig, create_model

    config = DecoderConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        eos_token_id=END,
    )
    model = create_model(config, seed=0)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 32.0  # ten times what four layers add to all others
        model.lm_head.weight[:, 0] = 0.0
        constant = math.sqrt(config.hidden_size)  # what the norm makes of a vector of which one entry dominates
        model.lm_head.weight[END, 0] = math.log(VOCABULARY / MEAN_TOKENS) / constant
    save_model(model, folder)


def prompts(count: int) -> list[str]:
    """Texts of 32 characters, the same ones for both systems."""
    from random import Random

    random = Random(0)
    return ["".join(random.choice(ALPHABET) for _ in range(PROMPT_TOKENS)) for _ in range(count)]


def digit_share(text: str) -> float:
    """Cheap, in [0, 1], and different within a group."""
    return sum(c.isdigit() for c in text) / max(len(text), 1)


class ByteTokenizer:
    """One byte a token, after the padding and the end token."""

    def __init__(self, ends: bool):
        self.eos_token_ids = (END,) if ends else ()

    def opens_thinking(self, prompt_ids) -> bool:
        return False

    def encode_chat(self, messages) -> list[int]:
        return [byte + FIRST_BYTE for byte in messages[-1].content.encode()]

    def decode(self, ids) -> str:
        return bytes(i - FIRST_BYTE for i in ids if FIRST_BYTE <= i < 256 + FIRST_BYTE).decode("latin-1")


def measure_ours(model_folder: str, work: dict, steps: int, threads: int, options: dict) -> dict[str, float]:
    """The package's own RL loop; phases as its metrics report them."""
    import torch

    from openqwq.checkpoint.run_state import RunStateStore
    from openqwq.config import CorrectionConfig, RLStage
    from openqwq.inference import Engine
    from openqwq.log import read_jsonl
    from openqwq.model import load_model
    from openqwq.pipeline.machine import keep_freed_memory
    from openqwq.train.rl import run_rl
    from openqwq.train.rl_run import RLParts
    from openqwq.train.stage import StageContext
    from openqwq.types import Message, Problem, Verdict
    from openqwq.verifiers import Verifier

    class Digits(Verifier):
        name = "digits"

        def __call__(self, problem, completion):
            return Verdict.correct(score=digit_share(completion))

    class Prompts:
        texts = prompts(4096)

        def batch(self, step, count, refill=0):
            chosen = self.texts[step * count : (step + 1) * count]
            return [
                Problem(id=t, source="s", kind="k", messages=(Message("user", t),), verifier="digits") for t in chosen
            ]

    torch.set_num_threads(threads)
    keep_freed_memory()
    model = load_model(model_folder, dtype=torch.float32)
    tokenizer = ByteTokenizer(work["ends"])
    last = 1 if "max_staleness" in options else 0  # beside the last step nothing is sampled: it is not counted
    stage = RLStage(
        mix={"s": 1.0},
        steps=steps + last,
        prompts_per_step=work["prompts"],
        samples_per_prompt=work["samples"],
        max_completion_tokens=work["longest"],
        learning_rate=1e-4,
        max_refills=0,
        checkpoint_seconds=0,
        correction=CorrectionConfig(mode="truncate" if "max_staleness" in options else "none"),
        **options,
    )
    ends = []
    with tempfile.TemporaryDirectory() as folder:
        run_rl(
            stage,
            RLParts(
                model=model,
                policy=Engine(model, tokenizer, max_num_seqs=256),
                tokenizer=tokenizer,
                mixture=Prompts(),
                verifiers={"digits": Digits()},
            ),
            StageContext(
                name="rl",
                seed=0,
                checkpoints=RunStateStore(folder),
                progress=lambda *_: ends.append(time.perf_counter()),
            ),
        )
        rows = read_jsonl(Path(folder) / "metrics.jsonl")[WARMUP:steps]
    mean = {phase: sum(row[f"seconds_{phase}"] for row in rows) / len(rows) for phase in ("generate", "train")}
    tokens = sum(row["tokens_generate"] for row in rows) / len(rows)
    trained = sum(row["tokens_train"] for row in rows) / len(rows)
    return {
        "step_s": (ends[steps - 1] - ends[WARMUP - 1]) / len(rows),
        "generate_s": mean["generate"],
        "train_s": mean["train"],
        "tokens_generated": tokens,
        "tokens_trained": trained,
        "mismatch_max": max(row["mismatch_max"] for row in rows),
    }


def measure_trl(model_folder: str, work: dict, steps: int, threads: int) -> dict[str, float]:
    """TRL's GRPOTrainer with its defaults (no reference model, DAPO's loss), generation timed within it."""
    import torch
    from datasets import Dataset
    from transformers import Qwen2ForCausalLM, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(threads)
    clock = {"generate": 0.0, "tokens": 0.0}

    class Timed(GRPOTrainer):
        def _generate_single_turn(self, *args, **kwargs):
            started = time.perf_counter()
            try:
                return super()._generate_single_turn(*args, **kwargs)
            finally:
                clock["generate"] += time.perf_counter() - started

        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            clock["tokens"] += float(output["completion_mask"].sum())
            return output

    class Clock(TrainerCallback):
        def __init__(self):
            self.rows: list[tuple[float, float, float]] = []

        def on_train_begin(self, *args, **kwargs):
            self.began = time.perf_counter()

        def on_step_end(self, *args, **kwargs):
            now = time.perf_counter()
            self.rows.append((now - self.began, clock["generate"], clock["tokens"]))
            self.began, clock["generate"], clock["tokens"] = now, 0.0, 0.0

    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        max_steps=steps,
        learning_rate=1e-4,
        per_device_train_batch_size=work["prompts"] * work["samples"],
        gradient_accumulation_steps=1,
        num_generations=work["samples"],
        max_completion_length=work["longest"],
        gradient_checkpointing=False,
        generation_kwargs={} if work["ends"] else {"suppress_tokens": [END]},
    )
    timed = Clock()
    trainer = Timed(
        model=Qwen2ForCausalLM.from_pretrained(model_folder, dtype=torch.float32),
        reward_funcs=lambda completions, **_: [digit_share(text) for text in completions],
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts(4096)}),
        processing_class=hf_byte_tokenizer(),
        callbacks=[timed],
    )
    trainer.train()
    rows = timed.rows[WARMUP:]
    step, generate, tokens = (sum(column) / len(rows) for column in zip(*rows, strict=True))
    prompt_tokens = work["prompts"] * work["samples"] * PROMPT_TOKENS
    return {
        "step_s": step,
        "generate_s": generate,
        "train_s": step - generate,
        "tokens_generated": tokens,
        "tokens_trained": tokens + prompt_tokens,
    }


def hf_byte_tokenizer():
    """The same bytes as `ByteTokenizer`'s, as transformers wants them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": PAD, "<eos>": END, **{c: i + FIRST_BYTE for i, c in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def measure_peak(threads: int) -> float:
    """This machine's best product of square matrices, by PyTorch or as the package multiplies them, in GFLOP/s."""
    import torch
    from throughput import gemm_peak, seconds

    from openqwq.kernels.cpu.products import multiply

    torch.set_num_threads(threads)
    a, b = torch.randn(2, 2048, 2048)
    return max(gemm_peak(torch), *(2 * 2048**3 / seconds(lambda: multiply(a, b)) / 1e9 for _ in range(8)))


def summarise(figures: list[dict], peak: float) -> dict[str, dict[str, dict[str, float]]]:
    """Medians over the rounds, and the share of this machine's GEMM peak that useful work takes.

    Useful are six operations a weight for each token of a training sequence, its prompt's too, whether a system
    computes a prompt for each of its completions or once.
    """
    matrices = 4 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 704) + 256 * VOCABULARY
    table: dict[str, dict[str, dict[str, float]]] = {}
    for work, system in dict.fromkeys((f["work"], f["system"]) for f in figures):
        own = [f for f in figures if (f["work"], f["system"]) == (work, system)]
        row = {key: median(f[key] for f in own) for key in own[0] if key not in ("round", "work", "system")}
        row["generate_share"] = 2 * matrices * row["tokens_generated"] / row["generate_s"] / peak / 1e9
        row["train_share"] = 6 * matrices * row["tokens_trained"] / row["train_s"] / peak / 1e9
        table.setdefault(work, {})[system] = row
    return table


def print_table(table: dict[str, dict[str, dict[str, float]]]) -> None:
    """A Markdown table; the ratio is a system's seconds a step over ours."""
    print("| work | system | s a step | generating | training | tokens | of GEMM peak (gen, train) | ratio |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for work, systems in table.items():
        for system, r in systems.items():
            ratio = f"{r['step_s'] / systems['ours']['step_s']:.2f}" if "ours" in systems else ""
            shares = f"{r['generate_share']:.0%}, {r['train_share']:.0%}"
            print(
                f"| {work} | {system} | {r['step_s']:.2f} | {r['generate_s']:.2f} | {r['train_s']:.2f} "
                f"| {r['tokens_generated']:.0f} | {shares} | {ratio} |"
            )


if __name__ == "__main__":
    raise SystemExit(main())
