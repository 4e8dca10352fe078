"""Pretraining: next-token loss on streamed documents, packed, each attending only to itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

from openqwq.config import PretrainStage
from openqwq.errors import UserError
from openqwq.model import Decoder

from .optim.optimizer import build_optimizer
from .packing import Sample, document_sample
from .sft import Documents, train_on_samples
from .stage import StageContext, StageRun


def run_pretrain(stage: PretrainStage, *, model: Decoder, documents: Documents, ctx: StageContext) -> None:
    """Train the model in place on `stage.tokens` tokens, `tokens_per_step` (and a document's rest) a step."""
    optimizer = build_optimizer(model, stage)
    steps = math.ceil(stage.tokens / stage.tokens_per_step)
    with StageRun(ctx, stage, model, optimizer, steps=steps) as run:
        stream = PieceStream(documents, stage.sequence_length, run.values.get("cursor", [0, 0]))
        for step in run.remaining_steps():
            samples = stream.take(stage.tokens_per_step)
            with run.uninterrupted():
                run.values["cursor"] = stream.cursor
                run.finish(train_on_samples(run, samples, step))


class PieceStream:
    """Documents cut into pieces of at most `sequence_length` tokens, with a cursor to continue from.

    cursor: [number of the document, pieces of it already taken].
    """

    def __init__(self, documents: Documents, sequence_length: int, cursor: Sequence[int]):
        self._sequence_length = sequence_length
        self._document, self._piece = cursor
        self._documents = documents(self._document)
        self._pieces = self._next_pieces()[self._piece :]

    @property
    def cursor(self) -> list[int]:
        return [self._document, self._piece]

    def take(self, tokens: int) -> list[Sample]:
        """Whole pieces until they hold at least this many tokens."""
        samples: list[Sample] = []
        while tokens > 0:
            while not self._pieces:
                self._document, self._piece = self._document + 1, 0
                self._pieces = self._next_pieces()
            piece = self._pieces.pop(0)
            self._piece += 1
            tokens -= len(piece)
            samples.append(document_sample(piece))
        return samples

    def _next_pieces(self) -> list[Sequence[int]]:
        """The next document's pieces; a piece of one token has nothing to predict and is left out."""
        document = next(self._documents, None)
        if document is None:
            raise UserError(
                f"the pretraining texts end after {self._document} documents, before the stage's `tokens`",
                hint="give more text or lower `tokens`",
            )
        starts = range(0, len(document), self._sequence_length)
        pieces = [document[i : i + self._sequence_length] for i in starts]
        return [piece for piece in pieces if len(piece) > 1]
