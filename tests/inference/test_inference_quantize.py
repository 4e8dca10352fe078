"""Narrow weights against the weights that it stands for."""

import pytest
import torch

from openqwq.inference import Engine
from openqwq.model import create_model, preset, quantize_weights
from openqwq.types import Prompt, SamplingParams


@pytest.mark.parametrize(("kind", "most"), [("bf16", 0.01), ("int8", 0.03), ("int4", 0.4)])
def test_a_quantised_model_samples_close_to_the_whole_one(kind, most):
    config = preset("tiny").replace(vocab_size=97, num_hidden_layers=2, initializer_range=0.1)
    model, small = create_model(config, seed=1), create_model(config, seed=1)
    quantize_weights(small, kind)
    ids = torch.arange(24)[None] * 5 % 97
    with torch.no_grad():
        whole, rounded = model(ids).log_softmax(-1), small(ids).log_softmax(-1)
    assert 0 < (whole - rounded).abs().mean() < most * whole.std()
    params = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_tokens=10, seed=0)
    [[done]] = Engine(small, eos_token_ids=(), max_model_len=64).generate([Prompt(tuple(range(9)))], params)
    with torch.no_grad():
        table = small(torch.tensor([[*range(9), *done.token_ids]]))[0].log_softmax(-1)
    expected = [table[8 + i, token].item() for i, token in enumerate(done.token_ids)]
    assert done.logprobs == pytest.approx(expected, abs=1e-4)
