"""This engine and `transformers` on one large GPU, at the full shape of QwQ-32B with random weights made on the device.

    python benchmarks/gpu.py                                  every part, each in a process of its own
    python benchmarks/gpu.py --parts check speed bf16         some of them
    python benchmarks/gpu.py --limit-s 300                    seconds that a part may take; what it measured stays

check         the kernels' and the engine's tests on this GPU
speed         copy bandwidth and matrix products: what the shares below are of
attention     the paged kernels alone: bandwidth of one row at 32k, TFLOP/s of a chunk behind 24k
bf16, int4    batch 1 (greedy, and sampled as QwQ is), guesses on repetitive text, with packed weights in groups of 128
batch         256 sequences at 1k context
prefill       prompts of 32k and 131k tokens
transformers  the same batch 1 and prompt, bf16, SDPA
rl_1.5b, rl_7b   seconds of a reinforcement-learning step by phase, 32 prompts x 8 samples of 512 tokens, bf16

"Repetitive text" is one token over and over, by a logit bias: every guess stays, so it is the upper bound of what
prompt lookup gives. Figures are added to benchmarks/results/gpu.json one by one, as they are taken.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import ROOT, describe_machine

TESTS = ["tests/model/test_model_triton_attention.py", "tests/model/test_model_triton_layers.py"]
TESTS += ["tests/model/test_model_triton_decode.py", "tests/inference/test_inference_gpu.py"]
PRESET = "qwq-32b"
GIB = 2**30


def main() -> int:
    """Run the parts in turn; 1 if one failed or took too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--limit-s", type=float, default=240, help="of one part (default: %(default)s)")
    parser.add_argument("--preset", default=PRESET, help="another shape than the default: %(default)s")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "gpu.json")
    parser.add_argument("--measure", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        PARTS[args.measure](Report(args.output, args.preset, args.measure))
        return 0
    failed = []
    for part in args.parts:
        started = time.perf_counter()
        command = [sys.executable, __file__, "--measure", part, "--preset", args.preset, "--output", str(args.output)]
        try:
            code = subprocess.run(command, timeout=args.limit_s, check=False, cwd=ROOT, env=own_package()).returncode
        except subprocess.TimeoutExpired:
            code = f"longer than {args.limit_s:.0f} s"
        print(f"== {part}: {time.perf_counter() - started:.0f} s, exit {code}", flush=True)
        failed += [part] if code else []
    if args.output.exists():
        print_table(json.loads(args.output.read_text(encoding="utf-8")))
    if failed:
        print("failed: " + ", ".join(failed), file=sys.stderr)
    return int(bool(failed))


def own_package() -> dict[str, str]:
    """This folder's package, installed or not; what is printed comes at once."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


class Report:
    """The file of figures, written anew after each."""

    def __init__(self, path: Path, preset_name: str, part: str):
        import torch

        from openqwq.log import setup_logging

        setup_logging()
        self.path, self.preset, self.part = path, preset_name, part
        self.device = torch.cuda.get_device_name()

    def add(self, name: str, **figures: float | str) -> None:
        """Print and keep one measurement."""
        whole = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        whole |= {"command": "python benchmarks/gpu.py", **describe_machine(), "gpu": self.device}
        whole.setdefault("figures", {})[f"{self.part}: {name}"] = figures
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        print(f"{self.part}: {name}: {shown(figures)}", flush=True)

    def measured(self, name: str, key: str, otherwise: float) -> float:
        """A figure of an earlier part, or a number to go on with."""
        whole = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        return whole.get("figures", {}).get(name, {}).get(key, otherwise)

    @property
    def bandwidth(self) -> float:
        """Bytes per second of a copy, read and written."""
        return self.measured("speed: copy", "gb_s", 4300.0) * 1e9

    @property
    def peak(self) -> float:
        """Operations per second of the best bf16 matrix product."""
        return self.measured("speed: matrix product", "tflop_s", 790.0) * 1e12


def shown(figures: dict[str, float | str]) -> str:
    return ", ".join(
        f"{key} {value:,.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()
    )


def print_table(report: dict[str, Any]) -> None:
    """A Markdown table of all figures."""
    print("\n| measurement | figures |\n|---|---|")
    for name, figures in report["figures"].items():
        print(f"| {name} | {shown(figures)} |")


def timed(run: Callable[[], object], repeats: int) -> float:
    """Seconds of one run on the GPU, the median of some, after one that warms up."""
    import torch

    run()
    seconds = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return sorted(seconds)[len(seconds) // 2]


def run_check(report: Report) -> None:
    """The tests that need a GPU, and those of the kernels, which elsewhere run in the interpreter."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *TESTS, "-q", "-p", "no:cacheprovider", "-x", "--tb=short"],
        cwd=ROOT,
        env=own_package(),
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout[-6000:], done.stderr[-2000:])
    report.add("tests", result=done.stdout.strip().splitlines()[-1] if done.stdout else done.stderr[-200:])
    if done.returncode:
        raise SystemExit(done.returncode)


def run_speed(report: Report) -> None:
    import torch

    source = torch.empty(4 * GIB, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    report.add("copy", gb_s=2 * len(source) / timed(lambda: target.copy_(source), 10) / 1e9)
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    report.add("matrix product", tflop_s=2 * 8192**3 / timed(lambda: a @ b, 20) / 1e12)


def run_attention(report: Report) -> None:
    """One layer at the heads of QwQ-32B: a row behind 32k tokens, and the last 8k tokens of 32k."""
    import torch

    from openqwq.kernels.triton.attention import attend_rows
    from openqwq.model import KVCache, PagedChunk, preset
    from openqwq.model.attention.gpu_parts import TritonChunks

    config = preset(PRESET).replace(num_hidden_layers=16)  # a layer alone would lie in the GPU's own cache
    length, chunk = 32768, 8192
    for name, storage in (("bf16", None), ("int8", torch.int8)):
        cache = KVCache(config, length // 16, 16, device="cuda", dtype=torch.bfloat16, storage_dtype=storage)
        blocks = torch.randperm(length // 16).tolist()
        tables = torch.tensor([blocks], dtype=torch.int32, device="cuda")
        positions = torch.tensor([length - 1], device="cuda")
        q = torch.randn(1, config.num_attention_heads, config.head_dim, device="cuda", dtype=torch.bfloat16)

        def rows(cache=cache, q=q, tables=tables, positions=positions) -> None:
            for layer in range(16):
                attend_rows(cache.layer(layer), q, tables, positions)

        size = cache.num_bytes / 16
        report.add(f"row behind 32k, {name} cache", gb_s=size / (timed(rows, 20) / 16) / 1e9)
        part = TritonChunks(cache, [PagedChunk(length - chunk, chunk, blocks)])
        q = torch.randn(chunk, config.num_attention_heads, config.head_dim, device="cuda", dtype=torch.bfloat16)
        seconds = timed(lambda part=part, q=q: part.mix(0, q, q, q), 5)
        work = 4 * config.num_attention_heads * config.head_dim * (chunk * (length - chunk) + chunk**2 / 2)
        report.add(
            f"8k behind 24k, {name} cache", tflop_s=work / seconds / 1e12, share_of_peak=work / seconds / report.peak
        )


def make_model(name: str, quantization: str | None = None):
    """The preset's shape in bf16 with random weights, made on the GPU."""
    import torch

    from openqwq.model import create_model, preset, quantize_weights

    started = time.perf_counter()
    config = preset(name).replace(max_position_embeddings=2**18, eos_token_id=None)
    model = create_model(config, seed=0, device="cuda", dtype=torch.bfloat16, drawn_on="cuda")
    if quantization:
        quantize_weights(model, quantization, group_size=128)
        torch.cuda.empty_cache()
    print(f"{name} {quantization or 'bf16'} made in {time.perf_counter() - started:.1f} s", flush=True)
    return model


def weight_bytes(model) -> int:
    """What one token reads: everything but the embedding, of which it reads a row."""
    skipped = model.model.embed_tokens.weight if model.lm_head is not None else None
    tensors = [*model.parameters(), *model.buffers()]
    return sum(t.numel() * t.element_size() for t in tensors if t is not skipped)


def random_prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    import torch

    return tuple(torch.randint(1000, 100000, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def make_engine(model, **options):
    from openqwq.inference import Engine

    return Engine(model, **{"eos_token_ids": (), "max_model_len": 4096, "max_num_seqs": 4, **options})


def steps_of(engine, steps: int) -> tuple[float, int]:
    """Seconds and sampled tokens of some steps of the engine; a step ends with its tokens on the host."""
    before, started = engine.num_generated, time.perf_counter()
    for _ in range(steps):
        engine.step()
    return time.perf_counter() - started, engine.num_generated - before


def pass_seconds(engine) -> float:
    """Seconds of the model's pass alone, without sampling and the host's part, over the rows that run."""
    import torch

    runner, batch = engine.runner, engine.runner.batch
    rows = slice(batch.num_rows)
    inputs = batch.tokens[rows], batch.positions[rows], batch.tables[rows]
    with torch.inference_mode():
        return timed(lambda: runner._decoder(*inputs, batch.longest + 1, None), 20)


def run_single(report: Report, quantization: str | None) -> None:
    """Batch 1: greedy, sampled, and with guesses that all stay."""
    from openqwq.inference import Speculation
    from openqwq.types import SamplingParams

    model = make_model(report.preset, quantization)
    greedy = SamplingParams(temperature=0.0, max_tokens=2000)
    sampled = SamplingParams(temperature=0.6, top_p=0.95, top_k=40, max_tokens=2000)
    engine = make_engine(model, kv_cache_memory=8 * GIB)
    for name, params in (("greedy", greedy), ("sampled", sampled)):
        engine.add_request(random_prompt(128), params, name)
        steps_of(engine, 8)  # the prompt; tile sizes are measured, graphs captured
        seconds, tokens = steps_of(engine, 200)
        kernels = pass_seconds(engine)
        engine.abort(name)
        kv = 2 * 64 * 250 * model.config.num_key_value_heads * model.config.head_dim * 2
        floor = (weight_bytes(model) + kv) / report.bandwidth
        share = floor * tokens / seconds
        report.add(
            f"batch 1, {name}",
            tok_s=tokens / seconds,
            share_of_copy_bandwidth=share,
            pass_ms=kernels * 1e3,
            share_of_the_pass_alone=floor / kernels,
            gb=weight_bytes(model) / 1e9,
        )
    del engine
    same = greedy.replace(logit_bias={1234: 1e4})
    for number in (7, 15):
        engine = make_engine(model, kv_cache_memory=8 * GIB, speculation=Speculation(num_tokens=number))
        engine.add_request(random_prompt(128), same, "repetitive")
        steps_of(engine, 12)
        drafted, accepted = engine.num_drafted, engine.num_accepted
        seconds, tokens = steps_of(engine, 60)
        share = (engine.num_accepted - accepted) / max(engine.num_drafted - drafted, 1)
        report.add(f"repetitive text, {number} guesses", tok_s=tokens / seconds, accepted=share)
        engine.abort("repetitive")
        del engine


def run_batch(report: Report) -> None:
    """256 sequences at 1k context: decoding steps without prompts beside them."""
    from openqwq.types import SamplingParams

    model, number, length = make_model(report.preset), 256, 1024
    token_bytes = 2 * model.config.num_hidden_layers * model.config.num_key_value_heads * model.config.head_dim * 2
    memory = number * (length + 96) * token_bytes
    engine = make_engine(model, max_num_seqs=number, kv_cache_memory=memory, max_model_len=length + 96)
    started = time.perf_counter()
    for seed in range(number):
        engine.add_request(
            random_prompt(length, seed), SamplingParams(temperature=1.0, top_k=0, top_p=1.0, max_tokens=90)
        )
    while engine.scheduler.waiting or engine.scheduler.filling:
        engine.step()
    seconds = time.perf_counter() - started
    report.add("256 prompts of 1k", tok_s=number * length / seconds, seconds=seconds)
    steps_of(engine, 4)
    seconds, tokens = steps_of(engine, 24)
    read = weight_bytes(model) + number * (length + 48) * token_bytes
    report.add(
        "256 at 1k context",
        tok_s=tokens / seconds,
        running=float(engine.scheduler.num_running),
        share_of_copy_bandwidth=24 * read / seconds / report.bandwidth,
    )


def run_prefill(report: Report) -> None:
    from openqwq.types import SamplingParams

    model = make_model(report.preset)
    config = model.config
    engine = make_engine(model, max_num_batched_tokens=16384, kv_cache_memory=36 * GIB, max_model_len=132000)
    for length in (2048, 32768, 131072):  # the first warms up
        engine.add_request(random_prompt(length, length), SamplingParams(temperature=0.0, max_tokens=1))
        started = time.perf_counter()
        while engine.has_unfinished:
            engine.step()
        seconds = time.perf_counter() - started
        products = 2 * sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n) * length
        mixing = 2 * config.num_hidden_layers * config.hidden_size * length**2
        share = (products + mixing) / seconds / report.peak
        report.add(f"{length} tokens", tok_s=length / seconds, seconds=seconds, share_of_peak=share)


def run_transformers(report: Report) -> None:
    """Batch 1 with its dynamic cache, and a prompt of 8k: SDPA, bf16."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config, __version__

    from openqwq.model import preset

    config = Qwen2Config(**preset(report.preset).to_dict())
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()

    def generate(length: int, new: int) -> float:
        ids = torch.tensor([random_prompt(length)], device="cuda")
        torch.cuda.synchronize()
        started = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new, min_new_tokens=new
            )
        torch.cuda.synchronize()
        return time.perf_counter() - started

    generate(128, 4)
    seconds = generate(128, 72) - generate(128, 8)
    report.add("batch 1, greedy", tok_s=64 / seconds, version=__version__)
    report.add("8192 tokens", tok_s=8192 / generate(8192, 1), version=__version__)


def run_rl(report: Report, shape: str, checkpointing: str) -> None:
    """The package's RL loop with sampler and trainer on the one GPU; phases as its metrics report them."""
    from gpu_rl import measure_steps

    for number, row in enumerate(measure_steps(shape, checkpointing)):
        report.add(f"step {number}", **row)


PARTS: dict[str, Callable[[Report], None]] = {
    "check": run_check,
    "speed": run_speed,
    "attention": run_attention,
    "bf16": lambda report: run_single(report, None),
    "int4": lambda report: run_single(report, "int4"),
    "batch": run_batch,
    "prefill": run_prefill,
    "transformers": run_transformers,
    "rl_1.5b": lambda report: run_rl(report, "qwen2.5-1.5b", "none"),
    "rl_7b": lambda report: run_rl(report, "qwen2.5-7b", "layer"),
}


if __name__ == "__main__":
    raise SystemExit(main())
