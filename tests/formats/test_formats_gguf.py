"""GGUF files against the models that they were written from, for each family, type of block and spelling."""

import json
import os
import random
import shutil
import struct

import numpy as np
import pytest
import torch
from gguf_files import BASE, random_model, tokenizer_keys, write_model

from openqwq.errors import UserError
from openqwq.formats.gguf.container import BLOCKS, TensorInfo
from openqwq.formats.gguf.values import read_tensor
from openqwq.model import load_model, resolve_folder

IDS = torch.tensor([[5, 90, 256, 33, 7, 120, 261, 40]])
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_KEYS = {
    "qwen2.rope.scaling.type": "yarn",
    "qwen2.rope.scaling.factor": 4.0,
    "qwen2.rope.scaling.original_context_length": 32,
}
FAMILIES = {
    "llama": ({"model_type": "llama"}, {}),
    "llama-tied-wide-heads": ({"model_type": "llama", "tie_word_embeddings": True, "head_dim": 24}, {}),
    "llama-biases": ({"model_type": "llama", "attention_bias": True}, {}),
    "mistral": ({"model_type": "mistral", "head_dim": 8, "sliding_window": None}, {}),
    "qwen2": ({"model_type": "qwen2", "rms_norm_eps": 1e-6}, {}),
    "qwen2-yarn": ({"model_type": "qwen2", "rope_scaling": YARN, "tie_word_embeddings": True}, YARN_KEYS),
    "qwen3": ({"model_type": "qwen3", "head_dim": 32}, {}),
    "qwen3-biases": ({"model_type": "qwen3", "head_dim": 8, "attention_bias": True}, {}),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "openqwq" / "gguf"


def logits(model):
    with torch.no_grad():
        return model(IDS)


@pytest.mark.parametrize("family", FAMILIES)
def test_file_computes_what_the_model_it_was_written_from_computes(family, tmp_path):
    raw, keys = FAMILIES[family]
    model = random_model(raw)
    write_model(tmp_path / "m.gguf", model, keys=keys)
    read = load_model(tmp_path / "m.gguf")
    assert read.dtype == torch.float32
    assert torch.equal(logits(read), logits(model))


def test_llama3_scaling_is_read_from_its_divisors(tmp_path):
    model = random_model({"model_type": "llama", "rope_scaling": LLAMA3})
    write_model(tmp_path / "m.gguf", model, extra={"rope_freqs.weight": divisors()})
    read = load_model(tmp_path / "m.gguf")
    assert read.config.rope_scaling == model.config.rope_scaling
    assert torch.equal(logits(read), logits(model))


def divisors():
    """Of LLAMA3 for heads of 16 channels, in float32 as the converter computes them."""
    frequencies = 1.0 / (np.float32(10000.0) ** (np.arange(0, 16, 2, dtype=np.float32) / np.float32(16)))
    found = []
    for frequency in frequencies:
        wavelength = 2 * np.pi / frequency
        if wavelength < 64 / 4:
            found.append(1.0)
        elif wavelength > 64 / 1:
            found.append(8.0)
        else:
            smooth = (64 / wavelength - 1) / (4 - 1)
            found.append(1 / ((1 - smooth) / 8 + smooth))
    return np.array(found, dtype=np.float32)


@pytest.mark.parametrize("table", [[1, 1, 1, 1, 2, 3, 8, 8], [1.0] * 7 + [0.0], [2.0] * 4])
def test_other_rope_divisors_are_refused(table, tmp_path):
    model = random_model({"model_type": "llama"})
    write_model(tmp_path / "m.gguf", model, extra={"rope_freqs.weight": np.array(table, dtype=np.float32)})
    with pytest.raises(UserError, match=r"rope_freqs\.weight"):
        resolve_folder(tmp_path / "m.gguf")


def test_rope_divisors_of_one_change_nothing(tmp_path):
    model = random_model({"model_type": "llama"})
    write_model(tmp_path / "m.gguf", model, extra={"rope_freqs.weight": np.ones(8, dtype=np.float32)})
    assert torch.equal(logits(load_model(tmp_path / "m.gguf")), logits(model))


def test_llama_file_whose_rows_are_not_interleaved_computes_something_else(tmp_path):
    model = random_model({"model_type": "llama"})
    write_model(tmp_path / "m.gguf", model, permute=False)
    assert (logits(load_model(tmp_path / "m.gguf")) - logits(model)).abs().max() > 0.1


def test_llama_file_with_biases_of_q_k_and_v_alone_has_none_behind_attention(tmp_path):
    model = random_model({"model_type": "llama", "attention_bias": True})
    absent = [f"model.layers.{layer}.self_attn.o_proj.bias" for layer in range(2)]
    write_model(tmp_path / "m.gguf", model, drop=absent)
    for name in absent:
        model.get_parameter(name).data.zero_()
    assert torch.equal(logits(load_model(tmp_path / "m.gguf")), logits(model))


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_quantised_file_computes_as_its_widened_weights(kind, arch, tmp_path):
    model = random_model({"model_type": arch, "tie_word_embeddings": arch == "llama"})
    held = write_model(tmp_path / "m.gguf", model, kind=kind)
    read = load_model(tmp_path / "m.gguf", dtype=torch.float32)
    for name, weight in held.items():
        assert torch.equal(read.get_parameter(name), weight), name
    held.setdefault("lm_head.weight", held["model.embed_tokens.weight"])
    model.load_state_dict(held, strict=False)
    assert torch.equal(logits(read), logits(model))


def test_dtype_of_config_follows_the_matrices(tmp_path):
    for kind, dtype in {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "Q8_0": "bfloat16"}.items():
        write_model(tmp_path / f"{kind}.gguf", random_model({"model_type": "qwen2"}), kind=kind)
        config = json.loads((resolve_folder(tmp_path / f"{kind}.gguf") / "config.json").read_text())
        assert config["torch_dtype"] == dtype


def f16(data, place):
    return struct.unpack_from("<e", data, place)[0]


IQ4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]


def nibble(data, start, i, span):
    """Weight i of 2 `span`: the low nibbles first, then the high ones."""
    return data[start + i % span] >> 4 * (i // span) & 15


def scale_and_min(data, i):
    """The 6-bit scale and minimum of sub-block i of Q4_K and Q5_K; the 12 bytes begin at 4."""
    s = data[4:16]
    if i < 4:
        return s[i] & 63, s[i + 4] & 63
    return s[i + 4] & 15 | s[i - 4] >> 6 << 4, s[i + 4] >> 4 | s[i] >> 6 << 4


def weight_of(kind, b, i):
    """Weight i of one block's bytes, one at a time, from the description of the formats."""
    if kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL"):
        offset, high = {"Q4_1": (4, 0), "Q5_0": (6, 2), "Q5_1": (8, 4)}.get(kind, (2, 0))
        code = nibble(b, offset, i, 16)
        if high:
            code |= (int.from_bytes(b[high : high + 4], "little") >> i & 1) << 4
        if kind == "IQ4_NL":
            return f16(b, 0) * IQ4[code]
        return f16(b, 0) * code + f16(b, 2) if kind.endswith("1") else f16(b, 0) * (code - (16 if high else 8))
    if kind == "Q8_0":
        return f16(b, 0) * struct.unpack_from("b", b, 2 + i)[0]
    if kind in ("Q2_K", "Q3_K"):
        half, shift, byte = i // 128, 2 * (i % 128 // 32), i % 32
        code = b[(16 if kind == "Q2_K" else 32) + 32 * half + byte] >> shift & 3
        if kind == "Q2_K":
            return f16(b, 80) * (b[i // 16] & 15) * code - f16(b, 82) * (b[i // 16] >> 4)
        code -= 0 if b[byte] >> (i // 32) & 1 else 4
        s, j = b[96:108], i // 16
        low = s[j] & 15 if j < 8 else s[j - 8] >> 4
        return f16(b, 108) * ((low | (s[8 + j % 4] >> 2 * (j // 4) & 3) << 4) - 32) * code
    if kind in ("Q4_K", "Q5_K"):
        scale, least = scale_and_min(b, i // 32)
        start = (16 if kind == "Q4_K" else 48) + 32 * (i // 64)
        code = nibble(b, start, i % 64, 32)
        if kind == "Q5_K":
            code |= (b[16 + i % 32] >> (i // 32) & 1) << 4
        return f16(b, 0) * scale * code - f16(b, 2) * least
    if kind == "Q6_K":
        half, part, byte = i // 128, i % 128 // 32, i % 32
        low = b[64 * half + 32 * (part % 2) + byte] >> 4 * (part // 2) & 15
        code = low | (b[128 + 32 * half + byte] >> 2 * part & 3) << 4
        return f16(b, 208) * struct.unpack_from("b", b, 192 + i // 16)[0] * (code - 32)
    assert kind == "IQ4_XS"
    j = i // 32
    scale = (b[4 + j // 2] >> 4 * (j % 2) & 15) | (int.from_bytes(b[2:4], "little") >> 2 * j & 3) << 4
    return f16(b, 0) * (scale - 32) * IQ4[nibble(b, 8 + 16 * j, i % 32, 16)]


SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "Q4_1": (0, 2)}


@pytest.mark.parametrize("number", [number for number, (_, size, _) in BLOCKS.items() if size > 1])
def test_blocks_of_every_type_mean_what_their_description_says(number):
    kind, size, num_bytes = BLOCKS[number]
    rng = random.Random(number)
    blocks = []
    for _ in range(3):
        block = bytearray(rng.randbytes(num_bytes))
        for place in {**SCALES, "Q5_1": (0, 2)}.get(kind, (0,)):
            struct.pack_into("<e", block, place, rng.uniform(-0.1, 0.1))
        blocks.append(bytes(block))
    info = TensorInfo(name="x", kind=kind, shape=(1, 3 * size), start=5, num_bytes=3 * num_bytes)
    read = read_tensor(b"12345" + b"".join(blocks), info)
    expected = torch.tensor([[weight_of(kind, block, i) for block in blocks for i in range(size)]], dtype=torch.float64)
    assert torch.allclose(read.double(), expected, rtol=1e-6, atol=1e-6)


def test_folder_is_made_once_and_anew_when_the_file_changes(tmp_path, cache):
    file = tmp_path / "m.gguf"
    write_model(file, random_model({"model_type": "qwen2"}))
    first = resolve_folder(file)
    assert resolve_folder(str(file)) == first and [path.name for path in cache.iterdir()] == [first.name]
    shutil.rmtree(first)
    assert resolve_folder(file) == first and (first / "config.json").is_file()
    other = random_model({"model_type": "qwen2"}, seed=2)
    os.utime(file, ns=(1, 1))
    write_model(file, other, keys={"general.name": "other"})
    assert resolve_folder(file) != first
    assert torch.equal(logits(load_model(file)), logits(other))
    with pytest.raises(UserError, match="has changed since"):
        load_model(first)
    file.unlink()
    with pytest.raises(UserError, match="no longer there"):
        load_model(first)


def test_file_is_known_by_its_content_and_as_the_only_one_of_a_folder(tmp_path):
    model = random_model({"model_type": "qwen3", "head_dim": 8})
    write_model(tmp_path / "m.gguf", model)
    blob = tmp_path / "sha256-0123"
    blob.symlink_to(tmp_path / "m.gguf")
    assert torch.equal(logits(load_model(blob)), logits(model))
    assert torch.equal(logits(load_model(tmp_path)), logits(model))


REFUSED = {
    "architecture": ({"general.architecture": "gemma3"}, "gemma3"),
    "experts": ({"qwen2.expert_count": 8}, "expert_count"),
    "unknown key": ({"qwen2.attention.scale": 0.5}, "attention.scale"),
    "linear rope": ({"qwen2.rope.scaling.type": "linear", "qwen2.rope.scaling.factor": 2.0}, "rope.scaling.type"),
    "old linear rope": ({"qwen2.rope.scale_linear": 2.0}, "scale_linear"),
    "yarn factor": ({**YARN_KEYS, "qwen2.rope.scaling.attn_factor": 1.5}, "attn_factor"),
    "partial rotary": ({"qwen2.rope.dimension_count": 8}, "dimension_count"),
    "window": ({"qwen2.attention.sliding_window": 64}, "sliding_window"),
    "not causal": ({"qwen2.attention.causal": False}, "attention.causal"),
    "value length": ({"qwen2.attention.value_length": 8}, "value_length"),
    "heads per layer": ({"qwen2.attention.head_count": [4, 2]}, "head_count"),
    "no context": ({"qwen2.context_length": None}, "context_length"),
    "text as a number": ({"qwen2.block_count": "two"}, "block_count"),
    "other vocabulary": ({"qwen2.vocab_size": 300}, "vocab_size"),
    "many layers": ({"qwen2.block_count": 1 << 31}, "layers"),
    "one layer": ({"qwen2.block_count": 1}, "unexpected tensor"),
    "adapter": ({"general.type": "adapter"}, "adapter"),
    "part": ({"split.count": 3}, "parts"),
    "old blocks": ({"general.quantization_version": 1}, "quantization_version"),
    "spm": ({"tokenizer.ggml.model": "llama"}, "'llama'"),
    "no tokenizer": ({"tokenizer.ggml.model": None}, "no tokenizer"),
    "splitting": ({"tokenizer.ggml.pre": "tekken"}, "'tekken'"),
    "no splitting": ({"tokenizer.ggml.pre": None}, "does not say"),
    "end token": ({"tokenizer.ggml.eos_token_id": 9999}, "eos_token_id"),
    "merges": ({"tokenizer.ggml.merges": ["q zz"]}, "damaged"),
    "kinds": ({"tokenizer.ggml.token_type": [1, 1]}, "kinds"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_file_that_means_another_computation_or_tokenizer_is_refused_by_name(case, tmp_path, cache):
    keys, named = REFUSED[case]
    write_model(tmp_path / "m.gguf", random_model({"model_type": "qwen2"}), keys=keys)
    with pytest.raises(UserError) as caught:
        resolve_folder(tmp_path / "m.gguf")
    assert named in str(caught.value)
    assert not cache.exists()


def test_neutral_keys_are_taken(tmp_path):
    keys = {
        "qwen2.expert_count": 0,
        "qwen2.attention.sliding_window": 4096,
        "qwen2.rope.scaling.type": "none",
        "qwen2.attention.causal": True,
        "general.sampling.temp": 0.5,
        "other.thing": 3,
    }
    write_model(tmp_path / "m.gguf", random_model({"model_type": "qwen2"}), keys=keys)
    folder = resolve_folder(tmp_path / "m.gguf")
    assert json.loads((folder / "generation_config.json").read_text())["temperature"] == 0.5


def test_tensor_of_another_shape_or_absent_is_refused_before_any_weight_is_read(tmp_path):
    narrow = random_model({**BASE, "model_type": "qwen2", "intermediate_size": 64})
    write_model(tmp_path / "m.gguf", narrow, keys={"qwen2.feed_forward_length": 96})
    with pytest.raises(UserError, match="shape"):
        resolve_folder(tmp_path / "m.gguf")
    write_model(tmp_path / "n.gguf", narrow, drop=["model.layers.1.mlp.up_proj.weight"])
    with pytest.raises(UserError, match=r"lacks 1 tensors, among them `blk\.1\.ffn_up\.weight`"):
        resolve_folder(tmp_path / "n.gguf")
    many = [f"Ġ{chr(0x4E00 + i)}" for i in range(9)]
    keys = tokenizer_keys()
    keys["tokenizer.ggml.tokens"] += many
    keys["tokenizer.ggml.token_type"] += [1] * 9
    write_model(tmp_path / "o.gguf", narrow, tokenizer=keys)
    with pytest.raises(UserError, match="273 tokens, but the embedding has 264 rows"):
        resolve_folder(tmp_path / "o.gguf")
