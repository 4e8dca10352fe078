"""PPO's value model: a copy of the policy with a scalar head that guesses each token's return.

The value of a token is read where it is predicted, so it knows the tokens before it and no others. The head starts
at zero: the first values are 0, and the first advantages are the returns.
Letters: M trained tokens, H hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from openqwq.config import RLStage
from openqwq.model import Decoder

from .algorithm.losses import value_loss
from .distributed import gather_tokens, total
from .optim.optimizer import Optimizers, build_optimizer, load_optimizer_tensors, optimizer_tensors
from .optim.update import step_optimizer
from .packing import PackedBatch
from .stage import StageRun, load_weights

_WEIGHTS, _STATE = "value_model", "value_optimizer"


class ValueModel(nn.Module):
    """The expected return before each trained token; the decoder's language-model head is not used."""

    def __init__(self, policy: Decoder):
        super().__init__()
        self.decoder = copy.deepcopy(policy).requires_grad_(True)
        self.value_head = nn.Linear(policy.config.hidden_size, 1, device=policy.device, dtype=policy.dtype)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Values [M] in fp32 of the batch's trained tokens."""
        hidden = self.decoder.hidden_states(batch.input_ids, lengths=batch.lengths)  # [N, H]
        return self.value_head(hidden[batch.positions - 1])[:, 0].float()


class Critic:
    """The value model with its optimizer. Both are saved with the run, and come back with it."""

    def __init__(self, stage: RLStage, run: StageRun):
        self.stage = stage
        self.model = ValueModel(run.model)
        self.optimizer: Optimizers = build_optimizer(self.model, stage)
        if _WEIGHTS in run.tensors:
            load_weights(self.model, run.tensors[_WEIGHTS])
            load_optimizer_tensors(self.model, self.optimizer, run.tensors[_STATE])
        self._remember(run)

    def update(self, run: StageRun, batches: Sequence[PackedBatch], rate: float) -> dict[str, float]:
        """One step on the mean loss of the batches' tokens; the loss and the share of variance explained."""
        (tokens,) = total(sum(len(batch.targets) for batch in batches))
        self.optimizer.zero_grad(set_to_none=True)
        loss, seen = 0.0, []
        for batch in batches:
            found = self.model(batch)
            losses = value_loss(found, batch.returns, batch.values, clip=self.stage.value.clip)
            part = losses.sum() / tokens
            part.backward()
            loss += float(part.detach())
            seen.append({"values": batch.values, "returns": batch.returns})
        step_optimizer(self.model, self.optimizer, learning_rate=rate, max_grad_norm=self.stage.max_grad_norm)
        self._remember(run)
        own = {name: torch.cat([part[name] for part in seen]) for part in seen[:1] for name in part}
        return {"value_loss": total(loss)[0], "value_explained": explained_variance(**gather_tokens(own))}

    def _remember(self, run: StageRun) -> None:
        """Views of the live tensors: what is saved is what they hold at the time of the save."""
        run.tensors[_WEIGHTS] = dict(self.model.named_parameters())
        run.tensors[_STATE] = optimizer_tensors(self.model, self.optimizer)


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - var(returns - values) / var(returns): 1 for perfect values, 0 for a constant; 0 where nothing varies."""
    spread = float(returns.var(correction=0))
    return 1.0 - float((returns - values).var(correction=0)) / spread if spread > 0 else 0.0
