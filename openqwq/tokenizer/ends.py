"""The tokens that end a completion, from every place where a model folder names them.

A base model's tokenizer_config.json names <|endoftext|> alone, while generation_config.json lists more and the chat
template ends turns with <|im_end|>: a reader that misses one of them lets every answer run to its limit.

Public: folder_end_ids, template_end.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from openqwq.errors import UserError

from .chat import render_chat

FILES = ("generation_config.json", "config.json")
PROBE = "probe-7f3a"
"""An answer that no template changes."""


def folder_end_ids(folder: Path) -> tuple[int, ...]:
    """`eos_token_id` of generation_config.json, then of config.json; files that are absent name none.

    Raises UserError for a file that is no JSON object, and for an id that is no whole number.
    """
    ids: list[int] = []
    for file in (folder / name for name in FILES):
        if file.is_file():
            ids += _read_ids(file)
    return tuple(dict.fromkeys(ids))


def _read_ids(file: Path) -> list[int]:
    try:
        raw: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read as JSON: {error}") from error
    named = raw.get("eos_token_id") if isinstance(raw, dict) else None
    ids = named if isinstance(named, list) else [] if named is None else [named]
    if not all(isinstance(token_id, int) and not isinstance(token_id, bool) for token_id in ids):
        raise UserError(f"`eos_token_id` is {named!r:.80} in {file}, but must be a token id or a list of them")
    return ids


def template_end(template: str, tokens: Collection[str], variables: Mapping[str, Any]) -> str | None:
    """The one of `tokens` that the template writes behind an assistant's turn; None where it writes none at once."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": PROBE}]
    try:
        text = render_chat(template, turns, add_generation_prompt=False, variables=variables)
    except (UserError, ValueError):
        return None
    behind = text.rpartition(PROBE)[2].lstrip()
    return max((token for token in tokens if behind.startswith(token)), key=len, default=None)
