"""What changes a row's logits before they are sampled: penalties, biases, minimum lengths, masks. All rows at once.

In this order: repetition, frequency and presence penalties, logit bias, then everything that forbids tokens
(minimum length, scripts, bad words, grammars). Each is skipped when no running row asks for it. Penalties follow
vLLM: the repetition penalty looks at prompt and completion, the other two at the completion.

Letters: R rows that run, S rows of the tables, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from .sequence import Sequence


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

    def apply(self, logits: Tensor, positions: Tensor) -> None:
        """Change logits [R, V] in place; positions [R]: tokens that each row has so far."""
        if self._penalties.active:
            self._penalties.apply(logits)
        if self._bias is not None:
            rows, tokens, values = self._bias
            logits.index_put_((rows, tokens), values, accumulate=True)
        if self._floor is not None:
            rows, tokens, least = self._floor
            barred = torch.where(positions[rows] < least, -torch.inf, 0.0)
            logits.index_put_((rows, tokens), barred, accumulate=True)
        for sequence in self._masked:
            assert sequence.guide is not None
            sequence.guide.mask(logits[sequence.row], sequence.token_ids)

    def count(self, tokens: Tensor) -> None:
        """Note the token [R] that every row has sampled."""
        if self._penalties.active:
            self._penalties.count(tokens)

    def _triples(self, entries: list[tuple[int, int, float]]) -> tuple[Tensor, Tensor, Tensor] | None:
        entries = [entry for entry in entries if 0 <= entry[1] < self.vocab_size]
        if not entries:
            return None
        rows, tokens, values = zip(*entries, strict=True)
        return (
            torch.tensor(rows, device=self.device),
            torch.tensor(tokens, device=self.device),
            torch.tensor(values, dtype=torch.float32, device=self.device),
        )


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

    def apply(self, logits: Tensor) -> None:
        assert self.counts is not None
        own, counts = logits[self.rows], self.counts[self.rows]
        repetition, frequency, presence = self.settings[:, self.rows, None]
        seen = counts > 0
        factor = torch.where(self.in_prompt[self.rows] | seen, repetition, 1.0)
        own = torch.where(own > 0, own / factor, own * factor)
        logits[self.rows] = own - frequency * counts - presence * seen

    def count(self, tokens: Tensor) -> None:
        assert self.counts is not None
        self.counts[self.rows, tokens[self.rows]] += 1


def has_penalties(sequence: Sequence) -> bool:
    """Whether what a sequence has written changes what it writes next."""
    params = sequence.request.params
    return params.repetition_penalty != 1 or params.frequency_penalty != 0 or params.presence_penalty != 0
