"""Write a model as a 4-bit folder in the form of AWQ or GPTQ, which vLLM, transformers and openqwq open.

Each group of weights is rounded by itself, with the least squared error; nothing is calibrated on texts. Embeddings,
norms and the head stay as they are. `python benchmarks/quantization.py` measures what rounding costs a model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from openqwq.errors import UserError
from openqwq.log import logger, read_json

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "vocab.json", "merges.txt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model folder or hub name")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="the new folder")
    parser.add_argument("--format", choices=("awq", "gptq", "gptq_v2"), default="awq", help="the form (awq)")
    parser.add_argument(
        "--group-size", type=int, default=128, metavar="N", help="inputs that share a scale: 32, 64, 128, ... or -1"
    )


def run(args: argparse.Namespace) -> int:
    from openqwq.checkpoint.quantized import packed_layout, save_packed
    from openqwq.model import load_model, resolve_folder

    try:
        layout = packed_layout(args.format, args.group_size)
    except UserError as error:  # says where the number would stand in the new folder
        raise UserError(f"`--group-size {args.group_size}` cannot be: {error.message}", hint=error.hint) from error
    source = resolve_folder(args.model)
    if args.out.resolve() == source.resolve():
        raise UserError(f"`--out` is the model's own folder, {source}", hint="choose another one")
    generation = source / "generation_config.json"
    save_packed(
        load_model(source),
        args.out,
        layout,
        tokenizer_files=[source / name for name in TOKENIZER_FILES if (source / name).exists()],
        generation_config=read_json(generation) if generation.exists() else None,
    )
    before, after = (sum(file.stat().st_size for file in f.glob("*.safetensors")) for f in (source, args.out))
    logger.info(f"{args.out}: {after / 2**20:.1f} MiB of weights, before {before / 2**20:.1f} MiB")
    return 0
