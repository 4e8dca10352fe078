"""Write a model as a 4-bit folder in the form of AWQ or GPTQ, which vLLM, transformers and openqwq open.

Each group of weights is rounded by itself, with the least squared error; nothing is calibrated on texts. Embeddings,
norms and the head stay as they are. `python benchmarks/quantization.py` measures what rounding costs a model.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from openqwq.errors import UserError
from openqwq.log import logger

if TYPE_CHECKING:
    from openqwq.model import DecoderConfig

GROUP_SIZES = (128, 64, 32)


def fitting_group(config: DecoderConfig) -> int:
    """The largest group size that divides the inputs of every linear layer; -1, the whole channel, where none does."""
    inputs = (config.hidden_size, config.intermediate_size, config.num_attention_heads * config.head_dim)
    return next((size for size in GROUP_SIZES if not any(count % size for count in inputs)), -1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model folder, GGUF file or hub name")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="output folder")
    parser.add_argument("--format", choices=("awq", "gptq", "gptq_v2"), default="awq", help="format (awq)")
    parser.add_argument(
        "--group-size",
        type=int,
        metavar="N",
        help="inputs per scale: 32, 64, 128, ... (default -1: the largest of 128, 64 and 32 that fits the model)",
    )


def run(args: argparse.Namespace) -> int:
    from openqwq.checkpoint.huggingface import beside_weights
    from openqwq.checkpoint.quantized import packed_layout, save_packed
    from openqwq.model import load_model, read_config, resolve_folder

    size = args.group_size
    try:
        packed_layout(args.format, size or GROUP_SIZES[0])
    except UserError as error:  # says where the number would stand in the new folder
        raise UserError(f"`--group-size {size}` is not possible: {error.message}", hint=error.hint) from error
    source = resolve_folder(args.model)
    size = fitting_group(read_config(source)) if size is None else size
    layout = packed_layout(args.format, size)
    if args.group_size is None and size != GROUP_SIZES[0]:
        logger.info("groups of %d inputs: %d do not divide the model's layers", size, GROUP_SIZES[0])
    if args.out.resolve() == source.resolve():
        raise UserError(f"`--out` is the model's own folder, {source}", hint="choose another one")
    save_packed(load_model(source), args.out, layout, **beside_weights(source))
    before, after = (_weight_bytes(folder) for folder in (source, args.out))
    logger.info(f"{args.out}: {after / 2**20:.1f} MiB of weights, before {before / 2**20:.1f} MiB")
    return 0


def _weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for pattern in ("*.safetensors", "*.gguf") for file in folder.glob(pattern))
