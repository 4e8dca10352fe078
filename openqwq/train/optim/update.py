"""One optimiser step from packed micro-batches, blind to the algorithm that made them.

Everything an algorithm has to say is in the batch (advantages, weights with global denominators) and
in an objective: a pure function from log-probs to a loss per trained token.
Letters: M trained tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from openqwq.errors import UserError
from openqwq.model import Decoder

from ..distributed import gather_tokens, sum_gradients, total
from ..packing import PackedBatch
from .logprobs import chunked_logprobs
from .optimizer import Optimizers, clip_gradients, set_learning_rate

Objective = Callable[[Tensor, PackedBatch], tuple[Tensor, dict[str, Tensor]]]
"""(policy log-probs [M], batch) -> loss of each token [M], and named observations of each token [M]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateResult:
    """What one step did.

    num_tokens: of all sequences, trained or not. tokens: observations of every trained token, `entropy`
    (nats) among them.
    """

    loss: float
    grad_norm: float
    num_tokens: int
    tokens: dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A further term of a step's loss: its own micro-batches, weights with their own denominator, and objective.

    weight: its factor. temperature: of its log-probs.
    """

    batches: Sequence[PackedBatch]
    objective: Objective
    weight: float
    temperature: float = 1.0


def policy_logprobs(
    model: Decoder, batch: PackedBatch, *, temperature: float = 1.0, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probs of the batch's trained tokens, with gradient, and entropies: two [M] tensors.

    Both are of the distribution that the sampler drew from: at `temperature`, over `batch.kept`.
    Only positions that predict a trained token reach the output head. entropy_gradient: the entropies have one too.
    """
    input_ids, before = batch.input_ids, batch.positions - 1
    if batch.shared is not None:
        rows, firsts = batch.shared
        input_ids, before = input_ids[firsts], rows[before]
    hidden = model.hidden_states(input_ids, lengths=batch.lengths, shared=batch.shared)  # [R, H]
    predictors = hidden.index_select(0, before)  # [M, H]
    head = model.model.embed_tokens if model.lm_head is None else model.lm_head
    return chunked_logprobs(
        predictors,
        head.weight,
        batch.targets,
        temperature=temperature,
        entropy_gradient=entropy_gradient,
        ops=model.ops,
        kept=batch.kept,
    )


def next_token_objective(logprobs: Tensor, batch: PackedBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of each trained token."""
    return -logprobs, {}


def update(
    model: Decoder,
    optimizer: Optimizers,
    batches: Sequence[PackedBatch],
    objective: Objective,
    *,
    learning_rate: float,
    max_grad_norm: float,
    temperature: float = 1.0,
    entropy_weight: float = 0.0,
    further: Sequence[Component] = (),
    ready: Callable[[], None] = lambda: None,
) -> UpdateResult:
    """Make one optimiser step on the weighted sum of the objective over all micro-batches.

    entropy_weight: factor of the entropy of each token, which is subtracted from its loss.
    ready: called once the gradient is there; the weights change when it returns.
    further: other terms of the loss; only the first one's tokens are observed.
    Of several ranks each has its own micro-batches; the step, and what is given back, is of all of them.
    Raises UserError, before touching the weights, when the gradient is not finite.
    """
    optimizer.zero_grad(set_to_none=True)
    loss, tokens = accumulate(model, batches, objective, temperature=temperature, entropy_weight=entropy_weight)
    num_tokens = sum(len(batch.input_ids) for batch in batches)
    for part in further:
        own, _ = accumulate(model, part.batches, part.objective, temperature=part.temperature, weight=part.weight)
        loss += own
        num_tokens += sum(len(batch.input_ids) for batch in part.batches)
    ready()
    loss, all_tokens = total(loss, num_tokens)
    grad_norm = step_optimizer(model, optimizer, learning_rate=learning_rate, max_grad_norm=max_grad_norm)
    return UpdateResult(loss=loss, grad_norm=grad_norm, num_tokens=int(all_tokens), tokens=gather_tokens(tokens))


def accumulate(
    model: Decoder,
    batches: Sequence[PackedBatch],
    objective: Objective,
    *,
    temperature: float = 1.0,
    entropy_weight: float = 0.0,
    weight: float = 1.0,
) -> tuple[float, dict[str, Tensor]]:
    """Add the gradient of the batches' loss to the parameters'; the loss, and the observations of all tokens."""
    observed: list[dict[str, Tensor]] = []
    loss = 0.0
    for batch in batches:
        logprobs, entropy = policy_logprobs(model, batch, temperature=temperature, entropy_gradient=entropy_weight != 0)
        losses, observations = objective(logprobs, batch)
        if entropy_weight:
            losses = losses - entropy_weight * entropy
        weighted = (losses * batch.weights).sum()
        if weight != 1.0:
            weighted = weighted * weight
        weighted.backward()
        loss += float(weighted.detach())
        observed.append({"entropy": entropy.detach(), **{k: v.detach() for k, v in observations.items()}})
    return loss, {name: torch.cat([row[name] for row in observed]) for row in observed[:1] for name in row}


def step_optimizer(model: nn.Module, optimizer: Optimizers, *, learning_rate: float, max_grad_norm: float) -> float:
    """Sum the ranks' gradients, clip them, step at this learning rate, and give the norm before clipping."""
    sum_gradients(model.parameters())
    grad_norm = clip_gradients(model.parameters(), max_grad_norm)
    if not math.isfinite(grad_norm):
        raise UserError(
            f"the gradient's norm is {grad_norm}: training has diverged",
            hint="lower `learning_rate` or `max_grad_norm`; the last checkpoint stands",
        )
    set_learning_rate(optimizer, learning_rate)
    optimizer.step()
    return grad_norm
