"""The config and its file, rotary frequencies against reference vectors, presets against published numbers."""

import json
import math
from pathlib import Path

import pytest
import torch

from openqwq.errors import UserError
from openqwq.kernels.reference import rotate
from openqwq.model import PRESETS, Decoder, DecoderConfig, YarnScaling, convert_swish_beta, create_model, preset
from openqwq.model.rope import RotaryEmbedding, attention_factor, inverse_frequencies

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "qwq_config"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the published QwQ-32B files are not beside this checkout")

YARN = {"factor": 4.0, "original_max_position_embeddings": 32768}
MINIMAL = {
    "model_type": "qwen2",
    "vocab_size": 10,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
}
PUBLISHED_PARAMETERS = {
    "qwq-32b": 32_763_876_352,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "mistral-7b": 7_248_023_552,
    "mistral-nemo-12b": 12_247_782_400,
    "tiny": 1024 * 128 + 4 * (2 * 128 * 128 + 128 + 2 * (64 * 128 + 64) + 3 * 128 * 384 + 2 * 128) + 128,
}


def on_meta(config):
    with torch.device("meta"):
        return Decoder(config)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_number_of_parameters(name):
    assert sum(p.numel() for p in on_meta(preset(name)).parameters()) == PUBLISHED_PARAMETERS[name]


def test_qwq_32b_has_the_published_tensors():
    got = {name: list(tensor.shape) for name, tensor in on_meta(preset("qwq-32b")).state_dict().items()}
    layer = {
        "input_layernorm.weight": [5120],
        "self_attn.q_proj.weight": [5120, 5120],
        "self_attn.q_proj.bias": [5120],
        "self_attn.k_proj.weight": [1024, 5120],
        "self_attn.k_proj.bias": [1024],
        "self_attn.v_proj.weight": [1024, 5120],
        "self_attn.v_proj.bias": [1024],
        "self_attn.o_proj.weight": [5120, 5120],
        "post_attention_layernorm.weight": [5120],
        "mlp.gate_proj.weight": [27648, 5120],
        "mlp.up_proj.weight": [27648, 5120],
        "mlp.down_proj.weight": [5120, 27648],
    }
    expected = {f"model.layers.{i}.{name}": shape for i in range(64) for name, shape in layer.items()}
    expected |= {"model.embed_tokens.weight": [152064, 5120], "lm_head.weight": [152064, 5120]}
    expected |= {"model.norm.weight": [5120]}
    assert got == expected
    assert len(got) == 771


def test_a_tied_head_is_absent_from_the_state_dict():
    assert "lm_head.weight" not in on_meta(preset("tiny")).state_dict()


@needs_data
def test_qwq_32b_writes_the_published_config():
    published = json.loads((DATA / "config.json").read_text())
    del published["transformers_version"]
    assert preset("qwq-32b").to_dict() == published
    assert DecoderConfig.from_dict(published) == preset("qwq-32b")


@needs_data
def test_yarn_frequencies_equal_the_reference_vectors():
    reference = next(v for k, v in json.loads((DATA / "yarn_reference.json").read_text()).items() if "correct" in k)
    config = preset("qwq-32b").replace(rope_scaling=YarnScaling(**YARN))
    assert inverse_frequencies(config) == pytest.approx(reference["inv_freq"], rel=1e-6)
    assert attention_factor(config) == pytest.approx(reference["attention_factor"], rel=1e-9)


def test_yarn_keeps_fast_pairs_and_divides_slow_pairs_by_the_factor():
    plain = inverse_frequencies(preset("qwq-32b"))
    yarn = inverse_frequencies(preset("qwq-32b").replace(rope_scaling=YarnScaling(**YARN)))
    assert yarn[:24] == plain[:24]
    assert yarn[40:] == pytest.approx([f / 4 for f in plain[40:]])
    middle = plain[32] * (8 / 17) + plain[32] / 4 * (9 / 17)  # pair 32 of the ramp from 23 to 40
    assert yarn[32] == pytest.approx(middle)


def test_rotary_turns_pairs_by_position_times_frequency():
    config = DecoderConfig.from_dict({**MINIMAL, "rope_theta": 100.0})  # head dim 4: frequencies 1 and 0.1
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    cos, sin = RotaryEmbedding(config)(torch.tensor([5]), torch.float32)
    a, b = 5.0, 0.5
    expected = [
        1 * math.cos(a) - 3 * math.sin(a),
        2 * math.cos(b) - 4 * math.sin(b),
        3 * math.cos(a) + 1 * math.sin(a),
        4 * math.cos(b) + 2 * math.sin(b),
    ]
    assert rotate(x, cos, sin).flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_yarn_multiplies_both_cos_and_sin():
    config = DecoderConfig.from_dict({**MINIMAL, "rope_scaling": {"type": "yarn", **YARN}})
    cos, sin = RotaryEmbedding(config)(torch.tensor([0, 1]), torch.float32)
    assert cos[0].flatten().tolist() == pytest.approx([1.1386294] * 4)
    assert (cos**2 + sin**2).flatten().tolist() == pytest.approx([1.1386294**2] * 8, rel=1e-5)


def test_rotary_angles_survive_a_cast_of_the_model():
    model = create_model(DecoderConfig.from_dict(MINIMAL), seed=0).to(torch.bfloat16)
    cos, _ = model.model.rotary(torch.tensor([30]), torch.float32)
    assert cos[0, 0, 1].item() == pytest.approx(math.cos(0.3), abs=1e-6)


@pytest.mark.parametrize(
    "block",
    [
        {"rope_scaling": {"type": "yarn", **YARN}, "rope_theta": 1e6},
        {"rope_scaling": {"rope_type": "yarn", **YARN}, "rope_theta": 1e6},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, **YARN}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, **YARN}, "rope_scaling": None},
        {"rope_parameters": None, "rope_scaling": {"rope_type": "yarn", **YARN}, "rope_theta": 1e6},
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            "rope_scaling": {"type": "yarn", **YARN},
        },
        {
            "rope_parameters": {"rope_type": "default"},
            "rope_scaling": {"type": "yarn", **YARN, "rope_theta": 1e6},
            "rope_theta": 10000.0,
        },
        {
            "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, **YARN},
            "rope_scaling": {"rope_type": "yarn", **YARN},
        },
        {"rope_parameters": {"full_attention": {"rope_type": "yarn", "rope_theta": 1e6, **YARN}}},
        {"rope_parameters": {"rope_theta": 1e6, "full_attention": {"rope_type": "yarn", **YARN}}},
        {"rope_scaling": {"type": "yarn", "rope_type": "yarn", **YARN, "beta_fast": None}, "rope_theta": 1e6},
    ],
)
def test_yarn_is_read_in_every_spelling(block):
    config = DecoderConfig.from_dict({**MINIMAL, **block})
    assert config.rope_theta == 1e6
    assert config.rope_scaling == YarnScaling(factor=4.0, original_max_position_embeddings=32768)
    assert config.rope_theta == 1e6
    assert config.max_context == 131072


def test_default_rope_parameters_mean_no_scaling():
    config = DecoderConfig.from_dict({**MINIMAL, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}})
    assert (config.rope_theta, config.rope_scaling) == (500.0, None)


@pytest.mark.parametrize("config", [*PRESETS.values(), preset("tiny").replace(rope_scaling=YarnScaling(**YARN))])
def test_a_written_config_reads_back_the_same(config):
    read = DecoderConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    layers = config.max_window_layers or config.num_hidden_layers
    assert read == config.replace(max_window_layers=layers if config.model_type.startswith("qwen") else None)


@pytest.mark.parametrize("yarn", [None, YarnScaling(**YARN)])
def test_transformers_reads_the_same_numbers_from_our_config(yarn):
    transformers = pytest.importorskip("transformers")
    ours = preset("qwq-32b").replace(rope_scaling=yarn)
    theirs = transformers.Qwen2Config(**ours.to_dict())
    back = DecoderConfig.from_dict(theirs.to_dict())
    assert (back.rope_theta, back.rope_scaling) == (ours.rope_theta, ours.rope_scaling)
    assert (back.hidden_size, back.rms_norm_eps, back.torch_dtype) == (5120, 1e-5, "bfloat16")


AWQ = {"bits": 4, "group_size": 128, "quant_method": "awq", "version": "gemm", "zero_point": True}
GPTQ = {"bits": 4, "group_size": 128, "quant_method": "gptq", "sym": True, "desc_act": False}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gemma2"}, "`model_type` is 'gemma2'"),
        ({"hidden_act": "gelu"}, "`hidden_act` is 'gelu'"),
        ({"use_sliding_window": True, "max_window_layers": 0}, "sliding-window"),
        ({"attention_dropout": 0.1}, "`attention_dropout` is 0.1"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised (fp8)"),
        ({"quantization_config": "awq"}, "must be an object"),
        ({"quantization_config": {**AWQ, "bits": 8}}, "`quantization_config.bits` is 8"),
        ({"quantization_config": {**AWQ, "group_size": 48}}, "`quantization_config.group_size` is 48"),
        ({"quantization_config": {**AWQ, "version": "gemv"}}, "`quantization_config.version` is gemv"),
        ({"quantization_config": {**AWQ, "zero_point": False}}, "`quantization_config.zero_point` is False"),
        ({"quantization_config": {**GPTQ, "checkpoint_format": "marlin"}}, "checkpoint_format` is marlin"),
        ({"quantization_config": {**GPTQ, "is_marlin_format": True}}, "is_marlin_format` is True"),
        ({"quantization_config": {**GPTQ, "dynamic": {"-:.*": {}}}}, "`quantization_config.dynamic` is"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear' is not supported"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "lacks `factor` or"),
        ({"rope_scaling": {"type": "yarn", **YARN, "mscale": 0.7}}, "mscale"),
        ({"rope_scaling": {"type": "yarn", **YARN, "factor": 0.5}}, "rope_scaling.factor"),
        ({"hidden_size": None}, "lacks `hidden_size`"),
        ({"hidden_size": 9}, "a multiple of 2 heads"),
        ({"num_key_value_heads": 3}, "a divisor of 2 heads"),
        ({"num_hidden_layers": 0}, "at least 1"),
        ({"num_hidden_layers": 10**9}, "`num_hidden_layers` is 1000000000 in the model's config, but must be at most"),
        ({"vocab_size": 10**12}, "`vocab_size` is 1000000000000 in"),
        ({"hidden_size": 2 * 10**9}, "`hidden_size` is"),
        ({"intermediate_size": 10**30}, "`intermediate_size` is"),
        ({"max_position_embeddings": 10**18}, "`max_position_embeddings` is"),
        ({"rms_norm_eps": 0}, "between 0 and 1"),
        ({"rms_norm_eps": "x"}, "`rms_norm_eps` is 'x'"),
        ({"initializer_range": -1}, "between 0 and 10"),
        ({"torch_dtype": "int8"}, "one of float32"),
        ({"swish_beta": 0.0}, "above 0"),
    ],
)
def test_configs_that_mean_another_computation_are_refused(change, message):
    with pytest.raises(UserError) as caught:
        DecoderConfig.from_dict({**MINIMAL, **change})
    assert message in caught.value.message


def test_an_unused_sliding_window_is_accepted():
    raw = {**MINIMAL, "use_sliding_window": True, "max_window_layers": 1, "sliding_window": 4}
    assert DecoderConfig.from_dict(raw).use_sliding_window


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(UserError) as caught:
        preset("qwq32b")
    assert caught.value.hint == "try `qwq-32b`"


@pytest.mark.parametrize("beta", [math.log(2), 1.7])
def test_swish_beta_is_converted_exactly_both_ways(beta):
    plain = create_model(DecoderConfig.from_dict(MINIMAL).replace(initializer_range=0.8), seed=0)
    ids = torch.arange(10)[None]
    weights, config = convert_swish_beta(plain.state_dict(), plain.config, beta)
    swish = Decoder(config)
    swish.load_state_dict(weights)
    back, back_config = convert_swish_beta(weights, config, 1.0)
    with torch.no_grad():
        assert (swish(ids) - plain(ids)).abs().max() <= 1e-5
        mlp = plain.model.layers[0].mlp
        gates = swish.model.layers[0].mlp.gate_proj.weight / mlp.gate_proj.weight
        assert gates.flatten().tolist() == pytest.approx([1 / beta] * gates.numel(), rel=1e-5)
    assert back_config == plain.config
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(back[name], tensor, rtol=1e-6, atol=0)


def test_swish_beta_changes_the_function_when_weights_stay():
    plain = create_model(DecoderConfig.from_dict(MINIMAL).replace(initializer_range=0.8), seed=0)
    other = Decoder(plain.config.replace(swish_beta=math.log(2)))
    other.load_state_dict(plain.state_dict())
    z = torch.linspace(-3, 3, 8)
    mlp = other.model.layers[0].mlp
    with torch.no_grad():
        gate = mlp.gate_proj(z)
        expected = mlp.down_proj(gate / (1 + 2**-gate) * mlp.up_proj(z))  # x / (1 + 2^-x) is swish at ln 2
        torch.testing.assert_close(mlp(z), expected)
        assert (other(torch.arange(10)[None]) - plain(torch.arange(10)[None])).abs().max() > 1e-3


def test_random_weights_depend_on_the_seed_alone():
    config = DecoderConfig.from_dict(MINIMAL)
    first, same, other = (create_model(config, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])
    big = create_model(preset("tiny"), seed=0).state_dict()
    assert big["model.embed_tokens.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    assert big["model.layers.0.self_attn.q_proj.bias"].abs().max() == 0
    assert (big["model.norm.weight"] == 1).all()


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ({"rope_scaling": dict(YARN)}, "no `rope_type`"),
        ({"rope_scaling": {"factor": 2.0, "type": None}}, "no `rope_type`"),
        ({"rope_parameters": {"rope_theta": 1e6, "factor": 2.0}}, "no `rope_type`"),
        ({"rope_scaling": {"type": "default", "factor": 2.0}}, "'default' and yet factor"),
        ({"rope_scaling": {"type": "", **YARN}}, "'' is not supported"),
        ({"rope_scaling": {"rope_type": 5, **YARN}}, "'5' is not supported"),
        ({"rope_scaling": {"rope_type": ["yarn"], **YARN}}, "is not supported"),
        ({"rope_scaling": {"type": "linear", "rope_type": "yarn", **YARN}}, "linear/yarn"),
        ({"rope_scaling": "yarn"}, "`rope_scaling` is 'yarn'"),
        ({"rope_scaling": ["yarn", 4]}, "must be an object"),
        ({"rope_parameters": 4.0}, "`rope_parameters` is 4.0"),
        ({"rope_scaling": {"type": "yarn", **YARN, "factor": "4.0"}}, "rope_scaling.factor` is '4.0'"),
        ({"rope_scaling": {"type": "yarn", **YARN, "factor": True}}, "rope_scaling.factor` is True"),
        ({"rope_scaling": {"type": "yarn", **YARN, "beta_fast": "32"}}, "beta_fast"),
        ({"rope_scaling": {"type": "yarn", **YARN, "beta_slow": 0}}, "beta_slow"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048.5}}, "whole"),
        ({"rope_theta": "1e6"}, "`rope_theta` is '1e6'"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": "1e6"}}, "rope_theta` is '1e6'"),
        ({"rope_parameters": {"sliding_attention": {"rope_type": "default"}}}, "lacks an object `full_attention`"),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}}}, "'linear'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"partial_rotary_factor": 0.25}, "partial_rotary_factor"),
        (
            {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear", "factor": 4.0}},
            "'linear' is not supported",
        ),
        (
            {"rope_parameters": {"type": "yarn", **YARN}, "rope_scaling": {"type": "yarn", **YARN, "factor": 2.0}},
            "different rotary settings",
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", **YARN}, "rope_scaling": {"rope_type": "default"}},
            "different rotary settings",
        ),
        (
            {
                "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
                "rope_scaling": {"type": "yarn", **YARN, "rope_theta": 1e6},
            },
            "500000.0 and 1000000.0",
        ),
    ],
)
def test_a_rotary_setting_that_cannot_be_done_is_refused_and_named(block, reason):
    with pytest.raises(UserError, match=reason):
        DecoderConfig.from_dict({**MINIMAL, **block})


@pytest.mark.parametrize("block", [{}, {"rope_parameters": {}}, {"rope_scaling": {}}, {"rope_scaling": None}])
def test_a_config_without_rotary_settings_has_none(block):
    config = DecoderConfig.from_dict({**MINIMAL, **block})
    assert (config.rope_theta, config.rope_scaling) == (10000.0, None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_size": "8"}, "`hidden_size` is '8'"),
        ({"hidden_size": 8.0}, "`hidden_size` is 8.0"),
        ({"num_attention_heads": True}, "`num_attention_heads` is True"),
        ({"num_hidden_layers": [1]}, "`num_hidden_layers`"),
        ({"rms_norm_eps": "1e-6"}, "`rms_norm_eps` is '1e-6'"),
        ({"rms_norm_eps": float("nan")}, "`rms_norm_eps`"),
        ({"tie_word_embeddings": "false"}, "`tie_word_embeddings` is 'false'"),
        ({"eos_token_id": "<|im_end|>"}, "`eos_token_id`"),
        ({"eos_token_id": [3, "4"]}, "`eos_token_id`"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "'sliding_attention'"),
        ({"layer_types": ["linear_attention"]}, "'linear_attention'"),
        ({"layer_types": "full_attention"}, "`layer_types`"),
        ({"vocab_size": None}, "lacks `vocab_size`"),
    ],
)
def test_a_value_of_another_type_is_refused_and_named(changes, reason):
    with pytest.raises(UserError, match=reason):
        DecoderConfig.from_dict({**MINIMAL, **changes})


def test_null_means_the_default_and_full_attention_layers_are_read():
    plain = DecoderConfig.from_dict(MINIMAL)
    nulls = {"rms_norm_eps": None, "tie_word_embeddings": None, "sliding_window": None, "num_key_value_heads": 1}
    assert DecoderConfig.from_dict({**MINIMAL, **nulls, "layer_types": ["full_attention"]}) == plain
    assert DecoderConfig.from_dict({**MINIMAL, "num_key_value_heads": None}).num_key_value_heads == 2
