"""Learning a small tokenizer, and the token ids of a supervised turn.

Public: train_tokenizer, render_training_turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from openqwq.errors import UserError
from openqwq.types import Message

from .put_in import OWN_TAGS
from .special_tokens import SPECIAL_TOKENS, TAG_TOKENS, THINK_END, THINK_START
from .tokenizer import Tokenizer

# Qwen's pieces of text that merges never cross; \p{N} alone: every digit is a token of its own.
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CALL_TAGS = OWN_TAGS - {THINK_START, THINK_END}
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS) + len(TAG_TOKENS)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer with exactly `vocab_size` entries: bytes, merges, then QwQ's 26 added tokens.

    The same texts give the same tokenizer, whatever their order. Raises UserError for a `vocab_size` below 282
    and for texts too small or too uniform to learn that many entries.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise UserError(
            f"`vocab_size` is {vocab_size}, but 256 bytes and the added tokens take {SMALLEST_VOCABULARY}",
            hint="set `vocab_size = 1024` in [tokenizer]",
        )
    backend = _empty_backend()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS) - len(TAG_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    backend.add_tokens([AddedToken(token, normalized=False, special=False) for token in TAG_TOKENS])
    tokenizer = Tokenizer(backend)
    if tokenizer.vocab_size != vocab_size:
        raise UserError(
            f"the texts give a vocabulary of {tokenizer.vocab_size} entries, `vocab_size` asks for {vocab_size}",
            hint="train on more text, or set a smaller `vocab_size`",
        )
    return tokenizer


def _empty_backend() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def render_training_turn(
    tokenizer: Tokenizer,
    messages: Sequence[Message | Mapping[str, Any]],
    thinking: str,
    answer: str,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> tuple[list[int], list[int]]:
    """Ids of the prompt and of the completion to learn: what the model is to sample after that very prompt.

    Behind a prompt that opens the thinking: `thinking`, newline, `</think>`, two newlines, `answer`, the template's
    end of turn.
    Behind one that opens none the completion writes `<think>` and a newline itself, or is the answer alone where there
    is no thinking. Whitespace around `thinking` and newlines before `answer` are dropped, since the template sets its
    own; the ids of both parts joined are then the ids of the whole text. Control tokens that they spell stay text but
    for those that a model writes itself: tags of calls, and in the answer those of thinking.
    """
    prompt_ids = tokenizer.encode_chat(messages, tools=tools)
    thinking, answer = thinking.strip(), answer.lstrip("\n")
    before, after = "", f"\n{THINK_END}\n\n"
    if not tokenizer.opens_thinking(prompt_ids):
        before, after = (f"{THINK_START}\n", after) if thinking else ("", "")
    head = f"{before}{thinking}{after}"
    breaks = [len(before) + place for place in tokenizer.put_in.breaks(thinking, CALL_TAGS)]
    breaks += [len(head) + place for place in tokenizer.put_in.breaks(answer, OWN_TAGS)]
    return prompt_ids, tokenizer.encode(f"{head}{answer}{tokenizer.end_of_turn}", breaks)
