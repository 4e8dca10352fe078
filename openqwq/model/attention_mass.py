"""How far back a model's attention reaches, and the windows that hold a given share of it.

Over a calibration text, each head's attention weights are summed by how many blocks of 16 tokens lie between query and
key. A window of w blocks then holds the mass of the sinks and of the last w blocks. Heads of a layer share one cache:
the mass is that of all of them together, or a layer's window is that of its farthest-reaching head, so that a head that
looks for a needle is not averaged away by those that look at the last word. Either is a mean over queries: a head that
reaches far for one token in a hundred is averaged away.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from openqwq.errors import UserError

from .attention.windows import AttentionWindows
from .decoder import Decoder

BLOCK = 16  # tokens: the cache's
Heads = Literal["together", "each"]
MASS_FILE = "attention_mass.json"
MAX_DOCUMENT = 4096  # tokens; the probe's work grows with their square
QUERIES_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class AttentionMass:
    """What was measured on a calibration text.

    held:       for each layer, the mean share of attention that the sinks and the last 1, 2, ... blocks of 16 tokens
                hold, all heads together.
    least:      the same of the head for which it is least.
    sinks:      tokens at the beginning that every window goes with.
    num_tokens: queries that were measured.
    """

    held: tuple[tuple[float, ...], ...]
    least: tuple[tuple[float, ...], ...]
    sinks: int
    num_tokens: int

    def windows(self, mass: float, *, heads: Heads = "together") -> AttentionWindows:
        """The narrowest windows that hold at least `mass`, in (0, 1]; layers that need more than was measured: all.

        heads: of a layer's heads "together", or of "each" of them.
        """
        if not 0 < mass <= 1:
            raise UserError(f"`mass` is {mass:g}, but must be above 0 and at most 1")
        shares = self.held if heads == "together" else self.least
        layers = (next((w for w, share in enumerate(held, 1) if share >= mass), None) for held in shares)
        return AttentionWindows(tuple(None if w is None else w * BLOCK for w in layers), self.sinks)

    def save(self, path: str | Path) -> Path:
        """Write a JSON file, named MASS_FILE where `path` is a folder; its path."""
        path = Path(path) / MASS_FILE if Path(path).is_dir() else Path(path)
        path.write_text(json.dumps(asdict(self)) + "\n")
        return path

    @classmethod
    def load(cls, path: str | Path) -> AttentionMass:
        """What `save` wrote. Raises UserError for another file."""
        try:
            value = json.loads(Path(path).read_text())
            held, least = (tuple(tuple(map(float, row)) for row in value[name]) for name in ("held", "least"))
            return cls(held, least, int(value["sinks"]), int(value["num_tokens"]))
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not a measurement of attention mass") from error


@torch.inference_mode()
def measure_attention_mass(model: Decoder, documents: Sequence[Sequence[int]], *, sinks: int = BLOCK) -> AttentionMass:
    """The mass that windows hold on token ids of texts like those that the model will read.

    Only queries in the later half of each document count, and only windows up to half of the shortest one: what lies
    farther back than a document goes cannot be seen. So documents should be as long as the contexts to come.
    """
    shortest = min(map(len, documents), default=0)
    if shortest < 4 * BLOCK:
        raise UserError(f"attention mass needs documents of at least {4 * BLOCK} tokens, but one has {shortest}")
    probes = [_Probe(model, len(document), -(-sinks // BLOCK)) for document in documents]
    for probe, document in zip(probes, documents, strict=True):
        model.hidden_states(torch.tensor(list(document), device=model.device), context=probe)
    most, number = shortest // 2 // BLOCK, sum(probe.num_queries for probe in probes)
    mass = torch.stack([probe.by_distance[:, :, : most + 1] for probe in probes]).sum(0) / number  # [L, H, 1 + blocks]
    each = mass[..., :1] + mass[..., 1:].cumsum(-1)
    held, least = (tuple(map(tuple, shares.tolist())) for shares in (each.mean(1), each.amin(1)))
    return AttentionMass(held, least, -(-sinks // BLOCK) * BLOCK, number)


class _Probe:
    """Full attention of one document; `by_distance` [L, H, 1 + blocks]: mass of the sinks, then by blocks back."""

    def __init__(self, model: Decoder, length: int, sinks: int):
        config = model.config
        self.positions = torch.arange(length, device=model.device)
        self._first, self._sinks = length // 2, sinks
        self.num_queries = length - self._first
        shape = (config.num_hidden_layers, config.num_attention_heads, 2 + length // BLOCK)
        self.by_distance = torch.zeros(shape, dtype=torch.float64)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        query, keys, values = (x.transpose(0, 1) for x in (q, k, v))  # [H or K, N, D]
        for start in range(self._first, len(q), QUERIES_AT_ONCE):
            own = self.positions[start : start + QUERIES_AT_ONCE]
            self._add(layer, query[:, start : start + QUERIES_AT_ONCE], keys[:, : own[-1] + 1], own)
        mixed = F.scaled_dot_product_attention(query[None], keys[None], values[None], is_causal=True, enable_gqa=True)
        return mixed[0].transpose(0, 1).flatten(1)

    def _add(self, layer: int, query: Tensor, keys: Tensor, own: Tensor) -> None:
        keys = keys.repeat_interleave(len(query) // len(keys), 0)
        scores = (query @ keys.transpose(1, 2)).float() / query.shape[-1] ** 0.5  # [H, n, X]
        at = self.positions[: keys.shape[1]]
        weights = scores.masked_fill(at > own[:, None], -torch.inf).softmax(-1)
        place = 1 + own[:, None] // BLOCK - at // BLOCK
        place = torch.where(at // BLOCK < self._sinks, 0, place).clamp(min=0)  # what is masked has no mass
        total = torch.zeros(len(query), self.by_distance.shape[-1], dtype=torch.float64, device=query.device)
        total.index_add_(1, place.flatten(), weights.flatten(1).double())
        self.by_distance[layer] += total.cpu()
