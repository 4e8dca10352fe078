"""Runs one step's plan on the model: block copies, then one pass for chunks and rows, then a token for every row.

`batch.py` has the rows. Of a row with guesses, the sampled tokens count up to the first that differs from its guess.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from openqwq.config import EngineConfig
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

from .batch import Batch, chunk_inputs
from .cache.block_manager import BlockPool
from .cache.memory import BLOCK_SIZE, fit_blocks, storage_dtype
from .cache.windowed_pool import WindowedPool, fit_pages
from .draft_model import DraftModel
from .sampling.cuda_graphs import SampleGraphs
from .sampling.sampled import Sampled, top_logprobs
from .sampling.sampler import kept_ids, sample
from .scheduler import Chunk, Plan


class Runner:
    """The model's side of the engine.

    batch: the rows that decode.
    cache: keys and values of all rows.
    pages: with attention windows, where each band of layers keeps the blocks; None: all layers in the same place.
    """

    def __init__(self, model: Decoder, config: EngineConfig):
        """config: as an engine has fitted it to the model, `max_model_len` and `kv_cache_memory` included."""
        assert config.max_model_len is not None and config.kv_cache_memory is not None
        self.model = model
        device = model.device
        max_num_seqs, both_settings = config.max_num_seqs, config.yarn_per_request
        speculation = config.speculation
        windows = cast(AttentionWindows | None, config.attention_windows)
        width = -(-config.max_model_len // BLOCK_SIZE)
        models = [model] if speculation is None or speculation.model is None else [model, speculation.model]
        kept = [storage_dtype(config.kv_cache_dtype, each.dtype) for each in models]
        shapes = [each.config for each in models]
        bands = [] if windows is None else bands_of(windows, BLOCK_SIZE)
        if bands:
            shapes = [model.config.replace(num_hidden_layers=len(bands[0].layers))]
        token_bytes = sum(KVCache.bytes_per_token(shape, own) for shape, own in zip(shapes, kept, strict=True))
        if bands:
            self.num_blocks = fit_pages(bands, width, max_num_seqs, token_bytes * BLOCK_SIZE, config.kv_cache_memory)
        else:
            self.num_blocks = fit_blocks(
                token_bytes, max_num_seqs * width, config.max_model_len, config.kv_cache_memory
            )
        self.pages = PageMap(bands, min(max_num_seqs * width, self.num_blocks + width), device) if bands else None
        self.draft_model: DraftModel | None = None
        with torch.inference_mode():
            caches = [
                KVCache(shape, self.num_blocks, BLOCK_SIZE, device=device, dtype=each.dtype, storage_dtype=own)
                for shape, each, own in zip(shapes, models, kept, strict=True)
            ]
            for cache, each in zip(caches, models, strict=True):
                cache.offsets = KeyOffsets.of(each) if cache.rounds else None
                _check_offsets(cache, config)
            self.cache = caches[0]
            if speculation is not None and speculation.model is not None:
                self.draft_model = DraftModel(
                    speculation,
                    caches[1],
                    model.config.vocab_size,
                    both_settings=both_settings,
                    max_rows=max_num_seqs,
                )
            self.batch = Batch(max_num_seqs, width, model.config.vocab_size, device, yarn_per_request=both_settings)
            lines = max_num_seqs * (1 + (speculation.num_tokens if speculation else 0))
            whole = self.pages is None
            self._kernel = (
                fused_decoder(model, self.cache, both_settings=both_settings, max_rows=lines) if whole else None
            )
            self._sampler, self._graphs = model.ops.make_sampler(self.batch.table), SampleGraphs(self.batch.table)
        self._decoder: FusedDecoder | None = None

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
        batch = self.batch
        changed = batch.update(plan)
        if changed and self.draft_model is not None:
            self.draft_model.bind_weights()
        if changed or plan.chunks:
            self._decoder = self._kernel if self._kernel is not None and self._kernel.bind_weights() else None
        chunks = sorted(plan.chunks, key=lambda chunk: chunk.start > 0)  # those from position 0 on come first
        probs = None
        if self.draft_model is not None:
            plan.drafts, probs = self.draft_model.propose(batch, plan.rooms, chunks)
        batch.take_drafts(plan.drafts)
        logits = self._forward(chunks)
        return self._sample(logits, probs) if batch.num_rows else Sampled()

    @property
    def _caches(self) -> list[KVCache]:
        return [self.cache] if self.draft_model is None else [self.cache, self.draft_model.cache]

    def _sample(self, logits: Tensor, probs: Tensor | None) -> Sampled:
        """A token for every row, and those behind it that guesses got right; probs: what the guesses are drawn from."""
        batch, ops = self.batch, self.model.ops
        lines = batch.lines
        raw = self._raw_logprobs(logits)
        if not batch.rules.idle:
            batch.rules.apply(logits, batch.table.positions[: batch.num_rows], lines)
        by_torch = batch.keeping  # the kernel leaves no trace of what its cuts took
        if lines is None and self._sampler is not None and self._sampler.fits(ops.invariant) and not by_torch:
            tokens, logprobs = self._sampler(logits, batch.tokens, batch.positions, invariant=ops.invariant)
            batch.rules.count(tokens)
            batch.longest += 1
            return self._with_top(Sampled(tokens.tolist(), logprobs.tolist()), raw)
        if lines is None:
            tokens, logprobs = self._graphs(logits, ops)
            result = Sampled(tokens.tolist(), logprobs.tolist())
            last, count = tokens, torch.ones_like(tokens)
            batch.rules.count(tokens)
        else:
            guesses = None if probs is None else batch.guesses(probs)
            tokens, logprobs = sample(logits, batch.table, lines.row, lines.offset, guesses, ops=ops)
            result = batch.accept(tokens.tolist(), logprobs.tolist())
            runs = [[token for token, _ in result.run_of(row)] for row in range(batch.num_rows)]
            last = torch.tensor([run[-1] for run in runs], device=tokens.device)
            count = torch.tensor([len(run) for run in runs], device=tokens.device)
            flat = torch.tensor([token for run in runs for token in run], device=tokens.device)
            batch.rules.count(flat, torch.arange(len(runs), device=count.device).repeat_interleave(count))
        if batch.keeping:
            self._note_kept(logits, result)
        batch.advance(last, count, 1 + max(map(len, result.more.values()), default=0))
        return self._with_top(result, raw)

    def _raw_logprobs(self, logits: Tensor) -> dict[int, Tensor]:
        """Raw log-probs of the lines of the rows that want the likeliest tokens."""
        if not self.batch.wanting_top:
            return {}
        places = self.batch.lines_of(s.row for s in self.batch.wanting_top)
        return {row: logits[numbers].log_softmax(-1) for row, numbers in places.items()}

    def _with_top(self, result: Sampled, raw: dict[int, Tensor]) -> Sampled:
        """What was sampled, with the likeliest tokens of the rows that asked, from the raw log-probs of their lines."""
        for wanting in self.batch.wanting_top:
            row, number = wanting.row, wanting.request.params.logprobs
            assert number is not None
            result.top[row] = [
                top_logprobs(p, number, t) for p, (t, _) in zip(raw[row], result.run_of(row), strict=False)
            ]
        return result

    def _note_kept(self, drawn: Tensor, result: Sampled) -> None:
        """Tell the samples that want to know what the cuts left at each of their new tokens."""
        keeping = {s.row: s for s in self.batch.keeping}
        places = self.batch.lines_of(keeping)
        lines = [(row, n) for row, own in places.items() for n, _ in zip(own, result.run_of(row), strict=False)]
        found = kept_ids(drawn[[number for _, number in lines]], invariant=self.model.ops.invariant)
        for (row, _), ids in zip(lines, found, strict=True):
            keeping[row].kept_ids.append(ids)

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

    def _forward(self, chunks: list[Chunk]) -> Tensor:
        """Logits behind every line's token. Chunks, those from position 0 on first, are computed beside them."""
        rows, tokens, positions, longest = self.batch.inputs()
        known, paged = chunk_inputs(chunks)
        if known:
            tokens = torch.cat((tokens, torch.tensor(known, device=tokens.device)))
        scaled = None if self.batch.scaled is None else self.batch.scaled[rows]
        tables = self.batch.tables[rows]
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


def _check_offsets(cache: KVCache, config: EngineConfig) -> None:
    """Raises UserError for what large key biases, which are turned by position as keys are read, do not go with."""
    clashes = {
        "`yarn_per_request`": config.yarn_per_request,
        "attention windows": config.attention_windows is not None,
    }
    for what, there in clashes.items():
        if cache.offsets is not None and there:
            raise UserError(
                f"`kv_cache_dtype` {config.kv_cache_dtype!r} is not available with {what}: this model has large key "
                "biases, which are turned by position as keys are read",
                hint='leave out one of them: `kv_cache_dtype` "auto" rounds nothing',
            )
