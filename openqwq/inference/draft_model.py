"""Speculation with a draft model: a small model guesses some tokens, the large one checks them in one pass.

The draft model's cache has the target's block tables: block b of the one holds the same tokens as block b of the
other. So shared prefixes, forks, preemption and aborts need nothing of their own; the draft model computes the chunks
that the target computes. Where tokens were put in behind guesses that all stayed, one place of its cache may be that
of an older token: this can cost a guess, never a token of the target's.

Which guesses stay: speculative_config.py.

Public: DraftModel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from openqwq.config import DraftOptions
from openqwq.model import Decoder, FusedDecoder, KVCache, PagedAttention, fused_decoder

from .batch import Batch, chunk_inputs
from .sampling.logits_processors import Lines, LogitRules
from .sampling.sampler import GUESS_STREAM, SamplingTable, sample_guess
from .scheduler import Chunk


class DraftModel:
    """The draft model's side of a runner.

    cache:         the draft model's, with as many blocks as the target's.
    vocab_size:    the target's; ids beyond it are never guessed, ids unknown to the draft model never either.
    both_settings: rows come with YaRN and without.
    max_rows:      sequences that run at once.
    """

    def __init__(
        self,
        speculation: DraftOptions,
        cache: KVCache,
        vocab_size: int,
        *,
        both_settings: bool = False,
        max_rows: int = 1,
    ):
        assert speculation.model is not None
        self.model: Decoder = speculation.model
        self.rejection = speculation.rejection
        self.cache, self.vocab_size = cache, vocab_size
        self._kernel = fused_decoder(self.model, cache, both_settings=both_settings, max_rows=2 * max_rows)
        self._decoder: FusedDecoder | None = None

    def bind_weights(self) -> None:
        """Note which weights there are: other rows run from now on."""
        self._decoder = self._kernel if self._kernel is not None and self._kernel.bind_weights() else None

    def propose(
        self, batch: Batch, rooms: Mapping[int, int], chunks: Sequence[Chunk]
    ) -> tuple[dict[int, list[int]], Tensor | None]:
        """Guesses by row, and with "standard" the distributions [D, V] they are from, in the guesses' order.

        rooms: how many tokens to guess for some rows; the others' caches are kept up all the same.
        """
        logits = self._catch_up(batch, chunks)
        device = logits.device
        size = torch.zeros(batch.num_rows, dtype=torch.int64)
        for row, room in rooms.items():
            size[row] = room
        most = int(size.max()) if rooms else 0
        guessed = torch.zeros(batch.num_rows, max(most, 1), dtype=torch.int64, device=device)
        probs = []
        for step in range(most):
            rows = (size > step).nonzero()[:, 0].to(device)
            logits = logits[rows] if step == 0 else self._next(batch, rows, guessed, step)
            tokens, distribution = self._sample(logits, batch.table, batch.rules, rows, guessed, step)
            guessed[rows, step] = tokens
            if self.rejection == "standard":
                whole = distribution.new_zeros(batch.num_rows, self.vocab_size)
                probs.append(whole.index_copy_(0, rows, distribution))
        table = guessed.tolist()
        drafts = {row: table[row][:room] for row, room in rooms.items()}
        if not probs:
            return drafts, None
        rows_of, steps = zip(*((row, i) for row, draft in drafts.items() for i in range(len(draft))), strict=True)
        return drafts, torch.stack(probs)[list(steps), list(rows_of)]

    def _catch_up(self, batch: Batch, chunks: Sequence[Chunk]) -> Tensor:
        """Compute what the cache lacks, chunks and the last two tokens of every row; logits behind each row's last."""
        rows = slice(batch.num_rows)
        last, positions = batch.tokens[rows], batch.positions[rows]
        earlier = torch.tensor(batch.before_last(), dtype=torch.int64, device=last.device)
        places = torch.cat(((positions - 1).clamp(min=0), positions))
        twice = torch.arange(batch.num_rows, device=last.device).repeat(2)
        logits = self._logits(batch, twice, torch.cat((earlier, last)), places, batch.longest + 1, chunks)
        return logits[batch.num_rows :]

    def _next(self, batch: Batch, rows: Tensor, guessed: Tensor, step: int) -> Tensor:
        """Logits behind the last guess of some rows."""
        tokens, places = guessed[rows, step - 1], batch.positions[rows] + step
        return self._logits(batch, rows, tokens, places, batch.longest + 1 + step)

    def _logits(
        self,
        batch: Batch,
        rows: Tensor,
        tokens: Tensor,
        positions: Tensor,
        longest: int,
        chunks: Sequence[Chunk] = (),
    ) -> Tensor:
        """Logits behind tokens of some rows, valid until the next call; chunks are computed beside them."""
        tables, scaled = batch.tables[rows], None if batch.scaled is None else batch.scaled[rows]
        known_ids = self.model.config.vocab_size - 1
        tokens = tokens.clamp(max=known_ids)
        if self._decoder is not None and not chunks and 0 < len(rows) <= self._decoder.max_rows:
            return self._decoder(tokens, positions, tables, longest, scaled)
        known, paged = chunk_inputs(chunks)
        tokens = torch.cat((tokens, torch.tensor(known, dtype=torch.int64, device=tokens.device).clamp(max=known_ids)))
        context = PagedAttention(
            self.cache, tables, positions, ops=self.model.ops, longest=longest, chunks=paged, scaled=scaled
        )
        hidden = self.model.hidden_states(tokens, context=context)
        return self.model.lm_head_logits(hidden[: len(rows)])

    def _sample(
        self, logits: Tensor, table: SamplingTable, rules: LogitRules, rows: Tensor, guessed: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        logits = logits.float()[:, : self.vocab_size]
        if logits.shape[1] < self.vocab_size:
            logits = torch.nn.functional.pad(logits, (0, self.vocab_size - logits.shape[1]), value=float("-inf"))
        offsets = torch.full_like(rows, step)
        if not rules.idle:
            rules.weigh(logits, table.positions, Lines(rows, offsets, guessed[rows]))
        stream = GUESS_STREAM if self.rejection == "standard" else 0
        return sample_guess(logits.contiguous(), table, rows, offsets, stream=stream)
