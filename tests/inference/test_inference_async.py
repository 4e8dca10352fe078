"""`AsyncEngine`: what coroutines stream is what the engine samples."""

import asyncio
import itertools
import math
import threading
import time

import pytest
import torch

from openqwq.errors import UserError
from openqwq.inference import AsyncEngine, Engine
from openqwq.inference.stop_strings import TextStream, held_length
from openqwq.model import create_model, preset
from openqwq.tokenizer import train_tokenizer
from openqwq.types import Prompt, SamplingParams

FREE = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_tokens=12, seed=1)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["nothing to merge"], 282)


@pytest.fixture(scope="module")
def model():
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "initializer_range": 0.3}
    return create_model(preset("tiny").replace(vocab_size=282, max_position_embeddings=128, **shape), seed=3)


@pytest.fixture
def front(model, tokenizer):
    front = AsyncEngine(Engine(model, tokenizer, max_num_seqs=4))
    yield front
    front.close()


def slow_down(monkeypatch, front):
    """Let what is asked for come before the engine is done."""
    step = front._engine.step
    monkeypatch.setattr(front._engine, "step", lambda: time.sleep(0.003) or step())


async def collect(front, prompt, params, request_id=None):
    return [delta async for delta in front.generate(prompt, params, request_id)]


def test_streams_joined_are_the_engines_completions(front, model, tokenizer):
    async def main():
        return await asyncio.gather(*(collect(front, [5 + i, 9], FREE.replace(n=2)) for i in range(5)))

    streams = asyncio.run(main())
    expected = Engine(model, tokenizer).generate([Prompt((5 + i, 9)) for i in range(5)], FREE.replace(n=2))
    for deltas, completions in zip(streams, expected, strict=True):
        for index, completion in enumerate(completions):
            own = [d for d in deltas if d.index == index]
            assert sum((d.token_ids for d in own), ()) == completion.token_ids
            assert sum((d.logprobs for d in own), ()) == pytest.approx(completion.logprobs, abs=5e-5)
            assert "".join(d.text for d in own) == completion.text
            assert [d.finish_reason for d in own[:-1]] == [None] * (len(own) - 1)
            assert own[-1].finish_reason == completion.finish_reason
            assert own[-1].completion.token_ids == completion.token_ids
            assert len(own) > 1


def test_a_request_that_cannot_run_raises_and_others_go_on(front):
    async def main():
        good = asyncio.create_task(collect(front, [1, 2], FREE))
        with pytest.raises(UserError, match="max_model_len"):
            await collect(front, [1] * 500, FREE)
        with pytest.raises(UserError, match="top_p"):
            await collect(front, [1], FREE.replace(top_p=0))
        return await good

    assert asyncio.run(main())[-1].finish_reason in ("stop", "length")


def test_abort_ends_the_stream_with_what_it_has(front, monkeypatch):
    slow_down(monkeypatch, front)

    async def main():
        stream = front.generate([3], FREE.replace(max_tokens=120, ignore_eos=True), "a")
        first = await anext(stream)
        assert await front.abort("a")
        rest = [delta async for delta in stream]
        assert not await front.abort("a")
        return [first, *rest]

    deltas = asyncio.run(main())
    assert deltas[-1].finish_reason == "abort" and deltas[-1].error == ""
    assert sum((d.token_ids for d in deltas), ()) == deltas[-1].completion.token_ids


def test_a_reader_that_leaves_frees_the_engine(front, monkeypatch):
    slow_down(monkeypatch, front)

    async def main():
        stream = front.generate([3], FREE.replace(max_tokens=120, ignore_eos=True))
        await anext(stream)
        await stream.aclose()
        return await front.call(lambda engine: engine.has_unfinished)

    assert asyncio.run(main()) is False
    assert front.stats().running == front.stats().kv_blocks_used == 0


def test_weights_change_between_steps(front, monkeypatch):
    engine, asked, num_steps = front._engine, threading.Event(), itertools.count(1)
    step = engine.step

    def wait_to_be_asked():
        assert next(num_steps) < 3 or asked.wait(60)
        return step()

    monkeypatch.setattr(engine, "step", wait_to_be_asked)

    async def main():
        stream = front.generate([3], FREE.replace(ignore_eos=True))
        deltas = [await anext(stream)]
        change = asyncio.create_task(front.call(lambda engine: engine.load_weights(engine.model, version=7)))
        await asyncio.sleep(0)
        asked.set()
        await change
        return deltas + [delta async for delta in stream]

    versions = asyncio.run(main())[-1].completion.policy_versions
    assert versions[0] == 0 and versions[-1] == 7


def test_broken_weights_end_requests_with_a_reason(model, tokenizer):
    broken = create_model(model.config, seed=1)
    with torch.no_grad():
        broken.model.embed_tokens.weight[5] = math.nan
    front = AsyncEngine(Engine(broken, tokenizer))
    [delta] = asyncio.run(collect(front, [1, 2], FREE))
    assert delta.finish_reason == "abort" and "not finite" in delta.error
    front.close()


def test_a_step_that_raises_gives_up_its_requests_only(front, monkeypatch):
    async def main():
        engine = await front.call(lambda engine: engine)
        monkeypatch.setattr(engine, "step", lambda: 1 / 0)
        [failed] = await collect(front, [1], FREE)
        monkeypatch.undo()
        return failed, await collect(front, [1], FREE)

    failed, good = asyncio.run(main())
    assert "division by zero" in failed.error and failed.finish_reason == "abort"
    assert good[-1].finish_reason in ("stop", "length")


def test_close_ends_what_still_runs(model, tokenizer, monkeypatch):
    front = AsyncEngine(Engine(model, tokenizer))
    slow_down(monkeypatch, front)

    async def main():
        stream = front.generate([3], FREE.replace(max_tokens=120, ignore_eos=True))
        await anext(stream)
        front.close()
        return [delta async for delta in stream][-1]

    assert "closed" in asyncio.run(main()).error


def test_text_that_may_become_a_stop_string_waits(tokenizer):
    stream = TextStream(tokenizer, ("END", "ENOUGH"))
    pieces = [stream.push(tokenizer.encode(character)) for character in "xENyEN"]
    assert pieces == ["x", "", "", "ENy", "", ""]
    assert stream.finish("xENy") == ""
    assert [held_length(text, ("aab",)) for text in ("a", "aa", "aaa", "aab", "b", "")] == [1, 2, 2, 0, 0, 0]


def test_half_a_character_waits(tokenizer):
    ids = tokenizer.encode("é")
    stream = TextStream(tokenizer)
    assert len(ids) == 2 and [stream.push([i]) for i in ids] == ["", "é"]
