"""The engine on a GPU: exact at float32, the same in batches and alone, whatever the weights are kept in."""

import pytest
import torch
from inference_runs import V, ids, run

from openqwq.inference import Engine, Speculation
from openqwq.model import create_model, preset, quantize_weights
from openqwq.types import SamplingParams

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
FREE = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_tokens=24)
GREEDY = FREE.replace(temperature=0.0)


def make_model(dtype=torch.float32, **changes):
    shape = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 3, "initializer_range": 0.15}
    config = preset("tiny").replace(vocab_size=V, **{**shape, **changes})
    return create_model(config, seed=1, device="cuda", dtype=dtype)


def make_engine(model, **options):
    return Engine(model, **{"eos_token_ids": (), "max_model_len": 256, "max_num_seqs": 8, **options})


@torch.no_grad()
def forward_logprobs(model, prompt, completion):
    whole = torch.tensor([*prompt, *completion.token_ids], device="cuda")
    table = model(whole[None])[0].float().log_softmax(-1)
    return [table[len(prompt) + i - 1, token].item() for i, token in enumerate(completion.token_ids)]


@pytest.mark.parametrize("tied", [True, False])
def test_gpu_greedy_matches_full_forward_token_by_token(tied):
    model = make_model(tie_word_embeddings=tied)
    prompts = [ids(length, length) for length in (1, 17, 90)]
    for prompt, [completion] in zip(prompts, run(make_engine(model), [(p, GREEDY) for p in prompts]), strict=True):
        known = list(prompt)
        for token in completion.token_ids:
            with torch.no_grad():
                assert token == model(torch.tensor([known], device="cuda"))[0, -1].argmax().item()
            known.append(token)


@pytest.mark.parametrize("options", [{}, {"max_num_batched_tokens": 48}, {"speculation": Speculation(num_tokens=3)}])
def test_gpu_batch_samples_what_each_request_samples_alone(options):
    model = make_model()
    requests = [(ids(20 + 9 * i, i), FREE.replace(seed=i)) for i in range(7)]
    together = run(make_engine(model, **options), requests)
    alone = [run(make_engine(model), [request])[0] for request in requests]
    assert [c[0].token_ids for c in together] == [c[0].token_ids for c in alone]
    for (prompt, _), [completion] in zip(requests, together, strict=True):
        assert forward_logprobs(model, prompt, completion) == pytest.approx(completion.logprobs, abs=1e-4)


@pytest.mark.parametrize(("kind", "cache"), [(None, "auto"), (None, "int8"), ("int8", "auto"), ("int4", "auto")])
def test_gpu_bfloat16_logprobs_are_near_the_forward_pass(kind, cache):
    model = make_model(torch.bfloat16, tie_word_embeddings=False)
    if kind:
        quantize_weights(model, kind, group_size=32)
    requests = [(ids(30 + i, i), FREE.replace(seed=i, n=2)) for i in range(3)]
    errors = []
    for (prompt, _), completions in zip(requests, run(make_engine(model, kv_cache_dtype=cache), requests), strict=True):
        for completion in completions:
            exact = forward_logprobs(model, prompt, completion)
            errors += [abs(a - b) for a, b in zip(exact, completion.logprobs, strict=True)]
    assert sum(errors) / len(errors) < 0.1 and max(errors) < 1.0


def test_gpu_samples_follow_weights_that_a_trainer_changes_in_place():
    model = make_model()
    engine = make_engine(model)
    before = run(engine, [(ids(9), GREEDY)])[0][0].token_ids
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    engine.load_weights(model)
    after = run(engine, [(ids(9), GREEDY)])[0][0].token_ids
    assert after == run(make_engine(model), [(ids(9), GREEDY)])[0][0].token_ids != before
    model(torch.tensor([ids(5)], device="cuda")).sum().backward()  # still a module that can be trained
    assert all(parameter.grad is not None for parameter in model.parameters())
