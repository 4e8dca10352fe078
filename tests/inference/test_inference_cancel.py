"""`AsyncEngine`: a request that is cancelled anywhere leaves nothing behind, and slow preparation delays nobody."""

import asyncio
import threading
import time

import pytest

from openqwq.errors import UserError
from openqwq.inference import AsyncEngine, Engine, async_engine
from openqwq.model import create_model, preset
from openqwq.tokenizer import train_tokenizer
from openqwq.types import SamplingParams, StructuredOutputs

LONG = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_tokens=120, ignore_eos=True, seed=1)
KINDS = {
    "plain": LONG,
    "two samples": LONG.replace(n=2),
    "with a form": LONG.replace(structured=StructuredOutputs(regex="[ab]{200}"), bad_words=("ab",)),
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["nothing to merge"], 282)


@pytest.fixture(scope="module")
def model():
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "initializer_range": 0.3}
    return create_model(preset("tiny").replace(vocab_size=282, max_position_embeddings=160, **shape), seed=3)


@pytest.fixture
def front(model, tokenizer):
    front = AsyncEngine(Engine(model, tokenizer, max_num_seqs=4))
    yield front
    front.close()


async def counts(front):
    """What the engine holds, as of all that it was told before."""
    stats = await front.call(lambda engine: engine.stats())
    return stats.running, stats.waiting, stats.kv_blocks_used, len(front._listeners)


@pytest.mark.parametrize("kind", KINDS)
def test_request_cancelled_after_any_step_of_the_loop_is_aborted(front, kind):
    async def main():
        for num_steps in range(25):
            stream = front.generate([3, 4, 5], KINDS[kind])
            task = asyncio.ensure_future(anext(stream))
            for _ in range(num_steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await stream.aclose()
            assert await counts(front) == (0, 0, 0, 0)

    asyncio.run(main())


def test_request_cancelled_while_the_loop_is_busy_with_its_entry_is_aborted(front):
    async def main():
        stream = front.generate([3], LONG)
        task = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        while not front._engine.has_unfinished:  # the engine's thread takes it in behind the loop's back
            time.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await stream.aclose()
        assert await counts(front) == (0, 0, 0, 0)

    asyncio.run(main())


def test_refused_request_does_not_abort_the_one_whose_name_it_took(front):
    async def main():
        first = front.generate([3], LONG, "name")
        begun = await anext(first)
        with pytest.raises(ValueError):
            await anext(front.generate([4], LONG, "name"))
        return [begun, *[delta async for delta in first]]

    assert asyncio.run(main())[-1].finish_reason == "length"


def test_call_that_a_closed_engine_never_came_to_fails(model, tokenizer, monkeypatch):
    front = AsyncEngine(Engine(model, tokenizer))
    reached, let_go = threading.Event(), threading.Event()

    async def main():
        blocking = asyncio.ensure_future(front.call(lambda engine: reached.set() or let_go.wait(60)))
        await asyncio.to_thread(reached.wait, 60)
        closing = asyncio.ensure_future(asyncio.to_thread(front.close))
        while not front._closed:
            await asyncio.sleep(0.001)
        with pytest.raises(RuntimeError, match="closed"):
            await front.call(lambda engine: 1)
        let_go.set()
        await asyncio.gather(blocking, closing)

    asyncio.run(main())
    late = async_engine.Future()
    front._calls.append((lambda: 1, late))
    front._run()
    with pytest.raises(RuntimeError, match="closed"):
        late.result(0)


def test_reader_may_leave_after_the_engine_was_closed(model, tokenizer):
    front = AsyncEngine(Engine(model, tokenizer))

    async def main():
        stream = front.generate([3], LONG)
        await anext(stream)
        front.close()
        await stream.aclose()
        return await anext(stream, "ended")

    assert asyncio.run(main()) == "ended"


def test_what_a_request_forbids_is_made_ready_off_the_engines_thread(front, monkeypatch):
    makers, prepare = [], front._engine.requests.prepare
    begun, go_on = threading.Event(), threading.Event()

    def watched(params):
        makers.append(threading.current_thread())
        begun.set()
        assert go_on.wait(60)
        return prepare(params)

    async def main():
        slow = asyncio.ensure_future(anext(front.generate([3], KINDS["with a form"])))
        monkeypatch.setattr(front._engine.requests, "prepare", watched)
        await asyncio.to_thread(begun.wait, 60)
        monkeypatch.setattr(front._engine.requests, "prepare", prepare)
        others = [delta async for delta in front.generate([4], LONG)]  # while the form is being made
        assert not slow.done()
        go_on.set()
        return others, await slow

    others, first = asyncio.run(main())
    assert others[-1].finish_reason == "length" and first.token_ids
    assert front._thread not in makers and threading.main_thread() not in makers


def test_form_that_takes_too_long_is_refused_and_others_go_on(front, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(async_engine, "PREPARE_S", 0.02)
    monkeypatch.setattr(front._engine.requests, "prepare", lambda params: go_on.wait(60))

    async def main():
        with pytest.raises(UserError, match="`structured` could not be made ready within"):
            await anext(front.generate([3], KINDS["with a form"]))
        monkeypatch.undo()
        go_on.set()
        return [delta async for delta in front.generate([4], LONG)]

    assert asyncio.run(main())[-1].finish_reason == "length"
