"""What the server asks of an engine, and what it knows about a model that it serves.

`openqwq.inference.AsyncEngine` is such an engine; tests bring their own.

Public: TokenEngine, PreparesTurns, Delta, ServedModel.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from openqwq.tokenizer import Tokenizer
from openqwq.types import SamplingParams


class Delta(Protocol):
    """What one sample of a request has gained: text without stop strings, tokens with their log-probs."""

    @property
    def index(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def token_ids(self) -> tuple[int, ...]: ...
    @property
    def logprobs(self) -> tuple[float, ...]: ...
    @property
    def top_logprobs(self) -> tuple[Mapping[int, float], ...]: ...
    @property
    def finish_reason(self) -> str | None: ...
    @property
    def stop_reason(self) -> str | int | None: ...
    @property
    def error(self) -> str: ...
    @property
    def num_cached_tokens(self) -> int: ...


class Stats(Protocol):
    """Counts of the moment: samples that run or wait, how full the KV cache is, what was guessed and kept."""

    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def kv_blocks_used(self) -> int: ...
    @property
    def kv_blocks_total(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def preemptions(self) -> int: ...
    @property
    def drafted_tokens(self) -> int: ...
    @property
    def accepted_tokens(self) -> int: ...


class TokenEngine(Protocol):
    """Streams samples of a prompt. Leaving the iteration early aborts the request."""

    def generate(
        self, prompt_token_ids: Sequence[int], params: SamplingParams, request_id: str
    ) -> AsyncIterator[Delta]:
        """Deltas of all samples; raises UserError from the first one for a request that cannot run."""
        ...

    def stats(self) -> Stats: ...
    def close(self) -> None: ...


@runtime_checkable
class PreparesTurns(Protocol):
    """An engine that can make its cache ready for a conversation's next turn."""

    async def prepare_turn(self, history_ids: Sequence[int], former_ids: Sequence[int], max_tokens: int) -> int:
        """Forget what `former_ids` hold beyond their common beginning with `history_ids`, and, where nothing else
        runs, compute the latter; the blocks that were freed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One model under one name.

    max_model_len: prompt and completion together, in tokens.
    defaults:      recommended sampling, by `SamplingParams` names.
    folder:        where it was loaded from, shown to nobody.
    """

    name: str
    engine: TokenEngine
    tokenizer: Tokenizer
    max_model_len: int
    vocab_size: int
    defaults: Mapping[str, Any] = field(default_factory=dict)
    created: int = field(default_factory=lambda: int(time.time()))
