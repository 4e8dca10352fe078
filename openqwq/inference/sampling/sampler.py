"""One token for every row of a batch, with its log-probability, all rows at once.

Each row draws one uniform number and inverts its cumulative distribution. The number is a hash of the
row's key and its token's position (SplitMix64, Steele et al. 2014), so that it depends on nothing else:
not on the batch, not on the row's place in it, not on what was drawn before.

Order, as in vLLM when QwQ-32B's scores were made: temperature, top-k, top-p, min-p; with `temperature_last`, as in
llama.cpp: top-k, top-p, min-p, temperature. Equal logits at the edge of a cut are all kept. What changes logits
before that (penalties, biases, masks) is in rules.py. Letters: R rows, V vocabulary, S slots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from openqwq.kernels import REFERENCE, Ops
from openqwq.kernels.cpu.sampling import COLUMNS
from openqwq.types import SamplingParams

from ..sequence import Sequence

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
_ALL_BITS = (1 << 64) - 1
FEW_ROWS = 8

# Noise of its own for what a draft model guesses and for which guesses stay: any constants.
GUESS_STREAM = 0x2545F4914F6CDD1D
ACCEPT_STREAM = 0x5851F42D4C957F2D


class SamplingTable:
    """The sampling settings of every slot, as tensors [S]; the first `num_rows` are in use.

    keys: decide the noise.   positions: tokens so far, the noise's counter.
    temperature divides before the cuts, late_temperature after them; one of the two is 1.
    Off is temperature 1, top_k = V, top_p infinite (rounding may carry a sum above 1) and min_p 0;
    greedy rows are flagged and never cut.
    """

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device):
        self.vocab_size = vocab_size
        self.keys = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self.positions = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self.greedy = torch.zeros(num_slots, dtype=torch.bool, device=device)
        self.temperature = torch.ones(num_slots, device=device)
        self.late_temperature = torch.ones(num_slots, device=device)
        self.top_k = torch.full((num_slots,), vocab_size, device=device)
        self.top_p = torch.full((num_slots,), math.inf, device=device)
        self.min_p = torch.zeros(num_slots, device=device)
        self.focus(0)

    def write(self, arrivals: Seq[Sequence]) -> None:
        """Settings of sequences that arrive in their rows; call `focus` afterwards."""
        device, rows = self.keys.device, torch.tensor([s.row for s in arrivals], device=self.keys.device)
        params = [sequence.request.params for sequence in arrivals]
        greedy = [p.temperature == 0 for p in params]
        columns: dict[str, Seq[float]] = {
            "keys": [sequence.key for sequence in arrivals],
            "positions": [len(sequence.token_ids) for sequence in arrivals],
            "greedy": greedy,
            "temperature": [1.0 if p.temperature_last else p.temperature or 1.0 for p in params],
            "late_temperature": [p.temperature or 1.0 if p.temperature_last else 1.0 for p in params],
            "top_k": [self._top_k(p) for p in params],
            "top_p": [math.inf if p.temperature == 0 or p.top_p >= 1 else p.top_p for p in params],
            "min_p": [0.0 if p.temperature == 0 else p.min_p for p in params],
        }
        for name, values in columns.items():
            column = getattr(self, name)
            column[rows] = torch.tensor(values, dtype=column.dtype, device=device)

    def _top_k(self, params: SamplingParams) -> int:
        off = params.temperature == 0 or params.top_k <= 0
        return self.vocab_size if off else min(params.top_k, self.vocab_size)

    def move(self, sources: Tensor, targets: Tensor) -> None:
        for name in COLUMNS:
            column = getattr(self, name)
            column[targets] = column[sources]

    def focus(self, num_rows: int) -> None:
        """Look at the first rows only, and note what none of them asks for, so that it is skipped."""
        self.num_rows = num_rows
        top_k = self.top_k[:num_rows]
        self.any_greedy = bool(self.greedy[:num_rows].any())
        self.any_temperature = bool((self.temperature[:num_rows] != 1).any())
        self.any_late_temperature = bool((self.late_temperature[:num_rows] != 1).any())
        self.any_min_p = bool((self.min_p[:num_rows] > 0).any())
        self.any_top_p = bool((self.top_p[:num_rows] < 1).any())
        counted = top_k < self.vocab_size
        self.any_top_k = bool(counted.any())
        self.max_top_k = int(top_k.max()) if num_rows else 0
        ranked = counted | (self.top_p[:num_rows] < 1)
        self.max_ranked = int((top_k * ranked).max()) if num_rows else 0


@dataclass(frozen=True, slots=True)
class Guesses:
    """What a draft model has drawn: `tokens` [D] for the lines `lines` [D] of logits, from `probs` [D, V]."""

    lines: Tensor
    tokens: Tensor
    probs: Tensor


def draw_uniform(keys: Tensor, positions: Tensor) -> Tensor:
    """Numbers [R] in [0, 1) with 24 random bits: SplitMix64's output number `position` of stream `key`."""
    if len(keys) <= FEW_ROWS and keys.device.type == "cpu":  # sixteen operators take longer
        numbers = [_mix(*pair) for pair in zip(keys.tolist(), positions.tolist(), strict=True)]
        return torch.tensor(numbers, dtype=torch.float32)
    z = keys + (positions + 1) * _GOLDEN
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    z = z ^ _shift_right(z, 31)
    return _shift_right(z, 40).to(torch.float32) * 2.0**-24


def _mix(key: int, position: int) -> float:
    """`draw_uniform` for one row."""
    z = (key + (position + 1) * _GOLDEN) & _ALL_BITS
    z = ((z ^ z >> 30) * _MIX_1) & _ALL_BITS
    z = ((z ^ z >> 27) * _MIX_2) & _ALL_BITS
    return ((z ^ z >> 31) >> 40) * 2.0**-24


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Shift as if unsigned: torch's own shift of int64 repeats the sign bit."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def cut_thresholds(logits: Tensor, table: SamplingTable, rows: Tensor | slice) -> Tensor:
    """The least logit [R, 1] that top-k, then top-p, then min-p keep; the largest logit always stays."""
    if table.any_top_p or table.any_top_k:
        ranked = logits.topk(table.max_top_k, dim=-1).values  # [R, K] descending
        rank = torch.arange(ranked.shape[1], device=logits.device)
        outside = rank >= table.top_k[rows][:, None]
        probs = ranked.masked_fill(outside, float("-inf")).softmax(-1)
        before = probs.cumsum(-1) - probs
        outside |= (before >= table.top_p[rows][:, None]) & (rank > 0)
        last = (~outside).sum(-1, keepdim=True) - 1
        threshold = ranked.gather(-1, last)
        largest = ranked[:, :1]
    else:
        threshold = torch.full_like(logits[:, :1], float("-inf"))
        largest = logits.amax(-1, keepdim=True)
    if table.any_min_p:  # p >= min_p * p_max, whatever the probabilities are divided by
        threshold = torch.maximum(threshold, largest + table.min_p[rows][:, None].log())
    return threshold


def sample(
    logits: Tensor,
    table: SamplingTable,
    rows: Tensor | None = None,
    offsets: Tensor | None = None,
    guesses: Guesses | None = None,
    *,
    ops: Ops = REFERENCE,
) -> tuple[Tensor, Tensor]:
    """Token ids [R] and their log-probs [R] from logits [R, V] in fp32, which are overwritten: see `kept_ids`.

    rows, offsets: the row [R] that each line of logits belongs to, and how many tokens after the row's next one it
                   decides; None: one line for each of the first rows.
    guesses:       with what another distribution has drawn for some lines: see `accept_or_replace`.
    ops:           the model's; batch-invariant ones compute the log-probs as they do for the trainer.
    Log-probs are those of the distribution that was drawn from. A greedy row has no such
    distribution: it takes the largest logit and reports the model's own log-prob (temperature 1).
    Rows whose logits are not finite come back with a log-prob of NaN.
    """
    own = slice(len(logits)) if rows is None else rows
    positions = table.positions[own] if offsets is None else table.positions[own] + offsets
    weights, best = weigh(logits, table, own, keep=ops.invariant)
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:]
    tokens = _invert(cumulative, draw_uniform(table.keys[own], positions))
    if guesses is not None:
        accept_or_replace(tokens, weights / total, table.keys[own], positions, guesses)
    if best is not None:
        tokens = torch.where(table.greedy[own][:, None], best, tokens)
    if ops.invariant:
        return tokens.squeeze(-1), ops.token_logprobs(logits, tokens.squeeze(-1))[0]
    logprobs = (weights.gather(-1, tokens) / total).log()
    return tokens.squeeze(-1), logprobs.squeeze(-1)


def kept_ids(drawn: Tensor, *, invariant: bool) -> list[tuple[int, ...]]:
    """The ids that could be drawn at some lines [R, V] of the logits that `sample` has overwritten; () if all could.

    invariant: whether `sample` had batch-invariant operations; the lines are then cut logits, weights otherwise.
    """
    mask = drawn > float("-inf") if invariant else drawn > 0
    counts = mask.sum(-1).tolist()
    ids = mask.nonzero()[:, 1].tolist()
    lists, start = [], 0
    for count in counts:
        lists.append(() if count == drawn.shape[-1] else tuple(ids[start : start + count]))
        start += count
    return lists


def sample_guess(
    logits: Tensor, table: SamplingTable, rows: Tensor, offsets: Tensor, *, stream: int = 0
) -> tuple[Tensor, Tensor]:
    """Token ids [R] and the whole distribution [R, V] that they were drawn from, with the noise of `stream`."""
    weights, best = weigh(logits, table, rows)
    cumulative = weights.cumsum(-1)
    tokens = _invert(cumulative, draw_uniform(table.keys[rows] ^ stream, table.positions[rows] + offsets))
    if best is not None:
        tokens = torch.where(table.greedy[rows][:, None], best, tokens)
    return tokens.squeeze(-1), weights / cumulative[:, -1:]


def accept_or_replace(tokens: Tensor, probs: Tensor, keys: Tensor, positions: Tensor, guesses: Guesses) -> None:
    """Decide guesses by rejection sampling (arXiv:2211.17192, algorithm 1), in place of what `tokens` [R, 1] holds.

    A guess x, drawn from q, stays with probability min(1, p(x) / q(x)); otherwise the token is drawn from
    max(p - q, 0), normalised. Either way the token's distribution is p, that of `probs` [R, V].
    """
    lines, guess = guesses.lines, guesses.tokens[:, None]
    target, keys, positions = probs[lines], keys[lines], positions[lines]
    rest = (target - guesses.probs).clamp_(min=0)
    rest = torch.where(rest.sum(-1, keepdim=True) > 0, rest, target)
    other = _invert(rest.cumsum(-1), draw_uniform(keys, positions))
    luck = draw_uniform(keys ^ ACCEPT_STREAM, positions)[:, None]
    stays = luck * guesses.probs.gather(-1, guess) < target.gather(-1, guess)
    tokens[lines] = torch.where(stays, guess, other)


def weigh(
    logits: Tensor, table: SamplingTable, rows: Tensor | slice, *, keep: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Logits [R, V] as weights whose largest is 1; with its ids [R, 1] if a row is greedy.

    keep: logits are left divided and cut; otherwise they are overwritten.
    """
    if table.any_temperature:
        logits.div_(table.temperature[rows][:, None])
    if table.any_top_k or table.any_top_p or table.any_min_p:
        logits.masked_fill_(logits < cut_thresholds(logits, table, rows), float("-inf"))
    if table.any_late_temperature:
        logits.div_(table.late_temperature[rows][:, None])
    largest, best = logits.max(-1, keepdim=True) if table.any_greedy else (logits.amax(-1, keepdim=True), None)
    return torch.sub(logits, largest, out=None if keep else logits).exp_(), best


def _invert(cumulative: Tensor, uniform: Tensor) -> Tensor:
    """The first token [R, 1] whose cumulative weight [R, V] exceeds the share `uniform` [R] of all."""
    total = cumulative[:, -1:]
    target = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, target, right=True)
    return tokens.clamp_(max=cumulative.shape[-1] - 1)  # only rows of NaN leave the range
