"""Runs one step's plan on the model: block copies, then one pass for chunks and rows, then a token for every row.

All tensors of a step are views of the first rows of tensors [S], S rows, that live as long as the engine. A row with
a draft brings one more line for each token of it; its sampled tokens count up to the first that differs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from openqwq.errors import UserError
from openqwq.model import KVCache, PagedAttention, PagedChunk, Qwen2ForCausalLM

from .rules import LogitRules
from .sampling import SamplingTable, sample
from .scheduler import Chunk, Plan
from .sequence import Sequence

GIB = 2**30
CPU_CACHE_BYTES = 2 * GIB
GPU_CACHE_SHARE = 0.5  # of the memory that is free once the weights are loaded: a trainer may need the rest
BLOCK_SIZE = 16


@dataclass(slots=True)
class Sampled:
    """What a step has sampled.

    tokens, logprobs: one for each row; a log-prob of NaN where the logits were not finite.
    more:             for rows with a draft, the tokens and log-probs behind the first.
    top:              for rows that asked, raw log-probs by token id.
    """

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    more: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    top: dict[int, dict[int, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lines:
    """The tokens that are sampled from: one a row, then the drafts. row [R], offset [R] behind the row's own token."""

    row: Tensor
    offset: Tensor
    draft: Tensor


class Runner:
    """The model's side of the engine.

    tokens:    the last token of each row, not yet in the cache.
    positions: where it goes, which is the number of tokens that the cache holds for the row.
    tables:    the blocks of each row [S, W].
    longest:   the largest position of the running rows.
    """

    def __init__(self, model: Qwen2ForCausalLM, *, max_num_seqs: int, max_model_len: int, kv_cache_memory: int):
        self.model = model
        device = model.device
        width = -(-max_model_len // BLOCK_SIZE)
        self.num_slots = max_num_seqs
        self.num_blocks = _fit_blocks(model, max_num_seqs * width, max_model_len, kv_cache_memory)
        with torch.inference_mode():
            self.cache = KVCache(model.config, self.num_blocks, BLOCK_SIZE, device=device, dtype=model.dtype)
            self.table = SamplingTable(max_num_seqs, model.config.vocab_size, device)
            self.rules = LogitRules(max_num_seqs, model.config.vocab_size, device)
            self.tokens = torch.zeros(max_num_seqs, dtype=torch.int64, device=device)
            self.positions = torch.zeros(max_num_seqs, dtype=torch.int64, device=device)
            self.tables = torch.zeros((max_num_seqs, width), dtype=torch.int32, device=device)
        self.num_rows = 0
        self.longest = 0
        self._wanted: dict[int, int] = {}

    @torch.inference_mode()
    def run(self, plan: Plan) -> Sampled:
        """The token sampled for each of `plan.running`."""
        if plan.copies:
            sources, targets = zip(*plan.copies, strict=True)
            self.cache.copy_slots(sources, targets, BLOCK_SIZE)
        changed = bool(plan.moves or plan.arrivals) or len(plan.running) != self.num_rows
        self._move(plan.moves)
        self._seat(plan.arrivals)
        self._enter(plan.entries)
        if changed:
            self.num_rows = len(plan.running)
            self.longest = max((s.num_tokens for s in plan.running), default=1) - 1
            self.table.focus(self.num_rows)
            self.rules.focus(plan.running)
            self._wanted = {
                s.row: s.request.params.logprobs for s in plan.running if s.request.params.logprobs is not None
            }
        lines = self._lines(plan.drafts) if plan.drafts else None
        hidden = self._forward(plan.chunks, lines)
        num_lines = self.num_rows if lines is None else len(lines.row)
        self._score_prompts(plan.chunks, hidden[num_lines:])
        return self._sample(hidden[:num_lines], lines, plan.drafts) if self.num_rows else Sampled()

    def _sample(self, hidden: Tensor, lines: Lines | None, drafts: dict[int, list[int]]) -> Sampled:
        rows = slice(self.num_rows)
        logits = self.model.lm_head_logits(hidden).float()
        raw = {row: logits[row].log_softmax(-1) for row in self._wanted}
        if not self.rules.idle:
            self.rules.apply(logits[rows], self.table.positions[rows])
        if lines is None:
            tokens, logprobs = sample(logits, self.table, invariant=self.model.batch_invariant)
            result = Sampled(tokens.tolist(), logprobs.tolist())
            last, count = tokens, torch.ones_like(tokens)
        else:
            tokens, logprobs = sample(logits, self.table, lines.row, lines.offset, invariant=self.model.batch_invariant)
            result = _accept(tokens.tolist(), logprobs.tolist(), self.num_rows, drafts)
            more = [result.more.get(row, []) for row in range(self.num_rows)]
            ends = [extra[-1][0] if extra else first for extra, first in zip(more, result.tokens, strict=True)]
            last = torch.tensor(ends, device=tokens.device)
            count = torch.tensor([1 + len(extra) for extra in more], device=tokens.device)
        self.rules.count(tokens)
        result.top = {row: _top(raw[row], number, result.tokens[row]) for row, number in self._wanted.items()}
        self.tokens[rows] = last
        self.positions[rows] += count
        self.table.positions[rows] += count
        self.longest += 1 + max(map(len, result.more.values()), default=0)
        return result

    def _lines(self, drafts: dict[int, list[int]]) -> Lines:
        """One line a row, then one for each drafted token."""
        pairs = [(row, i + 1, token) for row, draft in drafts.items() for i, token in enumerate(draft)]
        row, offset, draft = torch.tensor(pairs, device=self.tokens.device).unbind(1)
        every = torch.arange(self.num_rows, device=self.tokens.device)
        return Lines(torch.cat((every, row)), torch.cat((torch.zeros_like(every), offset)), draft)

    def _score_prompts(self, chunks: list[Chunk], hidden: Tensor) -> None:
        """Raw log-probs of the prompt tokens that follow each chunk's, for requests that want them."""
        start = 0
        for chunk in _in_order(chunks):
            end, request = start + chunk.end - chunk.start, chunk.sequence.request
            known = len(request.prompt_logprobs)
            if request.params.prompt_logprobs is not None and chunk.sequence.index == 0 and chunk.start == known:
                table = self.model.lm_head_logits(hidden[start:end]).float().log_softmax(-1)
                following = request.prompt_ids[chunk.start + 1 : chunk.end + 1]
                number = request.params.prompt_logprobs
                request.prompt_logprobs += [_top(row, number, t) for row, t in zip(table, following, strict=False)]
            start = end

    def clear(self, blocks: list[int]) -> None:
        """Zero blocks that hold what is not finite."""
        if blocks:
            with torch.inference_mode():
                self.cache.clear_slots(blocks)

    def _move(self, moves: list[tuple[int, int]]) -> None:
        if not moves:
            return
        from_rows, to_rows = zip(*moves, strict=True)
        sources, targets = (torch.tensor(rows, device=self.tokens.device) for rows in (from_rows, to_rows))
        self.table.move(sources, targets)
        self.rules.move(sources, targets)
        for column in (self.tokens, self.positions, self.tables):
            column[targets] = column[sources]

    def _seat(self, arrivals: list[Sequence]) -> None:
        """Set the rows of sequences that begin to decode: the last known token is the next to be read."""
        if not arrivals:
            return
        numbers = [sequence.row for sequence in arrivals]
        rows = torch.tensor(numbers, device=self.tokens.device)
        lasts = [s.token_ids[-1] if s.token_ids else s.request.prompt_ids[-1] for s in arrivals]
        self.tokens[rows] = torch.tensor(lasts, device=self.tokens.device)
        self.positions[rows] = torch.tensor([s.num_tokens - 1 for s in arrivals], device=self.tokens.device)
        width = max(len(s.table.blocks) for s in arrivals)
        tables = [s.table.blocks + [0] * (width - len(s.table.blocks)) for s in arrivals]
        self.tables[rows, :width] = torch.tensor(tables, dtype=torch.int32, device=self.tokens.device)
        self.table.write(arrivals)
        self.rules.write(arrivals)

    def _enter(self, entries: list[tuple[int, int, int]]) -> None:
        if entries:
            rows, columns, blocks = torch.tensor(entries, device=self.tokens.device).unbind(1)
            self.tables[rows, columns] = blocks.to(torch.int32)

    def _forward(self, chunks: list[Chunk], lines: Lines | None) -> Tensor:
        """Final hidden states of every line's token, then of the chunks' tokens: chunks from 0 on come first."""
        rows: slice | Tensor = slice(self.num_rows)
        tokens, positions, longest = self.tokens[rows], self.positions[rows], self.longest + 1
        if lines is not None:
            rows = lines.row
            tokens, positions = torch.cat((tokens, lines.draft)), self.positions[rows] + lines.offset
            longest += int(lines.offset.max())
        paged: list[PagedChunk] = []
        if chunks:
            chunks = _in_order(chunks)
            known = [token for c in chunks for token in c.sequence.known_ids(c.start, c.end)]
            tokens = torch.cat((tokens, torch.tensor(known, device=tokens.device)))
            paged = [PagedChunk(c.start, c.end - c.start, c.sequence.table.blocks) for c in chunks]
        invariant = self.model.batch_invariant
        context = PagedAttention(
            self.cache, self.tables[rows], positions, longest=longest, chunks=paged, invariant=invariant
        )
        return self.model.hidden_states(tokens, context=context)


def _in_order(chunks: list[Chunk]) -> list[Chunk]:
    return sorted(chunks, key=lambda chunk: chunk.start > 0)


def _accept(tokens: list[int], logprobs: list[float], num_rows: int, drafts: dict[int, list[int]]) -> Sampled:
    """Each row's first token, and behind it what its draft got right and the one token after that."""
    result = Sampled(tokens[:num_rows], logprobs[:num_rows])
    line = num_rows
    for row, draft in drafts.items():
        accepted, last = [], tokens[row]
        for i, guess in enumerate(draft):
            if last != guess:
                break
            last = tokens[line + i]
            accepted.append((last, logprobs[line + i]))
        result.more[row] = accepted
        line += len(draft)
    return result


def _top(logprobs: Tensor, number: int, token_id: int) -> dict[int, float]:
    """The likeliest tokens' log-probs [V] by id, and the given token's."""
    values, ids = logprobs.topk(number)
    return dict(zip(ids.tolist(), values.tolist(), strict=True)) | {token_id: logprobs[token_id].item()}


def cache_memory(device: torch.device, gpu_memory_utilization: float | None) -> int:
    """Bytes for the KV cache when the user names none.

    gpu_memory_utilization: share of the GPU's whole memory that weights and cache may take together.
    """
    if device.type != "cuda":
        return CPU_CACHE_BYTES
    free, total = torch.cuda.mem_get_info(device)
    if gpu_memory_utilization is None:
        return int(free * GPU_CACHE_SHARE)
    return max(int(total * gpu_memory_utilization) - (total - free), 0)


def _fit_blocks(model: Qwen2ForCausalLM, most: int, max_model_len: int, memory: int) -> int:
    """How many blocks the memory holds, at most as many as all rows can use; at least one sequence must fit."""
    token_bytes = KVCache.bytes_per_token(model.config, model.dtype)
    num_blocks = min(most, memory // (token_bytes * BLOCK_SIZE))
    if num_blocks * BLOCK_SIZE < max_model_len:
        needed = -(-max_model_len // BLOCK_SIZE) * BLOCK_SIZE * token_bytes
        raise UserError(
            f"one sequence of `max_model_len` {max_model_len} needs {needed / GIB:.2f} GiB of KV cache, "
            f"but `kv_cache_memory` is {memory / GIB:.2f} GiB",
            hint=f"lower `max_model_len` to {num_blocks * BLOCK_SIZE} or raise `kv_cache_memory`",
        )
    return num_blocks
