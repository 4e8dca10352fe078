"""What an engine hands out: finished requests, and counts of the moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from openqwq.types import Completion


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """A finished request, in vLLM's shape: one `Completion` in `outputs` for each of `params.n` samples.

    prompt_logprobs:   for each prompt token, raw log-probs by id, when they were asked for; None for the first.
    num_cached_tokens: prompt tokens that were found in the cache.
    num_drafted_, num_accepted_tokens: guessed by speculation, and how many of them were sampled; of all samples.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    outputs: list[Completion]
    prompt_logprobs: tuple[Mapping[int, float] | None, ...] | None = None
    num_cached_tokens: int = 0
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Counts of the moment.

    running, waiting:         samples.
    kv_blocks_used, -_total:  of the KV cache; what is kept for later prompts only does not count as used.
    kv_bytes_used, -_most:    bytes of those blocks now, and at most since the start.
    generated_tokens:         sampled since the start.
    cached_tokens:            prompt tokens since the start that were found in the cache.
    drafted_, accepted_tokens: guessed by speculation, and how many of them were sampled.
    preemptions:              sequences since the start that lost their blocks and were computed again.
    """

    running: int
    waiting: int
    kv_blocks_used: int
    kv_blocks_total: int
    kv_bytes_used: int
    kv_bytes_most: int
    generated_tokens: int
    cached_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    preemptions: int
