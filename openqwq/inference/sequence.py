"""What the engine keeps about one request: the prompt, its samples, and what they have sampled.

A request asks for `params.n` samples of one prompt. Each sample is a `Sequence`, which owns a slot
of the KV cache while it runs. Plain Python: no torch.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass, field
from itertools import pairwise

from openqwq.errors import UserError
from openqwq.types import Completion, FinishReason, SamplingParams

NO_SLOT = -1


@dataclass(slots=True, eq=False)
class Sequence:
    """One sample of a request.

    index:  which of the request's samples this is.
    slot:   its row of the KV cache and of every batch tensor; NO_SLOT while it waits or has ended.
    marks:  (number of tokens sampled before, policy version) wherever the version changed.
    """

    request: Request
    index: int
    slot: int = NO_SLOT
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    marks: list[tuple[int, int]] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    error: str = ""
    text_end: int | None = None

    @property
    def key(self) -> int:
        """64 bits that, with the token's position, decide every draw of this sample."""
        return noise_key(self.request.seed, self.index, self.request.prompt_ids)

    def append(self, token_id: int, logprob: float, version: int) -> None:
        if not self.marks or self.marks[-1][1] != version:
            self.marks.append((len(self.token_ids), version))
        self.token_ids.append(token_id)
        self.logprobs.append(logprob)

    def finish(self, reason: FinishReason, error: str = "") -> None:
        self.finish_reason = reason
        self.error = error

    def policy_versions(self) -> tuple[int, ...]:
        """The version of each sampled token."""
        ends = [*self.marks, (len(self.token_ids), -1)]
        return tuple(version for (start, version), (end, _) in pairwise(ends) for _ in range(end - start))

    def completion(self, text: str) -> Completion:
        """The record of a finished sample, with its decoded text."""
        assert self.finish_reason is not None
        return Completion(
            text=text,
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self.logprobs),
            policy_versions=self.policy_versions(),
            finish_reason=self.finish_reason,
            error=self.error,
        )


@dataclass(slots=True, eq=False)
class Request:
    """One prompt with `params.n` samples.

    seed:           the resolved seed; the same seed, sample index and prompt draw the same noise.
    stop_token_ids: every id that ends a sample: the model's own end tokens and the request's.
    max_new_tokens: `params.max_tokens`, shortened to what fits the model's context.
    """

    id: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    seed: int
    stop_token_ids: frozenset[int]
    max_new_tokens: int
    sequences: list[Sequence] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sequences = [Sequence(self, index) for index in range(self.params.n)]

    @property
    def num_cached(self) -> int:
        """Prompt tokens that are prefilled: all but the last, which the first decoding step reads."""
        return len(self.prompt_ids) - 1

    @property
    def finished(self) -> bool:
        return all(sequence.finish_reason for sequence in self.sequences)


def noise_key(seed: int, index: int, prompt_ids: tuple[int, ...]) -> int:
    """A signed 64-bit key from the seed, the sample's index and the prompt.

    The prompt takes part so that many prompts under one seed do not draw the same numbers.
    """
    data = f"{seed}/{index}/".encode() + array("q", prompt_ids).tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


def failed_completion(error: str) -> Completion:
    """The record of a sample that never ran, and why."""
    return Completion(text="", token_ids=(), logprobs=(), policy_versions=(), finish_reason="abort", error=error)


def check_params(params: SamplingParams) -> None:
    """Raises UserError naming the first value that is out of range."""
    rules = (
        ("n", params.n >= 1, "at least 1"),
        ("temperature", 0 <= params.temperature < float("inf"), "0 (greedy) or above"),
        ("top_p", 0 < params.top_p <= 1, "above 0 and at most 1"),
        ("top_k", params.top_k >= -1, "1 or more; 0 or -1 for off"),
        ("min_p", 0 <= params.min_p <= 1, "between 0 and 1"),
        ("max_tokens", params.max_tokens >= 1, "at least 1"),
        ("stop", all(params.stop), "strings that are not empty"),
    )
    for name, good, allowed in rules:
        if not good:
            raise UserError(f"`{name}` is {getattr(params, name)!r}, but must be {allowed}")
