"""A tokenizer learned here: its entries, its digits, its files, and the ids of supervised turns."""

import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openqwq.errors import UserError
from openqwq.tokenizer import (
    SPECIAL_TOKENS,
    TAG_TOKENS,
    StreamDecoder,
    Tokenizer,
    render_training_turn,
    train_tokenizer,
)

WORDS = [
    "the",
    "cat",
    "sat",
    "while",
    "three",
    "green",
    "birds",
    "flew",
    "over",
    "a",
    "river",
    "singing",
    "old",
    "songs",
]


def make_texts(count=400):
    rng = random.Random(0)
    return [
        f"{rng.choice(WORDS)} {rng.choice(WORDS)} has {rng.randint(0, 999)}\n\n{rng.choice(WORDS)}"
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(make_texts(), 330)


def test_vocabulary_is_bytes_then_merges_then_the_added_tokens_in_order(tokenizer):
    assert tokenizer.vocab_size == 330
    assert [tokenizer.token_id(token) for token in SPECIAL_TOKENS + TAG_TOKENS] == list(range(304, 330))
    assert sorted(tokenizer.token_bytes(i) for i in range(256)) == [bytes([b]) for b in range(256)]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (306, 304)
    assert tokenizer.eos_token_ids == (306, 304)
    assert (tokenizer.think_start_id, tokenizer.think_end_id) == (328, 329)


def test_every_digit_is_one_token(tokenizer):
    ids = tokenizer.encode("120456")
    assert [tokenizer.token_bytes(i) for i in ids] == [b"1", b"2", b"0", b"4", b"5", b"6"]


def test_frequent_words_become_single_tokens(tokenizer):
    assert len(tokenizer.encode("birds")) == 1
    assert len(tokenizer.encode("zebra")) > 2


def test_composed_and_decomposed_characters_get_the_same_ids(tokenizer):
    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9") != tokenizer.encode("e")


def test_training_is_deterministic_and_blind_to_the_order_of_texts(tokenizer, tmp_path):
    again = train_tokenizer(reversed(make_texts()), 330)
    assert again.backend.to_str() == tokenizer.backend.to_str()


def test_training_is_deterministic_across_processes(tokenizer):
    code = (
        f"import sys; sys.path.insert(0, {str(__file__.rsplit('/', 1)[0])!r})\n"
        "from test_tokenizer_training import make_texts\n"
        "from openqwq.tokenizer import train_tokenizer\n"
        "sys.stdout.write(train_tokenizer(make_texts(), 330).backend.to_str())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == tokenizer.backend.to_str()


def test_a_vocabulary_that_the_texts_cannot_fill_is_refused():
    with pytest.raises(UserError, match="the texts give a vocabulary of 284 entries"):
        train_tokenizer(["ab ab"], 500)
    with pytest.raises(UserError, match="282"):
        train_tokenizer(["ab"], 281)


def test_special_tokens_are_skipped_and_tags_are_not(tokenizer):
    ids = tokenizer.encode("<think>\na</think>b<|im_end|><|endoftext|>")
    assert tokenizer.decode(ids) == "<think>\na</think>b<|im_end|><|endoftext|>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>\na</think>b"


def test_saved_folder_loads_to_the_same_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    text = "the cat 42 <tool_call>\u00e9\u4f60</tool_call><|im_end|>"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.chat_template == tokenizer.chat_template
    loaded.save(tmp_path / "again")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_transformers_opens_the_saved_folder_with_equal_ids_and_template(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "the cat sat 12345\n\n <think>\n\u00e9\u4f60\U0001f999</think> it's<|im_end|>"
    messages = [{"role": "user", "content": "hi <b>"}, {"role": "assistant", "content": "x</think>\n\ny"}]
    assert type(theirs).__name__ == "Qwen2Tokenizer"
    assert theirs(text).input_ids == tokenizer.encode(text)
    assert (theirs.eos_token, theirs.pad_token, theirs.bos_token) == ("<|im_end|>", "<|endoftext|>", None)
    assert len(theirs) == tokenizer.vocab_size
    ids = tokenizer.encode(text)
    assert theirs.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids, skip_special_tokens=True)
    for prompt in (True, False):
        rendered = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        assert rendered == tokenizer.apply_chat_template(messages, add_generation_prompt=prompt)


def test_batch_encoding_equals_encoding_one_by_one(tokenizer):
    texts = make_texts(20)
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "reason"), [("a\udc00", "half a surrogate pair at character 1"), (3, "but this is 3")]
)
def test_what_is_no_text_is_named(tokenizer, text, reason):
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_batch(["fine", text])):
        with pytest.raises(UserError, match=reason):
            encode(text)


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_decode_gives_back_any_text_in_normal_form(tokenizer, text):
    import unicodedata

    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)


@given(st.lists(st.integers(0, 335), max_size=40))
@settings(max_examples=200, deadline=None)
def test_streamed_pieces_joined_are_the_whole_text_for_any_ids(tokenizer, ids):
    stream = StreamDecoder(tokenizer)
    assert "".join([stream.push(i) for i in ids] + [stream.finish()]) == tokenizer.decode(ids)


def test_stream_holds_back_a_character_until_its_last_byte(tokenizer):
    stream = StreamDecoder(tokenizer)
    pieces = [stream.push(i) for i in tokenizer.encode("\U0001f999")]
    assert pieces == ["", "", "", "\U0001f999"]
    assert stream.finish() == ""


def test_training_turn_continues_the_generation_prompt(tokenizer):
    messages = [{"role": "user", "content": "12 birds and 3 birds?"}]
    prompt_ids, completion_ids = render_training_turn(tokenizer, messages, "12+3=15", "\\boxed{15}")
    assert prompt_ids == tokenizer.encode_chat(messages)
    assert tokenizer.decode(prompt_ids).endswith("<|im_start|>assistant\n<think>\n")
    assert tokenizer.decode(completion_ids) == "12+3=15\n</think>\n\n\\boxed{15}<|im_end|>"
    assert completion_ids[-1] == tokenizer.eos_token_id


LINE = st.text(alphabet="ab 1\u00e9\u0301\n\t.", max_size=12)


@given(LINE.filter(str.strip), LINE)
@settings(max_examples=200, deadline=None)
def test_prompt_and_completion_ids_joined_are_the_ids_of_the_whole_text(tokenizer, thinking, answer):
    prompt_ids, completion_ids = render_training_turn(tokenizer, [{"role": "user", "content": "go"}], thinking, answer)
    assert tokenizer.encode(tokenizer.decode(prompt_ids + completion_ids)) == prompt_ids + completion_ids


def test_importing_the_tokenizer_brings_neither_torch_nor_transformers_nor_the_hub():
    code = (
        "import sys, openqwq.tokenizer; print(sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "[]\n"


def test_missing_and_broken_folders_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        Tokenizer.load("./not/here")
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="not a readable tokenizer"):
        Tokenizer.load(tmp_path)


def test_a_hub_name_without_network_is_a_user_error(tmp_path):
    code = (
        "from openqwq.tokenizer import Tokenizer\nfrom openqwq.errors import UserError\n"
        "try: Tokenizer.load('nobody/nothing')\nexcept UserError as error: print(error)"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": ""}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert "no folder nobody/nothing, and the hub gave no tokenizer" in out.stdout
    assert "hint: check the name and the network" in out.stdout


def test_a_tokenizer_without_thinking_tokens_says_so(tokenizer):
    import json

    tables = json.loads(tokenizer.backend.to_str())
    tables["added_tokens"] = [token for token in tables["added_tokens"] if "think" not in token["content"]]
    import tokenizers

    bare = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(tables)))
    assert bare.token_id("<think>") is None
    with pytest.raises(UserError, match="<think>"):
        _ = bare.think_start_id
