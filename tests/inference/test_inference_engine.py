"""The engine against the plain forward pass of the same module."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwq.errors import UserError
from openqwq.inference import Engine
from openqwq.model import create_model, preset
from openqwq.types import Policy, Prompt, SamplingParams

FREE = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_tokens=12)
GREEDY = FREE.replace(temperature=0.0)
V = 97


@pytest.fixture(scope="module")
def model():
    config = preset("tiny").replace(
        vocab_size=V, hidden_size=32, intermediate_size=48, num_hidden_layers=3, initializer_range=0.4
    )
    return create_model(config, seed=1)


def make_engine(model, **options):
    return Engine(model, **{"eos_token_ids": (), "max_num_seqs": 8, "max_model_len": 64, **options})


def make_prompts(*lengths):
    generator = torch.Generator().manual_seed(sum(lengths))
    return [Prompt(tuple(torch.randint(V, (length,), generator=generator).tolist())) for length in lengths]


def flatten(results):
    return [completion.token_ids for completions in results for completion in completions]


@torch.no_grad()
def forward_logprobs(model, prompt, completion):
    """Log-probs of the completion's tokens by a plain forward pass of the whole sequence."""
    ids = torch.tensor([*prompt.token_ids, *completion.token_ids])
    table = model(ids[None])[0].log_softmax(-1)
    start = len(prompt.token_ids)
    return [table[start + i - 1, token].item() for i, token in enumerate(completion.token_ids)]


def test_greedy_matches_full_forward_token_by_token(model):
    prompts = make_prompts(1, 2, 9, 17)
    for prompt, [completion] in zip(prompts, make_engine(model).generate(prompts, GREEDY), strict=True):
        ids = list(prompt.token_ids)
        for token in completion.token_ids:
            with torch.no_grad():
                assert token == model(torch.tensor([ids]))[0, -1].argmax().item()
            ids.append(token)
        assert completion.finish_reason == "length" and len(completion.token_ids) == 12


def test_logprobs_equal_those_of_the_packed_forward_of_the_trainer(model):
    prompts = make_prompts(3, 8, 1, 20)
    params = [FREE.replace(n=4, seed=i, max_tokens=4 + 7 * i) for i in range(4)]
    rows, recorded = [], []
    for prompt, completions in zip(prompts, make_engine(model, max_num_seqs=5).generate(prompts, params), strict=True):
        for completion in completions:
            rows.append((len(prompt.token_ids), [*prompt.token_ids, *completion.token_ids]))
            recorded.append(completion.logprobs)
    with torch.no_grad():
        packed = model(torch.tensor([t for _, ids in rows for t in ids]), lengths=[len(ids) for _, ids in rows])
    start = 0
    for (prompt_length, ids), logprobs in zip(rows, recorded, strict=True):
        table = packed[start : start + len(ids)].log_softmax(-1)
        expected = [table[i - 1, ids[i]].item() for i in range(prompt_length, len(ids))]
        assert max(abs(a - b) for a, b in zip(expected, logprobs, strict=True)) < 5e-5
        start += len(ids)


def test_logprobs_are_those_of_the_distribution_that_was_sampled(model):
    [prompt] = make_prompts(6)
    [[completion]] = make_engine(model).generate([prompt], FREE.replace(temperature=0.5, top_k=2, seed=3))
    ids = list(prompt.token_ids)
    for token, logprob in zip(completion.token_ids, completion.logprobs, strict=True):
        with torch.no_grad():
            best = (model(torch.tensor([ids]))[0, -1] / 0.5).topk(2)
        position = best.indices.tolist().index(token)
        assert logprob == pytest.approx(best.values.log_softmax(-1)[position].item(), abs=5e-5)
        ids.append(token)


def test_a_batch_samples_what_each_request_samples_alone(model):
    prompts = make_prompts(4, 11, 7, 2, 15)
    params = [FREE.replace(seed=7, max_tokens=3 + 4 * i, n=1 + i % 3) for i in range(5)]
    params[1] = params[1].replace(top_k=5, temperature=0.7)
    together = make_engine(model, max_num_seqs=3).generate(prompts, params)
    for prompt, own, completions in zip(prompts, params, together, strict=True):
        alone = make_engine(model).generate([prompt], own)
        assert flatten(alone) == flatten([completions])


def test_order_and_company_of_requests_do_not_change_their_tokens(model):
    prompts = make_prompts(4, 11, 7, 2)
    params = [FREE.replace(seed=i, max_tokens=6 + i) for i in range(4)]
    forward = make_engine(model).generate(prompts, params)
    backward = make_engine(model, max_num_seqs=2).generate(prompts[::-1], params[::-1])
    assert flatten(forward) == flatten(backward[::-1])


def test_samples_of_a_group_differ_and_repeat_under_their_seed(model):
    [prompt] = make_prompts(9)
    engine = make_engine(model)
    first, second = (engine.generate([prompt], FREE.replace(n=6, seed=5)) for _ in range(2))
    other = engine.generate([prompt], FREE.replace(n=6, seed=6))
    assert flatten(first) == flatten(second)
    assert len(set(flatten(first) + flatten(other))) == 12


def test_a_shared_prompt_samples_what_separate_prompts_sample(model):
    """Sample i of a group is drawn like sample i of a group whose other samples never share its slot."""
    [prompt] = make_prompts(13)
    shared = make_engine(model, max_num_seqs=4).generate([prompt], FREE.replace(n=4, seed=2))
    one_slot = make_engine(model, max_num_seqs=1).generate([prompt], FREE.replace(n=4, seed=2))
    assert flatten(shared) == flatten(one_slot)


def test_without_a_seed_the_engines_seed_and_the_request_number_decide(model):
    prompts = make_prompts(5) * 2
    first = make_engine(model, seed=1).generate(prompts, FREE)
    again = make_engine(model, seed=1).generate(prompts, FREE)
    other = make_engine(model, seed=2).generate(prompts, FREE)
    assert flatten(first) == flatten(again)
    assert len(set(flatten(first) + flatten(other))) == 4


def test_end_tokens_stop_unless_ignored(model):
    [prompt] = make_prompts(6)
    [[free]] = make_engine(model).generate([prompt], GREEDY)
    end = free.token_ids[4]
    first = free.token_ids.index(end)
    engine = make_engine(model, eos_token_ids=[end])
    [[stopped]] = engine.generate([prompt], GREEDY)
    assert stopped.token_ids == free.token_ids[: first + 1] and stopped.finish_reason == "stop"
    [[ignored]] = engine.generate([prompt], GREEDY.replace(ignore_eos=True))
    assert ignored.token_ids == free.token_ids and ignored.finish_reason == "length"
    [[asked]] = make_engine(model).generate([prompt], GREEDY.replace(stop_token_ids=(end,)))
    assert asked.token_ids == stopped.token_ids and asked.finish_reason == "stop"
    assert (stopped.stop_reason, ignored.stop_reason, asked.stop_reason) == (None, None, end)


def test_completions_are_cut_at_the_context(model):
    [prompt] = make_prompts(60)
    [[completion]] = make_engine(model).generate([prompt], FREE.replace(max_tokens=1000))
    assert len(completion.token_ids) == 4 and completion.finish_reason == "length"


def test_a_prompt_that_cannot_run_fails_alone(model):
    good, long = make_prompts(5, 64)
    engine = make_engine(model)
    prompts = [good, long, Prompt(()), Prompt((V,)), good]
    results = engine.generate(prompts, FREE.replace(n=2, seed=1))
    assert [[c.finish_reason for c in r] for r in results] == [["length"] * 2] + [["abort"] * 2] * 3 + [["length"] * 2]
    assert "64 tokens" in results[1][0].error and "`max_model_len` is 64" in results[1][0].error
    assert "no tokens" in results[2][0].error and "0..96" in results[3][0].error
    assert flatten(results[:1]) == flatten(results[4:])
    with pytest.raises(UserError, match="max_model_len"):
        engine.add_request(long.token_ids, FREE)


@pytest.mark.parametrize(
    "change",
    [
        {"n": 0},
        {"temperature": -1},
        {"temperature": math.nan},
        {"top_p": 0},
        {"min_p": 2},
        {"top_k": -2},
        {"repetition_penalty": 1e-300},
        {"temperature": 1e-42},
        {"max_tokens": None},
        {"max_tokens": 2.5},
        {"top_p": "0.9"},
        {"seed": "a"},
        {"stop_token_ids": ("a",)},
        {"bad_words": ("",)},
        {"ignore_eos": "false"},
        {"logit_bias": {"11": 1.0}},
        {"logit_bias": {11: math.inf}},
        {"structured": {"json": {}}},
    ],
)
def test_parameters_out_of_range_are_refused_by_name(model, change):
    with pytest.raises(UserError, match=f"`{next(iter(change))}`"):
        make_engine(model).add_request((1, 2), FREE.replace(**change))


def test_every_token_is_stamped_with_the_version_it_was_sampled_under(model):
    engine = make_engine(model)
    engine.add_request((1, 2, 3), FREE.replace(max_tokens=6, seed=0), "a")
    for _ in range(2):
        assert engine.step() == []
    engine.load_weights(model)
    engine.step()
    engine.load_weights(model, version=9)
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
    [output] = outputs
    assert output.request_id == "a" and output.outputs[0].policy_versions == (0, 0, 1, 9, 9, 9)


def test_loaded_weights_are_sampled_from(model):
    other = create_model(model.config, seed=2)
    engine = make_engine(create_model(model.config, seed=3))
    prompts = make_prompts(7)
    for source in (model, other.state_dict()):
        engine.load_weights(source)
        [[completion]] = engine.generate(prompts, GREEDY)
        expected = model if source is model else other
        assert completion.logprobs == pytest.approx(forward_logprobs(expected, prompts[0], completion), abs=5e-5)
    assert engine.version == 2


def test_training_still_works_on_the_module_that_was_sampled_from(model):
    trained = create_model(model.config, seed=4)
    engine = make_engine(trained)
    engine.generate(make_prompts(5), FREE.replace(n=2))
    ids = torch.arange(10)
    loss = trained(ids, lengths=[10]).log_softmax(-1)[:-1].gather(-1, ids[1:, None]).mean()
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained.parameters())


def test_abort_returns_what_was_sampled_and_frees_the_slots(model):
    engine = make_engine(model, max_num_seqs=3)
    engine.add_request((1, 2), FREE.replace(n=3, seed=0), "a")
    engine.add_request((3,), GREEDY, "b")
    engine.step()
    engine.step()
    aborted = engine.abort("a")
    assert [len(c.token_ids) for c in aborted.outputs] == [2, 1, 0]
    assert {c.finish_reason for c in aborted.outputs} == {"abort"}
    assert engine.abort("a") is None
    results = []
    while engine.has_unfinished:
        results += engine.step()
    assert [r.request_id for r in results] == ["b"]
    assert flatten([results[0].outputs]) == flatten(make_engine(model).generate([Prompt((3,))], GREEDY))


def test_logits_that_are_not_finite_end_the_request_with_an_error(model):
    broken = create_model(model.config, seed=1)
    with torch.no_grad():
        broken.model.embed_tokens.weight[5] = math.nan  # tied head: every row's logits hold a NaN
    [[completion]] = make_engine(broken).generate([Prompt((1, 2))], FREE)
    assert completion.finish_reason == "abort" and "not finite" in completion.error
    assert completion.token_ids == ()


def test_generate_needs_an_idle_engine_and_leaves_one(model):
    engine = make_engine(model)
    engine.add_request((1,), FREE, "a")
    with pytest.raises(ValueError, match="idle"):
        engine.generate(make_prompts(3), FREE)
    engine.abort("a")
    with pytest.raises(ValueError):
        engine.generate(make_prompts(3, 4), [FREE])
    assert not engine.has_unfinished
    assert isinstance(engine, Policy)


def test_a_request_id_can_be_used_once_at_a_time(model):
    engine = make_engine(model)
    engine.add_request((1,), FREE, "a")
    with pytest.raises(ValueError, match="'a'"):
        engine.add_request((1,), FREE, "a")


def test_a_cache_too_small_for_one_sequence_is_refused(model):
    block_bytes = 16 * 3 * 2 * 2 * 8 * 4  # positions, layers, keys and values, kv heads, head dim, bytes
    with pytest.raises(UserError, match="kv_cache_memory") as refused:
        make_engine(model, kv_cache_memory=4 * block_bytes - 1)
    assert refused.value.hint == "lower `max_model_len` to 48 or raise `kv_cache_memory`"
    assert make_engine(model, kv_cache_memory=7 * block_bytes + 1).pool.num_blocks == 7


@pytest.mark.parametrize(
    "change",
    [
        {"max_num_seqs": 0},
        {"max_num_batched_tokens": 0},
        {"max_model_len": 0},
        {"max_model_len": 10**6},
        {"gpu_memory_utilization": 1.5},
    ],
)
def test_sizes_that_no_engine_can_have_are_refused_by_name(model, change):
    with pytest.raises(UserError, match=f"`{next(iter(change))}`"):
        make_engine(model, **change)


arrivals = st.lists(
    st.tuples(st.integers(0, 6), st.integers(1, 8), st.integers(1, 4), st.integers(1, 9), st.booleans()),
    min_size=1,
    max_size=6,
)


@settings(max_examples=12, deadline=None)
@given(arrivals, st.integers(1, 5), st.integers(1, 12))
def test_random_arrivals_and_aborts_do_not_change_what_others_sample(model, requests, num_slots, budget):
    engine = make_engine(model, max_num_seqs=num_slots, max_num_batched_tokens=budget)
    outputs = {}
    step = 0
    while step <= 6 or engine.has_unfinished:
        for i, (arrival, prompt_length, n, max_tokens, _) in enumerate(requests):
            if arrival == step:
                prompt = make_prompts(prompt_length)[0].token_ids
                engine.add_request(prompt, FREE.replace(n=n, max_tokens=max_tokens, seed=i), str(i))
        for i, request in enumerate(requests):
            if request[4] and request[0] + 3 == step:
                engine.abort(str(i))
        outputs |= {output.request_id: output for output in engine.step()}
        step += 1
    assert engine.pool.num_free == engine.pool.num_blocks
    for i, (_, prompt_length, n, max_tokens, aborts) in enumerate(requests):
        assert aborts or str(i) in outputs
        if str(i) in outputs:
            params = FREE.replace(n=n, max_tokens=max_tokens, seed=i)
            alone = make_engine(model).generate(make_prompts(prompt_length), params)
            assert flatten(alone) == flatten([outputs[str(i)].outputs])
