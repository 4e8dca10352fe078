"""The rows that decode, with the guesses of a step and the lines of logits that both have.

All tensors of a step are views of the first rows of tensors [S], S rows, that live as long as the engine. A row with
guesses has one more line of logits for each of them, behind the lines of all rows, in the order of the guesses.

Public: Batch, chunk_inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from openqwq.model import PagedChunk

from .sampling.logits_processors import Lines, LogitRules
from .sampling.sampled import Sampled
from .sampling.sampler import Guesses, SamplingTable
from .scheduler import Chunk, Plan
from .sequence import Sequence

NO_DRAFTS: Mapping[int, list[int]] = {}


class Batch:
    """What runs in a step.

    tokens:    the last token of each row [S], not yet in the cache.
    positions: where it goes [S], which is the number of tokens that the cache holds for the row.
    tables:    the blocks of each row [S, W].
    scaled:    whether YaRN is for each row [S]; None: as the model's config says.
    table, rules: sampling settings and logit rules of every row.
    longest:   the largest position of the running rows.
    running:   the sequences of the first `num_rows` rows.
    drafts:    guesses at the tokens behind the next one, by row.
    lines:     the lines of logits; None: one for each row.
    wanting_top, keeping: sequences that want the likeliest tokens' log-probs, and what the cuts left at each token.
    """

    def __init__(
        self, max_num_seqs: int, max_num_blocks: int, vocab_size: int, device: torch.device, *, yarn_per_request: bool
    ):
        self.table = SamplingTable(max_num_seqs, vocab_size, device)
        self.rules = LogitRules(max_num_seqs, vocab_size, device)
        self.tokens = torch.zeros(max_num_seqs, dtype=torch.int64, device=device)
        self.positions = torch.zeros(max_num_seqs, dtype=torch.int64, device=device)
        self.tables = torch.zeros((max_num_seqs, max_num_blocks), dtype=torch.int32, device=device)
        self.scaled = torch.zeros(max_num_seqs, dtype=torch.bool, device=device) if yarn_per_request else None
        self.num_rows = 0
        self.longest = 0
        self.running: Seq[Sequence] = ()
        self.drafts: Mapping[int, list[int]] = NO_DRAFTS
        self.lines: Lines | None = None
        self.wanting_top: list[Sequence] = []
        self.keeping: list[Sequence] = []

    def update(self, plan: Plan) -> bool:
        """Move, seat and extend rows as planned; whether other rows run than before."""
        changed = bool(plan.moves or plan.arrivals) or len(plan.running) != self.num_rows
        self._move(plan.moves)
        self._seat(plan.arrivals)
        self._enter(plan.entries)
        if changed:
            self.running = plan.running
            self.num_rows = len(plan.running)
            self.longest = max((s.num_tokens for s in plan.running), default=1) - 1
            self.table.focus(self.num_rows)
            self.rules.focus(plan.running)
            self.wanting_top = [s for s in plan.running if s.request.params.logprobs is not None]
            self.keeping = [s for s in plan.running if s.request.params.kept_ids]
        return changed

    def take_drafts(self, drafts: Mapping[int, list[int]]) -> None:
        """Set the guesses of this step."""
        self.drafts = drafts
        self.lines = self._lines() if drafts else None

    def inputs(self) -> tuple[slice | Tensor, Tensor, Tensor, int]:
        """The row of every line, its token and position [L], and how many positions the longest has."""
        every = slice(self.num_rows)
        if (lines := self.lines) is None:
            return every, self.tokens[every], self.positions[every], self.longest + 1
        rows, last = lines.row, lines.before.shape[1] - 1
        guess = lines.before.gather(1, (lines.offset - 1).clamp(0, last)[:, None])[:, 0]
        tokens = torch.where(lines.offset > 0, guess, self.tokens[rows])
        return rows, tokens, self.positions[rows] + lines.offset, self.longest + last + 2

    def before_last(self) -> list[int]:
        """The token before the last one of every row; the last one again where it is the only one."""
        return [s.known_ids(max(s.num_tokens - 2, 0), max(s.num_tokens - 1, 1))[0] for s in self.running]

    def lines_of(self, rows: Iterable[int]) -> dict[int, list[int]]:
        """The numbers of some rows' lines: the row's own, then those of its guesses."""
        starts, line = {}, self.num_rows
        for row, draft in self.drafts.items():
            starts[row] = line
            line += len(draft)
        return {
            row: [row, *range(starts[row], starts[row] + len(self.drafts[row]))] if row in starts else [row]
            for row in rows
        }

    def guesses(self, probs: Tensor) -> Guesses:
        """Every guess, at the line whose token it is a guess at: the one before its own. probs: [D, V], in order."""
        numbers = self.lines_of(self.drafts)
        lines = [line for row in self.drafts for line in numbers[row][:-1]]
        tokens = [token for draft in self.drafts.values() for token in draft]
        return Guesses(torch.tensor(lines, device=probs.device), torch.tensor(tokens, device=probs.device), probs)

    def accept(self, tokens: list[int], logprobs: list[float]) -> Sampled:
        """Each row's first token, then the tokens that its guesses got right and the one after them."""
        result = Sampled(tokens[: self.num_rows], logprobs[: self.num_rows])
        line = self.num_rows
        for row, draft in self.drafts.items():
            accepted, last = [], tokens[row]
            for i, guess in enumerate(draft):
                if last != guess:
                    break
                last = tokens[line + i]
                accepted.append((last, logprobs[line + i]))
            result.more[row] = accepted
            line += len(draft)
        return result

    def advance(self, last: Tensor, count: Tensor, most: int) -> None:
        """Note each row's last sampled token [R] and how many were sampled [R], at most `most`."""
        rows = slice(self.num_rows)
        self.tokens[rows] = last
        self.positions[rows] += count
        self.table.positions[rows] += count
        self.longest += most

    def _lines(self) -> Lines:
        """One line a row, then one for each guess."""
        pairs = [(row, i + 1) for row, draft in self.drafts.items() for i in range(len(draft))]
        device, most = self.tokens.device, max(map(len, self.drafts.values()))
        row, offset = torch.tensor(pairs, device=device).unbind(1)
        every = torch.arange(self.num_rows, device=device)
        rows = torch.cat((every, row))
        padded = [(draft := self.drafts.get(r, [])) + [0] * (most - len(draft)) for r in range(self.num_rows)]
        before = torch.tensor(padded, device=device)[rows]
        return Lines(rows, torch.cat((torch.zeros_like(every), offset)), before)

    def _move(self, moves: Seq[tuple[int, int]]) -> None:
        if not moves:
            return
        from_rows, to_rows = zip(*moves, strict=True)
        sources, targets = (torch.tensor(rows, device=self.tokens.device) for rows in (from_rows, to_rows))
        self.table.move(sources, targets)
        self.rules.move(sources, targets)
        for column in (self.tokens, self.positions, self.tables, self.scaled):
            if column is not None:
                column[targets] = column[sources]

    def _seat(self, arrivals: Seq[Sequence]) -> None:
        """Set the rows of sequences that begin to decode: the last known token is the next to be read."""
        if not arrivals:
            return
        numbers = [sequence.row for sequence in arrivals]
        rows = torch.tensor(numbers, device=self.tokens.device)
        lasts = [s.token_ids[-1] if s.token_ids else s.request.prompt_ids[-1] for s in arrivals]
        self.tokens[rows] = torch.tensor(lasts, device=self.tokens.device)
        self.positions[rows] = torch.tensor([s.num_tokens - 1 for s in arrivals], device=self.tokens.device)
        if self.scaled is not None:
            self.scaled[rows] = torch.tensor([s.request.scaled for s in arrivals], device=self.tokens.device)
        width = max(len(s.table.blocks) for s in arrivals)
        tables = [s.table.blocks + [0] * (width - len(s.table.blocks)) for s in arrivals]
        self.tables[rows, :width] = torch.tensor(tables, dtype=torch.int32, device=self.tokens.device)
        self.table.write(arrivals)
        self.rules.write(arrivals)

    def _enter(self, entries: Seq[tuple[int, int, int]]) -> None:
        if entries:
            rows, columns, blocks = torch.tensor(entries, device=self.tokens.device).unbind(1)
            self.tables[rows, columns] = blocks.to(torch.int32)


def chunk_inputs(chunks: Seq[Chunk]) -> tuple[list[int], list[PagedChunk]]:
    """Tokens of chunks end to end, and where they stand; chunks from position 0 on must come first."""
    known = [token for c in chunks for token in c.sequence.known_ids(c.start, c.end)]
    paged = [PagedChunk(c.start, c.end - c.start, c.sequence.table.blocks, c.sequence.request.scaled) for c in chunks]
    return known, paged
