"""The engine: requests in, sampled completions out, all running sequences one token further at every step.

    plan = scheduler.schedule()                 who runs, what is prefilled, what is copied
    tokens, logprobs = runner.run(plan)         one token for every running sequence
    finished = self._settle(plan, tokens, ...)  stops, lengths, free slots

`Engine` is a `Policy`: when it is given the trainer's own module, a weight update is a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from openqwq.errors import UserError
from openqwq.model import Qwen2ForCausalLM
from openqwq.types import Completion, Prompt, SamplingParams

from .runner import Runner
from .scheduler import Plan, Scheduler
from .sequence import NO_SLOT, Request, check_params, failed_completion
from .sequence import Sequence as Sample
from .stops import find_stop, holds_stop

MAX_SEED = 2**62


class Decoder(Protocol):
    """The part of a tokenizer that the engine needs."""

    @property
    def eos_token_ids(self) -> tuple[int, ...]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """A finished request, in vLLM's shape: one `Completion` in `outputs` for each of `params.n` samples."""

    request_id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    outputs: list[Completion]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Counts of the moment.

    running, waiting:         samples.
    kv_blocks_used, -_total:  of the KV cache.
    generated_tokens:         sampled since the start.
    """

    running: int
    waiting: int
    kv_blocks_used: int
    kv_blocks_total: int
    generated_tokens: int


class Engine:
    """Continuous batching with a KV cache over one model.

    tokenizer:              decodes texts and finds stop strings; without one, texts are empty.
    eos_token_ids:          ids that end every sample; None: the tokenizer's.
    max_num_seqs:           sequences that run at once, at most; fewer when the KV cache does not hold them.
    max_model_len:          prompt and completion together; None: the model's context.
    max_num_batched_tokens: prompt tokens prefilled before one decoding step; bounds its memory and its pause.
    kv_cache_memory:        bytes; None: half of the GPU's free memory, or 2 GiB on a CPU.
    seed:                   of requests that bring none; request number and this seed decide their noise.
    """

    def __init__(
        self,
        model: Qwen2ForCausalLM,
        tokenizer: Decoder | None = None,
        *,
        eos_token_ids: Sequence[int] | None = None,
        max_num_seqs: int = 256,
        max_model_len: int | None = None,
        max_num_batched_tokens: int = 8192,
        kv_cache_memory: int | None = None,
        seed: int = 0,
    ):
        self.model = model
        self.tokenizer = tokenizer
        if eos_token_ids is None:
            eos_token_ids = tokenizer.eos_token_ids if tokenizer else ()
        self.eos_token_ids = frozenset(eos_token_ids)
        self.max_model_len = max_model_len or model.config.max_context
        self.seed = seed
        self.version = 0
        self.num_requests = 0
        self.num_generated = 0
        self.runner = Runner(
            model,
            max_num_seqs=max_num_seqs,
            max_model_len=self.max_model_len,
            kv_cache_memory=kv_cache_memory,
        )
        self.scheduler = Scheduler(
            max_num_seqs=self.runner.num_slots,
            max_num_batched_tokens=max_num_batched_tokens,
        )

    @property
    def has_unfinished(self) -> bool:
        return bool(self.scheduler.requests)

    def add_request(self, prompt_ids: Sequence[int], params: SamplingParams, request_id: str | None = None) -> str:
        """Queue a prompt; its id. Raises UserError when it can never run; the engine then goes on without it."""
        prompt_ids = tuple(prompt_ids)
        self._check(prompt_ids, params)
        number, self.num_requests = self.num_requests, self.num_requests + 1
        end_ids = () if params.ignore_eos else self.eos_token_ids
        request = Request(
            id=str(number) if request_id is None else request_id,
            prompt_ids=prompt_ids,
            params=params,
            seed=self.seed * MAX_SEED + number if params.seed is None else params.seed,
            stop_token_ids=frozenset(params.stop_token_ids).union(end_ids),
            max_new_tokens=min(params.max_tokens, self.max_model_len - len(prompt_ids)),
        )
        self.scheduler.add(request)
        return request.id

    def step(self) -> list[RequestOutput]:
        """Sample one token for every running sequence; the requests that are finished by it."""
        plan = self.scheduler.schedule()
        if not plan.running:
            return []
        tokens, logprobs = self.runner.run(plan)
        return self._settle(plan, tokens, logprobs)

    def abort(self, request_id: str) -> RequestOutput | None:
        """Stop a request now; what its samples have so far. None when it is not in the engine."""
        request = self.scheduler.abort(request_id)
        return None if request is None else self._output(request)

    def samples(self, request_id: str) -> list[Sample]:
        """The samples of a request that is in the engine, as they are now."""
        return self.scheduler.requests[request_id].sequences

    def completion(self, sample: Sample) -> Completion:
        """The record of a sample that has ended."""
        return sample.completion(self._text(sample))

    def stats(self) -> EngineStats:
        """How full the engine is."""
        used = self.runner.num_slots - self.scheduler.slots.num_free
        return EngineStats(
            running=used,
            waiting=len(self.scheduler.waiting),
            kv_blocks_used=used,
            kv_blocks_total=self.runner.num_slots,
            generated_tokens=self.num_generated,
        )

    def generate(
        self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[list[Completion]]:
        """`params.n` completions for each prompt, in order.

        A prompt that cannot run yields aborted completions with the reason in `error`; the others go on.
        """
        if self.has_unfinished:
            raise ValueError("generate needs an idle engine; use add_request and step beside other requests")
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        results: dict[str, list[Completion]] = {}
        ids = []
        try:
            for position, (prompt, own) in enumerate(zip(prompts, each, strict=True)):
                ids.append(f"generate/{position}")
                try:
                    self.add_request(prompt.token_ids, own, ids[-1])
                except UserError as error:
                    results[ids[-1]] = [failed_completion(error.message)] * own.n
            while self.has_unfinished:
                results |= {output.request_id: output.outputs for output in self.step()}
        finally:
            for request_id in list(self.scheduler.requests):
                self.abort(request_id)
        return [results[request_id] for request_id in ids]

    def load_weights(self, source: nn.Module | Mapping[str, Tensor], *, version: int | None = None) -> None:
        """Sample from new weights from the next token on, and stamp tokens with the new version.

        source:  a module or a state dict; the engine's own module is not copied, it is the update.
        version: None: one more than before.
        Running sequences keep the KV that older weights made.
        """
        if source is not self.model:
            state = source.state_dict() if isinstance(source, nn.Module) else source
            self.model.load_state_dict(state)
        self.version = self.version + 1 if version is None else version

    def _check(self, prompt_ids: tuple[int, ...], params: SamplingParams) -> None:
        check_params(params)
        if params.stop and self.tokenizer is None:
            raise UserError("stop strings need a tokenizer, and this engine has none", hint="use `stop_token_ids`")
        if not prompt_ids:
            raise UserError("the prompt has no tokens, but at least 1 is needed")
        if len(prompt_ids) >= self.max_model_len:
            raise UserError(
                f"the prompt has {len(prompt_ids)} tokens, but `max_model_len` is {self.max_model_len}",
                hint="shorten the prompt or raise `max_model_len`",
            )
        if min(prompt_ids) < 0 or max(prompt_ids) >= self.model.config.vocab_size:
            raise UserError(f"the prompt has token ids outside of 0..{self.model.config.vocab_size - 1}")

    def _settle(self, plan: Plan, tokens: list[int], logprobs: list[float]) -> list[RequestOutput]:
        """Append what was sampled and end the samples that stop there."""
        for sample, token, logprob in zip(plan.running, tokens, logprobs, strict=True):
            request = sample.request
            if logprob != logprob:
                sample.finish("abort", "the model's logits are not finite")
                continue
            sample.append(token, logprob, self.version)
            self.num_generated += 1
            if token in request.stop_token_ids or (request.params.stop and self._stops_at_string(sample)):
                sample.finish("stop")
            elif len(sample.token_ids) >= request.max_new_tokens:
                sample.finish("length")
        return [self._output(request) for request in self.scheduler.settle()]

    def _stops_at_string(self, sample: Sample) -> bool:
        assert self.tokenizer is not None
        return holds_stop(self.tokenizer.decode, sample.token_ids, sample.request.params.stop)

    def _output(self, request: Request) -> RequestOutput:
        assert all(sample.slot == NO_SLOT for sample in request.sequences)
        completions = [self.completion(sample) for sample in request.sequences]
        return RequestOutput(request.id, None, request.prompt_ids, completions)

    def _text(self, sample: Sample) -> str:
        """The decoded sample without its end token, cut before the first stop string."""
        if self.tokenizer is None:
            return ""
        token_ids = sample.token_ids
        if token_ids and sample.finish_reason == "stop" and token_ids[-1] in sample.request.stop_token_ids:
            token_ids = token_ids[:-1]
        text = self.tokenizer.decode(token_ids)
        return text[: find_stop(text, sample.request.params.stop)]
