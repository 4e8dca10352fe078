"""A reward model: our own decoder with a scalar head, trained on preference pairs (Bradley-Terry).

The score of a sequence is read from the hidden state of its last token. Only differences of scores are
trained (arXiv:2203.02155, eq. 1), so scores are shifted until the training pairs' completions have mean 0:
then sigmoid(score) is a half for an average completion.
Letters: N packed tokens, S sequences, H hidden size.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from openqwq.checkpoint.huggingface import save_model
from openqwq.config import RewardModelStage
from openqwq.errors import UserError
from openqwq.model import Decoder, load_model

from .algorithm.losses import preference_loss
from .distributed import own_share, total
from .optim.optimizer import build_optimizer, learning_rate
from .optim.update import step_optimizer
from .packing import split_microbatches
from .sft import epoch_indices
from .stage import StageContext, StageRun

EncodedPair = tuple[Sequence[int], Sequence[int]]
"""Token ids (prompt and completion) of the chosen and of the rejected one."""

_SCORE_FILE = "score.safetensors"
_SCORING_TOKENS = 16_384


class RewardModel(nn.Module):
    """A scalar score of whole sequences; the decoder is used without its language-model head."""

    def __init__(self, decoder: Decoder):
        super().__init__()
        self.decoder = decoder
        self.score_head = nn.Linear(
            decoder.config.hidden_size, 1, bias=False, device=decoder.device, dtype=decoder.dtype
        )
        nn.init.zeros_(self.score_head.weight)
        # A parameter, so that it is saved with the others; no gradient step moves it.
        self.offset = nn.Parameter(torch.zeros((), device=decoder.device), requires_grad=False)

    def forward(self, input_ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """Scores [S] of the sequences that lie end to end in `input_ids` [N]."""
        hidden = self.decoder.hidden_states(input_ids, lengths=list(lengths))  # [N, H]
        last = torch.tensor(lengths, device=hidden.device).cumsum(0) - 1
        return self.score_head(hidden[last])[:, 0].float() - self.offset

    @torch.no_grad()
    def score(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """One score for each sequence of token ids, in order; about 0 for an average one, unbounded."""
        scores = torch.zeros(len(sequences))
        for part in split_microbatches([len(s) for s in sequences], _SCORING_TOKENS):
            scores[part] = self._packed([sequences[i] for i in part]).cpu()
        return scores.tolist()

    def pair_scores(self, pairs: Sequence[EncodedPair]) -> tuple[Tensor, Tensor]:
        """Scores of the chosen and of the rejected ones, with gradient, in one packed pass."""
        scores = self._packed([sequence for pair in pairs for sequence in pair])
        return scores[0::2], scores[1::2]

    def save(self, folder: str | Path, *, tokenizer_files: Sequence[str | Path] = ()) -> None:
        """Write a Hugging Face folder of the decoder with `score.safetensors` beside it."""
        save_model(self.decoder, folder, tokenizer_files=tokenizer_files)
        tensors = {"score.weight": self.score_head.weight.detach(), "score.offset": self.offset.detach()}
        save_file(tensors, Path(folder) / _SCORE_FILE)

    @classmethod
    def load(cls, folder: str | Path) -> RewardModel:
        """The reward model that `save` wrote. Raises UserError for a folder without a score head."""
        if not (Path(folder) / _SCORE_FILE).exists():
            raise UserError(f"{folder} holds no reward model: `{_SCORE_FILE}` is missing")
        model = cls(load_model(folder))
        tensors = load_file(Path(folder) / _SCORE_FILE)
        with torch.no_grad():
            model.score_head.weight.copy_(tensors["score.weight"])
            model.offset.copy_(tensors["score.offset"])
        return model

    def _packed(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        ids = torch.tensor([token for sequence in sequences for token in sequence], device=self.decoder.device)
        return self(ids, [len(sequence) for sequence in sequences])


def run_reward_model(
    stage: RewardModelStage,
    *,
    model: Decoder,
    pairs: Sequence[EncodedPair],
    held_out: Sequence[EncodedPair],
    ctx: StageContext,
) -> RewardModel:
    """A reward model trained on a copy of `model`; the row of the last step has its held-out measures."""
    if not pairs:
        raise UserError(f"stage `{ctx.name}` has no preference pairs", hint="name some under `pairs`")
    reward_model = RewardModel(copy.deepcopy(model))
    steps = max(1, round(stage.epochs * len(pairs) / stage.pairs_per_step))
    optimizer = build_optimizer(reward_model, stage)
    with StageRun(ctx, stage, reward_model, optimizer, steps=steps) as run:
        for step in run.remaining_steps():
            chosen = [pairs[i] for i in epoch_indices(len(pairs), stage.pairs_per_step, step, ctx)]
            with run.uninterrupted():
                row = _train_on_pairs(run, chosen, step)
                measures: dict[str, float | None] = dict.fromkeys(
                    ("held_out_pairs", "held_out_accuracy", "held_out_calibration_error")
                )
                if step == steps - 1:
                    centre_scores(reward_model, pairs)
                    measures = measure_pairs(reward_model, held_out) if held_out else measures
                run.finish({**row, **measures})
    return reward_model


def _train_on_pairs(
    run: StageRun[RewardModelStage, RewardModel], pairs: Sequence[EncodedPair], step: int
) -> dict[str, Any]:
    """One optimiser step on the mean loss of the pairs; gives its metrics."""
    started, stage, model = time.perf_counter(), run.stage, run.model
    rate = learning_rate(stage, step, run.steps)
    run.optimizer.zero_grad(set_to_none=True)
    loss, correct = 0.0, 0.0
    lengths = [len(chosen) + len(rejected) for chosen, rejected in pairs]
    own = own_share(lengths)
    for part in split_microbatches([lengths[i] for i in own], stage.tokens_per_microbatch):
        chosen, rejected = model.pair_scores([pairs[own[i]] for i in part])
        part_loss = preference_loss(chosen, rejected).sum() / len(pairs)
        part_loss.backward()
        loss += float(part_loss.detach())
        correct += int((chosen > rejected).sum())
    loss, correct = total(loss, correct)
    grad_norm = step_optimizer(model, run.optimizer, learning_rate=rate, max_grad_norm=stage.max_grad_norm)
    return {
        "stage": run.ctx.name,
        "step": step,
        "loss": loss,
        "accuracy": correct / len(pairs),
        "grad_norm": grad_norm,
        "learning_rate": rate,
        "pairs": len(pairs),
        "tokens_train": sum(lengths),
        "seconds_train": time.perf_counter() - started,
    }


@torch.no_grad()
def centre_scores(model: RewardModel, pairs: Sequence[EncodedPair]) -> None:
    """Shift the scores so that the mean over both sides of the pairs is 0."""
    scores = model.score([sequence for pair in pairs for sequence in pair])
    model.offset.add_(sum(scores) / len(scores))


def measure_pairs(model: RewardModel, pairs: Sequence[EncodedPair]) -> dict[str, float | None]:
    """Accuracy and calibration error of the model's preferences on pairs; a tie is half right."""
    scores = model.score([sequence for pair in pairs for sequence in pair])
    differences = [chosen - rejected for chosen, rejected in zip(scores[0::2], scores[1::2], strict=True)]
    confidences = [1.0 / (1.0 + math.exp(-min(abs(d), 60.0))) for d in differences]
    hits = [0.5 if d == 0 else float(d > 0) for d in differences]
    return {
        "held_out_pairs": len(pairs),
        "held_out_accuracy": sum(hits) / len(hits),
        "held_out_calibration_error": calibration_error(confidences, hits),
    }


def calibration_error(confidences: Sequence[float], hits: Sequence[float], *, bins: int = 10) -> float:
    """Expected calibration error (arXiv:1706.04599, eq. 3): mean |confidence - accuracy| over bins of equal width."""
    members: dict[int, list[int]] = {}
    for i, confidence in enumerate(confidences):
        members.setdefault(min(int(confidence * bins), bins - 1), []).append(i)
    gaps = [abs(sum(confidences[i] - hits[i] for i in own)) for own in members.values()]
    return sum(gaps) / len(confidences)
