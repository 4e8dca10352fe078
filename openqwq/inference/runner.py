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


class Runner:
    """The model's side of the engine.

    tokens:    the last token of each row, not yet in the cache.
    positions: where it goes, which is the number of tokens that the cache holds for the row.
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
        device = model.device
        memory = _default_cache_memory(device) if kv_cache_memory is None else kv_cache_memory
        self.num_slots = _fit_slots(model.config, max_num_seqs, max_model_len, memory, model.dtype)
        with torch.inference_mode():
            self.cache = KVCache(model.config, self.num_slots, max_model_len, device=device, dtype=model.dtype)
            self.table = SamplingTable(self.num_slots, model.config.vocab_size, device)
            self.tokens = torch.zeros(self.num_slots, dtype=torch.int64, device=device)
            self.positions = torch.zeros(self.num_slots, dtype=torch.int64, device=device)
        self.num_rows = 0
        self.longest = 0

    @torch.inference_mode()
    def run(self, plan: Plan) -> tuple[list[int], list[float]]:
        """The token sampled for each of `plan.running`, and its log-prob; NaN where the logits were not finite."""
        self._move(plan.moves)
        self._prefill(plan.prefills)
        self._copy(plan.copies)
        self._seat(plan.arrivals)
        if plan.moves or plan.arrivals or len(plan.running) != self.num_rows:
            self._look_at(plan.running)
        tokens, logprobs = self._decode()
        return tokens.tolist(), logprobs.tolist()

    def _move(self, moves: list[tuple[int, int]]) -> None:
        if not moves:
            return
        sources, targets = (torch.tensor(side, device=self.tokens.device) for side in zip(*moves, strict=True))
        self.cache.copy_slots(*zip(*moves, strict=True), length=self.longest)
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

    def _look_at(self, running: list[Sequence]) -> None:
        self.num_rows = len(running)
        self.longest = max(len(s.request.prompt_ids) + len(s.token_ids) for s in running) - 1
        self.table.focus(self.num_rows)

    def _decode(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Read every row's last token and sample the next."""
        self.longest += 1
        tokens, positions = self.tokens[: self.num_rows], self.positions[: self.num_rows]
        context = DecodeAttention(self.cache, positions, longest=self.longest)
        logits = self.model(tokens, context=context).float()
        sampled, logprobs = sample(logits, self.table)
        tokens.copy_(sampled)
        positions += 1
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
