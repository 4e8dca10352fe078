"""YaRN for each request: what fits the trained window is computed plainly, the rest as the static setting does."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_runs import V, ids

from openqwq.errors import UserError
from openqwq.inference import LLM, Engine, Speculation
from openqwq.model import YarnScaling, create_model, preset
from openqwq.types import Prompt, SamplingParams

WINDOW = 48
FREE = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_tokens=12, seed=0)


@pytest.fixture(scope="module")
def models():
    """The same weights without YaRN and with it."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "initializer_range": 0.4}
    plain = preset("tiny").replace(vocab_size=V, max_position_embeddings=WINDOW, **shape)
    yarn = plain.replace(rope_scaling=YarnScaling(factor=4.0, original_max_position_embeddings=WINDOW))
    return create_model(plain, seed=1), create_model(yarn, seed=1)


def make_engine(model, **options):
    return Engine(model, **{"eos_token_ids": (), "max_num_seqs": 4, **options})


def run(engine, requests):
    results = engine.generate([Prompt(p) for p, _ in requests], [own for _, own in requests])
    assert engine.pool.num_free == engine.pool.num_blocks
    return [completion for completions in results for completion in completions]


def expected(models, requests):
    """Each request alone in an engine with the static setting that it should have."""
    results = []
    for prompt, own in requests:
        results += run(make_engine(models[len(prompt) + own.max_tokens > WINDOW]), [(prompt, own)])
    return results


def assert_same(first, second):
    assert [one.token_ids for one in first] == [two.token_ids for two in second]
    for one, two in zip(first, second, strict=True):
        assert one.logprobs == pytest.approx(two.logprobs, abs=5e-5)


def test_the_settings_differ_and_the_window_decides(models):
    short, long = (ids(WINDOW - 12), FREE.replace(seed=1)), (ids(WINDOW - 11), FREE.replace(seed=1))
    by_plain, by_yarn = (run(make_engine(model), [short, long]) for model in models)
    engine = make_engine(models[1], yarn_per_request=True)
    mixed = run(engine, [short, long])
    assert_same(mixed, [by_plain[0], by_yarn[1]])
    assert all(abs(a.logprobs[0] - b.logprobs[0]) > 1e-3 for a, b in zip(by_plain, by_yarn, strict=True))


def test_equal_beginnings_are_shared_within_a_setting_only(models):
    prefix = ids(33)
    requests = [(prefix, FREE), (prefix + ids(9, 1), FREE.replace(max_tokens=60)), (prefix + ids(2, 2), FREE)]
    requests.append((prefix + ids(30, 3), FREE.replace(max_tokens=20)))
    engine = make_engine(models[1], yarn_per_request=True, max_num_seqs=1)
    cached = []
    for prompt, own in requests:
        before = engine.stats().cached_tokens
        assert_same(run(engine, [(prompt, own)]), expected(models, [(prompt, own)]))
        cached.append(engine.stats().cached_tokens - before)
    assert cached == [0, 0, 32, 32]


shapes = st.lists(st.tuples(st.integers(1, 80), st.integers(1, 40), st.integers(1, 2), st.integers(0, 1)), max_size=5)


@settings(max_examples=6, deadline=None)
@given(shapes.filter(bool), st.integers(14, 40), st.integers(11, 60), st.booleans())
def test_mixed_batches_in_small_pools_are_what_each_request_is_alone(models, requests, num_blocks, budget, guess):
    work = [
        (ids(length, beginning), FREE.replace(seed=i, max_tokens=most, n=n))
        for i, (length, most, n, beginning) in enumerate(requests)
    ]
    yarn = models[1]
    engine = make_engine(
        yarn,
        yarn_per_request=True,
        kv_cache_memory=num_blocks * 16 * 2 * 2 * 2 * 8 * 4 * 2 * (1 + guess),
        max_num_batched_tokens=budget,
        speculation=Speculation(num_tokens=3, model=yarn) if guess else None,
    )
    assert_same(run(engine, work), expected(models, work))
    stats = engine.stats()
    assert stats.accepted_tokens == stats.drafted_tokens


def test_what_cannot_be_is_refused(models):
    with pytest.raises(UserError, match="no `rope_scaling`"):
        make_engine(models[0], yarn_per_request=True)


def test_llm_extends_a_model_by_a_rope_scaling_block():
    block = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
    llm = LLM("tiny", max_num_seqs=1, kv_cache_memory=2**27, rope_scaling=block)
    assert llm.engine.max_model_len == 8192 and llm.engine.requests.plain_window == 2048
    with pytest.raises(UserError, match="'yarn' and 'llama3' are"):
        LLM("tiny", rope_scaling={"rope_type": "linear", "factor": 4.0})
