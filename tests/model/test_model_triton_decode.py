"""The GPU's decoder, by Triton's interpreter where there is no GPU, against the module's own forward pass."""

import pytest
import torch

from openqwq.kernels import REFERENCE
from openqwq.model import KVCache, PagedAttention, create_model, preset, quantize_weights

pytest.importorskip("triton", reason="the GPU's kernels need Triton, by whose interpreter they are tested on a CPU")
from openqwq.kernels.triton import attention as triton_attention
from openqwq.model.fused.cuda import CudaFusedDecoder
from openqwq.model.fused.cuda_weights import fuse_weights, weight_places

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
V = 40


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    if DEVICE == "cpu":  # the interpreter takes a millisecond for each
        monkeypatch.setattr(triton_attention, "PROGRAMS", 16)


def make_model(kind=None, tied=True):
    config = preset("tiny").replace(
        vocab_size=V,
        hidden_size=64,
        intermediate_size=72,
        num_hidden_layers=2,
        initializer_range=0.3,
        tie_word_embeddings=tied,
    )
    model = create_model(config, seed=3)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    if kind:
        quantize_weights(model, kind, group_size=32)
    return model.to(DEVICE)


def make_cache(model, **options):
    return KVCache(model.config, 8, 16, device=DEVICE, **options)


def decode(call, tokens, tables):
    """Logits of some steps of three rows that begin at different positions."""
    out, tokens = [], tokens.clone()
    positions = torch.tensor([0, 14, 3], device=DEVICE)
    with torch.inference_mode():
        for _ in range(3):
            logits = call(tokens, positions, tables, int(positions.max()) + 1, None)
            out.append(logits.clone())
            tokens, positions = logits.argmax(-1), positions + 1
    return torch.stack(out)


def plain(model, cache):
    def call(tokens, positions, tables, longest, scaled):
        context = PagedAttention(cache, tables, positions, longest=longest, ops=REFERENCE)
        return model(tokens, context=context).float()

    return call


@pytest.mark.parametrize(("kind", "tied"), [(None, True), (None, False), ("int8", True), ("int4", False)])
def test_decoder_gives_the_modules_logits(kind, tied):
    model = make_model(kind, tied)
    own, other = make_cache(model), make_cache(model)
    tables = torch.tensor([[1, 2], [4, 3], [5, 0]], dtype=torch.int32, device=DEVICE)
    tokens = torch.tensor([7, 3, 11], device=DEVICE)
    reference = decode(plain(model, other), tokens, tables)
    decoder = CudaFusedDecoder(model, own, max_rows=4)
    assert decoder.bind_weights()
    torch.testing.assert_close(decode(decoder, tokens, tables), reference, atol=2e-4, rtol=2e-4)
    for mine, keys in zip(own.keys, other.keys, strict=True):
        torch.testing.assert_close(mine, keys, atol=1e-4, rtol=1e-4)


def test_fused_weights_are_views_that_follow_the_modules():
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layers = fuse_weights(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    attention = model.model.layers[1].self_attn
    with torch.no_grad():
        attention.k_proj.weight.fill_(5)
        attention.v_proj.bias.fill_(6)
    size = attention.q_proj.out_features
    assert (layers[1].qkv.codes[size : size + attention.k_proj.out_features] == 5).all()
    assert (layers[1].bias[-attention.v_proj.out_features :] == 6).all()
    places = weight_places(model)
    assert fuse_weights(model)[1].qkv.codes.data_ptr() == layers[1].qkv.codes.data_ptr()
    assert weight_places(model) == places  # already end to end: nothing moves


def test_a_module_of_another_kind_is_left_to_the_plain_pass():
    model = make_model()
    model.model.layers[0].mlp.up_proj = torch.nn.Linear(64, 72, bias=False)
    assert not CudaFusedDecoder(model, make_cache(model), max_rows=1).bind_weights()


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_a_replayed_graph_gives_the_bits_of_the_eager_step():
    model = make_model(tied=False)
    tables = torch.tensor([[1, 2], [4, 3], [5, 0]], dtype=torch.int32, device=DEVICE)
    tokens = torch.tensor([7, 3, 11], device=DEVICE)
    results = []
    for graphs in (True, False):
        decoder = CudaFusedDecoder(model, make_cache(model), max_rows=4, graphs=graphs)
        assert decoder.bind_weights()
        decoder._tilings = results[0][1] if results else {}
        results.append((decode(decoder, tokens, tables), decoder._tilings))
    assert torch.equal(results[0][0], results[1][0])
