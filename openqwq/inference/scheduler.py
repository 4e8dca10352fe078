"""Who runs in the next step: one token for every decoding sequence, and chunks of the prompts that arrive.

    decoding -> a block for the token to come; where none is free, the latest arrival is preempted
    chunks   -> of prompts and of preempted sequences, by order of arrival, as far as the token budget goes
    forks    -> the other samples of a request share its prompt's blocks once the first has computed them

A sequence's last known token is never part of a chunk: the decoding row reads it, in the very step in which the
last chunk is computed. A sequence that is preempted gives up its blocks and is computed again from its tokens; what
was shared or is still cached is found again. The earliest arrival always runs: nothing starves.
Plain Python: no torch.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from .cache.block_manager import ROOT, SCALED_ROOT, BlockPool
from .rows import RowTable
from .sequence import NO_ROW, Request, Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start` to `end` of a sequence, computed in one step."""

    sequence: Sequence
    start: int
    end: int


@dataclass(slots=True)
class Plan:
    """What the runner does in one step, in this order.

    copies:   (from, to) blocks: the tail of a shared prompt.
    moves:    (from, to) rows of decoding sequences.
    arrivals: sequences that decode for the first time, or again.
    entries:  (row, column, block) new entries of block tables, arrivals' not included.
    chunks:   tokens to compute beside the rows.
    running:  all sequences to decode one token for, in row order.
    rooms:    how many tokens may be guessed behind the next one, by row, in blocks that are held for them.
    drafts:   guesses at the tokens behind the next one, by row; filled in by the engine, or a draft model.
    """

    copies: list[tuple[int, int]] = field(default_factory=list)
    moves: list[tuple[int, int]] = field(default_factory=list)
    arrivals: list[Sequence] = field(default_factory=list)
    entries: list[tuple[int, int, int]] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    running: list[Sequence] = field(default_factory=list)
    rooms: dict[int, int] = field(default_factory=dict)
    drafts: dict[int, list[int]] = field(default_factory=dict)


class Scheduler:
    """Continuous batching over a pool of blocks, by order of arrival."""

    def __init__(self, pool: BlockPool, *, max_num_seqs: int, max_num_batched_tokens: int):
        self.pool = pool
        self.max_num_batched_tokens = max_num_batched_tokens
        self.table = RowTable(max_num_seqs)
        self.filling: list[Sequence] = []
        self.waiting: list[tuple[tuple[int, int], Sequence]] = []
        self.requests: dict[str, Request] = {}
        self.num_preempted = 0
        self.num_cached = 0
        self._budget = 0
        self._ready: list[Sequence] = []

    @property
    def num_running(self) -> int:
        """Sequences that hold blocks: decoding or being filled."""
        return self.table.num_active + len(self.filling)

    def add(self, request: Request) -> None:
        if request.id in self.requests:
            raise ValueError(f"request id {request.id!r} is already in the engine")
        self.requests[request.id] = request
        for sequence in request.sequences if request.forked else request.sequences[:1]:
            if not sequence.finish_reason:
                self._wait(sequence)

    def schedule(self) -> Plan:
        """The next step; it has neither rows nor chunks only when nothing is left to do."""
        plan = Plan()
        for sequence in self._ready:
            if not sequence.finish_reason:
                self._wait(sequence)
        self._ready.clear()
        grown = self._grow()
        self._fill(plan)
        self._admit(plan)
        for sequence in plan.arrivals:
            self.table.take(sequence)
        plan.moves = self.table.close_holes()
        plan.running = self.table.active()
        fresh = set(map(id, plan.arrivals))
        plan.entries = [
            (sequence.row, len(sequence.table.blocks) - 1, sequence.table.blocks[-1])
            for sequence in grown
            if sequence.row != NO_ROW and id(sequence) not in fresh
        ]
        return plan

    def settle(self) -> list[Request]:
        """Free what ended sequences held; the requests that are now complete."""
        ended = [s for s in self.table.rows if s is not None and s.finish_reason]
        for sequence in ended:
            if sequence.finish_reason != "abort":
                self.pool.register(sequence.table, _all_ids(sequence), sequence.num_filled)
            self.pool.release(sequence.table)
        self.table.free(ended)
        return self._complete(sequence.request for sequence in ended)

    def lengthen(self, plan: Plan, sequence: Sequence, num_tokens: int) -> bool:
        """Hold blocks for a draft behind a row's next token; False when none are free."""
        blocks = sequence.table.blocks
        before = len(blocks)
        last = sequence.num_tokens - 1
        if not self.pool.extend(sequence.table, sequence.num_tokens + num_tokens, last, last + num_tokens):
            return False
        if sequence not in plan.arrivals:  # whose whole tables are entered anyway
            plan.entries += [(sequence.row, i, blocks[i]) for i in range(before, len(blocks))]
        return True

    def refill(self, sequence: Sequence, num_computed: int) -> None:
        """Take a sequence out of its row: tokens were put behind its last one, and have to be computed."""
        self.table.free([sequence])
        sequence.num_computed = num_computed
        self.filling.append(sequence)

    def abort(self, request_id: str) -> Request | None:
        """End what is left of a request at once; None when it is not in the engine."""
        request = self.requests.get(request_id)
        if request is None:
            return None
        for sequence in request.sequences:
            if not sequence.finish_reason:
                sequence.finish("abort")
                self._drop(sequence)
        self.waiting = [entry for entry in self.waiting if entry[1].request is not request]
        heapq.heapify(self.waiting)
        self._complete([request])
        return request

    def _grow(self) -> list[Sequence]:
        """Give every decoding sequence room for its next token, early arrivals first; those that got a block."""
        rows = [s for s in self.table.rows if s is not None and s.num_prompt + len(s.token_ids) > s.table.capacity]
        rows.sort(key=lambda sequence: sequence.order)
        return [s for s in rows if s.row != NO_ROW and self._make_room(s)]

    def _fill(self, plan: Plan) -> None:
        """Go on with the sequences that are being computed; the budget never shrinks below one block."""
        self._budget = max(self.max_num_batched_tokens - self.table.num_active, self.pool.block_size)
        self.filling.sort(key=lambda sequence: sequence.order)
        for sequence in list(self.filling):
            if self._budget > 0 and sequence in self.filling and self._make_room(sequence):
                self._chunk(sequence, plan)

    def _admit(self, plan: Plan) -> None:
        """Start waiting sequences while there are rows, tokens and blocks."""
        while self.waiting and self._budget > 0:
            if self.num_running + len(plan.arrivals) >= self.table.num_rows:
                return
            sequence = self.waiting[0][1]
            if not self._start(sequence, plan):
                return
            heapq.heappop(self.waiting)
            self.filling.append(sequence)
            self._chunk(sequence, plan)

    def _start(self, sequence: Sequence, plan: Plan) -> bool:
        """Give a sequence blocks for all of its tokens; False when too few are free.

        Each running sequence keeps one block in reserve, so that an arrival is not preempted as soon as it runs.
        """
        source = self._source(sequence)
        if source is None:
            known = _all_ids(sequence)[:-1] if sequence.reads_cache else ()
            table = self.pool.match(known, SCALED_ROOT if sequence.request.scaled else ROOT)
            num_computed = len(table.blocks) * self.pool.block_size
        else:
            num_computed = sequence.num_tokens - 1
            table = self.pool.fork(source.table, num_computed // self.pool.block_size)
        reserve, last = self.num_running + len(plan.arrivals), self._end(sequence, num_computed)
        fits = self.pool.fits(table, sequence.num_tokens, reserve)
        if not fits or not self.pool.extend(table, sequence.num_tokens, num_computed, last):
            self.pool.release(table)
            return False
        if source is not None and num_computed % self.pool.block_size:
            plan.copies += self.pool.copies(source.table, table, num_computed // self.pool.block_size)
        sequence.table, sequence.num_computed = table, num_computed
        if not sequence.token_ids:
            sequence.num_cached = num_computed
            self.num_cached += num_computed
        return True

    def _source(self, sequence: Sequence) -> Sequence | None:
        """A decoding sample of the same request, whose blocks hold the prompt."""
        if sequence.token_ids or not sequence.reads_cache:
            return None
        ready = (s for s in sequence.request.sequences if s.row != NO_ROW)
        return next((s for s in ready if self.pool.can_fork(s.table, sequence.num_tokens - 1)), None)

    def _end(self, sequence: Sequence, start: int) -> int:
        """The position before which a chunk of the budget that begins at `start` ends: at most the last token's."""
        return min(sequence.num_tokens - 1, start + self._budget)

    def _chunk(self, sequence: Sequence, plan: Plan) -> None:
        """Schedule as many of a sequence's tokens as the budget allows; with the last of them, its row."""
        start, last = sequence.num_computed, sequence.num_tokens - 1
        end = self._end(sequence, start)
        if end > start:
            plan.chunks.append(Chunk(sequence, start, end))
            self._budget -= end - start
            sequence.num_computed = end
            self.pool.register(sequence.table, _all_ids(sequence), end)
        if end == last:
            self.filling.remove(sequence)
            plan.arrivals.append(sequence)
            self._budget -= 1
            self._release_siblings(sequence)

    def _release_siblings(self, sequence: Sequence) -> None:
        """Let a request's other samples wait for a row from the next step on: its prompt is computed then."""
        request = sequence.request
        if not request.forked:
            request.forked = True
            for sibling in request.sequences[1:]:
                self._ready.append(sibling)

    def _make_room(self, sequence: Sequence) -> bool:
        """Hold blocks for all of its tokens, preempting later arrivals; False when it was preempted itself."""
        first = last = sequence.num_tokens - 1
        if sequence.row == NO_ROW:
            first, last = sequence.num_computed, self._end(sequence, sequence.num_computed)
        while not self.pool.extend(sequence.table, sequence.num_tokens, first, last):
            victim = max(self._holders(), key=lambda s: s.order)
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _holders(self) -> list[Sequence]:
        return [s for s in self.table.rows if s is not None] + self.filling

    def _preempt(self, sequence: Sequence) -> None:
        num_computed = sequence.num_tokens - 1 if sequence.row != NO_ROW else sequence.num_computed
        self.pool.register(sequence.table, _all_ids(sequence), num_computed)
        self._drop(sequence)
        sequence.num_computed = 0
        self.num_preempted += 1
        self._wait(sequence)

    def _drop(self, sequence: Sequence) -> None:
        """Free a sequence's row and blocks."""
        self.pool.release(sequence.table)
        if sequence.row != NO_ROW:
            self.table.free([sequence])
        elif sequence in self.filling:
            self.filling.remove(sequence)

    def _wait(self, sequence: Sequence) -> None:
        heapq.heappush(self.waiting, (sequence.order, sequence))

    def _complete(self, requests: Iterable[Request]) -> list[Request]:
        complete = {request.id: request for request in requests if request.finished}
        for request_id in complete:
            self.requests.pop(request_id, None)
        return list(complete.values())


def _all_ids(sequence: Sequence) -> list[int]:
    return [*sequence.request.prompt_ids, *sequence.token_ids]
