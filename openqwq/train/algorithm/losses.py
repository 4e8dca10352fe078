"""Losses per token and the log-probabilities that they are made of: pure functions, no optimiser.

A loss here is one number per trained token. How tokens are averaged is a weight per token with a
denominator of the whole batch (`sample_weights`), so no loss depends on how a batch is cut into
micro-batches.

Departures from the papers: the clipped objective is PPO's (arXiv:1707.06347, eq. 7) with DAPO's
separate bounds (arXiv:2503.14476, eq. 10), and its old log-probs are the ones that the sampler recorded:
sampler and trainer are one module, so no second pass over the old policy is made.
Letters: M trained tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from openqwq.model.invariant import linear, token_logprobs
from openqwq.model.products import multiply

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
    def forward(ctx, hidden, weight, targets, temperature, chunk, entropy_gradient, invariant, kept):
        logprobs = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        entropies, normalizers = torch.empty_like(logprobs), torch.empty_like(logprobs)
        room, spare = _rooms(hidden, weight, min(chunk, len(targets)), 2)
        for number, start in enumerate(range(0, len(targets), chunk)):
            part = slice(start, start + chunk)
            if invariant:
                logits = linear(hidden[part], weight)  # [C, V]
                _cut(_tempered(logits, temperature), kept, number)
                logprobs[part], normalizers[part] = token_logprobs(logits, targets[part])
                shift = normalizers[part]
            else:
                logits = _cut(_tempered(_product(hidden[part], weight, room), temperature), kept, number)
                shift = logits.amax(-1)
            logits -= shift[:, None]
            weights = torch.exp(logits, out=spare[: len(logits)])
            totals = weights.sum(-1)
            logs = totals.log()
            if not invariant:
                logprobs[part] = logits.gather(1, targets[part, None])[:, 0] - logs
                normalizers[part] = shift + logs
            entropies[part] = logs - torch.einsum("cv,cv->c", weights, logits) / totals
        ctx.save_for_backward(hidden, weight, targets, normalizers, entropies)
        ctx.temperature, ctx.chunk, ctx.entropy_gradient, ctx.kept = temperature, chunk, entropy_gradient, kept
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
            table = _cut(_tempered(_product(hidden[part], weight, room), ctx.temperature), ctx.kept, number)
            table.sub_(normalizers[part, None])  # log-probs
            # d entropy / d logits = -probs * (log-probs + entropy)
            entropy_slope = _entropy_slope(table, entropies[part], entropy_grad[part]) if ctx.entropy_gradient else None
            slope = table.exp_().mul_(-scale)
            slope.scatter_add_(1, targets[part, None], scale)
            if entropy_slope is not None:
                slope.add_(entropy_slope, alpha=1 / ctx.temperature)
            if hidden.dtype == torch.float32:
                multiply(slope.T, hidden[part], out=grad_weight, adds=True)
            else:
                slope = slope.to(hidden.dtype)
                grad_weight += slope.T @ hidden[part]
            multiply(slope, weight, out=grad_hidden[part])
        return grad_hidden, grad_weight.to(weight.dtype), *[None] * 6


def _entropy_slope(table: Tensor, entropies: Tensor, grad: Tensor) -> Tensor:
    return table.exp().mul_(table + entropies[:, None]).mul_(-grad[:, None])


def _rooms(hidden: Tensor, weight: Tensor, tokens: int, count: int) -> list[Tensor]:
    """Tables [tokens, V] that every chunk uses again: fresh ones of this size cost more than what is written there."""
    shape = (tokens, weight.shape[0])
    return [torch.empty(shape, dtype=torch.float32, device=hidden.device) for _ in range(count)]


def _product(hidden: Tensor, weight: Tensor, room: Tensor) -> Tensor:
    """Logits [C, V] of a chunk in fp32, in the room."""
    if hidden.dtype == torch.float32:
        return multiply(hidden, weight.T, out=room[: len(hidden)])
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
    invariant: bool = False,
    kept: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-prob of each target and entropy of its distribution (nats): two [M] tensors in fp32.

    hidden:  [M, H] last hidden states at the positions that predict the targets.
    weight:  [V, H] of the output head. targets: [M] token ids.
    temperature divides the logits, as the sampler did.
    entropy_gradient: the entropies carry a gradient too, which costs another pass over each chunk.
    invariant: by the kernels of the batch-invariant mode, as the sampler then does.
    kept: what each distribution is over, as `PackedBatch.kept`; None: the whole vocabulary.
    chunk_tokens: rows of logits that exist at once; 0: a size that suits the device.
    """
    if not chunk_tokens:
        limit = _CHUNK_LOGITS.get(hidden.device.type, _CHUNK_LOGITS["cuda"])
        chunk_tokens = max(_MIN_CHUNK_TOKENS, limit // weight.shape[0])
    parts = _kept_by_chunk(kept, chunk_tokens)
    return _ChunkedLogprobs.apply(
        hidden, weight, targets, temperature, chunk_tokens, entropy_gradient, invariant, parts
    )


def clipped_policy_loss(
    policy_logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """Clipped policy-gradient loss of each token [M], and whether the clip took its gradient away [M].

    PPO's -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) with r = exp(policy - old)
    (arXiv:1707.06347, eq. 7; clip_high > clip_low is DAPO's clip-higher, arXiv:2503.14476, eq. 10).
    """
    ratio = (policy_logprobs - old_logprobs).exp()
    free = ratio * advantages
    bound = ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages
    return -torch.minimum(free, bound), (bound < free).detach()


def cispo_loss(
    policy_logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """CISPO's loss of each token [M], and whether its ratio was clipped [M] (arXiv:2506.13585, eq. 4 and 5).

    -sg(clip(r, 1 - clip_low, 1 + clip_high)) A log pi: the ratio is bounded and detached, so no token's gradient is
    ever taken away. (The paper leaves the lower bound open: clip_low near 1.)
    """
    ratio = (policy_logprobs - old_logprobs).exp().detach()
    bound = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    return -bound * advantages * policy_logprobs, bound != ratio


def gspo_loss(
    policy_logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    sequences: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[Tensor, Tensor]:
    """The clipped loss with one ratio a sequence, spread over its tokens: two [M] (arXiv:2507.18071, eq. 5 and 7).

    The ratio is the geometric mean exp(mean over tokens of policy - old). sequences: [M] number of each
    token's sequence. The paper's bounds are 3e-4 and 4e-4, its aggregation "sequence".
    """
    log_ratio = sequence_means(policy_logprobs - old_logprobs, sequences)
    return clipped_policy_loss(
        log_ratio, torch.zeros_like(log_ratio), advantages, clip_low=clip_low, clip_high=clip_high
    )


def sequence_sums(values: Tensor, sequences: Tensor) -> Tensor:
    """For each token [M] the sum of `values` [M] over the tokens of its sequence."""
    if not len(values):
        return values
    sums = values.new_zeros(int(sequences.max()) + 1).index_add(0, sequences, values)
    return sums[sequences]


def sequence_means(values: Tensor, sequences: Tensor) -> Tensor:
    """For each token [M] the mean of `values` [M] over the trained tokens of its sequence."""
    return sequence_sums(values, sequences) / sequence_sums(torch.ones_like(values), sequences)


def value_loss(values: Tensor, returns: Tensor, old_values: Tensor, *, clip: float) -> Tensor:
    """Half the squared error of each value [M], clipped as PPO's implementations do when `clip` is above 0.

    max((V - R)^2, (V_old + clamp(V - V_old, -clip, clip) - R)^2) / 2 (arXiv:2006.05990, appendix B.1).
    """
    errors = (values - returns).square()
    if clip > 0:
        held = old_values + (values - old_values).clamp(-clip, clip)
        errors = torch.maximum(errors, (held - returns).square())
    return errors / 2


def sample_weights(
    trained_tokens: Sequence[int], *, aggregation: Literal["token", "sequence", "constant"], longest: int = 0
) -> list[float]:
    """The weight of each token of each sequence, with one denominator for the whole batch.

    trained_tokens: how many tokens of each sequence are trained; sequences with none weigh 0 and do not count.
    "token":    1 / (all trained tokens): DAPO (arXiv:2503.14476, eq. 8).
    "sequence": 1 / (own trained tokens x sequences): GRPO (arXiv:2402.03300, eq. 3).
    "constant": 1 / (longest x sequences), whatever the lengths are: Dr. GRPO (arXiv:2503.20783, section 3.1);
                `longest` is the longest completion that may be sampled.
    """
    total, sequences = sum(trained_tokens), sum(1 for n in trained_tokens if n)
    if aggregation == "token":
        return [1.0 / total if n else 0.0 for n in trained_tokens]
    if aggregation == "sequence":
        return [1.0 / (n * sequences) if n else 0.0 for n in trained_tokens]
    if longest < 1:
        raise ValueError("constant aggregation needs the length of the longest completion")
    return [1.0 / (longest * sequences) if n else 0.0 for n in trained_tokens]


def preference_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Bradley-Terry loss of each pair: -log sigmoid(chosen - rejected) (arXiv:2203.02155, eq. 1)."""
    return -torch.nn.functional.logsigmoid(chosen - rejected)
