"""Model folders: ours open in `transformers`, theirs in ours; broken ones end in one clear error."""

import json
import math
import resource
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

from openqwq.checkpoint.huggingface import link_model, plan_shards, save_model
from openqwq.errors import UserError
from openqwq.model import DecoderConfig, YarnScaling, create_model, load_model

SMALL = DecoderConfig(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    initializer_range=0.3,
)
IDS = torch.arange(20).view(2, 10)


def same_weights(first, second):
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture
def saved(tmp_path):
    """A model and its folder of several shards."""
    model = create_model(SMALL, seed=0)
    save_model(model, tmp_path / "model", max_shard_bytes=12_000)
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 3
    return model, tmp_path / "model"


def first_shard(folder):
    return min(folder.glob("*.safetensors"))


@torch.no_grad()
@pytest.mark.parametrize("max_shard_bytes", [10**9, 12_000])
@pytest.mark.parametrize("tied", [False, True])
def test_transformers_opens_ours(tmp_path, tied, max_shard_bytes):
    transformers = pytest.importorskip("transformers")
    yarn = YarnScaling(factor=4.0, original_max_position_embeddings=64)
    model = create_model(SMALL.replace(tie_word_embeddings=tied, rope_scaling=yarn), seed=0)
    save_model(model, tmp_path / "model", max_shard_bytes=max_shard_bytes)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert theirs.dtype == torch.float32
    assert (theirs(IDS).logits - model(IDS)).abs().max() <= 1e-4


@torch.no_grad()
@pytest.mark.parametrize("shard_size", ["1GB", "20KB"])
@pytest.mark.parametrize("tied", [False, True])
def test_ours_opens_what_transformers_saved(tmp_path, tied, shard_size):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(**SMALL.replace(tie_word_embeddings=tied).to_dict())
    ).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path, max_shard_size=shard_size)
    ours = load_model(tmp_path)
    assert ours.dtype == torch.bfloat16
    wide = load_model(tmp_path, dtype=torch.float32)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert (theirs(IDS).logits - wide(IDS)).abs().max() <= 1e-4


def test_a_saved_model_loads_bit_for_bit(saved):
    model, folder = saved
    assert same_weights(model, load_model(folder))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in model.state_dict().values())
    assert {shard.name for shard in folder.glob("*.safetensors")} == set(index["weight_map"].values())


def test_saving_again_replaces_the_folder_and_leaves_nothing_beside_it(saved):
    _, folder = saved
    other = create_model(SMALL, seed=5)
    save_model(other, folder)
    assert same_weights(other, load_model(folder))
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_tokenizer_files_and_generation_config_travel_along(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    generation = {"temperature": 0.6, "eos_token_id": [3, 1]}
    model = create_model(SMALL, seed=0)
    save_model(model, tmp_path / "m", tokenizer_files=[tmp_path / "tokenizer.json"], generation_config=generation)
    assert (tmp_path / "m" / "tokenizer.json").read_text() == "{}"
    assert json.loads((tmp_path / "m" / "generation_config.json").read_text()) == generation


@torch.no_grad()
def test_another_swish_beta_is_folded_into_the_saved_weights(tmp_path):
    model = create_model(SMALL.replace(swish_beta=math.log(2)), seed=0)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.config.swish_beta == 1
    assert (loaded(IDS) - model(IDS)).abs().max() <= 1e-5


def test_shards_are_filled_in_order_up_to_the_limit():
    assert plan_shards({"a": 4, "b": 5, "c": 2, "d": 20, "e": 1}, 10) == [["a", "b"], ["c"], ["d"], ["e"]]


def break_missing_shard(folder):
    first_shard(folder).unlink()
    return "lacks model-00001-of"


def break_truncated_shard(folder):
    shard = first_shard(folder)
    shard.write_bytes(shard.read_bytes()[:-100])
    return "may be truncated"


def break_empty_shard(folder):
    first_shard(folder).write_bytes(b"")
    return "may be truncated"


def break_missing_tensor(folder):
    shard = first_shard(folder)
    tensors = load_file(shard)
    del tensors["model.layers.0.input_layernorm.weight"]
    save_file(tensors, shard)
    return "lacks 1 tensors, among them `model.layers.0.input_layernorm.weight`"


def break_unexpected_tensor(folder):
    shard = first_shard(folder)
    save_file({**load_file(shard), "model.surprise": torch.zeros(1)}, shard)
    return "unexpected tensor `model.surprise`"


def break_shape(folder):
    shard = first_shard(folder)
    save_file({**load_file(shard), "model.layers.0.input_layernorm.weight": torch.zeros(7)}, shard)
    return "has shape [7], but config.json asks for [32]"


def break_config(folder):
    (folder / "config.json").write_text('{"model_type": "qwen2",')
    return "cannot be read as JSON"


def break_no_config(folder):
    (folder / "config.json").unlink()
    return "config.json does not exist"


def break_no_weights(folder):
    for file in folder.glob("model*"):
        file.unlink()
    return "lacks model.safetensors"


@pytest.mark.parametrize(
    "damage",
    [
        break_missing_shard,
        break_truncated_shard,
        break_empty_shard,
        break_missing_tensor,
        break_unexpected_tensor,
        break_shape,
        break_config,
        break_no_config,
        break_no_weights,
    ],
)
def test_a_damaged_folder_is_one_clear_error(tmp_path, damage):
    folder = tmp_path / "model"
    save_model(create_model(SMALL, seed=0), folder, max_shard_bytes=12_000)
    names = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    norm = folder / names["model.layers.0.input_layernorm.weight"]
    if norm != first_shard(folder):  # the tests damage the first shard: let the norm be in it
        tensors = load_file(norm)
        moved = tensors.pop("model.layers.0.input_layernorm.weight")
        save_file(tensors, norm)
        save_file(
            {**load_file(first_shard(folder)), "model.layers.0.input_layernorm.weight": moved}, first_shard(folder)
        )
    expected = damage(folder)
    with pytest.raises(UserError) as caught:
        load_model(folder)
    assert expected in caught.value.message


def test_a_tied_config_with_another_head_is_refused(saved):
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    with pytest.raises(UserError, match="ties the head to the embedding"):
        load_model(folder)


def test_a_full_disk_leaves_the_earlier_folder_whole(saved):
    """A file-size limit stands in for the full disk: the write fails in the middle of a shard."""
    model, folder = saved
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, limits[1]))
    try:
        with pytest.raises(UserError) as caught:
            save_model(create_model(SMALL, seed=9), folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, former)
    assert "could not be saved" in caught.value.message
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert same_weights(model, load_model(folder))


def test_a_killed_save_does_not_hinder_the_next(saved):
    _, folder = saved
    leftover = folder.with_name(".model.new")
    shutil.copytree(folder, leftover)
    model = create_model(SMALL, seed=3)
    save_model(model, folder)
    assert same_weights(model, load_model(folder))
    assert not leftover.exists()


def test_a_folder_with_other_things_is_never_replaced(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    with pytest.raises(UserError, match="not replaced"):
        save_model(create_model(SMALL, seed=0), tmp_path / "letters")
    assert (tmp_path / "letters" / "dear.txt").read_text() == "x"


def test_an_unknown_source_says_what_is_possible(tmp_path):
    with pytest.raises(UserError) as caught:
        load_model(tmp_path / "nowhere")
    assert "neither a model folder, nor a hub name, nor a preset" in caught.value.message
    assert "tiny" in caught.value.hint


def test_a_hub_name_offline_is_a_clear_error(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as caught:
        load_model("nobody/no-such-model")
    assert "could not be downloaded" in caught.value.message
    assert "network" in caught.value.hint


def test_the_tiny_preset_loads_as_random_weights_of_the_seed():
    assert same_weights(load_model("tiny", seed=4), load_model("tiny", seed=4))
    assert not same_weights(load_model("tiny", seed=4), load_model("tiny"))


def whole(tmp_path):
    model = create_model(SMALL, seed=0)
    save_model(model, tmp_path / "model")
    return model, tmp_path / "model" / "model.safetensors"


@pytest.mark.parametrize(
    "weight_map",
    [{"model.norm.weight": "gone.safetensors"}, {"model.norm.weight": "model.safetensors"}, {}, 5],
    ids=["absent shard", "one tensor", "empty", "no map"],
)
@pytest.mark.parametrize("quantization", [None, "bf16"])
def test_an_index_left_over_beside_a_whole_file_is_not_read(tmp_path, weight_map, quantization):
    _, file = whole(tmp_path)
    expected = load_model(file.parent, quantization=quantization)(IDS)
    (file.parent / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert torch.equal(load_model(file.parent, quantization=quantization)(IDS), expected)


@pytest.mark.parametrize("weight_map", [5, {"model.norm.weight": 3}, None])
def test_an_index_of_another_shape_is_refused(tmp_path, weight_map):
    _, file = whole(tmp_path)
    file.unlink()
    (file.parent / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UserError, match="does not map tensor names to file names"):
        load_model(file.parent)


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_rotary_buffers_that_older_libraries_saved_are_skipped(tmp_path, quantization):
    _, file = whole(tmp_path)
    expected = load_model(file.parent, quantization=quantization)(IDS)
    buffers = ["model.rotary_emb.inv_freq", "model.layers.1.self_attn.rotary_emb.inv_freq"]
    save_file(load_file(file) | {name: torch.rand(4) for name in buffers}, file)
    assert torch.equal(load_model(file.parent, quantization=quantization)(IDS), expected)


@pytest.mark.parametrize("quantization", [None, "int8", "int4"])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("model.layers.0.mlp.down_proj.weight", torch.float8_e4m3fn),
        ("model.layers.1.self_attn.q_proj.weight", torch.float8_e5m2),
        ("model.layers.1.self_attn.k_proj.weight", torch.int8),
        ("model.embed_tokens.weight", torch.uint8),
        ("model.norm.weight", torch.int64),
        ("model.layers.0.self_attn.q_proj.bias", torch.bool),
    ],
)
def test_numbers_that_mean_nothing_without_scales_are_refused_by_name(tmp_path, quantization, name, dtype):
    _, file = whole(tmp_path)
    tensors = load_file(file)
    save_file(tensors | {name: tensors[name].to(dtype)}, file)
    with pytest.raises(UserError, match=f"`{name}` in .* is of the type {str(dtype).removeprefix('torch.')}"):
        load_model(file.parent, quantization=quantization)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_floats_are_read(tmp_path, dtype):
    model, file = whole(tmp_path)
    save_file({name: tensor.to(dtype) for name, tensor in load_file(file).items()}, file)
    assert (load_model(file.parent)(IDS) - model(IDS)).abs().max() < 0.1


def test_a_linked_model_takes_the_disk_once_and_outlives_the_other(saved, tmp_path):
    model, folder = saved
    link_model(folder, tmp_path / "final")
    names = sorted(file.name for file in folder.iterdir())
    assert sorted(file.name for file in (tmp_path / "final").iterdir()) == names
    assert all((folder / name).samefile(tmp_path / "final" / name) for name in names)
    before = load_model(tmp_path / "final")
    with torch.no_grad():
        model.model.embed_tokens.weight.add_(1.0)
    save_model(model, folder)
    assert same_weights(load_model(tmp_path / "final"), before)
    assert not same_weights(load_model(folder), before)


def test_a_linked_model_is_copied_where_there_are_no_links(saved, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    link_model(saved[1], tmp_path / "final")
    assert same_weights(load_model(saved[1]), load_model(tmp_path / "final"))
