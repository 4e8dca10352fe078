"""Measure a model's speed here: prompt tokens and sampled tokens per second at several batch sizes.

Prompts are random token ids and end tokens are ignored, so that every sample has its full length. In each round the
prompts' time ends when every sample has its first token, and the time of sampling begins there. The best round of each
is shown, and on stderr whether the rounds differ so much that the machine was busy. With speculation, the share of
guesses that were sampled is told: random prompts have little to guess from.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openqwq.errors import UserError
from openqwq.log import logger

from ._options import add_engine_arguments, add_json_argument, engine_options, print_json

if TYPE_CHECKING:
    from openqwq.inference import Engine

# Rounds of a quiet machine differ by a few percent.
NOISY = 1.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model folder, GGUF file, hub name or preset")
    parser.add_argument("--batch", default="1,8,32", metavar="N,N", help="batch sizes (1,8,32)")
    parser.add_argument("--prompt", type=int, default=128, metavar="N", help="prompt length in tokens (128)")
    parser.add_argument("--new", type=int, default=64, metavar="N", help="new tokens per sequence (64)")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="repetitions; the best is reported (2)")
    parser.add_argument(
        "--random-weights", action="store_true", help="use random weights in a preset's shape; downloads nothing"
    )
    add_engine_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    batches = read_batches(args.batch)
    for name in ("prompt", "new", "rounds"):
        if getattr(args, name) < 1:
            raise UserError(f"`--{name}` is {getattr(args, name)}, but must be at least 1")
    options = engine_options(args)
    engine = load_engine(args.model, args.random_weights, max(batches), args.prompt + args.new + 1, options)
    rows = [measure(engine, batch, args.prompt, args.new, args.rounds) for batch in batches]
    for row in rows:
        warn_of_noise(row)
    if args.json:
        print_json({"model": args.model, "prompt_tokens": args.prompt, "new_tokens": args.new, "rows": rows})
        return 0
    guesses = "speculative_config" in options
    print(f"{'batch':>6} {'prompt tokens/s':>16} {'sampled tokens/s':>17} {'ms a token':>10}" + " accepted" * guesses)
    for row in rows:
        sampled = row["sampled_tokens_per_s"]
        token_ms = sampled and 1000 * row["batch"] / sampled
        shown = f"{show(row['prompt_tokens_per_s'], '>16.0f')} {show(sampled, '>17.1f')} {show(token_ms, '>10.2f')}"
        print(f"{row['batch']:>6} {shown}" + (f" {row['accepted_share']:>8.1%}" if guesses else ""))
    return 0


def show(value: float | None, form: str) -> str:
    """A figure in its column; "n/a" for one that could not be measured."""
    return format("n/a", form.partition(".")[0]) if value is None else format(value, form)


def read_batches(text: str) -> list[int]:
    """Batch sizes from "1,8". Raises UserError for anything else."""
    try:
        batches = [int(part) for part in text.split(",")]
    except ValueError:
        batches = []
    if not batches or min(batches) < 1:
        raise UserError(f"`--batch` is {text!r}, but must be whole numbers from 1 on, as in 1,8,32")
    return batches


def load_engine(
    model: str, random_weights: bool, max_num_seqs: int, max_model_len: int, options: dict[str, Any]
) -> Engine:
    """An engine with no more rows and no longer sequences than the measurement needs."""
    from openqwq.inference import LLM, Engine, Speculation
    from openqwq.inference.speculative_config import read_speculation
    from openqwq.inference.windows import choose_windows, read_window

    options = {"max_num_seqs": max_num_seqs, "max_model_len": max_model_len, "prefix_caching": False, **options}
    if not random_weights:
        return LLM(model, **options).engine
    import torch

    from openqwq.model import create_model, preset, quantize_weights

    if options.pop("rope_scaling", None) is not None:
        raise UserError("`--rope-scaling` needs a model folder: random weights have no trained window")
    if config := options.pop("speculative_config", None):
        speculative = read_speculation(config)
        if speculative.model is not None:
            raise UserError("a draft model needs a tokenizer, and random weights have none")
        options["speculation"] = Speculation(num_tokens=speculative.num_tokens)
    choice = read_window(window) if (window := options.pop("attention_window", None)) else None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    network = create_model(preset(model), seed=0, device=device, dtype=dtype)
    if (kind := options.pop("quantization", None)) is not None:
        quantize_weights(network, kind)
    if choice is not None:
        options["attention_windows"] = choose_windows(choice, network)
    return Engine(network, **options)


def measure(engine: Engine, batch: int, num_prompt: int, num_new: int, rounds: int) -> dict[str, Any]:
    """Rates of one batch size, the best of the rounds; one short run goes before. None where a rate has no time.

    spread: how many times slower than the best round of sampling the worst was.
    """
    before = engine.stats()
    time_round(engine, batch, num_prompt, 1)
    timed = [time_round(engine, batch, num_prompt, num_new + 1) for _ in range(rounds)]
    after = engine.stats()
    drafted = after.drafted_tokens - before.drafted_tokens
    prompts = [rate(batch * num_prompt, one.prompt_s) for one in timed]
    sampled = [rate(one.num_sampled, one.sampling_s) for one in timed]
    return {
        "batch": batch,
        "accepted_share": (after.accepted_tokens - before.accepted_tokens) / drafted if drafted else 0.0,
        "prompt_tokens_per_s": max(filter(None, prompts), default=None),
        "sampled_tokens_per_s": max(filter(None, sampled), default=None),
        "spread": max(filter(None, sampled)) / min(filter(None, sampled)) if any(sampled) else None,
    }


def rate(count: int, seconds: float) -> float | None:
    """Per second; None where no time has passed, or nothing was counted in it."""
    return count / seconds if seconds > 0 and count > 0 else None


def warn_of_noise(row: Mapping[str, Any]) -> None:
    """Say where the machine was too busy for a figure, or for one to rely on."""
    if None in (row["prompt_tokens_per_s"], row["sampled_tokens_per_s"]):
        logger.warning("batch %d could not be measured: the machine was too busy", row["batch"])
    elif row["spread"] > NOISY:
        said = "batch %d: the slowest round took %.1f times as long as the best: the machine is busy"
        logger.warning(said, row["batch"], row["spread"])


@dataclass(frozen=True, slots=True)
class Round:
    """What one run took: until every sample had its first token, and from there to the end, with the tokens of then."""

    prompt_s: float
    sampling_s: float
    num_sampled: int


def time_round(engine: Engine, batch: int, num_prompt: int, num_new: int) -> Round:
    """Sample `num_new` tokens behind each of different prompts."""
    from openqwq.types import SamplingParams

    vocab = engine.model.config.vocab_size
    params = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_tokens=num_new, ignore_eos=True, seed=0)
    counted = engine.stats().generated_tokens
    started = time.perf_counter()
    for i in range(batch):
        engine.add_request([(31 * i + 17 * j + i * j) % vocab for j in range(num_prompt)], params, f"bench/{i}")
    waiting = {f"bench/{i}" for i in range(batch)}
    while waiting:
        waiting -= {output.request_id for output in engine.step()}
        waiting = {name for name in waiting if not engine.samples(name)[0].token_ids}
    begun, num_begun = time.perf_counter(), engine.stats().generated_tokens
    while engine.has_unfinished:
        engine.step()
    ended, num_ended = time.perf_counter(), engine.stats().generated_tokens
    assert num_ended - counted == batch * num_new
    return Round(begun - started, ended - begun, num_ended - num_begun)
