"""How tokens are guessed ahead of the model: as an engine takes it, and as a user asks for it in vLLM's form.

"strict" keeps a guess when it is what the target itself samples there with its own noise: the tokens are those of
plain sampling, whatever is guessed. The draft model uses the same noise, so that similar distributions mostly agree.
"standard" is rejection sampling: the same distribution, more guesses stay, other tokens than without guesses.

Public: Speculation, SpeculativeConfig, read_speculation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from openqwq.errors import UserError
from openqwq.model import Decoder

Rejection = Literal["strict", "standard"]
MAX_NUM_TOKENS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """How many tokens are guessed at a time, and by what.

    num_tokens: at most; fewer where a sample ends before.
    model:      the draft model, with the target's token ids and on its device; None: prompt lookup.
    rejection:  which of a draft model's guesses stay.
    """

    num_tokens: int
    model: Decoder | None = None
    rejection: Rejection = "strict"

    def __post_init__(self) -> None:
        if not 1 <= self.num_tokens <= MAX_NUM_TOKENS:
            raise UserError(f"`num_speculative_tokens` is {self.num_tokens}, but must be 1 to {MAX_NUM_TOKENS}")


@dataclass(frozen=True, slots=True)
class SpeculativeConfig:
    """vLLM's `speculative_config`, checked: "ngram" (prompt lookup), or a draft model by its folder or name."""

    num_tokens: int
    model: str | None
    rejection: Rejection


def read_speculation(config: Mapping[str, Any]) -> SpeculativeConfig:
    """Raises UserError for anything but the keys that exist here, with vLLM's names and meanings.

    {"method": "ngram", "num_speculative_tokens": 4}
    {"model": "path/or/name", "num_speculative_tokens": 4, "rejection_sample_method": "strict" | "standard"}
    """
    known = ("method", "model", "num_speculative_tokens", "rejection_sample_method")
    if unknown := sorted(set(config) - set(known)):
        raise UserError(f"`speculative_config` has no key `{unknown[0]}`", hint=f"it has {', '.join(known)}")
    model, num_tokens = config.get("model"), config.get("num_speculative_tokens")
    method = config.get("method", "draft_model" if model else "ngram")
    rejection = config.get("rejection_sample_method", "strict")
    if method not in ("ngram", "draft_model"):
        raise UserError(f"`method` of `speculative_config` is {method!r}, but must be 'ngram' or 'draft_model'")
    if (method == "draft_model") != bool(model):
        raise UserError("`speculative_config` needs a `model` for the method 'draft_model', and for no other")
    if rejection not in ("strict", "standard"):
        raise UserError(f"`rejection_sample_method` is {rejection!r}, but must be 'strict' or 'standard'")
    if type(num_tokens) is not int:
        raise UserError("`speculative_config` needs `num_speculative_tokens`, a whole number")
    return SpeculativeConfig(num_tokens, str(model) if model else None, rejection)
