"""Where the answer begins: told by the rendered prompt, for templates that open a thinking block and for others."""

import pytest

from openqwq.errors import UserError
from openqwq.tokenizer import (
    SPECIAL_TOKENS,
    Tokenizer,
    answer_start,
    load_default_template,
    parse_completion,
    render_training_turn,
    train_tokenizer,
    with_qwq_template,
)

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OPENING = CHATML.replace("assistant\n", "assistant\n<think>\n")
CLOSED_AT_ONCE = CHATML.replace("assistant\n", "assistant\n<think>\n\n</think>\n\n")


@pytest.fixture(scope="module")
def backend():
    texts = [f"what is {i} plus {i * 7}? it is {i * 8}, says <think> or </think>" for i in range(400)]
    return train_tokenizer(texts, 300).backend


def ask(backend, template, text, **options):
    tokenizer = Tokenizer(backend, config={"chat_template": template})
    return tokenizer.opens_thinking(tokenizer.encode_chat([{"role": "user", "content": text}], **options))


@pytest.mark.parametrize("text", ["what is 2?", "what does <think> mean?", "is </think> the end of <think>?"])
@pytest.mark.parametrize(("template", "opened"), [(CHATML, False), (OPENING, True), (CLOSED_AT_ONCE, False)])
def test_the_template_and_not_the_user_opens_the_thinking(backend, template, text, opened):
    assert ask(backend, template, text) is opened


def test_a_history_alone_opens_no_thinking(backend):
    assert not ask(backend, OPENING, "what is 2?", add_generation_prompt=False)


@pytest.mark.parametrize(("thinking", "opened"), [("so far", True), ("so far\n</think>\n\nit is", False)])
def test_a_turn_that_is_continued_opens_the_thinking_until_it_is_closed(backend, thinking, opened):
    tokenizer = Tokenizer(backend, config={"chat_template": OPENING})
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "what is 2?"}])
    assert tokenizer.opens_thinking(tokenizer.encode(prompt + thinking)) is opened


def test_tags_that_are_no_tokens_are_read_from_the_text():
    texts = [f"what is {i} plus {i * 7}? it is {i * 8}" for i in range(400)]
    backend = train_tokenizer(texts, 285).backend
    plain = type(backend).from_str(backend.to_str().replace('"<think>"', '"<zzz>"').replace('"</think>"', '"</zzz>"'))
    assert plain.token_to_id("<think>") is None and plain.token_to_id(SPECIAL_TOKENS[1]) is not None
    assert ask(plain, OPENING, "what is 2?") and not ask(plain, CHATML, "what is 2?")


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize(
    "text", ["a", "a</think>b", "<think>a</think>\n\nb", "<think>a", "\n</think>\n", "", "a</think>"]
)
def test_the_answer_starts_where_the_parsed_answer_does(text, opened):
    start, parsed = answer_start(text, opened), parse_completion(text, opened)
    assert (text[start:] if start is not None else "") == parsed.answer
    assert (start is None) == (not parsed.closed and (opened or text.startswith("<think>")))


@pytest.mark.parametrize(
    ("template", "thinking", "target"),
    [
        (OPENING, "1 + 1 = 2", "1 + 1 = 2\n</think>\n\nIt is 2.<|im_end|>"),
        (OPENING, "", "\n</think>\n\nIt is 2.<|im_end|>"),
        (CHATML, " 1 + 1 = 2\n", "<think>\n1 + 1 = 2\n</think>\n\nIt is 2.<|im_end|>"),
        (CHATML, "", "It is 2.<|im_end|>"),
        (CLOSED_AT_ONCE, "", "It is 2.<|im_end|>"),
    ],
)
def test_a_training_target_closes_only_a_thinking_that_was_opened(backend, template, thinking, target):
    tokenizer = Tokenizer(backend, config={"chat_template": template})
    prompt, completion = render_training_turn(tokenizer, [{"role": "user", "content": "1+1?"}], thinking, "\nIt is 2.")
    assert tokenizer.decode(completion) == target
    parsed = parse_completion(target.removesuffix("<|im_end|>"), tokenizer.opens_thinking(prompt))
    assert (parsed.thinking, parsed.answer) == (thinking.strip(), "It is 2.")


def test_qwqs_template_replaces_a_tokenizers_own(backend):
    own = Tokenizer(backend, config={"chat_template": CHATML, "model_max_length": 77})
    tokenizer = with_qwq_template(own, "x")
    assert tokenizer.chat_template == load_default_template() and tokenizer.config["model_max_length"] == 77
    assert own.chat_template == CHATML


def test_qwqs_template_is_refused_where_turns_have_no_tokens(backend):
    bare = type(backend).from_str(backend.to_str().replace("<|im_end|>", "<|zz_end|>"))
    with pytest.raises(UserError, match=r"tokenizer x has no <\|im_end\|> token"):
        with_qwq_template(Tokenizer(bare), "x")
