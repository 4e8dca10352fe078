"""Who runs in the next step: arrivals into free slots, one prefill for a group, one decode for all.

Every step decodes one token for every running sequence. Before that, arrivals are let in first come,
first served, as long as slots and the prefill budget last. Only the first running sample of a request
is prefilled; its siblings get a copy of that KV. The prompt's last token is left to the
decoding step, so that a sibling that arrives later needs nothing but the copy. Plain Python: no torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from .block_manager import SlotTable
from .sequence import NO_SLOT, Request, Sequence


@dataclass(slots=True)
class Plan:
    """What the runner does in one step, in this order.

    moves:    (from, to) slots of running sequences.
    prefills: sequences whose prompt, without its last token, is computed into their slot.
    copies:   (from, to, length) slots and the positions to copy.
    arrivals: all sequences that run for the first time.
    running:  all sequences to decode one token for, in slot order.
    """

    moves: list[tuple[int, int]]
    prefills: list[Sequence] = field(default_factory=list)
    copies: list[tuple[int, int, int]] = field(default_factory=list)
    arrivals: list[Sequence] = field(default_factory=list)
    running: list[Sequence] = field(default_factory=list)


class Scheduler:
    """Continuous batching over `max_num_seqs` slots, by order of arrival."""

    def __init__(self, *, max_num_seqs: int, max_num_batched_tokens: int):
        self.max_num_batched_tokens = max_num_batched_tokens
        self.slots = SlotTable(max_num_seqs)
        self.waiting: deque[Sequence] = deque()
        self.requests: dict[str, Request] = {}

    def add(self, request: Request) -> None:
        if request.id in self.requests:
            raise ValueError(f"request id {request.id!r} is already in the engine")
        self.requests[request.id] = request
        self.waiting.extend(request.sequences)

    def schedule(self) -> Plan:
        """The next step; its `running` is empty only when nothing is left to do."""
        arrivals = self._admit()
        plan = Plan(moves=self.slots.close_holes(), arrivals=arrivals)
        plan.running = self.slots.active()
        sources = {}
        fresh = set(map(id, arrivals))
        for sequence in plan.running:
            if id(sequence) not in fresh:
                sources[sequence.request.id] = sequence
        for sequence in arrivals:
            source = sources.setdefault(sequence.request.id, sequence)
            if source is sequence:
                plan.prefills.append(sequence)
            else:
                plan.copies.append((source.slot, sequence.slot, sequence.request.num_cached))
        return plan

    def _admit(self) -> list[Sequence]:
        """Move waiting sequences into free slots while the prefill budget lasts; the first always fits."""
        arrivals: list[Sequence] = []
        budget = self.max_num_batched_tokens
        prefilled: set[str] = set()
        while self.waiting and self.slots.num_free:
            request = self.waiting[0].request
            if request.id not in prefilled and not self._runs(request):
                if arrivals and request.num_cached > budget:
                    break
                budget -= request.num_cached
                prefilled.add(request.id)
            sequence = self.waiting.popleft()
            self.slots.take(sequence)
            arrivals.append(sequence)
        return arrivals

    @staticmethod
    def _runs(request: Request) -> bool:
        return any(sequence.slot != NO_SLOT for sequence in request.sequences)

    def settle(self) -> list[Request]:
        """Free the slots of running sequences that have ended; the requests that are now complete."""
        ended = [sequence for sequence in self.slots.rows if sequence is not None and sequence.finish_reason]
        self.slots.free(ended)
        return self._complete(sequence.request for sequence in ended)

    def abort(self, request_id: str) -> Request | None:
        """End what is left of a request at once; None when it is not in the engine."""
        request = self.requests.get(request_id)
        if request is None:
            return None
        left = [sequence for sequence in request.sequences if not sequence.finish_reason]
        for sequence in left:
            sequence.finish("abort")
        self.slots.free([sequence for sequence in left if sequence.slot != NO_SLOT])
        self.waiting = deque(sequence for sequence in self.waiting if sequence.request is not request)
        self._complete([request])
        return request

    def _complete(self, requests: Iterable[Request]) -> list[Request]:
        complete = {request.id: request for request in requests if request.finished}
        for request_id in complete:
            del self.requests[request_id]
        return list(complete.values())
