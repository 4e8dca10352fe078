"""Engine options: each is explained once, out-of-range values name the option, unknown names the nearest."""

from dataclasses import fields
from types import SimpleNamespace

import pytest

from openqwq.config import EngineConfig, ModelOptions, make_config
from openqwq.config.engine import option_choices, option_texts
from openqwq.errors import UserError

DRAFT = SimpleNamespace(num_tokens=4, model=object(), rejection="standard")
WINDOWS = SimpleNamespace(layers=(64, 64))


@pytest.mark.parametrize("cls", [EngineConfig, ModelOptions])
def test_every_option_has_one_explanation(cls):
    texts = option_texts(cls)
    assert list(texts) == [field.name for field in fields(cls)]
    for field in fields(cls):
        assert texts[field.name].endswith(".") and len(texts[field.name]) > 20
        assert ("None" in texts[field.name]) == (field.default is None), field.name


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"max_num_seqs": 0}, "`max_num_seqs` is 0, but must be at least 1"),
        ({"max_model_len": -1}, "`max_model_len` is -1, but must be at least 1"),
        ({"max_num_batched_tokens": 0}, "`max_num_batched_tokens` is 0, but must be at least 1"),
        ({"gpu_memory_utilization": 0.0}, "`gpu_memory_utilization` is 0.0, but must be above 0 and at most 1"),
        ({"gpu_memory_utilization": 1.5}, "`gpu_memory_utilization` is 1.5, but must be above 0 and at most 1"),
        ({"kv_cache_dtype": "fp8"}, "`kv_cache_dtype` is 'fp8', but must be 'auto', 'float32', 'bfloat16' or 'int8'"),
        ({"kv_cache_dtype": None}, "`kv_cache_dtype` is None, but must be 'auto', 'float32', 'bfloat16' or 'int8'"),
        ({"kernels": "cuda"}, "`kernels` is 'cuda', but must be 'auto', 'reference' or 'triton'"),
    ],
)
def test_value_out_of_range_names_the_option_and_what_is_allowed(values, said):
    with pytest.raises(UserError) as refused:
        EngineConfig(**values)
    assert refused.value.message == said


def test_values_at_the_ends_of_their_ranges_are_taken():
    config = EngineConfig(max_num_seqs=1, max_model_len=1, max_num_batched_tokens=1, gpu_memory_utilization=1.0)
    config.check_model(max_context=1, num_layers=2)
    config.check_invariant()
    assert ModelOptions(quantization=None).quantization is None
    assert ModelOptions(quantization="int4").quantization == "int4"


def test_quantization_of_another_width_is_refused():
    with pytest.raises(UserError, match="`quantization` is 'int2', but must be 'bf16', 'int8', 'int4' or None"):
        ModelOptions(quantization="int2")


def test_unknown_option_names_the_nearest():
    with pytest.raises(UserError, match="`max_num_seq`") as refused:
        make_config(EngineConfig(), {"max_num_seq": 4})
    assert refused.value.hint == "did you mean `max_num_seqs`?"
    with pytest.raises(UserError, match="`quantisation`") as refused:
        make_config(EngineConfig(), {"quantisation": "int8"}, ModelOptions)
    assert refused.value.hint == "did you mean `quantization`?"


def test_options_by_name_replace_those_of_a_config():
    base = EngineConfig(max_num_seqs=4, seed=3)
    assert make_config(base, {"seed": 5}) == EngineConfig(max_num_seqs=4, seed=5)
    assert base.seed == 3


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"max_model_len": 65}, "`max_model_len` is 65, but the model has 64 positions"),
        ({"attention_windows": WINDOWS}, "the attention windows are for 2 layers, but the model has 3"),
    ],
)
def test_options_that_a_model_does_not_allow_are_refused(values, said):
    with pytest.raises(UserError) as refused:
        EngineConfig(**values).check_model(max_context=64, num_layers=3)
    assert refused.value.message == said


def test_attention_windows_go_with_prompt_lookup_but_with_no_draft_model():
    lookup = SimpleNamespace(num_tokens=4, model=None, rejection="strict")
    EngineConfig(attention_windows=WINDOWS, speculation=lookup).check_model(max_context=64, num_layers=2)
    with pytest.raises(UserError, match="draft model"):
        EngineConfig(attention_windows=WINDOWS, speculation=DRAFT).check_model(max_context=64, num_layers=2)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kv_cache_dtype": "int8"}, "`kv_cache_dtype` 'int8', which rounds"),
        ({"kernels": "reference"}, "`kernels` 'reference'"),
        ({"yarn_per_request": True}, "`yarn_per_request`"),
        ({"speculation": DRAFT}, "rejection 'standard'"),
        ({"attention_windows": WINDOWS}, "attention windows"),
    ],
)
def test_batch_invariant_mode_names_the_option_that_it_excludes(values, said):
    with pytest.raises(UserError, match="`batch_invariant` is not available with") as refused:
        EngineConfig(**values).check_invariant()
    assert said in refused.value.message


def test_choices_are_those_of_the_fields():
    assert option_choices(EngineConfig) == {
        "kv_cache_dtype": ("auto", "float32", "bfloat16", "int8"),
        "kernels": ("auto", "reference", "triton"),
    }
    assert option_choices(ModelOptions) == {"quantization": ("bf16", "int8", "int4")}
