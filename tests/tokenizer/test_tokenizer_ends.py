"""Which tokens end a completion: all places of a model folder count, in serving and in training."""

import json
import shutil
from pathlib import Path

import pytest

from openqwq.errors import UserError
from openqwq.tokenizer import Tokenizer, folder_end_ids, load_default_template, render_training_turn

BASE = Path(__file__).parents[2] / "recipes" / "base" / "tiny"
TEXT_END, TURN_START, TURN_END, VISION_PAD = 998, 999, 1000, 1009
CUSTOM = "{% for m in messages %}{{ m.content }}<|box_end|>{% endfor %}"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BASE / name, folder / name)
    return folder


def edit(file, **changes):
    value = json.loads(file.read_text()) | changes
    file.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("tokenizer", "config", "generation", "ends"),
    [
        ({}, {}, {}, {TURN_END, TEXT_END}),
        ({"eos_token": "<|endoftext|>"}, {"eos_token_id": 998}, {"eos_token_id": [1000, 998]}, {TURN_END, TEXT_END}),
        ({"eos_token": "<|endoftext|>"}, {"eos_token_id": 998}, {"eos_token_id": 1000}, {TURN_END, TEXT_END}),
        ({"eos_token": "<|endoftext|>", "pad_token": None}, {"eos_token_id": 998}, {}, {TURN_END, TEXT_END}),
        ({"eos_token": {"content": "<|endoftext|>"}}, {"eos_token_id": None}, {"eos_token_id": None}, {1000, 998}),
        ({"pad_token": "<|im_end|>"}, {}, {"eos_token_id": 1000}, {TURN_END, TEXT_END}),
        ({}, {}, {"eos_token_id": [1000, 998, 999]}, {TURN_END, TEXT_END, TURN_START}),
        ({}, {"eos_token_id": [1000, 999]}, {"eos_token_id": 998}, {TURN_END, TEXT_END, TURN_START}),
        ({"pad_token": "<|vision_pad|>"}, {}, {}, {TURN_END, TEXT_END, VISION_PAD}),
        ({"chat_template": CUSTOM}, {}, {}, {TURN_END, TEXT_END, 1004}),
        ({"chat_template": "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"}, {}, {}, {1000, 998}),
        ({"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}<think>"}, {}, {}, {TURN_END, TEXT_END}),
        ({"chat_template": "{{ messages[1].content }}<|im_start|>assistant"}, {}, {}, {TURN_END, TEXT_END}),
        ({"chat_template": "{{ 1 / 0 }}"}, {}, {}, {TURN_END, TEXT_END}),
        ({}, {}, {"eos_token_id": [1000, 4000, -1]}, {TURN_END, TEXT_END}),
    ],
)
def test_every_place_that_names_an_end_token_counts(folder, tokenizer, config, generation, ends):
    edit(folder / "tokenizer_config.json", **tokenizer)
    edit(folder / "config.json", **config)
    edit(folder / "generation_config.json", **generation)
    assert set(Tokenizer.load(folder).eos_token_ids) == ends


def test_a_folder_of_a_tokenizer_alone_ends_with_its_own_tokens(folder):
    (folder / "config.json").unlink()
    (folder / "generation_config.json").unlink()
    assert folder_end_ids(folder) == ()
    assert Tokenizer.load(folder).eos_token_ids == (TURN_END, TEXT_END)


@pytest.mark.parametrize("value", ["<|im_end|>", [1000, "998"], True, 3.5, {"a": 1}])
def test_end_tokens_that_are_no_ids_are_refused(folder, value):
    edit(folder / "generation_config.json", eos_token_id=value)
    with pytest.raises(UserError, match=r"`eos_token_id` is .*generation_config"):
        Tokenizer.load(folder)


def test_trained_turns_end_as_the_template_ends_them(folder):
    turns = [{"role": "user", "content": "a"}]
    _, plain = render_training_turn(Tokenizer.load(folder), turns, "b", "c")
    edit(folder / "tokenizer_config.json", chat_template=CUSTOM)
    _, own = render_training_turn(Tokenizer.load(folder), turns, "b", "c")
    assert plain[-1] == TURN_END and own[-1] == 1004


@pytest.mark.parametrize("form", ["list", "object", "file"])
def test_named_templates_are_read_in_every_form(folder, form):
    text = load_default_template() + "{# mine #}"
    named = {"tool_use": "x", "default": text}
    if form == "file":
        (folder / "chat_template.jinja").write_text(text)
        named = {"tool_use": "x"}
    if form == "list":
        named = [{"name": name, "template": own} for name, own in named.items()]
    if form != "file":
        edit(folder / "tokenizer_config.json", chat_template=named)
    assert Tokenizer.load(folder).chat_template == text


@pytest.mark.parametrize(
    "value", [{"tool_use": "x"}, [{"name": "rag", "template": "x"}], ["x"], 5, True, {"default": 3}]
)
def test_a_template_of_another_shape_is_refused(folder, value):
    edit(folder / "tokenizer_config.json", chat_template=value)
    with pytest.raises(UserError, match=r"`chat_template` of tokenizer_config\.json"):
        Tokenizer.load(folder)


def test_no_template_means_the_shipped_one(folder):
    edit(folder / "tokenizer_config.json", chat_template=None)
    assert Tokenizer.load(folder).chat_template == load_default_template()
