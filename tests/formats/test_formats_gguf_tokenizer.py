"""Tokenizers from GGUF files against the tokenizers that they were written from."""

import json

import pytest
from gguf_files import MERGES, TOKENS, random_model, tokenizer_keys, write_model
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from openqwq.model import resolve_folder
from openqwq.tokenizer import Tokenizer as OwnTokenizer

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
TEXT = [
    "The year 1984 was followed by 1985, wasn't it? It'LL be 12345 soon.",
    "def f(x):\n    return x ** 2  # squares\n\n\n\tprint(f(1024))",
    "naïve café, Ünïcödé: 数学は楽しい。 1 + 1 = 2 ½ ٣٤",
    "a  b   c \r\n d\t\te",
] * 3
ODD = [
    *TEXT,
    "cafe\u0301",
    "<|im_start|>user\nhi<|im_end|>",
    "<think>no</think>",
    "",
    " ",
    "\n",
    "🙂‍↔️ 1234567",
    "'S 'lL",
]


def byte_level(use_regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def split(pattern):
    return [pre_tokenizers.Split(Regex(pattern), behavior="isolated"), byte_level(False)]


REFERENCES = {
    "qwen2": split(QWEN2),
    "llama-bpe": split(LLAMA3),
    "smollm": [pre_tokenizers.Digits(individual_digits=True), byte_level(True)],
    "gpt-2": [byte_level(True)],
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def trained(pre):
    """A BPE tokenizer that splits as `pre` says, and the keys of a file with it."""
    reference = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    if pre == "qwen2":
        reference.normalizer = normalizers.NFC()
    reference.pre_tokenizer = pre_tokenizers.Sequence(REFERENCES[pre])
    reference.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    first = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] if pre == "smollm" else []  # as SmolLM's, at the front
    reference.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet, special_tokens=first, show_progress=False)
    )
    reference.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    reference.add_tokens(["<think>", "</think>"])
    made = json.loads(reference.to_str())
    tokens = sorted(reference.get_vocab(True), key=reference.get_vocab(True).get)
    kinds = [4 if t in ("<think>", "</think>") else 3 if t.startswith("<|") and t.endswith("|>") else 1 for t in tokens]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in made["model"]["merges"]]
    return reference, tokenizer_keys(pre, tokens, kinds, merges)


@pytest.mark.parametrize("pre", REFERENCES)
def test_file_gives_the_ids_and_texts_of_the_tokenizer_it_was_written_from(pre, tmp_path):
    reference, keys = trained(pre)
    model = random_model({"model_type": "llama", "vocab_size": len(keys["tokenizer.ggml.tokens"])})
    write_model(tmp_path / "m.gguf", model, tokenizer=keys)
    tokenizer = OwnTokenizer.load(resolve_folder(tmp_path / "m.gguf"))
    assert tokenizer.backend.get_vocab() == reference.get_vocab()
    for text in ODD:
        ids = reference.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text) == ids, text
        for skip in (False, True):
            assert tokenizer.decode(ids, skip) == reference.decode(ids, skip_special_tokens=skip)


def loaded(tmp_path, **keys):
    write_model(tmp_path / "m.gguf", random_model({"model_type": "qwen2"}), keys=keys)
    folder = resolve_folder(tmp_path / "m.gguf")
    return folder, OwnTokenizer.load(folder)


def test_ends_are_the_key_and_every_end_token_of_the_vocabulary(tmp_path):
    folder, tokenizer = loaded(tmp_path)
    end, padding = TOKENS.index("<|im_end|>"), TOKENS.index("<|endoftext|>")
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [end, padding], "pad_token_id": padding}
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == [end, padding]
    assert tokenizer.eos_token_ids == (end, padding)


def test_end_token_that_is_an_ordinary_word_ends_nothing(tmp_path):
    tokens = [*TOKENS, "</s>"]
    keys = tokenizer_keys(tokens=tokens, kinds=[*tokenizer_keys()["tokenizer.ggml.token_type"], 1])
    model = random_model({"model_type": "qwen2", "vocab_size": len(tokens)})
    write_model(tmp_path / "m.gguf", model, tokenizer=keys)
    assert tokens.index("</s>") not in OwnTokenizer.load(resolve_folder(tmp_path / "m.gguf")).eos_token_ids


def test_template_and_tags_come_from_the_file(tmp_path):
    _, tokenizer = loaded(tmp_path)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}])
    assert prompt == "<|im_start|>hi<|im_end|>"
    assert tokenizer.encode("<think>") == [tokenizer.think_start_id]
    assert tokenizer.decode([tokenizer.think_start_id], skip_special_tokens=True) == "<think>"


def test_rows_that_pad_the_embedding_are_no_tokens(tmp_path):
    _, tokenizer = loaded(tmp_path)
    assert tokenizer.vocab_size == len(TOKENS) - 1
    assert tokenizer.token_id("[PAD263]") is None


def test_normal_token_that_ends_turns_becomes_a_control_token(tmp_path):
    kinds = [1] * len(TOKENS)
    _, tokenizer = loaded(tmp_path, **{"tokenizer.ggml.token_type": kinds})
    assert tokenizer.encode("a<|im_end|>") == [TOKENS.index("a"), TOKENS.index("<|im_end|>")]


def test_beginning_token_is_written_for_other_readers_and_known_to_templates(tmp_path):
    bos = TOKENS.index("<|im_start|>")
    template = "{{ bos_token }}{{ messages[0].content }}"
    folder, tokenizer = loaded(
        tmp_path,
        **{
            "tokenizer.ggml.bos_token_id": bos,
            "tokenizer.ggml.add_bos_token": True,
            "tokenizer.chat_template": template,
        },
    )
    others = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert others.encode("an").ids == [bos, TOKENS.index("an")]
    assert others.encode("an", add_special_tokens=False).ids == [TOKENS.index("an")]
    assert tokenizer.encode_chat([{"role": "user", "content": "an"}]) == [bos, TOKENS.index("an")]
    assert len(MERGES) == 2
