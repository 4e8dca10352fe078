"""Say what fits into a memory and why: weights, KV cache, activations, optimiser, part by part.

MODEL is a preset, a model folder, a config.json, or a hub name, of which only config.json is read; no weight is loaded.
Without `--memory` the plan is for this machine. Exit code 1 where the job does not fit; then the cheapest changes that
make it fit are listed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openqwq.errors import UserError

from ._options import add_json_argument, add_quantization_argument, check_model, print_json, read_bytes

if TYPE_CHECKING:
    from openqwq.model import DecoderConfig
    from openqwq.planner import Job, Plan

EXIT_DOES_NOT_FIT = 1
DEFAULT_CONTEXT = 32_768
DEFAULT_MICROBATCH = 16_384
WIDTH = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a preset, a model folder, a config.json or a hub name")
    parser.add_argument(
        "--memory",
        type=read_bytes,
        metavar="SIZE",
        help="of the machine that is meant, e.g. 24GiB (default: this one's)",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help="what it runs on (default: cuda with --memory or where there is a GPU, else cpu, in float32)",
    )
    parser.add_argument(
        "--context",
        type=int,
        metavar="N",
        help=f"tokens of a sequence (the model's, at most {DEFAULT_CONTEXT:,}); in training of a micro-batch "
        f"({DEFAULT_MICROBATCH:,})",
    )
    parser.add_argument(
        "--max-num-seqs",
        type=int,
        metavar="N",
        help="sequences of that length that the KV cache holds at once (1; in training 0: no sampling beside it)",
    )
    parser.add_argument(
        "--max-num-batched-tokens", type=int, default=8192, metavar="N", help="tokens of one prefill pass (8192)"
    )
    add_quantization_argument(parser)
    parser.add_argument(
        "--kv-cache-dtype",
        choices=("auto", "float32", "bfloat16", "int8"),
        default="auto",
        help="what the KV cache is kept in (auto: the model's own type)",
    )
    parser.add_argument(
        "--train",
        choices=("full", "lora", "qlora"),
        help="training: all weights, or adapters on float32 weights; qlora: on int4 weights, on paper only",
    )
    parser.add_argument("--lora-rank", type=int, default=16, metavar="N", help="inner size of the adapters (16)")
    parser.add_argument(
        "--activation-checkpointing",
        choices=("none", "mlp", "layer"),
        default="none",
        help="activations that the backward pass computes again (none)",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    from openqwq.planner import changes_that_fit, check_job, largest_context, make_plan

    config = _read_config(args.model)
    job = _job(args, config)
    check_job(config, job)
    memory = _memory_of_this_machine(job.device) if args.memory is None else args.memory
    plan = make_plan(config, job)
    fits = plan.total <= memory
    result = {
        "model": args.model,
        "device": job.device,
        "dtype": str(plan.job.dtype).removeprefix("torch."),
        "context": job.context,
        "max_num_seqs": job.max_num_seqs,
        "train": job.train,
        "parts": [{"part": p.name, "bytes": p.num_bytes, "formula": p.formula} for p in plan.parts],
        "total": plan.total,
        "memory": memory,
        "fits": fits,
        "largest_context": largest_context(config, job, memory),
        "model_context": config.max_context,
        "changes": [] if fits else [{"change": t, "total": p.total} for t, p in changes_that_fit(config, job, memory)],
        "speed": _speed(config, plan, local=args.memory is None and fits),
    }
    if args.json:
        print_json(result)
    else:
        print("\n".join(_lines(result)))
    return 0 if fits else EXIT_DOES_NOT_FIT


def _job(args: argparse.Namespace, config: DecoderConfig) -> Job:
    import torch

    from openqwq.planner import Job

    if args.train and args.quantization:
        raise UserError("`--quantization` does not go with `--train`", hint="`--train qlora` plans an int4 base")
    here = "cuda" if torch.cuda.is_available() else "cpu"
    device = args.device or (here if args.memory is None else "cuda")
    context = min(config.max_context, DEFAULT_MICROBATCH if args.train else DEFAULT_CONTEXT)
    context = context if args.context is None else args.context
    if context > config.max_context and not args.train:
        raise UserError(
            f"`--context` is {context}, but the model has {config.max_context} positions",
            hint="lower it; a config.json with a YaRN block extends the model",
        )
    seqs = args.max_num_seqs
    return Job(
        context=context,
        max_num_seqs=(0 if args.train else 1) if seqs is None else seqs,
        chunk=args.max_num_batched_tokens,
        device=device,
        dtype=torch.float32 if device == "cpu" else getattr(torch, config.torch_dtype),
        quantization=args.quantization,
        kv_cache_dtype=args.kv_cache_dtype,
        train=args.train,
        lora_rank=args.lora_rank,
        checkpointing=args.activation_checkpointing,
    )


def _read_config(name: str) -> DecoderConfig:
    """The config of a preset, a folder, a config.json or a hub name. Raises UserError for anything else."""
    from openqwq.model import PRESETS, preset, read_config, resolve_folder

    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".json":
        return _from_json(path)
    if name in PRESETS and not path.exists():
        return preset(name)
    check_model(name)
    if not path.exists() and name.count("/") == 1:
        return _from_json(_download_config(name))
    return read_config(resolve_folder(name))


def _from_json(path: Path) -> DecoderConfig:
    from openqwq.model import DecoderConfig

    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds no JSON object")
    return DecoderConfig.from_dict(raw)


def _download_config(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "config.json"))
    except Exception as error:  # the hub client raises its own, its HTTP library's and the system's errors
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"config.json of `{name}` could not be downloaded: {reason}",
            hint="check the name and the network, or give a folder on this machine",
        ) from error


def _memory_of_this_machine(device: str) -> int:
    """Bytes that are free now. Raises UserError where the system does not say."""
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UserError("this machine has no GPU", hint="say how much memory is meant, e.g. `--memory 24GiB`")
        return torch.cuda.mem_get_info()[0]
    from .doctor import available_memory_gib

    free = available_memory_gib()
    if free is None:
        raise UserError("this system does not say how much memory is free", hint="give it, e.g. `--memory 16GiB`")
    return int(free * 2**30)


def _speed(config: DecoderConfig, plan: Plan, *, local: bool) -> dict[str, Any]:
    """At most how many tokens a second, where this machine is the one that is meant."""
    if plan.job.train is not None:
        return {"tokens_per_s": None, "why": "not measured: training"}
    if not local:
        return {"tokens_per_s": None, "why": "not measured: the plan is not for this machine, or does not fit"}
    from openqwq.planner import measure_bandwidth, tokens_per_second

    bandwidth = measure_bandwidth(plan.job.device)
    return {"tokens_per_s": tokens_per_second(config, plan, bandwidth), "bytes_per_s": bandwidth, "why": ""}


def _lines(result: dict[str, Any]) -> list[str]:
    """The plan as a table within 80 columns."""
    doing = f"train {result['train']}" if result["train"] else f"run {result['max_num_seqs']} at once"
    lines = [f"{result['model']}: {doing}, {result['context']:,} tokens, {result['dtype']}, {result['device']}", ""]
    parts = [p for p in result["parts"] if p["bytes"] or p["part"] == "head"]
    for part in parts:
        lines += _row(part["part"], part["bytes"], part["formula"])
    verdict = "fits" if result["fits"] else f"{_gib(result['total'] - result['memory'])} too much"
    lines += [f"{'total':<16} {_gib(result['total']):>11}  of {_gib(result['memory'])}: {verdict}", ""]
    what = "micro-batch" if result["train"] else "context"
    most = result["largest_context"]
    whole = " (all the model has)" if most == result["model_context"] else ""
    none = f"no {what} fits: the rest alone is too large"
    lines.append(f"largest {what} that fits: {most:,} tokens{whole}" if most else none)
    if not result["fits"]:
        lines += _change_lines(result["changes"])
    speed = result["speed"]
    if speed["tokens_per_s"] is not None:
        rate = f"{speed['tokens_per_s']:.3g} tokens/s at the full context"
        lines.append(f"one sequence: at most {rate} ({speed['bytes_per_s'] / 1e9:.1f} GB/s read here)")
    elif not result["train"]:
        lines.append(f"tokens/s: {speed['why']}")
    if result["train"] == "qlora":
        lines.append("qlora: what it would take; `openqwq train` has no such mode yet")
    return lines


def _row(name: str, num_bytes: int, formula: str) -> list[str]:
    import textwrap

    head = f"{name:<16} {_gib(num_bytes):>11}  "
    first, *rest = textwrap.wrap(formula, WIDTH - len(head))
    return [head + first, *(" " * len(head) + line for line in rest)]


def _change_lines(changes: list[dict[str, Any]]) -> list[str]:
    if not changes:
        return ["no one or two changes make it fit"]
    lines = [
        "cheapest change that makes it fit:" if len(changes[0]["change"]) == 1 else "no single change fits; two do:"
    ]
    for change in changes:
        lines += [f"  {_gib(change['total']):>10}  {change['change'][0]}"]
        lines += [f"  {'':10}  and {text}" for text in change["change"][1:]]
    return lines


def _gib(number: int) -> str:
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 / 10 else f"{number / 2**20:.2f} MiB"
