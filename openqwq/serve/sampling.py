"""From a request's fields to sampling parameters: the model's recommended values, then the request's own.

Public: sampling_params, thinking_budget.
"""

from __future__ import annotations

from typing import Any

from openqwq.types import SamplingParams

from .engine import ServedModel
from .errors import wrong
from .schemas import ChatBody, Effort, Sampled

SAME_NAMES: tuple[str, ...] = (
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "ignore_eos",
    "min_tokens",
    "max_repeats",
)
SAME_NAMES += ("presence_penalty", "frequency_penalty", "repetition_penalty")
LISTS = ("stop", "stop_token_ids", "bad_words", "answer_scripts", "thinking_scripts")
# Tokens of thinking for an effort; from "high" on there is no bound. Chosen, not published.
EFFORTS: dict[Effort, int | None] = {"none": 0, "minimal": 256, "low": 1024, "medium": 8192, "high": None}
EFFORTS |= {"xhigh": None, "max": None}


def sampling_params(
    model: ServedModel, body: Sampled, *, max_tokens: int | None, room: int, warnings: list[str], max_tokens_name: str
) -> SamplingParams:
    """The request's parameters.

    max_tokens:      what the request asks for; None for all that fits.
    room:            what fits; more is clipped to it, with a warning.
    max_tokens_name: the field that the warning names.
    """
    values: dict[str, Any] = dict(model.defaults)
    values |= {name: getattr(body, name) for name in SAME_NAMES if getattr(body, name) is not None}
    values |= {name: tuple(getattr(body, name, None) or ()) for name in LISTS}
    values["logit_bias"] = _read_bias(model, body.logit_bias or {})
    for token_id in values["stop_token_ids"]:
        _check_token(model, "stop_token_ids", token_id)
    if max_tokens is not None and max_tokens > room:
        warnings.append(f"`{max_tokens_name}` {max_tokens} was clipped to {room}, which is what fits the context")
    values["max_tokens"] = room if max_tokens is None else min(max_tokens, room)
    return SamplingParams(**values)


def thinking_budget(body: ChatBody) -> int | None:
    """Tokens that the model may think, from `thinking_budget` or `reasoning_effort`; None for no bound."""
    if body.thinking_budget is not None and body.reasoning_effort is not None:
        raise wrong("reasoning_effort", "say either this or `thinking_budget`")
    if body.reasoning_effort is not None:
        return EFFORTS[body.reasoning_effort]
    return body.thinking_budget


def warn_of_greedy(params: SamplingParams, warnings: list[str]) -> None:
    """Greedy decoding makes reasoning models repeat themselves (QwQ's usage guidelines)."""
    if params.temperature == 0:
        warnings.append("`temperature` 0 makes reasoning models repeat themselves without end; 0.6 is recommended")


def _read_bias(model: ServedModel, bias: dict[str, float]) -> dict[int, float]:
    read = {}
    for key, value in bias.items():
        if not key.isdecimal():
            raise wrong("logit_bias", f"{key!r} is not a token id")
        _check_token(model, "logit_bias", int(key))
        read[int(key)] = value
    return read


def _check_token(model: ServedModel, param: str, token_id: int) -> None:
    if token_id >= model.vocab_size:
        raise wrong(param, f"{token_id} is not a token id; the vocabulary has {model.vocab_size}")
