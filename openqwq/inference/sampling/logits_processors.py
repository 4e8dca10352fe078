"""What changes a row's logits before they are sampled: penalties, biases, minimum lengths, masks. All rows at once.

In this order, as in vLLM: logit bias; repetition, frequency and presence penalties; then everything that forbids tokens
(minimum length, scripts, bad words, grammars), where the order makes no difference. Each is skipped when no running row
asks for it. The repetition penalty looks at prompt and completion, the other two at the completion.

Letters: R rows that run, S rows of the tables, L lines of logits: one a row, then one for each guessed token (`Lines`).
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from ..sequence import Sequence


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of logits that belong to rows: what is sampled behind a row's last token and some guesses.

    row:    [L].
    offset: [L] how many guesses lie between the row's last token and the line; 0 for the row itself.
    before: [L, K] the row's guesses; the first `offset` of them are the line's.
    """

    row: Tensor
    offset: Tensor
    before: Tensor


class LogitRules:
    """The rules of every row; `focus` looks at who runs, `apply` changes logits, `count` notes what was sampled."""

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device):
        self.num_slots, self.vocab_size, self.device = num_slots, vocab_size, device
        self._penalties = _Penalties(num_slots, vocab_size, device)
        self._scripts: dict[int, Tensor] = {}
        self.focus([])

    def write(self, arrivals: Seq[Sequence]) -> None:
        """Take in sequences that arrive in their rows; call `focus` afterwards."""
        penalised = [s for s in arrivals if has_penalties(s)]
        if penalised:
            self._penalties.write(penalised)

    def move(self, sources: Tensor, targets: Tensor) -> None:
        self._penalties.move(sources, targets)

    def focus(self, running: Seq[Sequence]) -> None:
        """Note which rows have which rules."""
        self._penalties.focus([s.row for s in running if has_penalties(s)])
        bias = [(s.row, token, value) for s in running for token, value in s.request.params.logit_bias.items()]
        self._bias = self._triples(bias)
        floor = [
            (s.row, token, float(s.request.params.min_tokens))
            for s in running
            if s.request.params.min_tokens > len(s.token_ids)
            for token in s.request.stop_token_ids
        ]
        self._floor = self._triples(floor)
        self._masked = [s for s in running if s.guide is not None]

    @property
    def idle(self) -> bool:
        """Whether no running row has any rule."""
        return not (self._penalties.active or self._masked) and self._bias is None and self._floor is None

    def apply(self, logits: Tensor, positions: Tensor, lines: Lines | None = None) -> None:
        """Change logits [R, V], or [L, V] of lines, in place; positions [R]: tokens that each row has so far.

        The lines begin with one for each row.
        """
        self.weigh(logits, positions, lines)
        further = _further_lines(lines) if self._masked and lines is not None else {}
        for sequence in self._masked:
            assert sequence.guide is not None
            sequence.guide.mask(logits[sequence.row], sequence.token_ids)
            if sequence.row in further:
                numbers, draft = further[sequence.row]
                sequence.guide.mask_ahead(logits, numbers, sequence.token_ids, draft)

    def weigh(self, logits: Tensor, positions: Tensor, lines: Lines | None = None) -> None:
        """The same without guides, for any lines."""
        if self._bias is not None:
            at, (_, tokens, values) = _entries(self._bias, lines)
            logits.index_put_((at, tokens), values, accumulate=True)
        if self._penalties.active:
            self._penalties.apply(logits, lines)
        if self._floor is not None:
            at, (rows, tokens, least) = _entries(self._floor, lines)
            own = positions[rows] if lines is None else positions[rows] + lines.offset[at]
            barred = torch.where(own < least, -torch.inf, 0.0)
            logits.index_put_((at, tokens), barred, accumulate=True)

    def count(self, tokens: Tensor, rows: Tensor | None = None) -> None:
        """Note sampled tokens [X] and the rows [X] that they belong to; None: one for each row."""
        if self._penalties.active:
            self._penalties.count(tokens, torch.arange(len(tokens), device=self.device) if rows is None else rows)

    def _triples(self, entries: list[tuple[int, int, float]]) -> Triples | None:
        entries = [entry for entry in entries if 0 <= entry[1] < self.vocab_size]
        if not entries:
            return None
        rows, tokens, values = zip(*entries, strict=True)
        return (
            torch.tensor(rows, device=self.device),
            torch.tensor(tokens, device=self.device),
            torch.tensor(values, dtype=torch.float32, device=self.device),
        )


Triples = tuple[Tensor, Tensor, Tensor]


def _entries(triples: Triples, lines: Lines | None) -> tuple[Tensor, Triples]:
    """Line, and (row, token, value), of every entry of every line: an entry of a row counts for each of its lines."""
    if lines is None:
        return triples[0], triples
    at, entry = (lines.row[:, None] == triples[0]).nonzero(as_tuple=True)
    rows, tokens, values = (column[entry] for column in triples)
    return at, (rows, tokens, values)


def _further_lines(lines: Lines) -> dict[int, tuple[list[int], list[int]]]:
    """By row, the numbers of the lines behind its own, and the guesses that they stand behind."""
    further: dict[int, tuple[list[int], list[int]]] = {}
    before = lines.before.tolist()
    for number, (row, offset) in enumerate(zip(lines.row.tolist(), lines.offset.tolist(), strict=True)):
        if offset > 0:
            numbers, draft = further.setdefault(row, ([], []))
            numbers.append(number)
            draft.append(before[number][offset - 1])
    return further


class _Penalties:
    """Token counts [S, V] of completions and which tokens the prompts hold; allocated when first needed."""

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device):
        self.shape, self.device = (num_slots, vocab_size), device
        self.counts: Tensor | None = None
        self.active = False

    def write(self, arrivals: Seq[Sequence]) -> None:
        if self.counts is None:
            self.counts = torch.zeros(self.shape, dtype=torch.int32, device=self.device)
            self.in_prompt = torch.zeros(self.shape, dtype=torch.bool, device=self.device)
            self.settings = torch.ones((3, self.shape[0]), device=self.device)
        for sequence in arrivals:
            params, row = sequence.request.params, sequence.row
            own = torch.tensor(sequence.token_ids, dtype=torch.int64, device=self.device)
            self.counts[row] = torch.bincount(own, minlength=self.shape[1])
            self.in_prompt[row] = False
            self.in_prompt[row, torch.tensor(sequence.request.prompt_ids, device=self.device)] = True
            settings = (params.repetition_penalty, params.frequency_penalty, params.presence_penalty)
            self.settings[:, row] = torch.tensor(settings, device=self.device)

    def move(self, sources: Tensor, targets: Tensor) -> None:
        if self.counts is None:
            return
        for table in (self.counts, self.in_prompt):
            table[targets] = table[sources]
        self.settings[:, targets] = self.settings[:, sources]

    def focus(self, rows: Seq[int]) -> None:
        self.active = bool(rows)
        self.rows = torch.tensor(rows, dtype=torch.int64, device=self.device)

    def apply(self, logits: Tensor, lines: Lines | None) -> None:
        assert self.counts is not None
        at = self.rows if lines is None else torch.isin(lines.row, self.rows).nonzero()[:, 0]
        rows = at if lines is None else lines.row[at]
        own, counts = logits[at], self.counts[rows]
        if lines is not None:
            before, offset = lines.before[at], lines.offset[at]
            written = torch.arange(before.shape[1], device=self.device) < offset[:, None]
            counts.scatter_add_(1, before, written.to(counts.dtype))
        repetition, frequency, presence = self.settings[:, rows, None]
        seen = counts > 0
        factor = torch.where(self.in_prompt[rows] | seen, repetition, 1.0)
        own = torch.where(own > 0, own / factor, own * factor)
        logits[at] = own - frequency * counts - presence * seen

    def count(self, tokens: Tensor, rows: Tensor) -> None:
        assert self.counts is not None
        penalised = torch.isin(rows, self.rows)
        rows, tokens = rows[penalised], tokens[penalised]
        self.counts.index_put_((rows, tokens), torch.ones_like(tokens, dtype=self.counts.dtype), accumulate=True)


def has_penalties(sequence: Sequence) -> bool:
    """Whether what a sequence has written changes what it writes next."""
    params = sequence.request.params
    return params.repetition_penalty != 1 or params.frequency_penalty != 0 or params.presence_penalty != 0
