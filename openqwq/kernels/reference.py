"""Every operation by PyTorch's operators: the reference on all devices, and what runs where nothing faster does.

Public: linear, rms_norm, swiglu, rotate, attend_documents, token_logprobs, mix_by_products, mix_fused, widen_panels.
Letters: N tokens, M rows, H heads, K kv heads, D head dim, V vocabulary, I inputs, O outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .documents import Documents
from .layouts import PANEL, PackedWeights, unpack_halves, unpack_nibbles


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., I] weight^T [O, I] + bias [O]: [..., O]."""
    return F.linear(x, weight, bias)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight of rows [..., I] (arXiv:1910.07467)."""
    return F.rms_norm(x, weight.shape, weight, eps)


def swiglu(gate: Tensor, up: Tensor, beta: float) -> Tensor:
    """gate * sigmoid(beta gate) * up of rows [..., I] (arXiv:2002.05202)."""
    return (F.silu(gate) if beta == 1 else gate * torch.sigmoid(beta * gate)) * up


def rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """x [N, H, D] rotated by its position's angles [N, 1, D]; signed_sin has its first half negated."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), signed_sin)


def token_logprobs(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-prob of each target [M] under softmax(logits [M, V]), and the logsumexp [M]."""
    normalizers = logits.logsumexp(-1)
    return logits.gather(1, targets[:, None])[:, 0] - normalizers, normalizers


def attend_documents(q: Tensor, k: Tensor, v: Tensor, documents: Documents) -> Tensor:
    """Each token's query meets the keys of its document up to itself: [R, H*D] from q [R, H, D], k and v [R, K, D]."""
    if documents.shared is not None:
        rows, firsts = documents.shared
        q, k, v = (x.index_select(0, rows) for x in (q, k, v))
        return attend_documents(q, k, v, documents.apart).index_select(0, firsts)
    padding = documents.padding
    if padding.gather is not None:
        q, k, v = (_Pad.apply(x, padding.gather, padding.inverse) for x in (q, k, v))
    outputs, offset = [], 0
    for count, longest in padding.buckets:
        end = offset + count * longest
        out = _causal(*(x[offset:end].unflatten(0, (count, longest)) for x in (q, k, v)))
        outputs.append(out.flatten(0, 1))
        offset = end
    mixed = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return mixed if padding.gather is None else _Unpad.apply(mixed, padding.inverse)


def mix_by_products(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attention of q [X, G, D] over keys and values [X, T, D] with an additive mask [X, 1, T]: [X, G, D]."""
    scores = torch.baddbmm(mask, q, keys.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(-1), values)


def mix_fused(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """The same as `mix_by_products`, in one kernel."""
    return F.scaled_dot_product_attention(q[None], keys[None], values[None], attn_mask=mask[None])[0]


def widen_panels(weights: PackedWeights, num_panels: int) -> Tensor:
    """The first panels' weights in float32 [p, B, 8, 128]."""
    kind, codes, scales, zeros, groups = weights
    codes = codes[:num_panels]
    if kind == "bf16":
        return unpack_halves(codes.view(torch.bfloat16)).float()
    if kind == "int8":
        return codes.view(torch.int8) * scales[: num_panels * PANEL].view(-1, 1, PANEL, 1)
    grouped = unpack_nibbles(codes).unflatten(-1, (groups, -1)).float()
    return ((grouped - zeros[:num_panels].unsqueeze(-1)) * scales[:num_panels].unsqueeze(-1)).flatten(-2)


class _Pad(torch.autograd.Function):
    """Rows of x in padded order. Padding rows repeat a real row, and get no gradient: no output depends on them."""

    @staticmethod
    def forward(ctx, x: Tensor, gather: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, gather)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


class _Unpad(torch.autograd.Function):
    """The real rows of a padded x in packed order. The rows are distinct: backward is a copy, not a sum."""

    @staticmethod
    def forward(ctx, x: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.num_rows = len(x)
        return x.index_select(0, inverse)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        padded = grad.new_zeros((ctx.num_rows, *grad.shape[1:]))
        return padded.index_copy_(0, ctx.saved_tensors[0], grad), None


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of q [B, T, H, D] over k and v [B, T, K, D]: [B, T, H*D]."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(2)
