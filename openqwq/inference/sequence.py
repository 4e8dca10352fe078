"""What the engine keeps about one request: the prompt, its samples, and what they have sampled.

A request asks for `params.n` samples of one prompt. Each sample is a `Sequence`, which holds blocks of the
KV cache while it runs. Plain Python: no torch.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from itertools import pairwise

from openqwq.types import Completion, FinishReason, SamplingParams

from .cache.block_manager import BlockTable
from .constraints.loop_detector import LoopDetector
from .constraints.structured_outputs import Guide
from .prompt_lookup import PromptLookup

NO_ROW = -1


@dataclass(slots=True, eq=False)
class Sequence:
    """One sample of a request.

    index:        which of the request's samples this is.
    num_prompt:   tokens of the prompt.
    row:          its row of every batch tensor; NO_ROW while it does not decode.
    table:        its blocks of the KV cache.
    num_computed: tokens whose keys and values are in the cache; only kept up to date while it does not decode.
    num_cached:   prompt tokens that did not have to be computed.
    marks:        (number of tokens sampled before, policy version) wherever the version changed.
    kept_ids:     for each token, what the cuts left to draw from, where it is asked for; the runner adds to it.
    inserted:     (start, end) of tokens that were put in rather than sampled.
    thinking:     `</think>` has not come yet, though the prompt has opened the thinking.
    answer_start: number of tokens up to `</think>`, that included; 0 while it has not come.
    guide, loops, lookup: what forbids its next tokens, looks for loops in them, guesses them; None for most.
    num_drafted, num_accepted: tokens that were guessed, and how many of them were sampled.
    """

    request: Request
    index: int
    num_prompt: int
    row: int = NO_ROW
    table: BlockTable = field(default_factory=BlockTable)
    num_computed: int = 0
    num_cached: int = 0
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    marks: list[tuple[int, int]] = field(default_factory=list)
    top_logprobs: list[dict[int, float]] = field(default_factory=list)
    kept_ids: list[tuple[int, ...]] = field(default_factory=list)
    inserted: list[tuple[int, int]] = field(default_factory=list)
    thinking: bool = False
    answer_start: int = 0
    guide: Guide | None = None
    loops: LoopDetector | None = None
    lookup: PromptLookup | None = None
    num_drafted: int = 0
    num_accepted: int = 0
    finish_reason: FinishReason | None = None
    error: str = ""

    @property
    def order(self) -> tuple[int, int]:
        """Its place in the order of arrival, which is also its priority."""
        return self.request.number, self.index

    @property
    def reads_cache(self) -> bool:
        """Whether its prompt may come from the cache: log-probs of the prompt need every position computed."""
        return self.request.params.prompt_logprobs is None or self.index > 0

    @property
    def num_tokens(self) -> int:
        """Prompt and sampled tokens."""
        return self.num_prompt + len(self.token_ids)

    @property
    def num_filled(self) -> int:
        """Tokens of an ended sequence that are in the cache: neither its last one nor those put in at its end."""
        last = len(self.token_ids)
        if self.inserted and self.inserted[-1][1] == last:
            last = self.inserted[-1][0]
        return self.num_prompt + last - 1

    def known_ids(self, start: int, end: int) -> Seq[int]:
        """Tokens `start` to `end` of prompt and sampled tokens together."""
        prompt = self.request.prompt_ids
        if end <= len(prompt):
            return prompt[start:end]
        own = self.token_ids[max(start - len(prompt), 0) : end - len(prompt)]
        return own if start >= len(prompt) else [*prompt[start:], *own]

    @property
    def key(self) -> int:
        """64 bits that, with the token's position, decide every draw of this sample."""
        return noise_key(self.request.seed, self.index, self.request.prompt_ids)

    def ends_at(self, token_id: int) -> bool:
        """Whether the token ends the sample; none does inside thinking whose answer must match a grammar."""
        return token_id in self.request.stop_token_ids and not (self.guide is not None and self.guide.owes_answer)

    def append(self, token_id: int, logprob: float, version: int) -> None:
        if not self.marks or self.marks[-1][1] != version:
            self.marks.append((len(self.token_ids), version))
        self.token_ids.append(token_id)
        self.logprobs.append(logprob)

    def retract(self) -> None:
        """Take the last sampled token back."""
        self.token_ids.pop()
        self.logprobs.pop()
        if self.top_logprobs:
            self.top_logprobs.pop()
        del self.kept_ids[len(self.token_ids) :]
        if self.marks and self.marks[-1][0] == len(self.token_ids):
            self.marks.pop()

    def insert(self, token_ids: Seq[int], version: int) -> None:
        """Put tokens behind the last one that the model did not sample: log-prob 0."""
        start = len(self.token_ids)
        if self.request.params.kept_ids:
            self.kept_ids[start:] = [()] * len(token_ids)
        for token_id in token_ids:
            self.append(token_id, 0.0, version)
            if self.request.params.logprobs is not None:
                self.top_logprobs.append({})
        self.inserted.append((start, len(self.token_ids)))

    def finish(self, reason: FinishReason, error: str = "") -> None:
        self.finish_reason = reason
        self.error = error

    def policy_versions(self) -> tuple[int, ...]:
        """The version of each sampled token."""
        ends = [*self.marks, (len(self.token_ids), -1)]
        return tuple(version for (start, version), (end, _) in pairwise(ends) for _ in range(end - start))

    def completion(self, text: str, stop_reason: str | int | None, checksums: Mapping[int, str]) -> Completion:
        """The record of a finished sample, with its decoded text. checksums: of the weights, by version."""
        assert self.finish_reason is not None
        return Completion(
            text=text,
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self.logprobs),
            policy_versions=self.policy_versions(),
            finish_reason=self.finish_reason,
            error=self.error,
            top_logprobs=tuple(self.top_logprobs),
            kept_ids=tuple(self.kept_ids[: len(self.token_ids)]),
            inserted=tuple(self.inserted),
            weight_checksums={version: checksums[version] for _, version in self.marks if version in checksums},
            stop_reason=stop_reason,
        )


@dataclass(slots=True, eq=False)
class Request:
    """One prompt with `params.n` samples.

    number:         counts requests in the order of their arrival.
    prompt_logprobs: raw log-probs of the prompt's tokens but the first, when they were asked for.
    forked:         the prompt is computed, and the samples behind the first may start.
    seed:           the resolved seed; the same seed, sample index and prompt draw the same noise.
    stop_token_ids: every id that ends a sample: the model's own end tokens and the request's.
    max_new_tokens: `params.max_tokens`, shortened to what fits the model's context.
    scaled:         YaRN is for this request, where the engine decides it for each.
    """

    id: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    seed: int
    stop_token_ids: frozenset[int]
    max_new_tokens: int
    number: int = 0
    scaled: bool = False
    forked: bool = False
    prompt_logprobs: list[dict[int, float]] = field(default_factory=list)
    sequences: list[Sequence] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sequences = [Sequence(self, index, len(self.prompt_ids)) for index in range(self.params.n)]

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
