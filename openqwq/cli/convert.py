"""Write a model as a plain Hugging Face folder: from a GGUF file, a 4-bit folder, a run or a hub name.

The folder has config.json, safetensors and the tokenizer's files, and opens in transformers, vLLM and llama.cpp's
converter. Quantised weights are widened: to bfloat16, or without any rounding by `--dtype float32`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from openqwq.errors import UserError
from openqwq.log import logger

DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="IN", help="a GGUF file, a model folder, a run's folder or a hub name")
    parser.add_argument("out", metavar="OUT", type=Path, help="the new folder")
    parser.add_argument("--to", choices=("hf",), default="hf", help="format of OUT: a Hugging Face folder (hf)")
    parser.add_argument("--dtype", choices=DTYPES, help="type of the weights (the one that IN's config names)")


def run(args: argparse.Namespace) -> int:
    import torch

    from openqwq.checkpoint.huggingface import beside_weights, save_model
    from openqwq.model import load_model, resolve_folder

    source = resolve_folder(args.model)
    if args.out.resolve() == source.resolve():
        raise UserError(f"OUT is the model's own folder, {source}", hint="choose another one")
    model = load_model(source, dtype=getattr(torch, args.dtype) if args.dtype else None)
    save_model(model, args.out, **beside_weights(source))
    size = sum(file.stat().st_size for file in args.out.glob("*.safetensors"))
    dtype = str(model.dtype).removeprefix("torch.")
    logger.info(f"{args.out}: {model.config.model_type}, {size / 2**20:.1f} MiB of weights in {dtype}")
    return 0
