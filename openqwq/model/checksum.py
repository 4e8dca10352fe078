"""A short name for the exact bits of a model's weights."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PIECE = 1 << 20  # numbers that have one sum: one million 64-bit products
_PIECES_AT_ONCE = 64  # on a GPU, where each sum that is fetched by itself is waited for


@torch.no_grad()
def weight_checksum(model: nn.Module) -> str:
    """16 hexadecimal digits that change with any bit of any parameter; computed where the weights are."""
    digest = hashlib.blake2b(digest_size=8)
    for name, parameter in model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        for total in _totals(parameter):
            digest.update((total % 2**64).to_bytes(8, "little"))
    return digest.hexdigest()


def _totals(parameter: Tensor) -> list[int]:
    """For each piece of the tensor the sum of its bits times their odd places, modulo 2^64: one flip always shows."""
    bits = parameter.detach().contiguous().view(_BITS[parameter.element_size()]).flatten()
    places = torch.arange(1, 2 * min(len(bits), _PIECE), 2, device=bits.device)
    whole = len(bits) // _PIECE * _PIECE
    pieces = bits[:whole].view(-1, _PIECE).split(_PIECES_AT_ONCE if bits.is_cuda else 1) if whole else ()
    totals = [total for some in pieces for total in (some.long() * places).sum(1).tolist()]
    rest = bits[whole:]
    return totals + [int((rest.long() * places[: len(rest)]).sum())] * (len(rest) > 0)
