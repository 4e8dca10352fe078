"""The real Qwen vocabulary against llama.cpp's vectors and against `transformers`."""

import json
from pathlib import Path

import pytest
from parse_cases import CASES

from openqwq.tokenizer import (
    SPECIAL_TOKENS,
    TAG_TOKENS,
    CallError,
    StreamDecoder,
    ThinkingStream,
    Tokenizer,
    ToolCallStream,
)
from openqwq.types import ToolCall

DATA = Path(__file__).parents[2].parent / "shared" / "data"
FOLDER = DATA / "qwen_tokenizer"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs shared/data/qwen_tokenizer beside the repository")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(FOLDER)


@pytest.fixture(scope="module")
def theirs(tokenizer, tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("qwen")
    tokenizer.save(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def read_prompts():
    files = sorted((DATA / "qwq_eval").glob("*.jsonl"))
    rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [row["prompt"] for row in rows if "prompt" in row]


@pytest.mark.parametrize("name", CASES)
def test_completions_cut_at_the_models_own_tokens_are_read_as_whole(tokenizer, name):
    text, thinking, answer, calls, num_errors = CASES[name]
    for ids in (tokenizer.encode(text), [i for c in text for i in tokenizer.encode(c)]):  # tags as tokens, and spelled
        decoder, stream, reader = StreamDecoder(tokenizer), ThinkingStream(True), ToolCallStream()
        pieces = [stream.push(decoder.push(token_id)) for token_id in ids] + [stream.finish()]
        parts = [part for _, written in pieces for part in reader.push(written)] + reader.finish()
        assert "".join(thought for thought, _ in pieces) == thinking
        assert "".join(part for part in parts if isinstance(part, str)) == answer
        assert [(p.name, dict(p.arguments)) for p in parts if isinstance(p, ToolCall)] == calls
        assert sum(isinstance(part, CallError) for part in parts) == num_errors


def test_added_tokens_have_the_published_ids(tokenizer):
    published = json.loads((DATA / "qwq_config" / "qwq_added_tokens.json").read_text())
    assert {token: tokenizer.token_id(token) for token in SPECIAL_TOKENS + TAG_TOKENS} == published
    assert tokenizer.vocab_size == 151_669
    assert tokenizer.eos_token_ids == (151_645, 151_643)
    assert (tokenizer.think_start_id, tokenizer.think_end_id) == (151_667, 151_668)


def test_ids_equal_llama_cpp_vectors(tokenizer):
    texts = (FOLDER / "ggml-vocab-qwen2.gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")[:-1]
    lines = (FOLDER / "ggml-vocab-qwen2.gguf.out").read_text().splitlines()
    assert len(texts) == len(lines) == 46
    for text, line in zip(texts, lines, strict=True):
        assert tokenizer.encode(text) == [int(token) for token in line.split()], repr(text)


def test_ids_equal_transformers_on_every_prompt(tokenizer, theirs):
    prompts = read_prompts()
    assert len(prompts) == 850
    assert tokenizer.encode_batch(prompts) == theirs(prompts).input_ids


def test_chat_ids_equal_transformers_on_prompts_of_every_benchmark(tokenizer, theirs):
    for prompt in read_prompts()[::40]:
        chat = [{"role": "user", "content": prompt}]
        ids = tokenizer.encode_chat(chat)
        assert ids == theirs.apply_chat_template(chat, add_generation_prompt=True).input_ids
        assert tokenizer.decode(ids) == theirs.decode(ids)
