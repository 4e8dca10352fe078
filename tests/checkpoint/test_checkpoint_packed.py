"""4-bit folders that are written here, read back by our own loader and by a slow unpacker of single words."""

import json

import pytest
import torch
from packed_model import IDS, SMALL
from safetensors.torch import load_file

from openqwq.checkpoint.huggingface import save_model
from openqwq.checkpoint.quantized import FORMS, packed_layout, save_packed
from openqwq.cli.main import main
from openqwq.errors import UserError
from openqwq.model import PackedLinear, create_model, load_model
from openqwq.model.quantize import pack_weight
from openqwq.tokenizer import train_tokenizer

CONFIG = SMALL.replace(intermediate_size=128)


def nibble(word, place):
    return (word >> (4 * place)) & 15


def unpack_slowly(tensors, name, form, size):
    """The weight [N, K], word by word, as the formats' own kernels read it."""
    qweight, qzeros = (tensors[f"{name}.{part}"].tolist() for part in ("qweight", "qzeros"))
    scales = tensors[f"{name}.scales"]
    num_outputs = scales.shape[1]
    num_inputs = len(qweight) * (1 if form == "awq" else 8)
    order = [0, 4, 1, 5, 2, 6, 3, 7] if form == "awq" else list(range(8))  # where output 0, 1, ... of eight lies
    weight = torch.zeros(num_outputs, num_inputs, dtype=torch.float64)
    for n in range(num_outputs):
        for k in range(num_inputs):
            zero = nibble(qzeros[k // size][n // 8], order[n % 8]) + (form == "gptq")
            code = nibble(qweight[k][n // 8], order[n % 8]) if form == "awq" else nibble(qweight[k // 8][n], k % 8)
            weight[n, k] = (code - zero) * scales[k // size, n].double()
    return weight


@pytest.fixture(scope="module")
def model():
    model = create_model(CONFIG, seed=0)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[3].abs_()  # a channel that needs a zero of 0
    return model


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_what_is_written_is_read_back(tmp_path, model, form):
    save_packed(model, tmp_path, packed_layout(form, 32))
    block = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert (block["quant_method"], block["bits"], block["group_size"]) == (form[:4].rstrip("_"), 4, 32)
    tensors = load_file(tmp_path / "model.safetensors")
    assert not any(name.endswith("_proj.weight") for name in tensors) and "lm_head.weight" in tensors
    plain = load_model(tmp_path, dtype=torch.float32)
    for name in ("model.layers.0.mlp.up_proj", "model.layers.1.self_attn.k_proj"):
        slow = unpack_slowly(tensors, name, form, 32)
        assert torch.equal(plain.get_submodule(name).weight.double(), slow.float().double())
        original = model.get_submodule(name).weight.double()
        best = pack_weight(original.float(), "int4", group_size=32).widened().double()
        ours, least = ((each - original).square().mean().sqrt().item() for each in (slow, best))
        assert ours < 1.02 * least  # float16 scales, and a code that GPTQ's first version cannot say
    stored = load_model(tmp_path, dtype=torch.float32, quantization="stored")
    assert isinstance(stored.model.layers[0].mlp.up_proj, PackedLinear)
    assert (stored(IDS) - plain(IDS)).abs().max() < 1e-4


def test_a_beta_is_folded_in_before_rounding(tmp_path):
    model = create_model(CONFIG.replace(swish_beta=2.0), seed=0)
    save_packed(model, tmp_path, packed_layout("awq", 64))
    assert load_model(tmp_path, dtype=torch.float32).config.swish_beta == 1


def test_the_verb_writes_a_folder_with_everything_beside_the_weights(tmp_path, capsys):
    save_model(create_model(CONFIG, seed=0), tmp_path / "from", generation_config={"temperature": 0.5})
    train_tokenizer(["nothing to merge"], 282).save(tmp_path / "from")
    out = tmp_path / "out"
    options = ["quantize", str(tmp_path / "from"), "--out", str(out), "--format", "gptq", "--group-size", "-1"]
    assert main(options) == 0
    names = {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json", "model.safetensors"}
    assert names <= {file.name for file in out.iterdir()}
    assert json.loads((out / "generation_config.json").read_text()) == {"temperature": 0.5}
    assert main(["quantize", str(tmp_path / "from"), "--out", str(tmp_path / "from")]) == 2
    assert main(["quantize", str(tmp_path / "from"), "--out", str(tmp_path / "x"), "--group-size", "128"]) == 2
    assert "no whole groups of 128" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_unknown_forms_are_refused():
    with pytest.raises(UserError, match="no 4-bit form 'exl2'"):
        packed_layout("exl2")
    with pytest.raises(UserError, match="group_size"):
        packed_layout("awq", 48)
