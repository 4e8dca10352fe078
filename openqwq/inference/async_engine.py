"""The engine behind an event loop: any number of coroutines stream from one engine in a thread of its own.

    engine = AsyncEngine(Engine(model, tokenizer))
    async for delta in engine.generate(prompt_token_ids, SamplingParams(max_tokens=64)):
        print(delta.text, end="")

The signatures that servers build on:

    generate(prompt_token_ids, params, request_id=None) -> AsyncIterator[CompletionDelta]
    await abort(request_id) -> bool
    await close_thinking(request_id) -> bool
    await prepare_turn(history_ids, former_ids, max_tokens) -> int
    await call(function)        run function(engine) between two steps, e.g. to load weights
    stats() -> EngineStats      running, waiting, kv_blocks_used, kv_blocks_total, ...
    close()                     stop the thread; what still runs ends with `finish_reason` "abort"

Leaving the `async for` early (a client that hangs up), or cancelling it at any `await`, aborts the request. A request
that cannot run raises UserError from the first `anext`; one that fails later ends alone, with `finish_reason` "abort"
and the reason in `error`. What a request forbids (bad words, scripts, grammars) is made ready in threads beside the
engine's, so that no other request waits for it.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from collections.abc import Sequence as Seq
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from openqwq.errors import UserError
from openqwq.log import logger
from openqwq.tokenizer import Tokenizer
from openqwq.types import Completion, FinishReason, SamplingParams

from .constraints.structured_outputs import Guide
from .engine import Engine
from .outputs import EngineStats
from .params import forbids_tokens
from .sequence import Sequence, failed_completion
from .stop_strings import TextStream

T = TypeVar("T")

# The largest forms that the server lets through take about a second; what takes longer is a trap.
PREPARE_S = 10.0
# Requests with forms wait for each other here, and for nothing else of theirs does anybody wait.
NUM_MAKERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionDelta:
    """What one sample of a request has gained since its last delta.

    index:         which of the `params.n` samples.
    text:          final text: joined over the deltas it is `completion.text`; stop strings are never part of it.
    token_ids:     new tokens, the end token included; `logprobs` has one for each, `top_logprobs` if asked for.
    finish_reason: None until the sample's last delta, which also carries the whole `completion`.
    error:         why a sample ended with "abort", when nobody asked for it.
    num_cached_tokens: prompt tokens of the request that were found in the cache.
    """

    request_id: str
    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top_logprobs: tuple[Mapping[int, float], ...] = ()
    finish_reason: FinishReason | None = None
    error: str = ""
    completion: Completion | None = None
    num_cached_tokens: int = 0

    @property
    def stop_reason(self) -> str | int | None:
        """Of the whole completion."""
        return self.completion.stop_reason if self.completion else None


class _Listener:
    """The coroutine that reads one request: its loop, its queue, and what it has been sent."""

    def __init__(self, request_id: str, params: SamplingParams, tokenizer: Tokenizer | None):
        self.request_id = request_id
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[CompletionDelta] = asyncio.Queue()
        self.texts = [TextStream(tokenizer, params.stop) for _ in range(params.n)]
        self.num_sent = [0] * params.n
        self.done = [False] * params.n

    def grown(self, sample: Sequence) -> CompletionDelta | None:
        """The delta of a running sample; None when it has nothing new."""
        index, start = sample.index, self.num_sent[sample.index]
        if start >= len(sample.token_ids):
            return None
        new = tuple(sample.token_ids[start:])
        self.num_sent[index] += len(new)
        return CompletionDelta(
            request_id=self.request_id,
            index=index,
            text=self.texts[index].push(new),
            token_ids=new,
            logprobs=tuple(sample.logprobs[start:]),
            top_logprobs=tuple(sample.top_logprobs[start:]),
            num_cached_tokens=sample.num_cached,
        )

    def ended(self, index: int, completion: Completion, num_cached: int = 0) -> CompletionDelta:
        """The last delta of a sample."""
        start, self.done[index] = self.num_sent[index], True
        return CompletionDelta(
            request_id=self.request_id,
            index=index,
            text=self.texts[index].finish(completion.text),
            token_ids=completion.token_ids[start:],
            logprobs=completion.logprobs[start:],
            top_logprobs=completion.top_logprobs[start:],
            finish_reason=completion.finish_reason,
            error=completion.error,
            completion=completion,
            num_cached_tokens=num_cached,
        )


class AsyncEngine:
    """An `Engine` in a thread of its own. All methods but `close` and `stats` belong to coroutines of any loop.

    engine: from now on used by this object only.
    """

    def __init__(self, engine: Engine):
        self._engine = engine
        self._tokenizer = engine.tokenizer if isinstance(engine.tokenizer, Tokenizer) else None
        self._listeners: dict[str, _Listener] = {}
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._numbers = itertools.count()
        self._makers = ThreadPoolExecutor(NUM_MAKERS, thread_name_prefix="openqwq-guides")
        self._thread = threading.Thread(target=self._run, name="openqwq-engine", daemon=True)
        self._thread.start()

    async def generate(
        self, prompt_token_ids: Seq[int], params: SamplingParams, request_id: str | None = None
    ) -> AsyncIterator[CompletionDelta]:
        """Deltas of all samples of one request, in the order in which they are sampled.

        request_id: names the request for `abort` and `close_thinking`; None: a fresh one.
        Raises UserError for a request that cannot run, ValueError for an id that is in use.
        """
        request_id = f"request-{next(self._numbers)}" if request_id is None else request_id
        guide = await self._prepare(params) if forbids_tokens(params) else None
        listener = _Listener(request_id, params, self._tokenizer)
        entry = self._enqueue(lambda: self._add(listener, tuple(prompt_token_ids), params, guide))
        try:
            await asyncio.wrap_future(entry)
            for _ in range(params.n):
                while True:
                    delta = await listener.queue.get()
                    yield delta
                    if delta.finish_reason is not None:
                        break
        finally:  # also where the wait for the entry was cancelled: the engine's thread may have taken it in
            if not all(listener.done):
                self._leave(listener)

    async def abort(self, request_id: str) -> bool:
        """End a request now; its stream ends with "abort". False when it is not in the engine."""
        return await self._submit(lambda: self._abort(request_id))

    async def close_thinking(self, request_id: str) -> bool:
        """Close a request's thinking now, so that its answer begins; False when it does not think."""
        return await self._submit(lambda: self._engine.close_thinking(request_id))

    async def prepare_turn(self, history_ids: Seq[int], former_ids: Seq[int], max_tokens: int) -> int:
        """Make the cache ready for a conversation's next turn; see `Engine.prepare_turn`."""
        return await self._submit(lambda: self._engine.prepare_turn(history_ids, former_ids, max_tokens=max_tokens))

    async def call(self, function: Callable[[Engine], T]) -> T:
        """`function(engine)`, run on the engine's thread between two steps."""
        return await self._submit(lambda: function(self._engine))

    def stats(self) -> EngineStats:
        """Counts as of the last finished step."""
        return self._engine.stats()

    def close(self) -> None:
        """Stop the thread after its current step; requests that still run end with "abort"."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        self._makers.shutdown(wait=False, cancel_futures=True)

    async def _prepare(self, params: SamplingParams) -> Guide | None:
        """`RequestMaker.prepare`, in a thread. Raises UserError for a form that cannot be made within the deadline."""
        made = self._makers.submit(self._engine.requests.prepare, params)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(made), PREPARE_S)
        except TimeoutError:
            what = "`structured`" if params.structured else "`bad_words`"
            raise UserError(f"{what} could not be made ready within {PREPARE_S:g} seconds: it is too complex") from None

    def _leave(self, listener: _Listener) -> None:
        """Abort a request that nobody reads any more, unless it never came in, or has ended."""

        def work() -> None:
            if self._listeners.get(listener.request_id) is listener:
                self._abort(listener.request_id)

        with suppress(RuntimeError):  # a closed engine has no requests
            self._enqueue(work)

    async def _submit(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._enqueue(work))

    def _enqueue(self, work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._wake:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._calls.append((work, future))
            self._wake.notify()
        return future

    def _run(self) -> None:
        """The engine's thread: calls between steps, steps as long as there is something to sample."""
        while self._wait():
            while self._calls:
                work, future = self._calls.popleft()
                if not future.set_running_or_notify_cancel():
                    continue
                try:
                    future.set_result(work())
                except Exception as error:  # belongs to the coroutine that asked
                    future.set_exception(error)
            if self._engine.has_unfinished:
                self._step()
        self._fail_all("the engine was closed")
        for _, future in self._calls:  # none is added any more
            if future.set_running_or_notify_cancel():
                future.set_exception(RuntimeError("the engine is closed"))

    def _wait(self) -> bool:
        with self._wake:
            self._wake.wait_for(lambda: self._closed or self._calls or self._engine.has_unfinished)
            return not self._closed

    def _step(self) -> None:
        try:
            finished = self._engine.step()
        except Exception as error:  # e.g. out of memory: nobody may wait for ever
            logger.exception("the engine failed in a step; its requests are given up")
            self._fail_all(f"the engine failed: {error}")
            return
        deltas = []
        for output in finished:
            listener = self._listeners.pop(output.request_id, None)
            deltas += self._last(listener, output.outputs, output.num_cached_tokens) if listener else []
        for request_id, listener in self._listeners.items():
            for sample in self._engine.samples(request_id):
                if listener.done[sample.index]:
                    continue
                if sample.finish_reason:
                    completion = self._engine.completion(sample)
                    deltas.append((listener, listener.ended(sample.index, completion, sample.num_cached)))
                elif delta := listener.grown(sample):
                    deltas.append((listener, delta))
        self._publish(deltas)

    def _add(
        self, listener: _Listener, prompt_ids: tuple[int, ...], params: SamplingParams, guide: Guide | None
    ) -> None:
        self._engine.add_request(prompt_ids, params, listener.request_id, guide=guide)
        self._listeners[listener.request_id] = listener

    def _abort(self, request_id: str) -> bool:
        output = self._engine.abort(request_id)
        listener = self._listeners.pop(request_id, None)
        if output is not None and listener is not None:
            self._publish(self._last(listener, output.outputs))
        return output is not None

    def _fail_all(self, reason: str) -> None:
        for request_id, listener in list(self._listeners.items()):
            self._engine.abort(request_id)
            outputs = [failed_completion(reason)] * len(listener.done)
            self._publish(self._last(listener, outputs))
        self._listeners.clear()

    @staticmethod
    def _last(
        listener: _Listener, completions: Iterable[Completion], num_cached: int = 0
    ) -> list[tuple[_Listener, CompletionDelta]]:
        """The last deltas of all samples that have not ended before."""
        return [(listener, listener.ended(i, c, num_cached)) for i, c in enumerate(completions) if not listener.done[i]]

    @staticmethod
    def _publish(deltas: Iterable[tuple[_Listener, CompletionDelta]]) -> None:
        """Hand deltas to their coroutines, with one wake-up for each event loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Listener, CompletionDelta]]] = defaultdict(list)
        for listener, delta in deltas:
            by_loop[listener.loop].append((listener, delta))
        for loop, batch in by_loop.items():
            try:
                loop.call_soon_threadsafe(_deliver, batch)
            except RuntimeError:  # the loop was closed: nobody listens any more
                logger.debug("deltas for a closed event loop were dropped")


def _deliver(batch: Iterable[tuple[_Listener, CompletionDelta]]) -> None:
    for listener, delta in batch:
        listener.queue.put_nowait(delta)
