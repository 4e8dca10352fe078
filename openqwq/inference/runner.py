"""Runs one step's plan on the model: block copies, then one pass for chunks and rows, then a token for every row.

All tensors of a step are views of the first rows of tensors [S], S rows, that live as long as the engine. A row with
a draft brings one more line for each token of it; its sampled tokens count up to the first that differs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openqwq.errors import UserError
from openqwq.model import (
    AttentionWindows,
    Decoder,
    FusedDecoder,
    KVCache,
    PagedAttention,
    PagedChunk,
    PageMap,
    WindowedAttention,
    bands_of,
    fused_decoder,
)
from openqwq.model.attention.paged import as_rows
from openqwq.model.key_offsets import KeyOffsets

from .cache.block_manager import BlockPool
from .cache.memory import BLOCK_SIZE, fit_blocks, storage_dtype
from .cache.windowed_pool import WindowedPool, fit_pages
from .draft_model import DraftModel, Speculation, chunk_inputs
from .sampling.cuda_graphs import SampleGraphs
from .sampling.logits_processors import Lines, LogitRules
from .sampling.sampled import Sampled, accept, line_numbers, top_logprobs
from .sampling.sampler import Guesses, SamplingTable, kept_ids, sample
from .scheduler import Chunk, Plan
from .sequence import Sequence


class Runner:
    """The model's side of the engine.

    tokens:    the last token of each row, not yet in the cache.
    positions: where it goes, which is the number of tokens that the cache holds for the row.
    tables:    the blocks of each row [S, W].
    scaled:    whether YaRN is for each row; None: as the model's config says.
    longest:   the largest position of the running rows.
    pages:     with attention windows, where each band of layers keeps the blocks; None: all layers in the same place.
    """

    def __init__(
        self,
        model: Decoder,
        *,
        max_num_seqs: int,
        max_model_len: int,
        kv_cache_memory: int,
        kv_cache_dtype: str = "auto",
        speculation: Speculation | None = None,
        yarn_per_request: bool = False,
        attention_windows: AttentionWindows | None = None,
    ):
        self.model = model
        device = model.device
        width = -(-max_model_len // BLOCK_SIZE)
        self.num_slots = max_num_seqs
        models = [model] if speculation is None or speculation.model is None else [model, speculation.model]
        kept = [storage_dtype(kv_cache_dtype, each.dtype) for each in models]
        shapes = [each.config for each in models]
        bands = [] if attention_windows is None else bands_of(attention_windows, BLOCK_SIZE)
        if bands:
            shapes = [model.config.replace(num_hidden_layers=len(bands[0].layers))]
        token_bytes = sum(KVCache.bytes_per_token(shape, own) for shape, own in zip(shapes, kept, strict=True))
        if bands:
            self.num_blocks = fit_pages(bands, width, max_num_seqs, token_bytes * BLOCK_SIZE, kv_cache_memory)
        else:
            self.num_blocks = fit_blocks(token_bytes, max_num_seqs * width, max_model_len, kv_cache_memory)
        self.pages = PageMap(bands, min(max_num_seqs * width, self.num_blocks + width), device) if bands else None
        self.draft_model: DraftModel | None = None
        with torch.inference_mode():
            caches = [
                KVCache(shape, self.num_blocks, BLOCK_SIZE, device=device, dtype=each.dtype, storage_dtype=own)
                for shape, each, own in zip(shapes, models, kept, strict=True)
            ]
            for cache, each in zip(caches, models, strict=True):
                cache.offsets = KeyOffsets.of(each) if cache.rounds else None
                _check_offsets(cache, kv_cache_dtype, yarn_per_request, attention_windows)
            self.cache = caches[0]
            if speculation is not None and speculation.model is not None:
                self.draft_model = DraftModel(
                    speculation,
                    caches[1],
                    model.config.vocab_size,
                    both_settings=yarn_per_request,
                    max_rows=max_num_seqs,
                )
            self.table = SamplingTable(max_num_seqs, model.config.vocab_size, device)
            self.rules = LogitRules(max_num_seqs, model.config.vocab_size, device)
            self.tokens = torch.zeros(max_num_seqs, dtype=torch.int64, device=device)
            self.positions = torch.zeros(max_num_seqs, dtype=torch.int64, device=device)
            self.tables = torch.zeros((max_num_seqs, width), dtype=torch.int32, device=device)
            self.scaled = torch.zeros(max_num_seqs, dtype=torch.bool, device=device) if yarn_per_request else None
            lines = max_num_seqs * (1 + (speculation.num_tokens if speculation else 0))
            whole = self.pages is None
            self._kernel = (
                fused_decoder(model, self.cache, both_settings=yarn_per_request, max_rows=lines) if whole else None
            )
            self._sampler, self._graphs = model.ops.make_sampler(self.table), SampleGraphs(self.table)
        self._decoder: FusedDecoder | None = None
        self.num_rows = 0
        self.longest = 0
        self._wanted: dict[int, int] = {}
        self._keeping: dict[int, Sequence] = {}

    @property
    def block_bytes(self) -> int:
        """Bytes of the cache that one of `num_blocks` has."""
        return sum(cache.num_bytes for cache in self._caches) // self.num_blocks

    def make_pool(self, *, prefix_caching: bool) -> BlockPool:
        """The blocks of this runner's cache."""
        if self.pages is None:
            return BlockPool(self.num_blocks, BLOCK_SIZE, prefix_caching=prefix_caching)
        bands, number = self.pages.bands, self.pages.host.shape[1]
        return WindowedPool(
            bands, number, self.num_blocks, BLOCK_SIZE, self.pages.assignments, prefix_caching=prefix_caching
        )

    @torch.inference_mode()
    def run(self, plan: Plan) -> Sampled:
        """The token sampled for each of `plan.running`; a draft model's guesses are left in `plan.drafts`."""
        if plan.copies:
            sources, targets = zip(*plan.copies, strict=True)
            for cache in self._caches:
                cache.copy_slots(sources, targets, BLOCK_SIZE)
        changed = bool(plan.moves or plan.arrivals) or len(plan.running) != self.num_rows
        self._move(plan.moves)
        self._seat(plan.arrivals)
        self._enter(plan.entries)
        if changed:
            self.num_rows = len(plan.running)
            self.longest = max((s.num_tokens for s in plan.running), default=1) - 1
            self.table.focus(self.num_rows)
            self.rules.focus(plan.running)
            if self.draft_model is not None:
                self.draft_model.bind_weights()
            self._wanted = {
                s.row: s.request.params.logprobs for s in plan.running if s.request.params.logprobs is not None
            }
            self._keeping = {s.row: s for s in plan.running if s.request.params.kept_ids}
        if changed or plan.chunks:
            self._decoder = self._kernel if self._kernel is not None and self._kernel.bind_weights() else None
        chunks = sorted(plan.chunks, key=lambda chunk: chunk.start > 0)  # those from position 0 on come first
        probs = None
        if self.draft_model is not None:
            before_last = [s.known_ids(max(s.num_tokens - 2, 0), max(s.num_tokens - 1, 1))[0] for s in plan.running]
            plan.drafts, probs = self.draft_model.propose(self, plan.rooms, before_last, chunks)
        lines = self._lines(plan.drafts) if plan.drafts else None
        logits = self._forward(chunks, lines)
        return self._sample(logits, lines, plan.drafts, probs) if self.num_rows else Sampled()

    @property
    def _caches(self) -> list[KVCache]:
        return [self.cache] if self.draft_model is None else [self.cache, self.draft_model.cache]

    def _sample(
        self, logits: Tensor, lines: Lines | None, drafts: dict[int, list[int]], probs: Tensor | None
    ) -> Sampled:
        rows = slice(self.num_rows)
        places = line_numbers(self._wanted, drafts, self.num_rows) if self._wanted else {}
        raw = {row: logits[numbers].log_softmax(-1) for row, numbers in places.items()}
        if not self.rules.idle:
            self.rules.apply(logits, self.table.positions[rows], lines)
        by_torch = self._keeping  # the kernel leaves no trace of what its cuts took
        ops = self.model.ops
        if lines is None and self._sampler is not None and self._sampler.fits(ops.invariant) and not by_torch:
            tokens, logprobs = self._sampler(logits, self.tokens, self.positions, invariant=ops.invariant)
            self.rules.count(tokens)
            self.longest += 1
            return self._with_top(Sampled(tokens.tolist(), logprobs.tolist()), raw)
        if lines is None:
            tokens, logprobs = self._graphs(logits, ops)
            result = Sampled(tokens.tolist(), logprobs.tolist())
            last, count = tokens, torch.ones_like(tokens)
            self.rules.count(tokens)
        else:
            guesses = None if probs is None else self._guesses(drafts, probs)
            tokens, logprobs = sample(logits, self.table, lines.row, lines.offset, guesses, ops=ops)
            result = accept(tokens.tolist(), logprobs.tolist(), self.num_rows, drafts)
            runs = [[token for token, _ in result.run_of(row)] for row in range(self.num_rows)]
            last = torch.tensor([run[-1] for run in runs], device=tokens.device)
            count = torch.tensor([len(run) for run in runs], device=tokens.device)
            flat = torch.tensor([token for run in runs for token in run], device=tokens.device)
            self.rules.count(flat, torch.arange(len(runs), device=count.device).repeat_interleave(count))
        if self._keeping:
            self._note_kept(logits, drafts, result)
        self.tokens[rows] = last
        self.positions[rows] += count
        self.table.positions[rows] += count
        self.longest += 1 + max(map(len, result.more.values()), default=0)
        return self._with_top(result, raw)

    def _with_top(self, result: Sampled, raw: dict[int, Tensor]) -> Sampled:
        """What was sampled, with the likeliest tokens of the rows that asked, from the raw log-probs of their lines."""
        for row, number in self._wanted.items():
            result.top[row] = [
                top_logprobs(p, number, t) for p, (t, _) in zip(raw[row], result.run_of(row), strict=False)
            ]
        return result

    def _note_kept(self, drawn: Tensor, drafts: dict[int, list[int]], result: Sampled) -> None:
        """Tell the samples that want to know what the cuts left at each of their new tokens."""
        places = line_numbers(self._keeping, drafts, self.num_rows)
        lines = [(row, n) for row, own in places.items() for n, _ in zip(own, result.run_of(row), strict=False)]
        found = kept_ids(drawn[[number for _, number in lines]], invariant=self.model.ops.invariant)
        for (row, _), ids in zip(lines, found, strict=True):
            self._keeping[row].kept_ids.append(ids)

    def _lines(self, drafts: dict[int, list[int]]) -> Lines:
        """One line a row, then one for each drafted token."""
        pairs = [(row, i + 1) for row, draft in drafts.items() for i in range(len(draft))]
        device, most = self.tokens.device, max(map(len, drafts.values()))
        row, offset = torch.tensor(pairs, device=device).unbind(1)
        every = torch.arange(self.num_rows, device=device)
        rows = torch.cat((every, row))
        padded = [(draft := drafts.get(r, [])) + [0] * (most - len(draft)) for r in range(self.num_rows)]
        before = torch.tensor(padded, device=device)[rows]
        return Lines(rows, torch.cat((torch.zeros_like(every), offset)), before)

    def _guesses(self, drafts: dict[int, list[int]], probs: Tensor) -> Guesses:
        """Every guess, at the line whose token it is a guess at: the one before its own."""
        numbers = line_numbers(drafts, drafts, self.num_rows)
        lines = [line for row in drafts for line in numbers[row][:-1]]
        tokens = [token for draft in drafts.values() for token in draft]
        return Guesses(torch.tensor(lines, device=probs.device), torch.tensor(tokens, device=probs.device), probs)

    def _score_prompts(self, chunks: list[Chunk], hidden: Tensor) -> None:
        """Raw log-probs of the prompt tokens that follow each chunk's, for requests that want them."""
        start = 0
        for chunk in chunks:
            end, request = start + chunk.end - chunk.start, chunk.sequence.request
            known = len(request.prompt_logprobs)
            if request.params.prompt_logprobs is not None and chunk.sequence.index == 0 and chunk.start == known:
                table = self.model.lm_head_logits(hidden[start:end]).float().log_softmax(-1)
                following = request.prompt_ids[chunk.start + 1 : chunk.end + 1]
                number = request.params.prompt_logprobs
                request.prompt_logprobs += [
                    top_logprobs(row, number, t) for row, t in zip(table, following, strict=False)
                ]
            start = end

    def clear(self, blocks: list[int]) -> None:
        """Zero blocks that hold what is not finite."""
        if blocks:
            with torch.inference_mode():
                for cache in self._caches:
                    cache.clear_slots(blocks)

    def _move(self, moves: list[tuple[int, int]]) -> None:
        if not moves:
            return
        from_rows, to_rows = zip(*moves, strict=True)
        sources, targets = (torch.tensor(rows, device=self.tokens.device) for rows in (from_rows, to_rows))
        self.table.move(sources, targets)
        self.rules.move(sources, targets)
        for column in (self.tokens, self.positions, self.tables, self.scaled):
            if column is not None:
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
        if self.scaled is not None:
            self.scaled[rows] = torch.tensor([s.request.scaled for s in arrivals], device=self.tokens.device)
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
        """Logits behind every line's token. Chunks, those from position 0 on first, are computed beside them."""
        rows: slice | Tensor = slice(self.num_rows)
        tokens, positions, longest = self.tokens[rows], self.positions[rows], self.longest + 1
        if lines is not None:
            rows, last = lines.row, lines.before.shape[1] - 1
            guess = lines.before.gather(1, (lines.offset - 1).clamp(0, last)[:, None])[:, 0]
            tokens = torch.where(lines.offset > 0, guess, self.tokens[rows])
            positions, longest = self.positions[rows] + lines.offset, longest + last + 1
        known, paged = chunk_inputs(chunks)
        if known:
            tokens = torch.cat((tokens, torch.tensor(known, device=tokens.device)))
        scaled = None if self.scaled is None else self.scaled[rows]
        tables = self.tables[rows]
        decoder = self._decoder
        if decoder is not None and not chunks and 0 < len(positions) <= decoder.max_rows:
            return decoder(tokens, positions, tables, longest, scaled)
        if decoder is not None and decoder.takes_chunks and not any(_wants_prompt_logprobs(c) for c in chunks):
            return _decode(decoder, tokens, positions, tables, longest, scaled, paged)
        context: PagedAttention | WindowedAttention
        if self.pages is None:
            context = PagedAttention(
                self.cache, tables, positions, ops=self.model.ops, longest=longest, chunks=paged, scaled=scaled
            )
        else:
            self.pages.update()
            context = WindowedAttention(
                self.cache,
                self.pages,
                tables,
                positions,
                ops=self.model.ops,
                longest=longest,
                chunks=paged,
                scaled=scaled,
            )
        hidden = self.model.hidden_states(tokens, context=context)
        self._score_prompts(chunks, hidden[len(positions) :])
        return self.model.lm_head_logits(hidden[: len(positions)]).float()


def _decode(
    decoder: FusedDecoder,
    tokens: Tensor,
    positions: Tensor,
    tables: Tensor,
    longest: int,
    scaled: Tensor | None,
    chunks: list[PagedChunk],
) -> Tensor:
    """Logits of the rows. Tokens of chunks are rows before them, as many in a call as the decoder takes."""
    num_rows = len(positions)
    tables, positions, scaled = as_rows(tables, positions, chunks, scaled)
    longest = max([longest, *(chunk.start + chunk.length for chunk in chunks)])
    for start in range(num_rows, len(tokens), decoder.max_rows):
        part = slice(start, start + decoder.max_rows)
        own = None if scaled is None else scaled[part]
        decoder(tokens[part], positions[part], tables[part], longest, own, 0)
    rows = slice(num_rows)
    return decoder(tokens[rows], positions[rows], tables[rows], longest, None if scaled is None else scaled[rows])


def _wants_prompt_logprobs(chunk: Chunk) -> bool:
    return chunk.sequence.request.params.prompt_logprobs is not None


def _check_offsets(
    cache: KVCache, kv_cache_dtype: str, yarn_per_request: bool, attention_windows: AttentionWindows | None
) -> None:
    """Raises UserError for what large key biases, which are turned by position as keys are read, do not go with."""
    clashes = {"`yarn_per_request`": yarn_per_request, "attention windows": attention_windows is not None}
    for what, there in clashes.items():
        if cache.offsets is not None and there:
            raise UserError(
                f"`kv_cache_dtype` {kv_cache_dtype!r} is not available with {what}: this model has large key biases, "
                "which are turned by position as keys are read",
                hint='leave out one of them: `kv_cache_dtype` "auto" rounds nothing',
            )
