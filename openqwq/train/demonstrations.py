"""Chains that are imitated beside the policy gradient: supervised loss as one more component of each update.

(A cold start's chains in the RL loss keep its format and language; InstructGPT mixes pretraining text in likewise,
arXiv:2203.02155, eq. 2.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from openqwq.config import RLStage
from openqwq.data import read_chains
from openqwq.errors import UserError
from openqwq.tokenizer import render_training_turn

from .algorithm.losses import sample_weights
from .optim.update import Component, next_token_objective
from .packing import completion_sample, pack
from .sft import epoch_indices
from .stage import StageContext


class Demonstrations:
    """The chains of `demonstrations_file`, dealt out in endless shuffled epochs: a function of the step alone."""

    def __init__(self, stage: RLStage, tokenizer: Any, ctx: StageContext):
        self.stage, self.ctx = stage, ctx
        self.chains = [
            completion_sample(*render_training_turn(tokenizer, c.problem.messages, c.thinking, c.answer))
            for c in read_chains(Path(stage.demonstrations_file))
        ]
        if not self.chains:
            raise UserError(f"`demonstrations_file` is {stage.demonstrations_file}, which holds no chains")

    def component(self, step: int, number: int, device: torch.device) -> Component:
        """The chains of a step's update number `number`, each token weighing the same."""
        stage = self.stage
        turn = step * stage.updates_per_batch + number
        indices = epoch_indices(len(self.chains), stage.demonstrations_per_step, turn, self.ctx)
        samples = [self.chains[i] for i in indices]
        weights = sample_weights([s.trained_tokens for s in samples], aggregation="token")
        batches = pack(samples, weights, tokens_per_microbatch=stage.tokens_per_microbatch, device=device)
        return Component(batches=batches, objective=next_token_objective, weight=stage.demonstrations_weight)
