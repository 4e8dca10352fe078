"""Speculation with a draft model: a small model guesses some tokens, the large one checks them in one pass.

The draft model's cache has the target's block tables: block b of the one holds the same tokens as block b of the
other. So shared prefixes, forks, preemption and aborts need nothing of their own; the draft model computes the chunks
that the target computes. Where tokens were put in behind guesses that all stayed, one place of its cache may be that
of an older token: this can cost a guess, never a token of the target's.

"strict" keeps a guess when it is what the target itself samples there with its own noise: the tokens are those of
plain sampling, whatever is guessed. The draft model uses the same noise, so that similar distributions mostly agree.
"standard" is rejection sampling: the same distribution, more guesses stay, other tokens than without guesses.

Public: Speculation, read_speculation, DraftModel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from openqwq.errors import UserError
from openqwq.model import Decoder, FusedDecoder, KVCache, PagedAttention, PagedChunk, fused_decoder

from .sampling.logits_processors import Lines, LogitRules
from .sampling.sampler import GUESS_STREAM, SamplingTable, sample_guess
from .scheduler import Chunk

if TYPE_CHECKING:
    from .runner import Runner

Rejection = Literal["strict", "standard"]
MAX_NUM_TOKENS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """How many tokens are guessed at a time, and by what.

    num_tokens: at most; fewer where a sample ends before.
    model:      the draft model, with the target's token ids and on its device; None: prompt lookup.
    rejection:  which of a draft model's guesses stay.
    """

    num_tokens: int
    model: Decoder | None = None
    rejection: Rejection = "strict"

    def __post_init__(self) -> None:
        if not 1 <= self.num_tokens <= MAX_NUM_TOKENS:
            raise UserError(f"`num_speculative_tokens` is {self.num_tokens}, but must be 1 to {MAX_NUM_TOKENS}")


@dataclass(frozen=True, slots=True)
class SpeculativeConfig:
    """vLLM's `speculative_config`, checked: "ngram" (prompt lookup), or a draft model by its folder or name."""

    num_tokens: int
    model: str | None
    rejection: Rejection


def read_speculation(config: Mapping[str, Any]) -> SpeculativeConfig:
    """Raises UserError for anything but the keys that exist here, with vLLM's names and meanings.

    {"method": "ngram", "num_speculative_tokens": 4}
    {"model": "path/or/name", "num_speculative_tokens": 4, "rejection_sample_method": "strict" | "standard"}
    """
    known = ("method", "model", "num_speculative_tokens", "rejection_sample_method")
    if unknown := sorted(set(config) - set(known)):
        raise UserError(f"`speculative_config` has no key `{unknown[0]}`", hint=f"it has {', '.join(known)}")
    model, num_tokens = config.get("model"), config.get("num_speculative_tokens")
    method = config.get("method", "draft_model" if model else "ngram")
    rejection = config.get("rejection_sample_method", "strict")
    if method not in ("ngram", "draft_model"):
        raise UserError(f"`method` of `speculative_config` is {method!r}, but must be 'ngram' or 'draft_model'")
    if (method == "draft_model") != bool(model):
        raise UserError("`speculative_config` needs a `model` for the method 'draft_model', and for no other")
    if rejection not in ("strict", "standard"):
        raise UserError(f"`rejection_sample_method` is {rejection!r}, but must be 'strict' or 'standard'")
    if type(num_tokens) is not int:
        raise UserError("`speculative_config` needs `num_speculative_tokens`, a whole number")
    return SpeculativeConfig(num_tokens, str(model) if model else None, rejection)


class DraftModel:
    """The draft model's side of a runner.

    cache:         the draft model's, with as many blocks as the target's.
    vocab_size:    the target's; ids beyond it are never guessed, ids unknown to the draft model never either.
    both_settings: rows come with YaRN and without.
    max_rows:      sequences that run at once.
    """

    def __init__(
        self,
        speculation: Speculation,
        cache: KVCache,
        vocab_size: int,
        *,
        both_settings: bool = False,
        max_rows: int = 1,
    ):
        assert speculation.model is not None
        self.model, self.rejection = speculation.model, speculation.rejection
        self.cache, self.vocab_size = cache, vocab_size
        self._kernel = fused_decoder(self.model, cache, both_settings=both_settings, max_rows=2 * max_rows)
        self._decoder: FusedDecoder | None = None

    def bind_weights(self) -> None:
        """Note which weights there are: other rows run from now on."""
        self._decoder = self._kernel if self._kernel is not None and self._kernel.bind_weights() else None

    def propose(
        self, runner: Runner, rooms: Mapping[int, int], before_last: Sequence[int], chunks: Sequence[Chunk]
    ) -> tuple[dict[int, list[int]], Tensor | None]:
        """Guesses by row, and with "standard" the distributions [D, V] they are from, in the guesses' order.

        rooms:       how many tokens to guess for some rows; the others' caches are kept up all the same.
        before_last: the token before the last one of every row: it may not be in the cache yet.
        """
        logits = self._catch_up(runner, before_last, chunks)
        device = logits.device
        size = torch.zeros(runner.num_rows, dtype=torch.int64)
        for row, room in rooms.items():
            size[row] = room
        most = int(size.max()) if rooms else 0
        guessed = torch.zeros(runner.num_rows, max(most, 1), dtype=torch.int64, device=device)
        probs = []
        for step in range(most):
            rows = (size > step).nonzero()[:, 0].to(device)
            logits = logits[rows] if step == 0 else self._next(runner, rows, guessed, step)
            tokens, distribution = self._sample(logits, runner.table, runner.rules, rows, guessed, step)
            guessed[rows, step] = tokens
            if self.rejection == "standard":
                whole = distribution.new_zeros(runner.num_rows, self.vocab_size)
                probs.append(whole.index_copy_(0, rows, distribution))
        table = guessed.tolist()
        drafts = {row: table[row][:room] for row, room in rooms.items()}
        if not probs:
            return drafts, None
        rows_of, steps = zip(*((row, i) for row, draft in drafts.items() for i in range(len(draft))), strict=True)
        return drafts, torch.stack(probs)[list(steps), list(rows_of)]

    def _catch_up(self, runner: Runner, before_last: Sequence[int], chunks: Sequence[Chunk]) -> Tensor:
        """Compute what the cache lacks, chunks and the last two tokens of every row; logits behind each row's last."""
        rows = slice(runner.num_rows)
        last, positions = runner.tokens[rows], runner.positions[rows]
        earlier = torch.tensor(before_last, dtype=torch.int64, device=last.device)
        places = torch.cat(((positions - 1).clamp(min=0), positions))
        twice = torch.arange(runner.num_rows, device=last.device).repeat(2)
        logits = self._logits(runner, twice, torch.cat((earlier, last)), places, runner.longest + 1, chunks)
        return logits[runner.num_rows :]

    def _next(self, runner: Runner, rows: Tensor, guessed: Tensor, step: int) -> Tensor:
        """Logits behind the last guess of some rows."""
        tokens, places = guessed[rows, step - 1], runner.positions[rows] + step
        return self._logits(runner, rows, tokens, places, runner.longest + 1 + step)

    def _logits(
        self,
        runner: Runner,
        rows: Tensor,
        tokens: Tensor,
        positions: Tensor,
        longest: int,
        chunks: Sequence[Chunk] = (),
    ) -> Tensor:
        """Logits behind tokens of some rows, valid until the next call; chunks are computed beside them."""
        tables, scaled = runner.tables[rows], None if runner.scaled is None else runner.scaled[rows]
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


def chunk_inputs(chunks: Sequence[Chunk]) -> tuple[list[int], list[PagedChunk]]:
    """Tokens of chunks end to end, and where they stand; chunks from position 0 on must come first."""
    known = [token for c in chunks for token in c.sequence.known_ids(c.start, c.end)]
    paged = [PagedChunk(c.start, c.end - c.start, c.sequence.table.blocks, c.sequence.request.scaled) for c in chunks]
    return known, paged
