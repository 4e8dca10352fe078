"""The tokenizer files that a GGUF file's keys mean: byte-level BPE, as the model's Hugging Face folder has it.

A file names how text is split before merging (`tokenizer.ggml.pre`) instead of saying it. Kinds of tokens: 1 normal,
2 unknown, 3 control, 4 user-defined (matched whole, such as `<think>`), 5 unused, 6 a byte.

Public: tokenizer_files.
"""

from __future__ import annotations

import json
from typing import Any

from openqwq.errors import UserError

from .config import Keys
from .container import GgufFile

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = (
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)  # of Qwen2 and Llama 3, which differ in the digits
NFC = {"type": "NFC"}


def _split(digits: str) -> dict[str, Any]:
    pattern = {"Regex": WORDS.replace("DIGITS", digits)}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def _bytes(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": use_regex}


ONE_DIGIT, THREE_DIGITS = _split(r"\p{N}"), _split(r"\p{N}{1,3}")
EACH_DIGIT = {"type": "Digits", "individual_digits": True}
LLAMA3 = {"split": [THREE_DIGITS, _bytes(False)], "ignore_merges": True, "add_bos": True}
KINDS: dict[str, dict[str, Any]] = {
    "qwen2": {"split": [ONE_DIGIT, _bytes(False)], "normalizer": NFC},
    "deepseek-r1-qwen": {"split": [ONE_DIGIT, _bytes(False)]},
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "smollm": {"split": [EACH_DIGIT, _bytes(True)]},
    "gpt-2": {"split": [_bytes(True)]},
}
"""By `tokenizer.ggml.pre`. normalizer: of the models' own tokenizers; llama.cpp leaves it out."""
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
ENDS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
    "<end_of_utterance>", "<eos>", "<｜end▁of▁sentence｜>",
)  # fmt: skip
"""Added tokens that end a completion by their text, as in llama.cpp: a file names one, and models write several."""
SAMPLING = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}
ID_KEYS = ("bos", "eos", "eot", "eom", "unknown", "padding", "seperator", "mask")  # spelled so in the format


def tokenizer_files(file: GgufFile) -> dict[str, dict[str, Any]]:
    """tokenizer.json, tokenizer_config.json and generation_config.json, by their names.

    Raises UserError for a tokenizer of another kind and for one that is damaged.
    """
    keys = Keys(file)
    pre = _way_to_split(keys)
    tokens, kinds = _tokens(keys)
    ids = {name: _token_id(keys, name, len(tokens)) for name in ID_KEYS}
    for token_id in ids.values():
        if token_id is not None and kinds[token_id] == NORMAL:
            kinds[token_id] = CONTROL
    while kinds and kinds[-1] == UNUSED:  # rows that pad the embedding
        kinds.pop()
        tokens.pop()
    bos, adds_bos = ids["bos"], keys.flag("tokenizer.ggml.add_bos_token", pre.get("add_bos", False))
    if adds_bos and bos is None:
        raise UserError(f"{file.path} asks for a token before each text, but names none", hint="convert it again")
    backend = _backend(keys, tokens, kinds, pre, tokens[bos] if adds_bos and bos is not None else None)
    _check_backend(file, backend)
    texts = {name: None if token_id is None else tokens[token_id] for name, token_id in ids.items()}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": texts["bos"],
        "eos_token": texts["eos"],
        "pad_token": texts["padding"] or texts["eos"],
        "unk_token": texts["unknown"],
        "add_bos_token": adds_bos,
        "add_eos_token": keys.flag("tokenizer.ggml.add_eos_token", False),
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": keys.whole("context_length"),
    }
    template = keys.text("tokenizer.chat_template", None)
    config |= {} if template is None else {"chat_template": template}
    added = {token for token, own in zip(tokens, kinds, strict=True) if own in (UNKNOWN, CONTROL, USER_DEFINED)}
    named = [ids[name] for name in ("eos", "eot", "eom") if ids[name] is not None]
    ends = [token_id for token_id, token in enumerate(tokens) if token in ENDS and token in added]
    generation = {
        "bos_token_id": bos,
        "eos_token_id": list(dict.fromkeys([*named, *ends])),
        "pad_token_id": ids["padding"],
        **{name: value for key, name in SAMPLING.items() if (value := keys.number(key, None)) is not None},
    }
    return {
        "tokenizer.json": backend,
        "tokenizer_config.json": {key: value for key, value in config.items() if value is not None},
        "generation_config.json": {key: value for key, value in generation.items() if value is not None},
    }


def _way_to_split(keys: Keys) -> dict[str, Any]:
    """How the tokenizer splits text, of KINDS. Raises UserError for ways that are not known here."""
    hint = "use the model's Hugging Face folder, which holds its tokenizer.json"
    model = keys.text("tokenizer.ggml.model", None)
    if model != "gpt2":
        what = "no tokenizer" if model is None else f"a tokenizer of the kind {model!r}"
        raise UserError(f"{keys.file.path} holds {what}; byte-level BPE ('gpt2') is supported", hint=hint)
    name = keys.text("tokenizer.ggml.pre", None)
    if name not in KINDS:
        what = "does not say how its tokenizer splits text" if name is None else f"splits text as {name!r} does"
        raise UserError(f"{keys.file.path} {what}; supported: {', '.join(KINDS)}", hint=hint)
    return KINDS[name]


def _tokens(keys: Keys) -> tuple[list[str], list[int]]:
    """The vocabulary in the order of its ids, and the kind of each token."""
    path = keys.file.path
    tokens = list(keys.get("tokenizer.ggml.tokens", list, "a list of texts", ...))
    kinds = list(keys.get("tokenizer.ggml.token_type", list, "a list of numbers", [NORMAL] * len(tokens)))
    if not tokens or not all(isinstance(token, str) for token in tokens) or len(kinds) != len(tokens):
        raise UserError(f"{path} holds {len(tokens)} tokens and {len(kinds)} kinds of tokens", hint="download it again")
    if len(set(tokens)) != len(tokens):
        raise UserError(f"{path} holds a token twice in its vocabulary", hint="convert it again")
    rows = keys.file.tensors["token_embd.weight"].shape[0]
    if len(tokens) > rows:
        raise UserError(
            f"{path} holds {len(tokens)} tokens, but the embedding has {rows} rows",
            hint="the tokenizer is another model's: convert the model again",
        )
    return tokens, kinds


def _token_id(keys: Keys, name: str, num_tokens: int) -> int | None:
    token_id = keys.whole(f"tokenizer.ggml.{name}_token_id", None)
    if token_id is not None and not 0 <= token_id < num_tokens:
        raise UserError(f"`tokenizer.ggml.{name}_token_id` is {token_id} in {keys.file.path}, of {num_tokens} tokens")
    return token_id


def _backend(
    keys: Keys, tokens: list[str], kinds: list[int], pre: dict[str, Any], before: str | None
) -> dict[str, Any]:
    """The contents of tokenizer.json. Added tokens at the end of the vocabulary are no words of the BPE."""
    added = [
        {
            "id": token_id, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": kind != USER_DEFINED,
        }
        for token_id, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]  # fmt: skip
    num_words = len(tokens)
    while num_words and kinds[num_words - 1] in (UNKNOWN, CONTROL, USER_DEFINED):
        num_words -= 1
    merges = keys.get("tokenizer.ggml.merges", list, "a list of texts", ...)
    pairs = [[merge[:1] + left, right] for merge in merges for left, _, right in [str(merge)[1:].partition(" ")]]
    after: dict[str, Any] = _bytes(False)
    if before is not None:
        first = {"SpecialToken": {"id": before, "type_id": 0}}
        whole = {"id": before, "ids": [tokens.index(before)], "tokens": [before]}
        template = {
            "type": "TemplateProcessing",
            "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [first, *({"Sequence": {"id": name, "type_id": 0}} for name in "AB")],
            "special_tokens": {before: whole},
        }
        after = {"type": "Sequence", "processors": [after, template]}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": pre.get("normalizer"),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre["split"]},
        "post_processor": after,
        "decoder": _bytes(True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre.get("ignore_merges", False),
            "vocab": {token: token_id for token_id, token in enumerate(tokens[:num_words])},
            "merges": pairs,
        },
    }


def _check_backend(file: GgufFile, backend: dict[str, Any]) -> None:
    """Raises UserError where the tokenizer cannot be made, e.g. for a merge of tokens that are not there."""
    import tokenizers

    try:
        made = tokenizers.Tokenizer.from_str(json.dumps(backend))
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"the tokenizer in {file.path} is damaged: {error}", hint="convert it again") from error
    for token in backend["added_tokens"]:
        if made.token_to_id(token["content"]) != token["id"]:
            raise UserError(f"the tokenizer in {file.path} gives {token['content']!r} another id than the file does")
