"""Every family against `transformers` on random weights, and through every path that computes it."""

import json

import pytest
import torch

from openqwq.checkpoint.huggingface import save_model
from openqwq.errors import UserError
from openqwq.inference import Engine
from openqwq.kernels import REFERENCE, library
from openqwq.model import (
    PRESETS,
    DecoderConfig,
    create_model,
    load_model,
    quantize_weights,
    set_batch_invariant,
    use_ops,
)
from openqwq.model.lora import add_lora, merge_lora
from openqwq.types import Prompt, SamplingParams

transformers = pytest.importorskip("transformers", reason="the parity tests need transformers (dev extra)")

BASE = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}
FOLDERS = {
    "qwen2": {"model_type": "qwen2"},
    "qwen2-yarn": {"model_type": "qwen2", "rope_scaling": YARN, "tie_word_embeddings": True},
    "qwen2-heads": {"model_type": "qwen2", "head_dim": 12},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "qwen3-bias": {"model_type": "qwen3", "head_dim": 8, "attention_bias": True, "tie_word_embeddings": True},
    "llama": {"model_type": "llama"},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True, "num_key_value_heads": 6},
    "llama3": {"model_type": "llama", "rope_scaling": LLAMA3, "head_dim": 12},
    "llama-bias": {"model_type": "llama", "attention_bias": True},
    "mistral": {"model_type": "mistral", "head_dim": 16, "sliding_window": None},
}


def random_model(raw):
    model = create_model(DecoderConfig.from_dict({**BASE, **raw}), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def their_model(model, folder):
    save_model(model, folder)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def random_ids(*shape):
    return torch.randint(0, 97, shape, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module", params=FOLDERS, ids=FOLDERS)
def model(request):
    return random_model(FOLDERS[request.param])


@torch.no_grad()
def test_logits_equal_transformers_whole_padded_and_packed(model, tmp_path):
    theirs = their_model(model, tmp_path)
    ids = random_ids(3, 40)
    expected = theirs(ids).logits
    assert (model(ids) - expected).abs().max() <= 1e-4
    mask = torch.ones_like(ids)
    mask[1, 25:] = 0
    assert (model(ids, attention_mask=mask)[1, :25] - expected[1, :25]).abs().max() <= 1e-4
    lengths = [40, 13, 27]
    packed = model(torch.cat([ids[0], ids[1, :13], ids[2, :27]]), lengths=lengths).split(lengths)
    for row, own in enumerate(packed):
        assert (own - expected[row, : len(own)]).abs().max() <= 1e-4


def test_gradients_equal_transformers(model, tmp_path):
    theirs = their_model(model, tmp_path)
    ids = random_ids(2, 20)
    model.zero_grad()
    model(ids).logsumexp(-1).sum().backward()
    theirs(ids).logits.logsumexp(-1).sum().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in model.named_parameters():
        scale = expected[name].grad.abs().max()
        assert (parameter.grad - expected[name].grad).abs().max() <= 1e-4 * scale, name
    model.zero_grad()


def sample(model, **options):
    engine = Engine(model, eos_token_ids=(), **options)
    params = [SamplingParams(temperature=1.0, max_tokens=12, seed=i, top_k=0, top_p=1.0) for i in range(3)]
    prompts = [Prompt(tuple(random_ids(n).tolist())) for n in (5, 19, 33)]
    return prompts, [own for [own] in engine.generate(prompts, params)]


@torch.no_grad()
@pytest.mark.parametrize("invariant", [False, True])
def test_the_engine_samples_with_the_models_own_logprobs(model, invariant):
    if invariant and library() is None:
        pytest.skip("needs the C library")
    try:
        prompts, completions = sample(model, batch_invariant=invariant)
        for prompt, completion in zip(prompts, completions, strict=True):
            ids = torch.tensor([*prompt.token_ids, *completion.token_ids])
            table = model(ids[None])[0].log_softmax(-1)
            start = len(prompt.token_ids)
            expected = table[start - 1 : -1].gather(1, ids[start:, None])[:, 0]
            assert (torch.tensor(completion.logprobs) - expected).abs().max() <= 1e-4
    finally:
        set_batch_invariant(model, False)


@torch.no_grad()
def test_c_decoding_and_pytorchs_operators_sample_the_same(model):
    _, by_default = sample(model)
    before = model.ops
    try:
        use_ops(model, REFERENCE)
        _, by_reference = sample(model)
    finally:
        use_ops(model, before)
    assert [c.token_ids for c in by_default] == [c.token_ids for c in by_reference]


@torch.no_grad()
def test_a_saved_folder_is_the_same_model(model, tmp_path):
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.config.replace(max_window_layers=None) == model.config
    assert torch.equal(again(random_ids(2, 9)), model(random_ids(2, 9)))


@torch.no_grad()
def test_int8_weights_stay_near(model):
    ids = random_ids(2, 20)
    narrow = create_model(model.config, seed=0)
    narrow.load_state_dict(model.state_dict())
    quantize_weights(narrow, "int8")
    exact = model(ids)
    assert (narrow(ids) - exact).square().mean() <= 1e-2 * exact.square().mean()


def test_adapters_train_and_merge(model):
    own = create_model(model.config, seed=0)
    add_lora(own, rank=2, alpha=4, targets=("q_proj", "o_proj", "down_proj"), seed=0)
    own(random_ids(2, 9)).sum().backward()
    with torch.no_grad():
        for name, parameter in own.named_parameters():
            if "lora_B" in name:
                parameter.add_(parameter.grad * 1e-3)
    adapted = own(random_ids(2, 9)).detach()
    merge_lora(own)
    torch.testing.assert_close(own(random_ids(2, 9)).detach(), adapted, atol=1e-4, rtol=1e-4)


def test_config_is_written_as_it_was_read(model):
    written = model.config.to_dict()
    assert DecoderConfig.from_dict(written).replace(max_window_layers=None) == model.config
    theirs = transformers.AutoConfig.for_model(**json.loads(json.dumps(written)))
    assert getattr(theirs, "head_dim", None) in (None, model.config.head_dim)
    assert theirs.num_key_value_heads == model.config.num_key_value_heads


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"model_type": "qwen2_moe"}, "did you mean 'qwen2'"),
        ({"model_type": "gemma2"}, "supported: qwen2"),
        ({"model_type": "llama", "mlp_bias": True}, "biases in the MLP"),
        ({"model_type": "llama", "num_local_experts": 8}, "mixture of experts"),
        ({"model_type": "mistral", "sliding_window": 16}, "shorter than the context of 64"),
        ({"model_type": "llama", "rope_scaling": {**LLAMA3, "low_freq_factor": 5.0}}, "above `low_freq_factor`"),
        ({"model_type": "llama", "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "llama3 block of config"),
        ({"model_type": "qwen3", "head_dim": 7}, "must be even"),
        ({"model_type": "llama", "attention_bias": "yes"}, "true or false"),
    ],
)
def test_what_this_decoder_would_compute_wrongly_is_refused(raw, message):
    with pytest.raises(UserError) as error:
        DecoderConfig.from_dict({**BASE, **raw})
    assert message in f"{error.value.message} {error.value.hint}"


def test_every_preset_is_read_as_it_is_written():
    for config in PRESETS.values():
        read = DecoderConfig.from_dict(config.to_dict())
        assert read.replace(max_window_layers=None) == config.replace(max_window_layers=None)
