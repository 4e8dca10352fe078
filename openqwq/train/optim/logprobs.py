"""Log-probabilities of targets under the output head, chunk by chunk: the logits of a batch never exist at once.

Public: chunked_logprobs.
Letters: M trained tokens, H hidden size, V vocabulary, C tokens of a chunk."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from openqwq.kernels import REFERENCE, Ops

# Logits of one chunk: 2 MiB in fp32 stay in a core's cache (measured 1.3x faster than whole); a GPU needs more
# rows to be busy.
_CHUNK_LOGITS = {"cpu": 2**19, "cuda": 2**26}


_MIN_CHUNK_TOKENS = 256


# Added to the logits of ids that a cut took: a probability of 0, and a finite number times 0 is no NaN.
_CUT = -1e30


class _ChunkedLogprobs(torch.autograd.Function):
    """Log-probs and entropies of targets under `softmax(hidden @ weight.T / temperature)`, chunk by chunk.

    The logits of a chunk are made again in the backward pass, so the logits of the whole batch never exist.
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature, chunk, entropy_gradient, ops, kept):
        logprobs = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        entropies, normalizers = torch.empty_like(logprobs), torch.empty_like(logprobs)
        room, spare = _rooms(hidden, weight, min(chunk, len(targets)), 2)
        for number, start in enumerate(range(0, len(targets), chunk)):
            part = slice(start, start + chunk)
            if ops.invariant:
                logits = ops.linear(hidden[part], weight)  # [C, V]
                _cut(_tempered(logits, temperature), kept, number)
                logprobs[part], normalizers[part] = ops.token_logprobs(logits, targets[part])
                shift = normalizers[part]
            else:
                logits = _cut(_tempered(_product(ops, hidden[part], weight, room), temperature), kept, number)
                shift = logits.amax(-1)
            logits -= shift[:, None]
            weights = torch.exp(logits, out=spare[: len(logits)])
            totals = weights.sum(-1)
            logs = totals.log()
            if not ops.invariant:
                logprobs[part] = logits.gather(1, targets[part, None])[:, 0] - logs
                normalizers[part] = shift + logs
            entropies[part] = logs - torch.einsum("cv,cv->c", weights, logits) / totals
        ctx.save_for_backward(hidden, weight, targets, normalizers, entropies)
        ctx.temperature, ctx.chunk, ctx.entropy_gradient, ctx.kept = temperature, chunk, entropy_gradient, kept
        ctx.ops = ops
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx, grad, entropy_grad):
        hidden, weight, targets, normalizers, entropies = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        (room,) = _rooms(hidden, weight, min(ctx.chunk, len(targets)), 1)
        for number, start in enumerate(range(0, len(targets), ctx.chunk)):
            part = slice(start, start + ctx.chunk)
            scale = grad[part, None] / ctx.temperature
            # d logprob / d logits = onehot(target) - softmax(logits)
            table = _cut(_tempered(_product(ctx.ops, hidden[part], weight, room), ctx.temperature), ctx.kept, number)
            table.sub_(normalizers[part, None])  # log-probs
            # d entropy / d logits = -probs * (log-probs + entropy)
            own_gradient = (
                _entropy_gradient(table, entropies[part], entropy_grad[part]) if ctx.entropy_gradient else None
            )
            gradient = table.exp_().mul_(-scale)
            gradient.scatter_add_(1, targets[part, None], scale)
            if own_gradient is not None:
                gradient.add_(own_gradient, alpha=1 / ctx.temperature)
            if hidden.dtype == torch.float32:
                ctx.ops.multiply(gradient.T, hidden[part], out=grad_weight, adds=True)
            else:
                gradient = gradient.to(hidden.dtype)
                grad_weight += gradient.T @ hidden[part]
            ctx.ops.multiply(gradient, weight, out=grad_hidden[part])
        return grad_hidden, grad_weight.to(weight.dtype), *[None] * 6


def _entropy_gradient(table: Tensor, entropies: Tensor, grad: Tensor) -> Tensor:
    return table.exp().mul_(table + entropies[:, None]).mul_(-grad[:, None])


def _rooms(hidden: Tensor, weight: Tensor, tokens: int, count: int) -> list[Tensor]:
    """Tables [tokens, V] that every chunk uses again: fresh ones of this size cost more than what is written there."""
    shape = (tokens, weight.shape[0])
    return [torch.empty(shape, dtype=torch.float32, device=hidden.device) for _ in range(count)]


def _product(ops: Ops, hidden: Tensor, weight: Tensor, room: Tensor) -> Tensor:
    """Logits [C, V] of a chunk in fp32, in the room."""
    if hidden.dtype == torch.float32:
        return ops.multiply(hidden, weight.T, out=room[: len(hidden)])
    return room[: len(hidden)].copy_(F.linear(hidden, weight))


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1.0 else logits.div_(temperature)


def _cut(logits: Tensor, kept: Sequence[tuple[Tensor, Tensor]], number: int) -> Tensor:
    """Logits [C, V] of a chunk without what the sampler's cuts took, changed in place."""
    if kept:
        counts, ids = kept[number]
        taken = torch.full_like(logits, _CUT)
        taken[torch.arange(len(counts), device=ids.device).repeat_interleave(counts), ids] = 0
        taken[counts == 0] = 0
        logits += taken
    return logits


def _kept_by_chunk(kept: tuple[Tensor, Tensor] | None, chunk: int) -> list[tuple[Tensor, Tensor]]:
    if kept is None:
        return []
    counts = kept[0].split(chunk)
    sizes = torch.stack([own.sum() for own in counts]).tolist() if len(kept[0]) else []
    return list(zip(counts, kept[1].split(sizes), strict=True))


def chunked_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    chunk_tokens: int = 0,
    entropy_gradient: bool = False,
    ops: Ops = REFERENCE,
    kept: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-prob of each target and entropy of its distribution (nats): two [M] tensors in fp32.

    hidden:  [M, H] last hidden states at the positions that predict the targets.
    weight:  [V, H] of the output head. targets: [M] token ids.
    temperature divides the logits, as the sampler did.
    entropy_gradient: the entropies carry a gradient too, which costs another pass over each chunk.
    ops: the model's, as the sampler has them.
    kept: what each distribution is over, as `PackedBatch.kept`; None: the whole vocabulary.
    chunk_tokens: rows of logits that exist at once; 0: a size that suits the device.
    """
    if not chunk_tokens:
        limit = _CHUNK_LOGITS.get(hidden.device.type, _CHUNK_LOGITS["cuda"])
        chunk_tokens = max(_MIN_CHUNK_TOKENS, limit // weight.shape[0])
    parts = _kept_by_chunk(kept, chunk_tokens)
    return _ChunkedLogprobs.apply(hidden, weight, targets, temperature, chunk_tokens, entropy_gradient, ops, parts)
