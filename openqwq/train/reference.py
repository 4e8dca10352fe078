"""The reference policy that a stage's KL penalty is measured from: its own first weights, or a teacher."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor

from openqwq.config import RLStage
from openqwq.errors import UserError
from openqwq.model import Decoder, load_model

from .optim.update import policy_logprobs
from .packing import PackedBatch
from .stage import StageRun, load_weights

_WEIGHTS = "reference"


class Reference:
    """A frozen model. One that is the stage's first weights is saved with the run, a teacher's folder is not."""

    def __init__(self, stage: RLStage, run: StageRun):
        self.temperature = stage.temperature
        if stage.reference:
            self.model = _teacher(stage.reference, run.model)
        else:
            self.model = copy.deepcopy(run.model)
            if _WEIGHTS in run.tensors:
                load_weights(self.model, run.tensors[_WEIGHTS])
            run.tensors[_WEIGHTS] = dict(self.model.named_parameters())
        self.model.requires_grad_(False)

    @torch.no_grad()
    def logprobs(self, batch: PackedBatch) -> Tensor:
        """Log-probs [M] of the batch's trained tokens, at the temperature of the rollouts."""
        return policy_logprobs(self.model, batch, temperature=self.temperature)[0]


def _teacher(folder: str, policy: Decoder) -> Decoder:
    if not Path(folder).is_dir():
        raise UserError(f"`reference` is {folder}, which is not a folder", hint="give a Hugging Face folder")
    teacher = load_model(folder, device=policy.device, dtype=policy.dtype)
    ours, theirs = policy.config.vocab_size, teacher.config.vocab_size
    if ours != theirs:
        raise UserError(
            f"`reference` is {folder} with a vocabulary of {theirs} entries, the policy has {ours}",
            hint="teacher and policy need the same tokenizer",
        )
    return teacher
