"""`openqwq doctor MODEL`: each known trap is found, named, and mended beside the original."""

import json
import shutil
from pathlib import Path

import pytest

from openqwq.checkpoint.doctor import examine_model, write_fixed
from openqwq.cli import doctor, main
from openqwq.tokenizer import load_default_template

BASE = Path(__file__).parents[2] / "recipes" / "base" / "tiny"


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(BASE, tmp_path / "model"))


def edit(file, **changes):
    value = json.loads(file.read_text())
    for key, new in changes.items():
        value.pop(key, None)
        if new is not None:
            value[key] = new
    file.write_text(json.dumps(value))


def problems(folder):
    return {finding.name: finding.text for finding in examine_model(folder).findings if finding.status != "ok"}


def test_a_sound_folder_has_nothing_but_ok(folder, capsys):
    assert problems(folder) == {}
    assert main.main(["doctor", str(folder), "--fix"]) == 0
    assert not folder.with_name("model-fixed").exists()
    assert "warn" not in capsys.readouterr().out


YARN = {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 2048}
TRAPS = {
    "pad missing": ("tokenizer_config.json", {"pad_token": None}, "pad token", "is missing"),
    "pad is the end": ("tokenizer_config.json", {"pad_token": "<|im_end|>"}, "pad token", "is the end token"),
    "base model's end": (
        "tokenizer_config.json",
        {"eos_token": "<|endoftext|>"},
        "end token",
        "ends turns with <|im_end|>",
    ),
    "a turn's start": (
        "generation_config.json",
        {"eos_token_id": [1000, 998, 999]},
        "sampling",
        "lists 999, but <|im_st",
    ),
    "no thinking": ("tokenizer_config.json", {"chat_template": "{{ messages[0].content }}"}, "template", "<think>"),
    "broken template": ("tokenizer_config.json", {"chat_template": "{% if %}"}, "template", "cannot be rendered"),
    "no template": ("tokenizer_config.json", {"chat_template": None}, "template", "there is no chat template"),
    "keeps thinking": (
        "tokenizer_config.json",
        {"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n"},
        "template",
        "keeps the thinking of earlier turns",
    ),
    "yarn": ("config.json", {"rope_scaling": YARN}, "rope", "only one of `type` and `rope_type`"),
    "dtype": ("config.json", {"torch_dtype": "bfloat16"}, "dtype", "says bfloat16, but the weights are float32"),
    "dtypes": ("config.json", {"torch_dtype": "float32", "dtype": "float16"}, "dtype", "float32 and float16"),
    "greedy": ("generation_config.json", {"do_sample": False}, "sampling", "greedy"),
    "one end": ("generation_config.json", {"eos_token_id": 998}, "sampling", "answers end at any of [1000, 998]"),
    "penalty": ("generation_config.json", {"repetition_penalty": 1.2}, "sampling", "repetition_penalty"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_is_named_and_mended_beside_the_original(trap, folder, capsys):
    file, changes, name, words = TRAPS[trap]
    edit(folder / file, **changes)
    before = (folder / file).read_bytes()
    found = problems(folder)
    assert list(found) == [name] and words in found[name]
    assert main.main(["doctor", str(folder), "--fix"]) == 0
    fixed = folder.with_name("model-fixed")
    assert problems(fixed) == {}
    assert (folder / file).read_bytes() == before
    assert (fixed / "model.safetensors").samefile(folder / "model.safetensors")
    capsys.readouterr()
    assert main.main(["doctor", str(folder), "--fix"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_yarn_block_without_its_original_length_is_mended_too(folder):
    edit(folder / "config.json", rope_scaling={"type": "yarn", "factor": 4.0})
    assert set(problems(folder)) == {"config", "rope"}
    mended = examine_model(folder).fixes["config.json"]
    assert mended["rope_scaling"]["original_max_position_embeddings"] == 32768
    assert mended["max_position_embeddings"] == 131072


def test_the_mended_template_is_the_published_one_in_either_place(folder):
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    fixes = examine_model(folder).fixes
    assert fixes["chat_template.jinja"] == load_default_template() == fixes["tokenizer_config.json"]["chat_template"]


def test_weights_that_are_cut_off_or_missing_fail(folder, capsys):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "is cut off" in problems(folder)["weights"]
    assert main.main(["doctor", str(folder)]) == 1
    file.write_bytes(b"hello")
    assert "is no safetensors file" in problems(folder)["weights"]
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    file.unlink()
    assert "2 of 2 shards are missing, first one.safetensors; download" in problems(folder)["weights"]
    (folder / "model.safetensors.index.json").unlink()
    assert "no safetensors" in problems(folder)["weights"]


def test_what_is_no_model_is_a_user_error(tmp_path, capsys):
    assert main.main(["doctor", str(tmp_path / "gone")]) == 2
    assert "is no model folder" in capsys.readouterr().err
    assert set(problems(tmp_path)) >= {"config", "weights", "tokenizer", "sampling"}
    assert main.main(["doctor", "--fix"]) == 2


def test_the_advice_never_names_the_token_that_is_complained_of(folder):
    edit(folder / "tokenizer_config.json", eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    edit(folder / "config.json", eos_token_id=998)
    edit(folder / "generation_config.json", eos_token_id=1000)
    found = problems(folder)
    assert set(found) == {"end token", "sampling"} and "[1000, 998]" in found["sampling"]
    fixed = examine_model(folder).fixes["tokenizer_config.json"]
    assert (fixed["eos_token"], fixed["pad_token"]) == ("<|im_end|>", "<|endoftext|>")
    assert problems(write_fixed(examine_model(folder))) == {}


def test_fixes_of_a_link_are_written_beside_the_link_and_stand_a_move(folder, tmp_path):
    edit(folder / "generation_config.json", do_sample=False)
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "mine"
    link.symlink_to(folder)
    fixed = write_fixed(examine_model(link))
    assert fixed == tmp_path / "links" / "mine-fixed" and not folder.with_name("model-fixed").exists()
    moved = fixed.rename(tmp_path / "moved")
    assert problems(moved) == {} and (moved / "model.safetensors").samefile(folder / "model.safetensors")


def test_fixes_go_where_out_says_and_what_cannot_be_written_is_an_error(folder, tmp_path, capsys):
    edit(folder / "generation_config.json", do_sample=False)
    assert main.main(["doctor", str(folder), "--fix", "--out", str(tmp_path / "a" / "b")]) == 0
    assert problems(tmp_path / "a" / "b") == {}
    (tmp_path / "file").write_text("")
    assert main.main(["doctor", str(folder), "--fix", "--out", str(tmp_path / "file" / "x")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_an_index_left_over_beside_a_whole_file_is_no_fault(folder):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    assert problems(folder) == {}


def test_extras_and_kernels_are_listed(monkeypatch):
    extras, kernels = doctor.check_extras(), doctor.check_kernels()
    assert all(name in extras.text for name in ("serve", "hub", "environments", "tensorboard", "wandb"))
    assert "dev" not in extras.text.split("(")[0] and kernels.status in ("ok", "warn")
    monkeypatch.setattr("openqwq.kernels.cpu.library.library", lambda: None)
    assert doctor.check_kernels().status == "warn"
