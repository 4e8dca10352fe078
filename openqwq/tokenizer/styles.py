"""Prompt styles: an instruction in the system turn that asks a model to think in fewer words.

It is a wish, which a model may follow or not; `thinking_budget` is the bound that holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openqwq.errors import UserError
from openqwq.types import Message

from .chat import normalize_messages

PROMPT_STYLES = {
    # Concise Chain-of-Thought (arXiv:2401.05618)
    "concise": "Think step by step. Be concise.",
    # Chain of Draft (arXiv:2502.18600), without the separator that its answers end with
    "draft": "Think step by step, but only keep a minimum draft for each thinking step, with 5 words at most.",
}


def with_style(messages: Sequence[Message | Mapping[str, Any]], style: str | None) -> list[dict[str, Any]]:
    """The conversation with a style's instruction at the end of its system turn, or with one of its own.

    style: a key of PROMPT_STYLES, or None for the conversation as it is. Raises UserError for any other.
    """
    turns = normalize_messages(messages)
    if style is None:
        return turns
    if style not in PROMPT_STYLES:
        raise UserError(f"there is no prompt style {style!r}", hint=f"there are {', '.join(PROMPT_STYLES)}")
    instruction = PROMPT_STYLES[style]
    if turns[0]["role"] != "system":
        return [{"role": "system", "content": instruction}, *turns]
    first = f"{turns[0]['content']}\n\n{instruction}" if turns[0]["content"] else instruction
    return [{**turns[0], "content": first}, *turns[1:]]
