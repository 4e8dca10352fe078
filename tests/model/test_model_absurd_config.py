"""Configs and files that no model has: an error at once."""

import pytest

from openqwq.errors import UserError
from openqwq.model import DecoderConfig, create_model
from openqwq.model.load import read_config

MINIMAL = {
    "model_type": "qwen2", "vocab_size": 32, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
}  # fmt: skip


def test_model_that_no_memory_holds_is_a_user_error():
    config = DecoderConfig.from_dict(
        {**MINIMAL, "vocab_size": 1 << 27, "hidden_size": 1 << 20, "num_attention_heads": 1 << 13}
    )
    with pytest.raises(UserError, match="no memory for a model of this size"):
        create_model(config, seed=0)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": ' * 100_000, "", "[]", "nul", "\0" * 9, '{"model_type": "qwen2"}']
)
def test_config_file_that_is_none_is_a_user_error(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError):
        read_config(tmp_path)
