"""From a prompt and parameters to a `Request`: everything is checked before the engine takes it in.

Public: RequestMaker, TextDecoder, common_length, restore.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from itertools import count
from typing import Protocol

from openqwq.config import EngineConfig
from openqwq.errors import UserError
from openqwq.model import Decoder, DecoderConfig
from openqwq.types import Completion, SamplingParams

from .constraints.guide_maker import GuideMaker
from .constraints.structured_outputs import Guide
from .params import check_params, forbids_tokens
from .prompt_lookup import PromptLookup
from .sequence import Request, Sequence
from .thinking import Reasoning, needs_reasoning

LAST = 2**62  # numbers from here on come after those of all requests that were sent


class TextDecoder(Protocol):
    """The part of a tokenizer that every engine needs; bad words, scripts and grammars need a whole `Tokenizer`."""

    @property
    def eos_token_ids(self) -> tuple[int, ...]: ...
    def decode(self, ids: Seq[int]) -> str: ...


class RequestMaker:
    """Makes the requests of one engine, whose config has no `max_model_len` of None.

    plain_window: prompt and completion of up to N tokens need no YaRN; None: YaRN as the model's config says.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: TextDecoder | None,
        reasoning: Reasoning | None,
        config: EngineConfig,
        *,
        eos_token_ids: frozenset[int],
    ):
        assert config.max_model_len is not None
        self.tokenizer, self.reasoning, self.eos_token_ids = tokenizer, reasoning, eos_token_ids
        self.vocab_size, self.max_model_len = model.config.vocab_size, config.max_model_len
        self.device, self.speculation = model.device, config.speculation
        self.plain_window = plain_window(model.config) if config.yarn_per_request else None
        self._numbers_ahead = count(LAST)
        end_id = None if reasoning is None else reasoning.end_id
        self._guides = GuideMaker(
            tokenizer, self.vocab_size, self.device, stop_ids=sorted(eos_token_ids), end_id=end_id
        )

    def prepare(self, params: SamplingParams) -> Guide | None:
        """What a request forbids; None where that is nothing.

        Takes up to seconds for long lists and large forms, and may be called from any thread while the engine runs.
        Raises UserError for parameters that no request can have.
        """
        check_params(params)
        return self._guides.make(params) if forbids_tokens(params) else None

    def make(
        self,
        request_id: str,
        prompt_ids: tuple[int, ...],
        params: SamplingParams,
        number: int,
        seed: int,
        guide: Guide | None = None,
    ) -> Request:
        """The request. Raises UserError when it can never run.

        guide: what `prepare` has made of the parameters; None: it is made here.
        """
        self._check(prompt_ids, params)
        guide = guide or self.prepare(params)
        end_ids = () if params.ignore_eos else self.eos_token_ids
        max_new_tokens = min(params.max_tokens, self.max_model_len - len(prompt_ids))
        request = Request(
            id=request_id,
            prompt_ids=prompt_ids,
            params=params,
            seed=seed if params.seed is None else params.seed,
            stop_token_ids=frozenset(params.stop_token_ids).union(end_ids),
            max_new_tokens=max_new_tokens,
            number=number,
            scaled=self.is_scaled(len(prompt_ids) + max_new_tokens),
        )
        thinking = self.reasoning is not None and self.reasoning.is_open(prompt_ids)
        if needs_reasoning(params) and not thinking:
            raise UserError(
                "`thinking_budget` and `min_thinking_tokens` need a prompt that ends inside a thinking block",
                hint="use a chat template whose prompts end with <think>",
            )
        for sample in request.sequences:
            sample.thinking = thinking
            sample.guide = guide and guide.start(thinking)
            sample.loops = self.reasoning.detector(params) if self.reasoning else None
            if self.speculation is not None and self.speculation.model is None:
                sample.lookup = PromptLookup()
        return request

    def make_ahead(self, token_ids: tuple[int, ...], max_tokens: int) -> Request:
        """A request that only fills the cache, behind all others, for one that begins alike and asks `max_tokens`."""
        number = next(self._numbers_ahead)
        request = self.make(f"ahead {number}", token_ids, SamplingParams(max_tokens=1), number=number, seed=0)
        request.scaled = self.is_scaled(len(token_ids) + max_tokens)
        return request

    def is_scaled(self, num_tokens: int) -> bool:
        """Whether YaRN is for a request of so many tokens, where that is decided for each."""
        return self.plain_window is not None and num_tokens > self.plain_window

    def _check(self, prompt_ids: tuple[int, ...], params: SamplingParams) -> None:
        check_params(params)
        if params.stop and self.tokenizer is None:
            raise UserError("stop strings need a tokenizer, and this engine has none", hint="use `stop_token_ids`")
        if params.max_repeats is not None and self.reasoning is None:
            raise UserError("`max_repeats` needs a tokenizer, and this engine has none")
        if not prompt_ids:
            raise UserError("the prompt has no tokens, but at least 1 is needed")
        if len(prompt_ids) >= self.max_model_len:
            raise UserError(
                f"the prompt has {len(prompt_ids)} tokens, but `max_model_len` is {self.max_model_len}",
                hint="shorten the prompt or raise `max_model_len`",
            )
        for name, ids in (("prompt", prompt_ids), ("`logit_bias`", params.logit_bias)):
            if ids and (min(ids) < 0 or max(ids) >= self.vocab_size):
                raise UserError(f"the {name} has token ids outside of 0..{self.vocab_size - 1}")


def common_length(a: Seq[int], b: Seq[int]) -> int:
    """How many tokens two lists begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def plain_window(config: DecoderConfig) -> int:
    """Positions that the model was trained at without YaRN."""
    if config.rope_scaling is None:
        raise UserError(
            "`yarn_per_request` needs a model with YaRN, and this one's config has no `rope_scaling`",
            hint='for QwQ-32B: {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}',
        )
    return config.rope_scaling.original_max_position_embeddings


def is_open(completion: Completion) -> bool:
    """Whether a completion was only stopped on request, so that it can go on."""
    return completion.finish_reason == "abort" and not completion.error


def restore(request: Request, so_far: Seq[Completion], reasoning: Reasoning | None) -> None:
    """Give the request's samples the tokens that they had; those that had ended stay ended.

    Their keys and values are computed anew, by the weights of the moment. Raises ValueError when there are not as
    many completions as samples, or none of them is open.
    """
    if len(so_far) != len(request.sequences) or not any(map(is_open, so_far)):
        raise ValueError(f"{len(so_far)} completions, some open, are needed for {len(request.sequences)} samples")
    for sample, completion in zip(request.sequences, so_far, strict=True):
        _restore_one(sample, completion, reasoning)
    request.forked = True


def _restore_one(sample: Sequence, completion: Completion, reasoning: Reasoning | None) -> None:
    stamped = zip(completion.token_ids, completion.logprobs, completion.policy_versions, strict=True)
    put_in = dict(completion.inserted)
    span_end = 0
    for place, (token, logprob, version) in enumerate(stamped):
        span_end = put_in.get(place, span_end)
        sample.append(token, logprob, version)
        if sample.thinking and reasoning is not None and reasoning.ends(sample):
            reasoning.note_end(sample)
        elif sample.loops is not None and place >= span_end:
            sample.loops.push(token)
        if not sample.thinking and place < span_end:  # an answer begins behind the text that closed the thinking
            sample.answer_start = place + 1
    sample.top_logprobs = [dict(top) for top in completion.top_logprobs]
    sample.kept_ids = list(completion.kept_ids)
    sample.inserted = list(completion.inserted)
    if not is_open(completion):
        sample.finish(completion.finish_reason, completion.error)
