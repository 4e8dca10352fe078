"""The known traps of a model folder, found before they cost an evening, and the files that fix them.

Facts about QwQ-32B: its README's usage guidelines; readers of YaRN blocks: transformers 4 ignores a block without
`rope_type`, and 4.51 takes the factor from `max_position_embeddings`.

Public: Finding, Status, Examined, examine_model, write_fixed.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from openqwq.errors import UserError
from openqwq.log import write_text_atomic

if TYPE_CHECKING:
    from openqwq.tokenizer import Tokenizer

CONFIG, TOKENIZER_CONFIG, GENERATION = "config.json", "tokenizer_config.json", "generation_config.json"
TEMPLATE = "chat_template.jinja"
INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"
SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 40, "repetition_penalty": 1.0}
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
MAX_HEADER_BYTES = 100_000_000  # the safetensors format's own limit

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """What one check found. "warn": works, but slower or with less."""

    name: str
    status: Status
    text: str


@dataclass
class Examined:
    """A folder's files, what was found in them, and the contents that fix them.

    fixes: file name -> new JSON value, or new text for the template.
    """

    folder: Path
    findings: list[Finding] = field(default_factory=list)
    fixes: dict[str, Any] = field(default_factory=dict)

    def note(self, name: str, status: Status, text: str) -> None:
        self.findings.append(Finding(name, status, text))

    def json(self, name: str) -> dict[str, Any] | None:
        """The file's object, with the fixes so far; None where it is missing or unreadable."""
        if name in self.fixes:
            return self.fixes[name]
        try:
            value = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def fix(self, name: str, changes: Mapping[str, Any]) -> None:
        self.fixes[name] = {**(self.json(name) or {}), **changes}


def examine_model(folder: Path) -> Examined:
    """Everything that was found. Raises UserError when there is no such folder."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no model folder", hint="give a folder with config.json and safetensors")
    examined = Examined(folder)
    for check in (_check_config, _check_weights, _check_rope, _check_tokenizer, _check_template, _check_sampling):
        check(examined)
    return examined


def _check_config(examined: Examined) -> None:
    from openqwq.model.config import DecoderConfig

    raw = examined.json(CONFIG)
    if raw is None:
        examined.note("config", "fail", f"{CONFIG} is missing or no JSON object; copy the folder again")
        return
    try:
        config = DecoderConfig.from_dict(raw)
    except UserError as error:
        examined.note("config", "fail", f"{error.message} ({error.hint})" if error.hint else error.message)
        return
    examined.note("config", "ok", f"{config.num_hidden_layers} layers, context {config.max_context}")


def _check_weights(examined: Examined) -> None:
    from openqwq.formats.gguf.container import read_gguf
    from openqwq.formats.gguf.weights import LINK_NAME

    if (link := examined.folder / LINK_NAME).is_symlink():
        counts = Counter(info.kind for info in read_gguf(link).tensors.values())
        listed = ", ".join(f"{number} {kind}" for kind, number in counts.most_common())
        examined.note("weights", "ok", f"GGUF: {listed}")
        return
    shards = _shard_names(examined)
    if not shards:
        examined.note("weights", "fail", "there are no safetensors; pickled weights are never read")
        return
    absent = [name for name in shards if not (examined.folder / name).is_file()]
    if absent:
        text = f"{len(absent)} of {len(shards)} shards are missing, first {absent[0]}; download or copy them again"
        examined.note("weights", "fail", text)
        return
    kinds: set[str] = set()
    for name in shards:
        try:
            kinds |= _read_header(examined.folder / name)
        except ValueError as error:
            examined.note("weights", "fail", f"{name} {error}; download or copy it again")
            return
    examined.note("weights", "ok", f"{len(shards)} file{'s' * (len(shards) > 1)}, {', '.join(sorted(kinds))}")
    _check_dtype(examined, kinds)


def _shard_names(examined: Examined) -> list[str]:
    index = examined.json(INDEX)
    if (examined.folder / WHOLE).is_file():  # an index beside it is left over
        return [WHOLE]
    if index is not None and isinstance(index.get("weight_map"), dict):
        return sorted(set(index["weight_map"].values()))
    return sorted(path.name for path in examined.folder.glob("*.safetensors"))


def _read_header(file: Path) -> set[str]:
    """The types of a shard's tensors. Raises ValueError for a file that is cut off or no safetensors."""
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= min(MAX_HEADER_BYTES, file.stat().st_size):
            raise ValueError("is no safetensors file")
        header = json.loads(stream.read(length))
    tensors = [value for key, value in header.items() if key != "__metadata__"]
    needed = 8 + length + max((tensor["data_offsets"][1] for tensor in tensors), default=0)
    if file.stat().st_size < needed:
        raise ValueError(f"is cut off: {file.stat().st_size} of {needed} bytes")
    return {tensor["dtype"] for tensor in tensors}


def _check_dtype(examined: Examined, kinds: set[str]) -> None:
    raw = examined.json(CONFIG) or {}
    named = {key: str(raw[key]).removeprefix("torch.") for key in ("torch_dtype", "dtype") if raw.get(key)}
    stored = {DTYPES.get(kind, kind) for kind in kinds}
    if len(stored) != 1 or set(named.values()) == stored:
        return
    [real] = stored
    said = f"says {' and '.join(dict.fromkeys(named.values()))}" if named else "names no type"
    examined.note("dtype", "warn", f"{CONFIG} {said}, but the weights are {real}: readers convert them silently")
    examined.fix(CONFIG, dict.fromkeys(named or ("torch_dtype",), real))


def _check_rope(examined: Examined) -> None:
    raw = examined.json(CONFIG) or {}
    block = raw.get("rope_scaling")
    if not isinstance(block, dict) or "yarn" not in (block.get("type"), block.get("rope_type")):
        return
    wrong = []
    fixed = {**block, "type": "yarn", "rope_type": "yarn"}
    if {"type", "rope_type"} - set(block):
        wrong.append("it has only one of `type` and `rope_type`, and some readers ignore it then")
    original = block.get("original_max_position_embeddings")
    if original is None:
        original = fixed["original_max_position_embeddings"] = 32768
        wrong.append("it lacks `original_max_position_embeddings`")
    longest = int(float(block.get("factor", 1)) * original)
    if raw.get("max_position_embeddings") != longest:
        wrong.append(f"`max_position_embeddings` is not {longest}, from which transformers 4.51 takes the factor")
    if wrong:
        examined.note("rope", "warn", f"the YaRN block is read differently by different readers: {'; '.join(wrong)}")
        examined.fix(CONFIG, {"rope_scaling": fixed, "max_position_embeddings": longest})
    else:
        examined.note("rope", "ok", f"YaRN to {longest} positions; short texts may lose quality, as it is static")


def _check_tokenizer(examined: Examined) -> None:
    from openqwq.tokenizer import Tokenizer

    try:
        tokenizer = Tokenizer.load(examined.folder)
    except UserError as error:
        examined.note("tokenizer", "fail", error.message)
        return
    missing = [tag for tag in ("<think>", "</think>", "<tool_call>", "</tool_call>") if tokenizer.token_id(tag) is None]
    if missing:
        examined.note("tokenizer", "warn", f"no single tokens for {', '.join(missing)}: they are read from the text")
    size = (examined.json(CONFIG) or {}).get("vocab_size")
    if isinstance(size, int) and tokenizer.vocab_size > size:
        examined.note("tokenizer", "fail", f"it has {tokenizer.vocab_size} tokens, but the embedding {size} rows")
        return
    if not _check_ends(examined, tokenizer):
        raw = examined.json(TOKENIZER_CONFIG) or {}
        pad, eos = (_content(raw.get(name)) for name in ("pad_token", "eos_token"))
        examined.note("tokenizer", "ok", f"{tokenizer.vocab_size} tokens, ends with {eos}, pads with {pad}")


def _check_ends(examined: Examined, tokenizer: Tokenizer) -> bool:
    """Whether something is wrong with the tokenizer's end and pad tokens."""
    raw = examined.json(TOKENIZER_CONFIG) or {}
    pad, eos = (_content(raw.get(name)) for name in ("pad_token", "eos_token"))
    end = tokenizer.end_of_turn
    changes: dict[str, str | None] = {}
    if eos != end:
        changes["eos_token"] = end
        examined.note(
            "end token",
            "warn",
            f"`eos_token` is {eos}, but the chat template ends turns with {end}: that does not end an answer for "
            "readers that look at `eos_token` alone",
        )
    if pad is None or pad == end:
        candidates = [token for token in ("<|endoftext|>", "<|vision_pad|>", eos, pad) if token and token != end]
        free = next((token for token in candidates if tokenizer.token_id(token) is not None), None)
        changes |= {} if free is None else {"pad_token": free}
        state = "is missing" if pad is None else f"is the end token {end}"
        way_out = "add a token for it" if free is None else f"use {free}"
        examined.note("pad token", "warn", f"`pad_token` {state}: fine-tuning may unlearn to end; {way_out}")
    if changes:
        examined.fix(TOKENIZER_CONFIG, changes)
    return bool(changes) or pad in (None, end)


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _check_template(examined: Examined) -> None:
    from openqwq.tokenizer import load_default_template, render_chat

    text = _template_text(examined)
    problem = ""
    if text is None:
        problem = "there is no chat template"
    else:
        user = [{"role": "user", "content": "a"}]
        history = [*user, {"role": "assistant", "content": "<think>\nsecret\n</think>\n\nb"}, *user]
        try:
            prompt = render_chat(text, user)
            if not prompt.rstrip().endswith("<think>"):
                problem = "it does not open the thinking: prompts should end with <think>"
            elif "secret" in render_chat(text, history):
                problem = "it keeps the thinking of earlier turns, which the model was trained without"
        except (UserError, ValueError) as error:
            problem = f"it cannot be rendered: {error}"
    if problem:
        examined.note("template", "warn", f"{problem}; QwQ-32B's own template mends that")
        _fix_template(examined, load_default_template())
    else:
        examined.note("template", "ok", "opens the thinking and leaves earlier thinking out")


def _template_text(examined: Examined) -> str | None:
    file = examined.folder / TEMPLATE
    if file.is_file():
        return file.read_text(encoding="utf-8")
    from openqwq.tokenizer.tokenizer import default_template

    try:
        return default_template((examined.json(TOKENIZER_CONFIG) or {}).get("chat_template"))
    except UserError:
        return None  # the check of the tokenizer has told it


def _fix_template(examined: Examined, text: str) -> None:
    if (examined.folder / TEMPLATE).is_file():
        examined.fixes[TEMPLATE] = text
    examined.fix(TOKENIZER_CONFIG, {"chat_template": text})


def _check_sampling(examined: Examined) -> None:
    raw = examined.json(GENERATION)
    wrong = list(_sampling_problems(raw, _end_ids(examined), _turn_starts(examined)))
    if wrong:
        examined.note("sampling", "warn", f"{GENERATION}: {'; '.join(wrong)}")
        ends = _end_ids(examined)
        examined.fix(GENERATION, {**SAMPLING, **({"eos_token_id": ends} if ends else {})})
    else:
        assert raw is not None
        values = ", ".join(f"{name} {raw[name]}" for name in ("temperature", "top_p", "top_k") if name in raw)
        examined.note("sampling", "ok", values)


def _sampling_problems(raw: Mapping[str, Any] | None, ends: list[int], starts: Mapping[int, str]) -> Iterator[str]:
    if raw is None:
        yield "is missing, so readers sample with their own defaults"
        return
    if raw.get("do_sample") is False or raw.get("temperature") == 0:
        yield "asks for greedy decoding, which makes reasoning models repeat themselves without end"
    elif raw.get("temperature") is None:
        yield "sets no temperature, and most readers take 1.0; 0.6 is recommended"
    if raw.get("repetition_penalty", 1.0) != 1.0:
        yield f"`repetition_penalty` is {raw['repetition_penalty']}, which works against the other samplers; 1.0 is off"
    given = raw.get("eos_token_id")
    known = given if isinstance(given, list) else [given]
    if ends and set(ends) - set(known):
        yield f"`eos_token_id` is {given}, but answers end at any of {ends}"
    for token_id in set(known) & set(starts):
        yield f"`eos_token_id` lists {token_id}, but {starts[token_id]} begins a turn: it ends no answer"


def _end_ids(examined: Examined) -> list[int]:
    """The tokens at which answers are to end: the template's end of turn and <|endoftext|>."""
    from openqwq.tokenizer import Tokenizer

    try:
        tokenizer = Tokenizer.load(examined.folder)
    except UserError:
        return []
    ids = [tokenizer.token_id(token) for token in (tokenizer.end_of_turn, "<|endoftext|>")]
    return list(dict.fromkeys(token_id for token_id in ids if token_id is not None))


def _turn_starts(examined: Examined) -> dict[int, str]:
    """Control tokens that the template writes into every prompt before an answer, by their ids."""
    from openqwq.tokenizer import Tokenizer

    try:
        tokenizer = Tokenizer.load(examined.folder)
        prompt = tokenizer.encode_chat([{"role": "user", "content": "a"}])
    except (UserError, ValueError):
        return {}
    behind = prompt[max((i + 1 for i, t in enumerate(prompt) if t in _end_ids(examined)), default=0) :]
    return {token_id: tokenizer.decode([token_id]) for token_id in behind}


def write_fixed(examined: Examined, out: Path | None = None) -> Path:
    """A folder next to the given path, or `out`: fixed files written, all others linked by absolute paths.

    Raises UserError where it exists, and where it cannot be written.
    """
    given = Path(os.path.abspath(examined.folder))  # a link's own place, not its target's
    target = out or given.with_name(given.name + "-fixed")
    if target.exists():
        raise UserError(f"{target} exists already", hint="remove it, or choose another place with `--out`")
    try:
        target.mkdir(parents=True)
        for name, value in examined.fixes.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2) + "\n"
            write_text_atomic(target / name, text)
        for file in sorted(examined.folder.iterdir()):
            if file.is_file() and file.name not in examined.fixes:
                (target / file.name).symlink_to(file.resolve())
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error}", hint="choose another place with `--out`") from error
    return target
