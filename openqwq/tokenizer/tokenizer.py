"""Text to token ids and back, for Qwen's byte-level BPE: loaded from a model folder or trained here.

Public: Tokenizer, with_qwq_template, default_template.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import tokenizers

from openqwq.errors import UserError
from openqwq.log import write_text_atomic
from openqwq.types import Message

from .chat import render_chat, render_prompt
from .ends import FILES as END_FILES
from .ends import folder_end_ids, template_end
from .parse import opens_thinking
from .put_in import PutInText, Rendered, control_tokens
from .special_tokens import END_OF_TEXT, END_OF_TURN, SPECIAL_TOKENS, START_OF_TURN, THINK_END, THINK_START
from .templates import load_default_template

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
# The longest input that the published configuration states; a note for other tools, not a limit here.
MODEL_MAX_LENGTH = 131_072


class Tokenizer:
    """A tokenizer and the chat template that belongs to it."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        config: Mapping[str, Any] | None = None,
        end_ids: Iterable[int] = (),
    ):
        """config: the contents of tokenizer_config.json; what it leaves out is as in QwQ-32B.

        end_ids: that end a completion, too, e.g. those that the model's folder names.
        """
        self.backend = backend
        self.backend.no_truncation()
        self.backend.no_padding()
        self.config = dict(config or {})
        own = default_template(self.config.pop("chat_template", None))
        self.chat_template = load_default_template() if own is None else own
        self.eos_token = _token_text("eos_token", self.config) or END_OF_TURN
        self.pad_token = _token_text("pad_token", self.config) or END_OF_TEXT
        self.bos_token = _token_text("bos_token", self.config) or ""
        self.end_ids = tuple(end_ids)
        self._end_of_turn: tuple[str, str] | None = None

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """The tokenizer of a Hugging Face folder, or of a hub name such as "Qwen/QwQ-32B".

        A folder without a chat template gets QwQ-32B's. Raises UserError where there is no tokenizer.
        """
        folder = Path(path) if Path(path).is_dir() else _download(str(path))
        tokenizer_file = folder / TOKENIZER_FILE
        if not tokenizer_file.is_file():
            raise UserError(
                f"no {TOKENIZER_FILE} in {folder}",
                hint="give a Hugging Face model folder with a fast tokenizer",
            )
        try:
            backend = tokenizers.Tokenizer.from_file(str(tokenizer_file))
        except Exception as error:  # the library raises bare Exception for an unreadable file
            raise UserError(f"{tokenizer_file} is not a readable tokenizer: {error}") from error
        return cls(backend, config=_read_config(folder), end_ids=folder_end_ids(folder))

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, as `transformers` and vLLM open them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(folder / TOKENIZER_FILE, self.backend.to_str(pretty=True))
        config = {**self._default_config(), **self.config, "chat_template": self.chat_template}
        write_text_atomic(folder / CONFIG_FILE, json.dumps(config, ensure_ascii=False, indent=2) + "\n")

    def encode(self, text: str, breaks: Sequence[int] = ()) -> list[int]:
        """Token ids of a text; added tokens written in it are recognised, and none is put before it.

        breaks: places, between two characters, that no control token may span (see `render`).
        Raises UserError for a text that is no Unicode: half a surrogate pair, as JSON's escapes can write it.
        """
        cuts = self.put_in.spanning(text, breaks) if breaks else []
        pieces = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])] if cuts else [text]
        return [token_id for ids in self.encode_batch(pieces) for token_id in ids]

    def encode_plain(self, text: str) -> list[int]:
        """Token ids of a text that others wrote: control tokens spelled in it stay text."""
        return self.encode(text, self.put_in.breaks(text))

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_plain` of each text, on all threads."""
        spelled = {number: breaks for number, text in enumerate(texts) if (breaks := self.put_in.breaks(text))}
        ids = self.encode_batch(texts)
        return [self.encode(texts[n], spelled[n]) if n in spelled else own for n, own in enumerate(ids)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, on all threads; Python's other threads run meanwhile."""
        try:  # the library's `encode` would hold the interpreter's lock
            encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError as error:
            raise _no_text(texts) from error
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD. Thinking and tool tags are never skipped."""
        return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one token stands for; empty for an id beyond the vocabulary (a padded embedding row)."""
        token = self.backend.id_to_token(token_id)
        return b"" if token is None else _bytes_of(token)

    def token_id(self, token: str) -> int | None:
        """The id of a token by its text, e.g. "<think>"; None where the vocabulary lacks it."""
        return self.backend.token_to_id(token)

    @property
    def vocab_size(self) -> int:
        """Entries of the vocabulary, added tokens included; a model's embedding may be padded beyond it."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def eos_token_id(self) -> int:
        return self._required_id(self.eos_token)

    @property
    def pad_token_id(self) -> int:
        return self._required_id(self.pad_token)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Ids at which a completion ends, in training as in serving.

        The tokenizer's end token, the one that the chat template ends turns with, <|endoftext|>, the padding (which
        ends pretraining's documents), and those that the model's folder names.
        """
        texts = (self.eos_token, self.end_of_turn, END_OF_TEXT, self.pad_token)
        ids = [self.backend.token_to_id(text) for text in texts]
        own = [self.eos_token_id, *(token_id for token_id in ids if token_id is not None)]
        return tuple(dict.fromkeys([*own, *(i for i in self.end_ids if 0 <= i < self.vocab_size)]))

    @property
    def end_of_turn(self) -> str:
        """The token that the chat template writes behind an answer; `eos_token` where it writes none."""
        if self._end_of_turn is None or self._end_of_turn[0] != self.chat_template:
            added = self.backend.get_added_tokens_decoder().values()
            ends = {token.content for token in added if token.special} - {START_OF_TURN, THINK_START, THINK_END}
            end = template_end(self.chat_template, ends, self._template_names) or self.eos_token
            self._end_of_turn = self.chat_template, end
        return self._end_of_turn[1]

    @property
    def think_start_id(self) -> int:
        return self._required_id(THINK_START)

    @property
    def think_end_id(self) -> int:
        return self._required_id(THINK_END)

    def apply_chat_template(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_last: bool = False,
    ) -> str:
        """The conversation as text; see `render_chat`."""
        return render_chat(
            self.chat_template,
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            continue_last=continue_last,
            variables=self._template_names,
        )

    def encode_chat(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_last: bool = False,
    ) -> list[int]:
        """Token ids of the conversation; control tokens spelled in messages and tools stay text."""
        prompt = self.render(messages, tools, add_generation_prompt=add_generation_prompt, continue_last=continue_last)
        return self.encode(prompt.text, prompt.breaks)

    def render(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = True,
        continue_last: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> Rendered:
        """The conversation as text, and the breaks with which `encode` keeps what was put in from being control tokens.

        variables: further names that the template may read. Raises as `render_chat` does.
        """
        return render_prompt(
            self.chat_template,
            messages,
            self.put_in,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            continue_last=continue_last,
            variables=variables,
            own=self._template_names,
        )

    @cached_property
    def put_in(self) -> PutInText:
        """Finds this tokenizer's control tokens in text that others wrote."""
        added = self.backend.get_added_tokens_decoder().values()
        return PutInText(control_tokens((token.content, token.special) for token in added))

    def opens_thinking(self, prompt_ids: Sequence[int]) -> bool:
        """Whether a prompt ends inside a thinking block: its last turn has a `<think>` that nothing closes.

        The last turn is what follows the last control token, so that tags which a user writes do not count.
        """
        start = len(prompt_ids)
        while start and prompt_ids[start - 1] not in self._control_ids:
            start -= 1
        return opens_thinking(self.decode(prompt_ids[start:]))

    @cached_property
    def _control_ids(self) -> frozenset[int]:
        added = self.backend.get_added_tokens_decoder().items()
        return frozenset(i for i, token in added if token.special and token.content not in (THINK_START, THINK_END))

    @property
    def _template_names(self) -> dict[str, str]:
        """The special tokens, under the names by which templates ask for them."""
        return {"eos_token": self.eos_token, "pad_token": self.pad_token, "bos_token": self.bos_token}

    def _required_id(self, token: str) -> int:
        token_id = self.backend.token_to_id(token)
        if token_id is None:
            raise UserError(
                f"this tokenizer has no {token} token",
                hint="use a QwQ tokenizer, or one made by `openqwq train`",
            )
        return token_id

    def _default_config(self) -> dict[str, Any]:
        added = sorted(self.backend.get_added_tokens_decoder().items())
        return {
            "added_tokens_decoder": {str(i): {"content": t.content, **_flags(t)} for i, t in added},
            "add_prefix_space": False,
            "additional_special_tokens": [t.content for _, t in added if t.special and t.content in SPECIAL_TOKENS[1:]],
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": self.eos_token,
            "errors": "replace",
            "model_max_length": MODEL_MAX_LENGTH,
            "pad_token": self.pad_token,
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        }


def with_qwq_template(tokenizer: Tokenizer, name: str) -> Tokenizer:
    """The tokenizer with QwQ-32B's chat template, whose prompts open the thinking.

    Raises UserError where the vocabulary lacks the tokens that begin and end its turns; `name` names the tokenizer.
    Thinking tags that it lacks are written and read as text.
    """
    for token in (START_OF_TURN, END_OF_TURN):
        if tokenizer.token_id(token) is None:
            raise UserError(
                f"the tokenizer {name} has no {token} token, with which QwQ's chat template marks turns",
                hint="leave `chat_template` out of [tokenizer]: the model's own template is then used",
            )
    return Tokenizer(
        tokenizer.backend,
        config={**tokenizer.config, "chat_template": load_default_template()},
        end_ids=tokenizer.end_ids,
    )


def _flags(token: tokenizers.AddedToken) -> dict[str, bool]:
    return {name: getattr(token, name) for name in ("lstrip", "normalized", "rstrip", "single_word", "special")}


def _token_text(name: str, config: Mapping[str, Any]) -> str | None:
    token = config.get(name)
    text = token.get("content") if isinstance(token, Mapping) else token
    if text is not None and not isinstance(text, str):
        raise UserError(f"`{name}` is {token!r:.80} in {CONFIG_FILE}, but must be a text")
    return text


def default_template(named: Any) -> str | None:
    """The template that a configuration's `chat_template` means; None for null.

    Of several named ones, as a list of `name` and `template` or as an object, the one called "default".
    Raises UserError for another shape, and where none has that name.
    """
    if named is None or isinstance(named, str):
        return named
    templates: dict[Any, Any] = {}
    if isinstance(named, Mapping):
        templates = dict(named)
    elif isinstance(named, list) and all(isinstance(entry, Mapping) for entry in named):
        templates = {entry.get("name"): entry.get("template") for entry in named}
    if isinstance(templates.get("default"), str):
        return templates["default"]
    found = f"has {', '.join(map(str, templates))}" if templates else f"is {named!r:.80}"
    raise UserError(
        f'`chat_template` of {CONFIG_FILE} {found}, but must be a text, or named templates with a "default"',
        hint=f"put the template into {TEMPLATE_FILE}",
    )


def _read_config(folder: Path) -> dict[str, Any]:
    config_file, template_file = folder / CONFIG_FILE, folder / TEMPLATE_FILE
    config = {}
    if config_file.is_file():
        try:
            config = json.loads(config_file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{config_file} is not JSON: {error}") from error
        if not isinstance(config, dict):
            raise UserError(f"{config_file} holds no JSON object")
    if template_file.is_file():
        config["chat_template"] = template_file.read_text(encoding="utf-8")
    return config


def _download(name: str) -> Path:
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"no folder {name}", hint="give a model folder, or a hub name like Qwen/QwQ-32B")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[TOKENIZER_FILE, CONFIG_FILE, TEMPLATE_FILE, *END_FILES]))
    except Exception as error:  # the hub client's errors have no common base
        raise UserError(
            f"no folder {name}, and the hub gave no tokenizer of that name: {type(error).__name__}",
            hint="check the name and the network, or download the model once and give its folder",
        ) from error


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """The inverse of byte-level BPE's alphabet: printable Latin-1 stands for itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


def _no_text(texts: Iterable[Any]) -> UserError:
    """What is wrong with the first of some texts that a tokenizer cannot read."""
    for text in texts:
        if not isinstance(text, str):
            return UserError(f"a text was expected, but this is {text!r}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            return UserError(f"the text holds half a surrogate pair at character {error.start}")
    return UserError("the tokenizer cannot read this text")


def _bytes_of(token: str) -> bytes:
    alphabet = _byte_of_character()
    if all(character in alphabet for character in token):
        return bytes(alphabet[character] for character in token)
    return token.encode("utf-8")
