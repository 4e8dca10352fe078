"""Chains that are imitated beside the policy gradient: supervised loss as one more component of each update.

(A cold start's chains in the RL loss keep its format and language; InstructGPT mixes pretraining text in likewise,
arXiv:2203.02155, eq. 2.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from openqwq.config import RLStage
from openqwq.data import Chain
from openqwq.errors import UserError
from openqwq.tokenizer import render_training_turn

from .losses import sample_weights
from .packing import completion_sample, pack
from .sft import epoch_indices
from .stage import StageContext
from .update import Component, next_token_objective


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


def read_chains(file: Path) -> list[Chain]:
    """The chains of a JSON-lines file. Raises UserError for an unreadable file or line."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"cannot read the chains in {file}: {error.strerror}") from error
    chains = []
    for number, line in enumerate(lines, 1):
        try:
            chains.append(Chain.from_dict(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}:{number} is no chain: {error}") from error
    return chains
