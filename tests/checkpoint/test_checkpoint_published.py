"""4-bit AWQ and GPTQ folders, written here word by word as they are published, against the weights they stand for."""

import json

import numpy as np
import pytest
import torch
from packed_model import IDS, SMALL
from safetensors.torch import load_file, save_file

from openqwq.checkpoint.huggingface import save_model
from openqwq.errors import UserError
from openqwq.inference import LLM, SamplingParams
from openqwq.model import PackedLinear, create_model, load_model, quantize_weights
from openqwq.tokenizer import train_tokenizer

AWQ = {
    "bits": 4,
    "group_size": 64,
    "modules_to_not_convert": None,
    "quant_method": "awq",
    "version": "gemm",
    "zero_point": True,
}
GPTQ = {
    "batch_size": 1,
    "bits": 4,
    "block_name_to_quantize": None,
    "damp_percent": 0.01,
    "dataset": None,
    "desc_act": False,
    "group_size": 64,
    "modules_in_block_to_quantize": None,
    "quant_method": "gptq",
    "sym": True,
    "true_sequential": True,
    "use_exllama": True,
}


def to_int32(words):
    return torch.from_numpy(words.astype(np.uint32).view(np.int32))


def pack_words(codes, order):
    """Words [.., N/8] of codes [.., N]: of eight neighbours, the one that `order` names first lies lowest."""
    words = np.zeros((*codes.shape[:-1], codes.shape[-1] // 8), np.uint64)
    for nibble, place in enumerate(order):
        words |= codes[..., place::8].astype(np.uint64) << np.uint64(4 * nibble)
    return to_int32(words)


def pack_awq(codes, zeros):
    """qweight [K, N/8] of codes [K, N] and qzeros [G, N/8] of zeros [G, N], as AutoAWQ's WQLinear_GEMM holds them."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    return pack_words(codes, order), pack_words(zeros, order)


def pack_gptq(codes, zeros, offset):
    """qweight [K/8, N] and qzeros [G, N/8], as AutoGPTQ's QuantLinear holds them."""
    return pack_words(codes.T, range(8)).T.contiguous(), pack_words(zeros - offset, range(8))


def write_folder(folder, block, *, tied=False):
    """A folder in the published form, and the float32 model that it stands for."""
    random = np.random.default_rng(0)
    plain = create_model(SMALL.replace(tie_word_embeddings=tied, torch_dtype="float16"), seed=0).float()
    save_model(plain.half(), folder)
    plain.float()
    tensors = load_file(folder / "model.safetensors")
    for name, layer in plain.named_modules():
        if not isinstance(layer, torch.nn.Linear) or name == "lm_head":
            continue
        num_outputs, num_inputs = layer.weight.shape
        size = num_inputs if block["group_size"] == -1 else block["group_size"]
        group_of = np.arange(num_inputs) // size
        if block.get("desc_act"):
            group_of = random.permutation(group_of)
        codes = random.integers(0, 16, (num_inputs, num_outputs))
        offset = 0 if block["quant_method"] == "awq" or block.get("checkpoint_format") == "gptq_v2" else 1
        zeros = random.integers(offset, 16 + offset, (num_inputs // size, num_outputs))
        if block.get("sym"):
            zeros[:] = 8
        scales = random.uniform(0.01, 0.03, zeros.shape).astype(np.float16)
        del tensors[f"{name}.weight"]
        packed = pack_awq(codes, zeros) if block["quant_method"] == "awq" else pack_gptq(codes, zeros, offset)
        tensors |= {f"{name}.qweight": packed[0], f"{name}.qzeros": packed[1]}
        tensors[f"{name}.scales"] = torch.from_numpy(scales)
        if block["quant_method"] == "gptq":
            tensors[f"{name}.g_idx"] = torch.from_numpy(group_of.astype(np.int32))
            tensors.setdefault(f"{name}.bias", torch.zeros(num_outputs, dtype=torch.float16))
        wide = (codes - zeros[group_of]) * scales[group_of].astype(np.float64)
        layer.weight.data = torch.from_numpy(wide.T.astype(np.float32)).contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": block}))
    return plain


FORMS = {
    "awq": AWQ,
    "awq, groups of 32": {**AWQ, "group_size": 32},
    "awq, whole channels": {**AWQ, "group_size": -1},
    "gptq": GPTQ,
    "gptq, zeros": {**GPTQ, "sym": False, "checkpoint_format": "gptq"},
    "gptq, groups out of order": {**GPTQ, "desc_act": True, "group_size": 32, "sym": False},
    "gptq, second version": {**GPTQ, "sym": False, "checkpoint_format": "gptq_v2"},
}


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_a_published_folder_computes_what_its_weights_stand_for(tmp_path, form):
    folder = tmp_path / "model"
    plain = write_folder(folder, FORMS[form], tied=form == "awq")
    train_tokenizer(["nothing to merge"], 282).save(folder)
    llm = LLM(folder, max_model_len=64, device="cpu")
    network, expected = llm.engine.model, plain(IDS)
    assert isinstance(network.model.layers[0].mlp.up_proj, PackedLinear)
    assert network.dtype == torch.float32
    assert 1 < expected.std() < 100
    assert (network(IDS) - expected).abs().max() <= 1e-4
    [output] = llm.generate([[5, 6, 7]], SamplingParams(temperature=0, max_tokens=4, ignore_eos=True))
    tokens = [5, 6, 7, *output.outputs[0].token_ids]
    assert tokens[3:] == plain(torch.tensor([tokens[:-1]]))[0, 2:].argmax(-1).tolist()


@pytest.mark.parametrize("form", FORMS)
def test_a_published_folder_can_be_widened_to_plain_layers(tmp_path, form):
    plain = write_folder(tmp_path / "model", FORMS[form])
    wide = load_model(tmp_path / "model", dtype=torch.float32)
    assert {name: p.shape for name, p in wide.named_parameters()} == {n: p.shape for n, p in plain.named_parameters()}
    for name, parameter in plain.named_parameters():
        assert torch.equal(wide.get_parameter(name), parameter)
    save_model(wide, tmp_path / "again")
    assert load_model(tmp_path / "again").config.quantization_config is None


@torch.no_grad()
def test_what_a_published_folder_leaves_whole_can_be_rounded(tmp_path):
    write_folder(tmp_path / "model", AWQ)
    stored = load_model(tmp_path / "model", dtype=torch.float32, quantization="stored")
    rounded = load_model(tmp_path / "model", dtype=torch.float32, quantization="int8")
    assert isinstance(stored.lm_head, torch.nn.Linear)
    assert (rounded.lm_head.kind, rounded.model.layers[0].mlp.up_proj.kind) == ("int8", "int4")
    assert (stored(IDS) - rounded(IDS)).abs().max() < 0.05 * stored(IDS).std()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("tied", [False, True])
def test_rounding_while_reading_is_rounding_afterwards(tmp_path, kind, tied):
    model = create_model(SMALL.replace(tie_word_embeddings=tied), seed=0)
    save_model(model, tmp_path / "model", max_shard_bytes=50_000)
    quantize_weights(model, kind)
    assert torch.equal(load_model(tmp_path / "model", quantization=kind)(IDS), model(IDS))


def test_packed_weights_are_not_saved_as_if_they_were_plain(tmp_path):
    write_folder(tmp_path / "model", GPTQ)
    with pytest.raises(UserError, match="quantised"):
        save_model(load_model(tmp_path / "model", quantization="stored"), tmp_path / "again")


LAYER = "model.layers.0.self_attn.q_proj"


def damaged(tensors, config, damage):
    if damage == "no scales":
        del tensors[f"{LAYER}.scales"]
        return "q_proj.scales` has shape None, but gptq and config.json ask for [1, 64]"
    if damage == "no bias":
        del tensors[f"{LAYER}.bias"]
        return "lacks 1 tensors, among them `model.layers.0.self_attn.q_proj.bias`"
    if damage == "no layer":
        for part in ("qweight", "qzeros", "scales", "g_idx", "bias"):
            del tensors[f"{LAYER}.{part}"]
        return "lacks 2 tensors, among them `model.layers.0.self_attn.q_proj.bias`"
    if damage == "uneven groups":
        tensors["model.layers.0.mlp.down_proj.g_idx"][0] = 3
        return "down_proj.g_idx` does not put 64 inputs in each group"
    if damage == "bias elsewhere":
        tensors["model.layers.1.mlp.up_proj.bias"][7] = 1
        return "unexpected tensor `model.layers.1.mlp.up_proj.bias`"
    if damage == "embedding":
        tensors["model.embed_tokens.qweight"] = torch.zeros(1, dtype=torch.int32)
        return "unexpected tensor `model.embed_tokens.qweight`"
    if damage == "other group size":
        config["quantization_config"]["group_size"] = 32
        return "qzeros` has shape [4, 8], but gptq and config.json ask for [8, 8]"
    if damage == "no config":
        del config["quantization_config"]
        return "unexpected tensor `model.layers.0."
    raise ValueError(damage)


DAMAGES = ["no scales", "no bias", "no layer", "uneven groups", "bias elsewhere", "embedding", "other group size"]


@pytest.mark.parametrize("damage", [*DAMAGES, "no config"])
@pytest.mark.parametrize("quantization", ["stored", None])
def test_a_damaged_folder_is_one_clear_error(tmp_path, damage, quantization):
    write_folder(tmp_path, {**GPTQ})
    tensors = load_file(tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    message = damaged(tensors, config, damage)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as caught:
        load_model(tmp_path, quantization=quantization)
    assert message in caught.value.message
