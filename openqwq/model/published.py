"""4-bit weights as AWQ (arXiv:2306.00978) and GPTQ (arXiv:2210.17323) folders hold them, e.g. Qwen/QwQ-32B-AWQ.

Both store codes 0 to 15 in int32 words of eight, a scale for each group of inputs of an output, and the code that
stands for 0. They differ in which codes share a word, low bits first:
    AWQ ("gemm")  qweight [K, N/8], qzeros [G, N/8]: outputs 0, 2, 4, 6, 1, 3, 5, 7 of eight neighbours.
    GPTQ          qweight [K/8, N]: eight neighbouring inputs; qzeros [G, N/8]: eight neighbouring outputs, less one in
                  the first version ("gptq"), as they are in the second ("gptq_v2"). g_idx [K]: each input's group,
                  out of order where `desc_act` quantised the inputs by their importance.
scales are [G, N] in both. Letters: N outputs, K inputs, G groups.

Public: unpack_layer, pack_layer, PACKED_PARTS.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from openqwq.errors import UserError
from openqwq.kernels.layouts import round_groups

from .config import PublishedFormat
from .packed_linear import PackedLinear, pack_codes

PACKED_PARTS = ("qweight", "qzeros", "scales", "g_idx")
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def unpack_layer(
    layout: PublishedFormat, name: str, tensors: Mapping[str, Tensor], shape: tuple[int, int]
) -> PackedLinear:
    """The layer [N, K] that a folder's tensors `qweight`, `qzeros`, `scales`, `g_idx` and `bias` hold.

    name: the layer's, for errors. Raises UserError for absent and wrongly shaped tensors and for uneven groups.
    """
    num_outputs, num_inputs = shape
    size = num_inputs if layout.group_size == -1 else layout.group_size
    if num_inputs % size or num_outputs % 8:
        raise UserError(f"`{name}` has {num_inputs} inputs and {num_outputs} outputs: no whole groups of {size} and 8")
    num_groups = num_inputs // size
    words = [num_inputs, num_outputs // 8] if layout.method == "awq" else [num_inputs // 8, num_outputs]
    wanted = {"qweight": words, "qzeros": [num_groups, num_outputs // 8], "scales": [num_groups, num_outputs]}
    wanted |= {"g_idx": [num_inputs]} if layout.desc_act else {}
    for key, expected in wanted.items():
        found = list(tensors[key].shape) if key in tensors else None
        if found != expected:
            raise UserError(
                f"`{name}.{key}` has shape {found}, but {layout.method} and config.json ask for {expected}",
                hint="download the folder again, or fix its `quantization_config`",
            )
    order = _order(name, tensors["g_idx"], size) if "g_idx" in tensors else None
    qweight, qzeros = (_nibbles(tensors[key]) for key in ("qweight", "qzeros"))  # [..., 8]
    if layout.method == "awq":
        places = torch.tensor(AWQ_ORDER).argsort()
        codes, zeros = qweight[..., places].flatten(1).T, qzeros[..., places].flatten(1).T
    else:
        codes, zeros = qweight.transpose(0, 1).flatten(1), qzeros.flatten(1).T + layout.zero_offset
    codes = codes if order is None else codes[:, order]
    return pack_codes(codes, tensors["scales"].T, zeros, order=order, bias=tensors.get("bias"))


@torch.no_grad()
def pack_layer(layout: PublishedFormat, name: str, weight: Tensor) -> dict[str, Tensor]:
    """The tensors `qweight`, `qzeros`, `scales` and, for GPTQ, `g_idx` that stand for a weight [N, K], rounded.

    Rounded as `int4` is, each group by itself; scales are float16, as both formats' other readers want them.
    name: the layer's, for errors. Raises UserError for inputs or outputs that make no whole groups.
    """
    num_outputs, num_inputs = weight.shape
    size = num_inputs if layout.group_size == -1 else layout.group_size
    if num_inputs % size or num_outputs % 8:
        raise UserError(
            f"`{name}` has {num_inputs} inputs and {num_outputs} outputs: no whole groups of {size} and of 8",
            hint="choose another `group_size`: 32, 64, or -1 for whole channels",
        )
    codes, scales, zeros = round_groups(weight.float().cpu(), size)
    scales = scales.half().clamp(min=torch.finfo(torch.float16).tiny)
    # the first GPTQ version stores zeros less one and so has no 0: such a group, which has no negative weight, is
    # moved up by one, and its largest code is cut
    zeros = zeros.clamp(min=layout.zero_offset)
    grouped = (weight.float().cpu().unflatten(1, (-1, size)) / scales.float()[..., None]).round()
    codes = (grouped + zeros[..., None]).clamp(0, 15).flatten(1).byte()
    if layout.method == "awq":
        order = torch.tensor(AWQ_ORDER)
        packed = {"qweight": _words(codes.T.unflatten(1, (-1, 8))[..., order])}
        packed["qzeros"] = _words(zeros.T.unflatten(1, (-1, 8))[..., order])
    else:
        packed = {"qweight": _words(codes.unflatten(1, (-1, 8))).T.contiguous()}
        packed["qzeros"] = _words((zeros - layout.zero_offset).T.unflatten(1, (-1, 8)))
        packed["g_idx"] = (torch.arange(num_inputs) // size).int()
    return packed | {"scales": scales.T.contiguous()}


def _words(codes: Tensor) -> Tensor:
    """uint8 [..., 8] of 0 to 15 -> int32 [...], low bits first."""
    octets = codes[..., 0::2] | codes[..., 1::2] << 4
    return octets.contiguous().view(torch.int32)[..., 0]


def _nibbles(words: Tensor) -> Tensor:
    """int32 [...] -> uint8 [..., 8], low bits first."""
    octets = words.contiguous().view(torch.uint8).unflatten(-1, (-1, 4))
    return torch.stack((octets & 15, octets >> 4), -1).flatten(-2)


def _order(name: str, group_of: Tensor, size: int) -> Tensor | None:
    """The inputs, group by group; None where they lie so."""
    wanted = torch.arange(len(group_of)) // size
    order = group_of.long().argsort(stable=True)
    if not torch.equal(group_of.long()[order], wanted):
        raise UserError(f"`{name}.g_idx` does not put {size} inputs in each group", hint="download the folder again")
    return None if torch.equal(group_of.long(), wanted) else order
