"""Runs one step's plan on the model: moves, prefills and copies in the KV cache, then one token for every row.

All tensors of a step are views of the first rows of tensors [S], S slots, that live as long as the engine.
"""

from __future__ import annotations

from itertools import groupby

import torch

from openqwq.errors import UserError
from openqwq.model import DecodeAttention, KVCache, PrefillAttention, Qwen2Config, Qwen2ForCausalLM

from .sampling import SamplingTable, sample
from .scheduler import Plan
from .sequence import Sequence

GIB = 2**30
CPU_CACHE_BYTES = 2 * GIB
GPU_CACHE_SHARE = 0.5  # of the memory that is free once the weights are loaded
FIRST_CACHE_LENGTH = 256  # positions a slot at the start; short runs of long-context models never need more


class Runner:
    """The model's side of the engine.

    tokens:    the last token of each row, not yet in the cache.
    positions: where it goes, which is the number of tokens that the cache holds for the row.
    longest:   the largest position of the running rows.
    """

    def __init__(
        self,
        model: Qwen2ForCausalLM,
        *,
        max_num_seqs: int,
        max_model_len: int,
        kv_cache_memory: int | None = None,
    ):
        self.model = model
        self.max_model_len = max_model_len
        device = model.device
        memory = _default_cache_memory(device) if kv_cache_memory is None else kv_cache_memory
        self.num_slots = _fit_slots(model.config, max_num_seqs, max_model_len, memory, model.dtype)
        with torch.inference_mode():
            self.cache = self._new_cache(min(max_model_len, FIRST_CACHE_LENGTH))
            self.table = SamplingTable(self.num_slots, model.config.vocab_size, device)
            self.tokens = torch.zeros(self.num_slots, dtype=torch.int64, device=device)
            self.positions = torch.zeros(self.num_slots, dtype=torch.int64, device=device)
        self.num_rows = 0
        self.longest = 0

    @torch.inference_mode()
    def run(self, plan: Plan) -> tuple[list[int], list[float]]:
        """The token sampled for each of `plan.running`, and its log-prob; NaN where the logits were not finite."""
        changed = bool(plan.moves or plan.arrivals) or len(plan.running) != self.num_rows
        if changed:
            self.num_rows = len(plan.running)
            self.longest = max(len(s.request.prompt_ids) + len(s.token_ids) for s in plan.running) - 1
        self._make_room(self.longest + 1)
        self._move(plan.moves)
        self._prefill(plan.prefills)
        self._copy(plan.copies)
        self._seat(plan.arrivals)
        if changed:
            self.table.focus(self.num_rows)
        tokens, logprobs = self._decode()
        return tokens.tolist(), logprobs.tolist()

    def _new_cache(self, length: int) -> KVCache:
        return KVCache(self.model.config, self.num_slots, length, device=self.model.device, dtype=self.model.dtype)

    def _make_room(self, needed: int) -> None:
        """Lengthen the cache's slots, at least twofold, when they have fewer positions than needed."""
        old = self.cache
        if needed <= old.max_length:
            return
        self.cache = self._new_cache(min(max(needed, 2 * old.max_length), self.max_model_len))
        for layer in range(self.model.config.num_hidden_layers):
            self.cache.keys[layer][:, :, : old.max_length] = old.keys[layer]
            self.cache.values[layer][:, :, : old.max_length] = old.values[layer]

    def _move(self, moves: list[tuple[int, int]]) -> None:
        if not moves:
            return
        from_slots, to_slots = zip(*moves, strict=True)
        self.cache.copy_slots(from_slots, to_slots, self.longest)
        sources, targets = (torch.tensor(slots, device=self.tokens.device) for slots in (from_slots, to_slots))
        self.table.move(sources, targets)
        for column in (self.tokens, self.positions):
            column[targets] = column[sources]

    def _prefill(self, sequences: list[Sequence]) -> None:
        """Compute the prompts, without their last tokens, into their slots."""
        jobs = [(s.slot, s.request.prompt_ids[:-1]) for s in sequences if s.request.num_cached]
        if not jobs:
            return
        slots, prompts = zip(*jobs, strict=True)
        tokens = torch.tensor([token for prompt in prompts for token in prompt], device=self.tokens.device)
        self.model.model(tokens, PrefillAttention([len(prompt) for prompt in prompts], self.cache, slots))

    def _copy(self, copies: list[tuple[int, int, int]]) -> None:
        for length, group in groupby(copies, key=lambda copy: copy[2]):
            sources, targets, _ = zip(*group, strict=True)
            self.cache.copy_slots(sources, targets, length)

    def _seat(self, arrivals: list[Sequence]) -> None:
        """Set the rows of sequences that run for the first time: the prompt's last token is the next to be read."""
        if not arrivals:
            return
        slots = [sequence.slot for sequence in arrivals]
        rows = torch.tensor(slots, device=self.tokens.device)
        prompts = [sequence.request.prompt_ids for sequence in arrivals]
        self.tokens[rows] = torch.tensor([prompt[-1] for prompt in prompts], device=self.tokens.device)
        self.positions[rows] = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self.tokens.device)
        self.table.write(slots, [s.key for s in arrivals], [s.request.params for s in arrivals])

    def _decode(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Read every row's last token and sample the next."""
        tokens, positions = self.tokens[: self.num_rows], self.positions[: self.num_rows]
        context = DecodeAttention(self.cache, positions, longest=self.longest + 1)
        logits = self.model(tokens, context=context).float()
        sampled, logprobs = sample(logits, self.table)
        tokens.copy_(sampled)
        positions += 1
        self.longest += 1
        return sampled, logprobs


def _default_cache_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * GPU_CACHE_SHARE)
    return CPU_CACHE_BYTES


def _fit_slots(config: Qwen2Config, max_num_seqs: int, max_model_len: int, memory: int, dtype: torch.dtype) -> int:
    """How many sequences of full length the cache holds, at most `max_num_seqs`."""
    slot_bytes = KVCache.bytes_per_token(config, dtype) * max_model_len
    if slot_bytes > memory:
        raise UserError(
            f"one sequence of `max_model_len` {max_model_len} needs {slot_bytes / GIB:.2f} GiB of KV cache, "
            f"but `kv_cache_memory` is {memory / GIB:.2f} GiB",
            hint=f"lower `max_model_len` to {memory * max_model_len // slot_bytes} or raise `kv_cache_memory`",
        )
    return min(max_num_seqs, memory // slot_bytes)
