"""An engine's options reach it by a config or by name, and choose its kernels."""

import pytest

from openqwq.config import EngineConfig
from openqwq.errors import UserError
from openqwq.inference import LLM, Engine, Speculation
from openqwq.kernels import library
from openqwq.model import create_model, preset, set_batch_invariant
from openqwq.types import Prompt, SamplingParams

PARAMS = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_tokens=12, seed=3, ignore_eos=True)


@pytest.fixture
def model():
    return create_model(preset("tiny"), seed=0)


def tokens_of(engine):
    [[completion]] = engine.generate([Prompt((5, 9, 2))], PARAMS)
    return completion.token_ids


def test_config_and_options_by_name_make_the_same_engine(model):
    config = EngineConfig(max_num_seqs=3, max_model_len=64, eos_token_ids=())
    by_config, by_name = Engine(model, None, config), Engine(model, max_num_seqs=3, max_model_len=64, eos_token_ids=())
    assert by_config.config == by_name.config
    assert tokens_of(by_config) == tokens_of(by_name)
    assert Engine(model, None, config, max_num_seqs=5).config.max_num_seqs == 5


def test_engine_fills_in_what_the_model_decides(model):
    config = Engine(model).config
    assert config.max_model_len == model.config.max_context
    assert config.kv_cache_memory == 2 * 2**30
    with pytest.raises(UserError, match="but the model has"):
        Engine(model, max_model_len=model.config.max_context + 1)


def test_reference_kernels_compute_model_and_draft_model(model):
    draft = create_model(preset("tiny"), seed=1)
    speculation = Speculation(num_tokens=2, model=draft)
    engine = Engine(model, max_num_seqs=2, max_model_len=64, kernels="reference", speculation=speculation)
    assert model.ops.name == draft.ops.name == "reference"
    assert len(tokens_of(engine)) == 12


def test_auto_leaves_the_kernels_that_a_model_has(model):
    before = model.ops
    Engine(model, max_num_seqs=1, max_model_len=64)
    assert model.ops is before
    if library() is not None:
        set_batch_invariant(model, True)
        Engine(model, max_num_seqs=1, max_model_len=64)
        assert model.batch_invariant


def test_named_kernels_are_refused_where_they_would_end_the_invariant_mode(model):
    if library() is None:
        pytest.skip("needs the compiled kernels")
    set_batch_invariant(model, True)
    with pytest.raises(UserError, match="`batch_invariant` is not available with `kernels` 'reference'"):
        Engine(model, kernels="reference")
    assert model.batch_invariant


def test_triton_kernels_are_refused_on_a_cpu(model):
    before = model.ops
    with pytest.raises(UserError, match="not available on cpu"):
        Engine(model, kernels="triton")
    assert model.ops is before


def test_unknown_option_of_engine_and_llm_names_the_nearest(model):
    for make, nearest in (
        (lambda: Engine(model, max_num_seq=8), "max_num_seqs"),
        (lambda: LLM("tiny", max_num_seq=8), "max_num_seqs"),
        (lambda: LLM("tiny", quantisation="int8"), "quantization"),
        (lambda: LLM("tiny", kv_cache_dtypes="int8"), "kv_cache_dtype"),
    ):
        with pytest.raises(UserError, match="there is no engine option") as refused:
            make()
        assert refused.value.hint == f"did you mean `{nearest}`?"


def test_llm_takes_a_config_and_options_beside_it():
    config = EngineConfig(max_num_seqs=2, max_model_len=64, kv_cache_memory=2**24)
    llm = LLM("tiny", config=config, max_num_seqs=1, device="cpu")
    assert (llm.engine.config.max_num_seqs, llm.engine.config.max_model_len) == (1, 64)
