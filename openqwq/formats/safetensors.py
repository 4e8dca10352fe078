"""Hugging Face folders: config.json beside safetensors. Pickled weights are never read.

Public: SafetensorsWeights, read_json, INDEX_NAME, SINGLE_NAME.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from openqwq.errors import UserError

CONFIG_NAME = "config.json"
INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
COMPUTED_BUFFERS = (".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached")
"""Ends of the names of buffers that older libraries saved and that are computed here."""


class SafetensorsWeights:
    """A folder's config and tensors; see `Weights`."""

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def config(self) -> dict[str, Any]:
        return read_json(self.folder / CONFIG_NAME)

    def names(self) -> list[str]:
        """The names of all tensors, in shard order; nothing else is read."""
        names = []
        for shard in _shards(self.folder):
            with _readable(shard):
                names += _names_in(shard)
        return names

    def __iter__(self) -> Iterator[tuple[Path, str, Tensor]]:
        """(shard, name, tensor) of every tensor, one at a time, on the CPU, in shard order.

        A shard is mapped anew for each tensor: pages that were read would otherwise stay in memory next to the weights.
        """
        for shard in _shards(self.folder):
            with _readable(shard):
                for name in _names_in(shard):
                    with safe_open(shard, framework="pt") as file:
                        tensor = file.get_tensor(name)
                    yield shard, name, tensor


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError where it is absent or unreadable."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist", hint="a model folder holds config.json and safetensors") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object")
    return value


def _names_in(shard: Path) -> list[str]:
    with safe_open(shard, framework="pt") as file:
        return [name for name in file.keys() if not name.endswith(COMPUTED_BUFFERS)]  # noqa: SIM118  no mapping


@contextmanager
def _readable(shard: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{shard} cannot be read, it may be truncated: {error}", hint="download or copy it again"
        ) from error


def _shards(folder: Path) -> list[Path]:
    """The files that hold the weights: the whole file where there is one, for an index beside it is left over."""
    names = [SINGLE_NAME]
    if not (folder / SINGLE_NAME).is_file() and (folder / INDEX_NAME).exists():
        weight_map = read_json(folder / INDEX_NAME).get("weight_map", {})
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise UserError(f"`weight_map` in {folder / INDEX_NAME} does not map tensor names to file names")
        names = sorted(set(weight_map.values()))
    absent = [name for name in names if not (folder / name).is_file()]
    if absent or not names:
        raise UserError(
            f"{folder} lacks {', '.join(absent) or 'any shard in its index'}",
            hint="copy or download the missing files; weights must be safetensors",
        )
    return [folder / name for name in names]
