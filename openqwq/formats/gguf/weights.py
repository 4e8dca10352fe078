"""A GGUF file as a model folder: a small folder in the user's cache, whose weights stay in the file.

Public: gguf_folder, GgufWeights, LINK_NAME.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openqwq.errors import UserError
from openqwq.log import logger

from ..safetensors import CONFIG_NAME, read_json
from .config import ROPE_FACTORS, model_config, tensor_table
from .container import GgufFile, read_gguf
from .packed import KIND, PACKED_CONFIG, packed_tensors, stays_packed
from .rope_factors import llama3_scaling
from .tokenizer import tokenizer_files
from .values import PLAIN, read_tensor

LINK_NAME, SOURCE_NAME = "model.gguf", "gguf.json"
PACKED_PARTS = ("qweight", "qzeros", "scales")


class GgufWeights:
    """The config and the tensors of a folder that `gguf_folder` made; see `Weights`."""

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def config(self) -> dict[str, Any]:
        return read_json(self.folder / CONFIG_NAME)

    def names(self) -> list[str]:
        """Hugging Face's names of all tensors, in the file's order."""
        file, names = self._file(), []
        for own, name in self._order(file):
            packed = own in file.tensors and stays_packed(file.tensors[own])
            names += [name.removesuffix("weight") + part for part in PACKED_PARTS] if packed else [name]
        return names

    def __iter__(self) -> Iterator[tuple[Path, str, Tensor]]:
        """(file, name, tensor) of every tensor, widened unless it stays packed, in the file's order."""
        file, config = self._file(), self.config
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
        for own, name in self._order(file):
            info, part = file.tensors.get(own), name.rsplit(".", 2)[-2]
            if info is None:
                yield file.path, name, torch.zeros(config["hidden_size"])
                continue
            rows = None
            if config["model_type"] == "llama" and part in heads:
                rows = _halves_apart(info.shape[0], heads[part])
            with open(file.path, "rb") as stream:
                data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            if stays_packed(info):
                for ending, tensor in packed_tensors(data, info, rows).items():
                    yield file.path, name.removesuffix("weight") + ending, tensor
            else:
                tensor = read_tensor(data, info)
                yield file.path, name, tensor if rows is None else tensor[rows]

    def _order(self, file: GgufFile) -> list[tuple[str, str]]:
        """(name in the file, Hugging Face's name). Biases that a Llama config asks for and the file lacks come last."""
        table = tensor_table(file, self.config)
        names = [*(name for name in file.tensors if name in table), *(n for n in table if n not in file.tensors)]
        return [(name, table[name][0]) for name in names]

    def _file(self) -> GgufFile:
        """The file's header. Raises UserError where it is another file than the folder was made from."""
        path = self.folder / LINK_NAME
        source = read_json(self.folder / SOURCE_NAME)
        if not path.is_file():
            raise UserError(f"{source.get('path')} is no longer there, and {self.folder} needs its weights")
        file = read_gguf(path.resolve())
        if file.digest != source.get("digest"):
            raise UserError(
                f"{file.path} has changed since {self.folder} was made from it", hint="give the GGUF file itself"
            )
        return file


def gguf_folder(path: Path) -> Path:
    """A folder that is the file's model: config, tokenizer and a link to the file, made once for each file.

    Raises UserError for a file that is damaged or holds what is not supported; nothing is left behind then.
    """
    resolved = path.resolve()
    state = resolved.stat()
    folder = _folder_of(resolved, state.st_size, state.st_mtime_ns)
    if not folder.is_dir():  # deleted since this process made it
        _folder_of.cache_clear()
        folder = _folder_of(resolved, state.st_size, state.st_mtime_ns)
    return folder


@lru_cache(maxsize=8)
def _folder_of(path: Path, size: int, changed_ns: int) -> Path:
    file = read_gguf(path)
    config = model_config(file)
    tensor_table(file, config)
    if ROPE_FACTORS in file.tensors:
        config |= _rope_factors(file, config)
    if any(stays_packed(info) for info in file.tensors.values()):
        config["quantization_config"] = PACKED_CONFIG
    texts = tokenizer_files(file)
    ends = ("bos_token_id", "eos_token_id", "pad_token_id")
    config |= {name: value for name, value in texts["generation_config.json"].items() if name in ends}
    source = {"path": str(path), "bytes": size, "changed_ns": changed_ns, "digest": file.digest}
    contents = {CONFIG_NAME: config, **texts, SOURCE_NAME: source}
    written = {name: json.dumps(value, ensure_ascii=False, indent=1) + "\n" for name, value in contents.items()}
    key = hashlib.sha256("".join(written.values()).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openqwq" / "gguf"
    folder = cache / f"{path.stem}-{key}"
    logger.info("%s: %s", path.name, _types(file))
    if not folder.is_dir():
        _make(folder, written, path)
    return folder


def _rope_factors(file: GgufFile, config: dict[str, Any]) -> dict[str, Any]:
    if "rope_scaling" in config:
        raise UserError(f"{file.path} holds both `{ROPE_FACTORS}` and a rope scaling, of which one is supported")
    with open(file.path, "rb") as stream:
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    divisors = read_tensor(data, file.tensors[ROPE_FACTORS]).float().flatten().tolist()
    head_dim = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    scaling = llama3_scaling(divisors, config["rope_theta"], head_dim)
    return {} if scaling is None else {"rope_scaling": scaling}


def _make(folder: Path, written: dict[str, str], path: Path) -> None:
    """Write the folder whole or not at all; another process may make the same one meanwhile."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
        try:
            for name, text in written.items():
                (making / name).write_text(text, encoding="utf-8")
            (making / LINK_NAME).symlink_to(path)
            if not folder.is_dir():
                os.rename(making, folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    except OSError as error:
        if not folder.is_dir():
            raise UserError(
                f"the files of {path.name}'s model cannot be written to {folder}: {error}",
                hint="make room, or choose another cache by XDG_CACHE_HOME",
            ) from error


def _types(file: GgufFile) -> str:
    """ "210 Q4_1, 61 F32, 1 Q8_0 tensors; Q4_1, Q8_0 are widened as they are read"."""
    counts = Counter(info.kind for info in file.tensors.values())
    packed = {info.name for info in file.tensors.values() if stays_packed(info)}
    widened = {info.kind for info in file.tensors.values() if info.kind not in PLAIN and info.name not in packed}
    parts = [", ".join(f"{number} {kind}" for kind, number in counts.most_common()) + " tensors"]
    parts += [f"{len(packed)} {KIND} layers stay packed unless they are trained"] if packed else []
    parts += [f"{', '.join(sorted(widened))} are widened as they are read"] if widened else []
    return "; ".join(parts)


def _halves_apart(num_rows: int, heads: int) -> Tensor:
    """The order of q's or k's rows in which a head's rotary pairs are half a head apart, as here, not neighbours."""
    return torch.arange(num_rows).view(heads, -1, 2).transpose(1, 2).flatten()
