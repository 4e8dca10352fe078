"""Weight-only int8 against the weights that it stands for."""

import pytest
import torch

from openqwq.inference import Engine
from openqwq.model import create_model, preset, quantize, quantize_weights
from openqwq.model.quantize import Int8Linear
from openqwq.types import Prompt, SamplingParams


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("num_rows", [1, 3, 9])
def test_the_layer_multiplies_by_its_rounded_weights(native, num_rows, monkeypatch):
    if not native:
        monkeypatch.setattr(quantize, "native_kernels", lambda: None)
    torch.manual_seed(0)
    weight, bias, x = torch.randn(37, 50), torch.randn(37), torch.randn(num_rows, 50)
    weight[3] = 0
    layer = Int8Linear(weight, bias)
    rounded = layer.weight.double() * layer.scale.double()[:, None]
    assert (rounded - weight).abs().amax(1).le(layer.scale * 0.5001 + 1e-12).all()
    expected = x.double() @ rounded.T + bias
    assert torch.allclose(layer(x).double(), expected, atol=1e-4)
    assert torch.equal(layer(x[0]), layer(x[:1])[0])


def test_a_quantised_model_samples_close_to_the_whole_one():
    config = preset("tiny").replace(vocab_size=97, num_hidden_layers=2, initializer_range=0.1)
    model, small = create_model(config, seed=1), create_model(config, seed=1)
    quantize_weights(small)
    ids = torch.arange(24)[None] * 5 % 97
    with torch.no_grad():
        whole, rounded = model(ids).log_softmax(-1), small(ids).log_softmax(-1)
    assert 0 < (whole - rounded).abs().max() < 0.1 * whole.std()
    params = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_tokens=10, seed=0)
    [[done]] = Engine(small, eos_token_ids=(), max_model_len=64).generate([Prompt(tuple(range(9)))], params)
    with torch.no_grad():
        table = small(torch.tensor([[*range(9), *done.token_ids]]))[0].log_softmax(-1)
    expected = [table[8 + i, token].item() for i, token in enumerate(done.token_ids)]
    assert done.logprobs == pytest.approx(expected, abs=1e-4)
