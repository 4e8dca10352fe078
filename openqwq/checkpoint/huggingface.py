"""Models written as Hugging Face folders: whole or not at all.

Public: `save_model`, `save_weights`, `beside_weights`.

A folder is written beside its destination, synced, and swapped in by rename: whoever reads the destination sees
the old folder or the new one, and an error while writing leaves the old one as it was.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from openqwq.errors import UserError
from openqwq.formats import INDEX_NAME, SINGLE_NAME
from openqwq.log import read_json
from openqwq.model import Decoder, DecoderConfig, convert_swish_beta
from openqwq.model.config import PublishedFormat

from .run_state import sync

MAX_SHARD_BYTES = 5 * 10**9
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "vocab.json", "merges.txt")


def save_model(
    model: Decoder,
    folder: str | Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    tokenizer_files: Sequence[str | Path] = (),
    generation_config: Mapping[str, Any] | None = None,
) -> None:
    """Write the model's weights and config; see `save_weights`."""
    save_weights(
        model.state_dict(),
        model.config,
        folder,
        max_shard_bytes=max_shard_bytes,
        tokenizer_files=tokenizer_files,
        generation_config=generation_config,
    )


def save_weights(
    state_dict: Mapping[str, Tensor],
    config: DecoderConfig,
    folder: str | Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    tokenizer_files: Sequence[str | Path] = (),
    generation_config: Mapping[str, Any] | None = None,
    layout: PublishedFormat | None = None,
) -> None:
    """Write a folder that transformers, vLLM and `load_model` open, in place of any earlier one.

    tokenizer_files: copied in under their own names (tokenizer.json, tokenizer_config.json, ...).
    generation_config: written as generation_config.json when given.
    layout: how layers of the state dict are packed, for config.json.
    A `swish_beta` other than 1 is folded into the weights exactly, because other readers know only SiLU.
    Raises UserError when the disk is full or the folder holds something that is no checkpoint; the earlier
    folder is then untouched.
    """
    folder = Path(folder)
    _refuse_foreign_folder(folder)
    weights = dict(state_dict)
    if packed := next((name for name in weights if name.endswith(".codes")), None):
        raise UserError(
            f"`{packed}` is quantised and cannot be saved", hint="load the model without `quantization` and save that"
        )
    if config.swish_beta != 1:
        weights, config = convert_swish_beta(weights, config, 1.0)
    dtype = weights["model.embed_tokens.weight"].dtype
    config = config.replace(torch_dtype=str(dtype).removeprefix("torch."))
    temporary = folder.with_name(f".{folder.name}.new")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        block = {} if layout is None else {"quantization_config": layout.to_dict()}
        _write_json(temporary / "config.json", config.to_dict() | block)
        if generation_config is not None:
            _write_json(temporary / "generation_config.json", dict(generation_config))
        for file in tokenizer_files:
            shutil.copyfile(file, temporary / Path(file).name)
        _write_shards(weights, temporary, max_shard_bytes)
        _sync_folder(temporary)
        _swap(temporary, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"the model could not be saved to {folder}: {error}",
            hint="check the space and the rights on the disk, or choose another folder; the earlier one is unchanged",
        ) from error


def link_model(source: str | Path, folder: str | Path) -> None:
    """Make `folder` the same model as `source`, in place of any earlier one, without taking the disk twice.

    The files are hard links, or copies where the file system has none. Files of a model are replaced, never written in
    place, so a later save of one of the two leaves the other as it is. Raises UserError as `save_model` does.
    """
    folder = Path(folder)
    _refuse_foreign_folder(folder)
    temporary = folder.with_name(f".{folder.name}.new")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for file in sorted(Path(source).iterdir()):
            try:
                os.link(file, temporary / file.name)
            except OSError:
                shutil.copyfile(file, temporary / file.name)
        _sync_folder(temporary)
        _swap(temporary, folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"the model could not be saved to {folder}: {error}",
            hint="check the space and the rights on the disk, or choose another folder; the earlier one is unchanged",
        ) from error


def beside_weights(folder: Path) -> dict[str, Any]:
    """What `save_model` is to write beside the weights, so that the new folder speaks as this one does."""
    generation = folder / "generation_config.json"
    return {
        "tokenizer_files": [folder / name for name in TOKENIZER_FILES if (folder / name).exists()],
        "generation_config": read_json(generation) if generation.exists() else None,
    }


def plan_shards(sizes: Mapping[str, int], max_shard_bytes: int) -> list[list[str]]:
    """Tensor names a shard, in order, each shard at most `max_shard_bytes` unless one tensor alone is larger."""
    shards: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not shards or size > room:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(name)
        room -= size
    return shards


def _write_shards(weights: Mapping[str, Tensor], folder: Path, max_shard_bytes: int) -> None:
    sizes = {name: tensor.nbytes for name, tensor in weights.items()}
    shards = plan_shards(sizes, max_shard_bytes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = SINGLE_NAME if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: weights[name].detach().cpu().contiguous() for name in names}
        save_file(tensors, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        metadata = {"total_size": sum(sizes.values())}
        _write_json(folder / INDEX_NAME, {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))})


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _refuse_foreign_folder(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "config.json").exists():
        raise UserError(
            f"{folder} is not empty and holds no model, so it is not replaced", hint="choose an empty or new folder"
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, not a folder", hint="choose another place for the model")


def _sync_folder(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        sync(path)


def _swap(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder` and delete what was there; in one step where the system can exchange."""
    if not folder.exists():
        os.rename(new, folder)
    elif _exchange(new, folder):
        shutil.rmtree(new)
    else:
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
        os.rename(new, folder)
        shutil.rmtree(old)
    sync(folder.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders' names atomically (Linux renameat2); False where that is not available."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0
