"""The engine: requests in, sampled completions out, all running sequences one token further at every step.

    plan = scheduler.schedule()                 who runs, which parts of prompts are computed, what is copied
    tokens, logprobs = runner.run(plan)         one token for every running sequence
    finished = self._settle(plan, tokens, ...)  stops, lengths, free blocks

`Engine` is a `Policy`: when it is given the trainer's own module, a weight update is a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from openqwq.config import DraftOptions, EngineConfig, make_config
from openqwq.errors import UserError
from openqwq.model import Decoder, set_batch_invariant, weight_checksum
from openqwq.types import Completion, Prompt, SamplingParams

from .cache.block_manager import ROOT, SCALED_ROOT
from .cache.memory import cache_memory
from .constraints.structured_outputs import Guide
from .outputs import EngineStats, RequestOutput
from .params import nothing_to_sample
from .requests import RequestMaker, TextDecoder, common_length, restore
from .runner import Runner
from .sampling.sampled import Sampled
from .scheduler import Plan, Scheduler
from .sequence import NO_ROW, Request, failed_completion
from .sequence import Sequence as Sample
from .stop_strings import holds_stop, sample_end, search_start
from .thinking import Reasoning

MAX_SEED = 2**62


class Engine:
    """Continuous batching with a KV cache over one model.

    tokenizer: decodes texts and finds stop strings; without one, texts are empty.
    config:    `openqwq.config.EngineConfig` explains every option; options given by name replace its values.
    Raises UserError for an unknown option, options that do not go together, and a cache too small for one sequence.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: TextDecoder | None = None,
        config: EngineConfig | None = None,
        **options: Any,
    ):
        config = fit_config(make_config(config or EngineConfig(), options), model)
        assert config.max_model_len is not None
        self.model, self.tokenizer, self.config = model, tokenizer, config
        own_ids = tokenizer.eos_token_ids if tokenizer else ()
        self.eos_token_ids = frozenset(own_ids if config.eos_token_ids is None else config.eos_token_ids)
        self.max_model_len = config.max_model_len
        self.reasoning = Reasoning.of(tokenizer, config.closing_text)
        self.requests = RequestMaker(model, tokenizer, self.reasoning, config, eos_token_ids=self.eos_token_ids)
        self.seed = config.seed
        self.version = 0
        self.weight_checksums: dict[int, str] = {}
        self._ahead: set[str] = set()
        self.num_requests = self.num_generated = self.num_drafted = self.num_accepted = 0
        self.runner = Runner(model, config)
        self.pool = self.runner.make_pool(prefix_caching=config.prefix_caching)
        self.scheduler = Scheduler(
            self.pool, max_num_seqs=config.max_num_seqs, max_num_batched_tokens=config.max_num_batched_tokens
        )

    @property
    def has_unfinished(self) -> bool:
        return bool(self.scheduler.requests)

    def add_request(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        request_id: str | None = None,
        *,
        so_far: Sequence[Completion] = (),
        guide: Guide | None = None,
    ) -> str:
        """Queue a prompt; its id. Raises UserError when it can never run; the engine then continues without it.

        so_far: what the samples had when they were aborted; they continue from there.
        guide:  what `requests.prepare` has made of `params`; None: it is made here.
        """
        number, self.num_requests = self.num_requests, self.num_requests + 1
        request_id = str(number) if request_id is None else request_id
        seed = self.seed * MAX_SEED + number
        request = self.requests.make(request_id, tuple(prompt_ids), params, number, seed, guide)
        if so_far:
            restore(request, so_far, self.reasoning)
        for ahead in tuple(self._ahead):
            self.abort(ahead)
        self.scheduler.add(request)
        return request_id

    def prepare_turn(self, history_ids: Sequence[int], former_ids: Sequence[int] = (), *, max_tokens: int = 1) -> int:
        """Make the cache ready for a conversation's next turn, ahead of it; the blocks that were freed.

        history_ids: what the next prompt will begin with, e.g. the conversation with the thinking left out of it.
        former_ids:  prompt and completion of the turn that has ended: what they hold beyond the common beginning,
                     the thoughts above all, makes room at once.
        max_tokens:  of the next request: with `yarn_per_request`, its length decides how it is computed.
        The history is computed in the next steps where nothing else runs, until a request comes; nothing comes out of
        it. It is left alone where it is too long for the model. Does nothing without prefix caching.
        """
        keep = common_length(history_ids, former_ids)
        freed = sum(self.pool.drop(former_ids, keep, root) for root in (ROOT, SCALED_ROOT))
        idle = self.scheduler.requests.keys() <= self._ahead
        if idle and self.pool.prefix_caching and 0 < len(history_ids) < self.max_model_len:
            request = self.requests.make_ahead(tuple(history_ids), max_tokens)
            self.scheduler.add(request)
            self._ahead.add(request.id)
        return freed

    def step(self) -> list[RequestOutput]:
        """Sample one token for every running sequence; the requests that are finished by it."""
        plan = self.scheduler.schedule()
        if not (plan.running or plan.chunks):
            return []
        if self.requests.speculation is not None:
            self._speculate(plan, self.requests.speculation)
        try:
            sampled = self.runner.run(plan)
        except BaseException:
            self.pool.reset()  # blocks that were promised to later prompts may not have been filled
            raise
        return self._settle(plan, sampled)

    def abort(self, request_id: str) -> RequestOutput | None:
        """Stop a request now; what its samples have so far. None when it is not in the engine."""
        request = self.scheduler.abort(request_id)
        self._ahead.discard(request_id)
        return None if request is None else self._output(request)

    def samples(self, request_id: str) -> list[Sample]:
        """The samples of a request that is in the engine, as they are now."""
        return self.scheduler.requests[request_id].sequences

    def completion(self, sample: Sample) -> Completion:
        """The record of a sample that has ended."""
        return sample.completion(*sample_end(self.tokenizer, sample), self.weight_checksums)

    def stats(self) -> EngineStats:
        """How full the engine is."""
        return EngineStats(
            running=self.scheduler.num_running,
            waiting=len(self.scheduler.waiting),
            kv_blocks_used=self.pool.num_blocks - self.pool.num_free,
            kv_blocks_total=self.pool.num_blocks,
            kv_bytes_used=(self.pool.num_blocks - self.pool.num_free) * self.runner.block_bytes,
            kv_bytes_most=self.pool.most_used * self.runner.block_bytes,
            generated_tokens=self.num_generated,
            drafted_tokens=self.num_drafted,
            accepted_tokens=self.num_accepted,
            cached_tokens=self.scheduler.num_cached,
            preemptions=self.scheduler.num_preempted,
        )

    def close_thinking(self, request_id: str) -> bool:
        """Close the thinking of a request's samples now; False when none of them thinks any more.

        A sample that has not begun is closed too: it answers at once. One without room for the closing text and an
        answer is left to end at its limit.
        """
        request = self.scheduler.requests.get(request_id)
        if request is None or self.reasoning is None:
            return False
        last = request.max_new_tokens - len(self.reasoning.closing_ids)
        samples = [s for s in request.sequences if s.thinking and not s.finish_reason and len(s.token_ids) < last]
        for sample in samples:
            self._close(sample, sample.num_tokens - 1)
        return bool(samples)

    def generate(
        self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[list[Completion]]:
        """`params.n` completions for each prompt, in order.

        A prompt that cannot run yields aborted completions with the reason in `error`; the others continue.
        """
        return [output.outputs for output in self.run([prompt.token_ids for prompt in prompts], params)]

    def run(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[RequestOutput]:
        """The same from token ids, with all that is known about each request."""
        if self.scheduler.requests.keys() - self._ahead:
            raise ValueError("generate needs an idle engine; use add_request and step beside other requests")
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        if len(each) != len(prompts):
            raise ValueError(f"there are {len(prompts)} prompts, but {len(each)} sampling parameters")
        results: dict[str, RequestOutput] = {}
        ids = []
        try:
            for position, (prompt, own) in enumerate(zip(prompts, each, strict=True)):
                ids.append(f"generate/{position}")
                try:
                    self.add_request(prompt, own, ids[-1])
                except UserError as error:
                    failed = [failed_completion(error.message)] * own.n
                    results[ids[-1]] = RequestOutput(ids[-1], None, tuple(prompt), failed)
            while self.has_unfinished:
                results |= {output.request_id: output for output in self.step()}
        finally:
            for request_id in list(self.scheduler.requests):
                self.abort(request_id)
        return [results[request_id] for request_id in ids]

    def load_weights(self, source: nn.Module | Mapping[str, Tensor], *, version: int | None = None) -> None:
        """Sample from new weights from the next token on, and stamp tokens with the new version and checksum.

        source:  a module or a state dict; the engine's own module is not copied, it is the update.
        version: None: one more than before.
        Running sequences keep the KV that older weights made; prompts that arrive later are computed anew.
        """
        if source is not self.model:
            state = source.state_dict() if isinstance(source, nn.Module) else source
            self.model.load_state_dict(state)
        self.pool.reset()
        self.version = self.version + 1 if version is None else version
        self.weight_checksums[self.version] = weight_checksum(self.model)

    def _speculate(self, plan: Plan, speculation: DraftOptions) -> None:
        """Make room for guesses, as far as blocks reach without preempting anyone; all but draft models guess here."""
        for sample in plan.running:
            room = min(speculation.num_tokens, sample.request.max_new_tokens - len(sample.token_ids) - 1)
            if room <= 0:
                continue
            guess = None
            if sample.lookup is not None:
                forced = [] if sample.guide is None else sample.guide.forced(sample.token_ids)[:room]
                guess = forced or sample.lookup.propose([*sample.request.prompt_ids, *sample.token_ids], room)
                room = len(guess)
            if room and self.scheduler.lengthen(plan, sample, room):
                if guess is None:
                    plan.rooms[sample.row] = room
                else:
                    plan.drafts[sample.row] = guess

    def _settle(self, plan: Plan, sampled: Sampled) -> list[RequestOutput]:
        """Append what was sampled and end the samples that stop there."""
        for row, sample in enumerate(plan.running):
            top = sampled.top.get(row)
            if not plan.drafts:
                self._take(sample, sampled.tokens[row], sampled.logprobs[row], top[0] if top else None)
                continue
            for i, (token, logprob) in enumerate(sampled.run_of(row)):
                if not self._take(sample, token, logprob, top[i] if top else None):
                    break
            sample.num_drafted += (num_drafted := len(plan.drafts.get(row, ())))
            self.num_drafted += num_drafted
            sample.num_accepted += i  # behind the first token, those that were guessed
            self.num_accepted += i
        complete = self.scheduler.settle()
        ahead = {request.id for request in complete} & self._ahead
        self._ahead -= ahead
        return [self._output(request) for request in complete if request.id not in ahead]

    def _take(self, sample: Sample, token: int, logprob: float, top: dict[int, float] | None) -> bool:
        """Append one token and look whether the sample ends or the engine steps in; True when neither is so."""
        request = sample.request
        if logprob != logprob:
            sample.finish("abort", nothing_to_sample(request.params))
            self.runner.clear(self.pool.forget(sample.table))
            return False
        sample.append(token, logprob, self.version)
        if top is not None:
            sample.top_logprobs.append(top)
        self.num_generated += 1
        if sample.thinking and self._governs_thinking(sample, token):
            return False
        if sample.ends_at(token) or (request.params.stop and self._stops_at_string(sample)):
            sample.finish("stop")
        elif len(sample.token_ids) >= request.max_new_tokens:
            sample.finish("length")
        elif sample.loops is not None and not sample.thinking and sample.loops.push(token):
            sample.finish("repetition")
        return sample.finish_reason is None

    def _governs_thinking(self, sample: Sample, token: int) -> bool:
        """Prolong or close the thinking if a limit asks for it; True when tokens were put in."""
        assert self.reasoning is not None
        num_computed = sample.num_tokens - 1
        if self.reasoning.is_too_short(sample):
            sample.retract()
            self.num_generated -= 1
            return self._insert(sample, self.reasoning.prolonging_ids, num_computed)
        if self.reasoning.ends(sample):
            self.reasoning.note_end(sample)
            return False
        if sample.ends_at(token):
            return False
        loops = sample.loops is not None and sample.loops.push(token)
        if loops or self.reasoning.is_spent(sample):
            return self._close(sample, num_computed)
        return False

    def _close(self, sample: Sample, num_computed: int) -> bool:
        """Put the closing text in; False when there is no room left."""
        assert self.reasoning is not None
        put_in = self._insert(sample, self.reasoning.closing_ids, num_computed)
        if put_in:
            self.reasoning.note_end(sample)
        return put_in

    def _insert(self, sample: Sample, token_ids: Sequence[int], num_computed: int) -> bool:
        """Put tokens behind a sample's last; they are computed in the next step. False when there is no room."""
        room = sample.request.max_new_tokens - len(sample.token_ids)
        if room <= 0:
            return False
        sample.insert(token_ids[:room], self.version)
        if room <= len(token_ids):
            sample.finish("length")
        elif sample.row != NO_ROW:
            self.scheduler.refill(sample, num_computed)
        return True

    def _stops_at_string(self, sample: Sample) -> bool:
        assert self.tokenizer is not None
        stop, start = sample.request.params.stop, search_start(sample)
        return not sample.thinking and holds_stop(self.tokenizer.decode, sample.token_ids, stop, start)

    def _output(self, request: Request) -> RequestOutput:
        assert all(sample.row == NO_ROW and not sample.table.blocks for sample in request.sequences)
        completions = [self.completion(sample) for sample in request.sequences]
        wanted = request.params.prompt_logprobs is not None
        return RequestOutput(
            request.id,
            None,
            request.prompt_ids,
            completions,
            (None, *request.prompt_logprobs) if wanted else None,
            request.sequences[0].num_cached,
            sum(sample.num_drafted for sample in request.sequences),
            sum(sample.num_accepted for sample in request.sequences),
        )


def fit_config(config: EngineConfig, model: Decoder) -> EngineConfig:
    """The config with sizes for this model in place of None; the model computes by the kernels that it names.

    Raises UserError for what this model or machine does not allow.
    """
    config.check_model(max_context=model.config.max_context, num_layers=model.config.num_hidden_layers)
    if config.batch_invariant or model.batch_invariant:
        config.check_invariant()
    if config.batch_invariant or config.kernels != "auto":
        set_batch_invariant(model, config.batch_invariant, backend=config.kernels)
    if config.kernels != "auto" and config.speculation is not None and config.speculation.model is not None:
        set_batch_invariant(config.speculation.model, False, backend=config.kernels)
    memory = config.kv_cache_memory
    return replace(
        config,
        max_model_len=config.max_model_len or model.config.max_context,
        kv_cache_memory=cache_memory(model.device, config.gpu_memory_utilization) if memory is None else memory,
    )
