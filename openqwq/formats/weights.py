"""A model's config and tensors, whatever format they are in.

Public: Weights, open_weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from .gguf.weights import LINK_NAME, GgufWeights
from .safetensors import SafetensorsWeights


class Weights(Protocol):
    """An opened model folder. Iterating reads the tensors, once each.

    config: the contents of config.json.
    """

    folder: Path

    @property
    def config(self) -> dict[str, Any]: ...

    def names(self) -> list[str]:
        """The names of all tensors, as Hugging Face has them, in the order in which they are read."""

    def __iter__(self) -> Iterator[tuple[Path, str, Tensor]]:
        """(file, name, tensor) of every tensor, on the CPU; a tensor may be valid until the next one only."""


def open_weights(folder: str | Path) -> Weights:
    """The weights in a folder. Raises UserError while they are read where they are missing or damaged."""
    folder = Path(folder)
    return GgufWeights(folder) if (folder / LINK_NAME).is_symlink() else SafetensorsWeights(folder)
