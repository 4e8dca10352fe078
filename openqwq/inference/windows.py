"""Attention windows as a user asks for them: one width for all layers, or the share of attention mass to hold.

    tokens=1024               every layer sees the first 16 tokens and the last 1,024
    mass=0.99,text=FILE       each layer as far back as holds 99% of its attention on that text, measured at the start
    mass=0.99                 the same from `attention_mass.json` in the model's folder
    mass=0.99,heads=each      for each of a layer's heads, instead of for all of them together

Public: read_window, choose_windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from openqwq.errors import UserError
from openqwq.log import logger
from openqwq.model import AttentionMass, AttentionWindows, Decoder, measure_attention_mass
from openqwq.model.attention_mass import MASS_FILE, MAX_DOCUMENT, Heads
from openqwq.tokenizer import Tokenizer

MAX_TOKENS = 8 * MAX_DOCUMENT  # of the calibration text
KEYS = ("tokens", "mass", "heads", "text", "measured", "sinks")


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowChoice:
    """tokens, or else mass of which heads, with what it was or is to be measured on: a saved measurement, a text."""

    tokens: int | None = None
    mass: float | None = None
    heads: Heads = "together"
    text: Path | None = None
    measured: Path | None = None
    sinks: int = 16


def read_window(value: str | Mapping[str, Any]) -> WindowChoice:
    """From "tokens=1024", or from an object of the same keys. Raises UserError for anything else."""
    if isinstance(value, str):
        pairs = [part.partition("=") for part in value.split(",")]
        value = {name.strip(): text.strip() for name, _, text in pairs}
    if unknown := sorted(set(value) - set(KEYS)):
        raise UserError(f"attention windows have no key {unknown[0]!r}", hint=f"they have {', '.join(KEYS)}")
    if ("tokens" in value) == ("mass" in value):
        raise UserError("attention windows need either `tokens` or `mass`", hint="as in tokens=1024, or mass=0.99")
    if "tokens" in value and ("text" in value or "measured" in value):
        raise UserError("attention windows of `tokens` need no text: it is `mass` that is measured")
    heads = value.get("heads", "together")
    if heads not in get_args(Heads):
        raise UserError(f"`heads` of attention windows is {heads!r}, but must be 'together' or 'each'")
    try:
        return WindowChoice(
            tokens=int(value["tokens"]) if "tokens" in value else None,
            mass=float(value["mass"]) if "mass" in value else None,
            heads=heads,
            text=Path(value["text"]) if "text" in value else None,
            measured=Path(value["measured"]) if "measured" in value else None,
            sinks=int(value.get("sinks", 16)),
        )
    except (TypeError, ValueError) as error:
        raise UserError(
            f"`tokens` and `sinks` of attention windows are whole numbers, `mass` a share: {error}"
        ) from error


def choose_windows(
    choice: WindowChoice, model: Decoder, tokenizer: Tokenizer | None = None, folder: Path | None = None
) -> AttentionWindows:
    """The windows of each layer, measured if need be. Raises UserError where there is nothing to measure on."""
    num_layers = model.config.num_hidden_layers
    if choice.tokens is not None:
        return AttentionWindows((choice.tokens,) * num_layers, choice.sinks)
    assert choice.mass is not None
    windows = _measured(choice, model, tokenizer, folder).windows(choice.mass, heads=choice.heads)
    reach = sorted(window for window in windows.layers if window is not None)
    span = f"{len(reach)} of {num_layers} layers see back {reach[0]} to {reach[-1]} tokens" if reach else "no layer"
    logger.info(f"attention windows that hold {choice.mass:g} of the mass: {span}; the others see everything")
    return windows


def _measured(choice: WindowChoice, model: Decoder, tokenizer: Tokenizer | None, folder: Path | None) -> AttentionMass:
    if choice.text is None:
        saved = choice.measured or (folder / MASS_FILE if folder is not None else None)
        if saved is None or not saved.exists():
            raise UserError(
                f"no measurement of attention mass at {saved or 'a model without a folder'}",
                hint="name a text like those that the model will read: mass=0.99,text=FILE",
            )
        return AttentionMass.load(saved)
    if tokenizer is None:
        raise UserError("attention mass needs a tokenizer to read its text with, and this model has none")
    try:
        token_ids = tokenizer.encode(choice.text.read_text(encoding="utf-8"))[:MAX_TOKENS]
    except (OSError, UnicodeError) as error:
        raise UserError(f"cannot read the text {choice.text}: {error}") from error
    size = min(MAX_DOCUMENT, model.config.max_context, len(token_ids))
    documents = [token_ids[start : start + size] for start in range(0, len(token_ids) - size + 1, max(size, 1))]
    return measure_attention_mass(model, documents, sinks=choice.sinks)
