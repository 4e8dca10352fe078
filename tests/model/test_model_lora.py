import json

import pytest
import torch
from safetensors.torch import load_file

from openqwq.checkpoint.huggingface import save_model
from openqwq.model import create_model, preset
from openqwq.model.lora import add_lora, lora_tensors, merge_lora, save_lora

CONFIG = preset("tiny").replace(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2)
IDS = torch.tensor([[1, 5, 9, 30, 2, 7]])


def adapted(*, is_trained):
    """A model with adapters on two layers; trained ones have a B that is not zero."""
    model = create_model(CONFIG, seed=0)
    add_lora(model, rank=4, alpha=8.0, targets=("q_proj", "gate_proj"), seed=1)
    if is_trained:
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, tensor in lora_tensors(model).items():
                if name.endswith("lora_B"):
                    tensor.normal_(0.0, 0.3, generator=generator)
    return model


def test_fresh_adapters_change_nothing_and_only_they_can_be_trained():
    model, plain = adapted(is_trained=False), create_model(CONFIG, seed=0)
    assert torch.equal(model(IDS), plain(IDS))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(lora_tensors(model)) and len(trained) == 2 * 2 * 2
    assert dict(plain.named_parameters()).keys() == dict(model.named_parameters()).keys() - trained


def test_an_adapted_layer_adds_its_scaled_product_to_the_weight():
    model = adapted(is_trained=True)
    layer = model.model.layers[0].self_attn.q_proj
    x = torch.randn(3, 16)
    weight = layer.weight + 8.0 / 4 * layer.lora_B @ layer.lora_A
    torch.testing.assert_close(layer(x), x @ weight.T + layer.bias)


def test_merging_keeps_the_function_and_gives_back_a_plain_model():
    model = adapted(is_trained=True)
    expected = model(IDS)
    merge_lora(model)
    torch.testing.assert_close(model(IDS), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, create_model(CONFIG, seed=0)(IDS), atol=1e-3)
    assert dict(model.named_parameters()).keys() == dict(create_model(CONFIG, seed=0).named_parameters()).keys()
    assert all(p.requires_grad for p in model.parameters())


def test_unknown_targets_and_a_second_set_of_adapters_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no linear layer `x_proj`"):
        add_lora(create_model(CONFIG, seed=0), rank=2, alpha=1.0, targets=("q_proj", "x_proj"), seed=0)
    with pytest.raises(ValueError, match="adapters already"):
        add_lora(adapted(is_trained=False), rank=2, alpha=1.0, targets=("q_proj",), seed=0)
    with pytest.raises(ValueError, match="no adapters"):
        save_lora(create_model(CONFIG, seed=0), tmp_path / "unused")
    assert not list(tmp_path.iterdir())


def test_saved_adapters_bear_pefts_names(tmp_path):
    save_lora(adapted(is_trained=True), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (4, 8.0, ["gate_proj", "q_proj"])
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert tensors["base_model.model.model.layers.1.mlp.gate_proj.lora_A.weight"].shape == (4, 16)
    assert tensors["base_model.model.model.layers.1.mlp.gate_proj.lora_B.weight"].shape == (24, 4)


def test_peft_opens_saved_adapters_and_computes_the_same(tmp_path):
    peft = pytest.importorskip("peft", reason="PEFT is not installed", exc_type=ImportError)
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = adapted(is_trained=True)
    save_model(create_model(CONFIG, seed=0), tmp_path / "base")
    save_lora(model, tmp_path / "adapter")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), theirs(IDS).logits, atol=1e-4, rtol=1e-4)
