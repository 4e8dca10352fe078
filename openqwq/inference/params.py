"""Which sampling parameters are allowed, and which a model's own folder recommends. Plain Python: no torch.

Public: check_params, forbids_tokens, nothing_to_sample, recommended_sampling.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import inf
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from openqwq.errors import UserError
from openqwq.types import SamplingParams, StructuredOutputs

from .constraints.writing_systems import SCRIPTS

MAX_LOGPROBS = 100
LEAST_TEMPERATURE = 1e-20  # logits divided by less are no longer finite
GENERATION_CONFIG = "generation_config.json"
SAMPLING_NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def check_params(params: SamplingParams) -> None:
    """Raises UserError naming the first value that is out of range or of the wrong type."""
    for name, is_good, allowed in RULES:
        value = getattr(params, name)
        if not is_good(value):
            raise UserError(f"`{name}` is {value!r}, but must be {allowed}")
    if params.min_tokens > params.max_tokens:
        raise UserError(f"`min_tokens` is {params.min_tokens}, but `max_tokens` is only {params.max_tokens}")
    if params.thinking_budget is not None and params.min_thinking_tokens > params.thinking_budget:
        raise UserError(
            f"`min_thinking_tokens` is {params.min_thinking_tokens}, "
            f"but `thinking_budget` is only {params.thinking_budget}"
        )
    if params.structured is not None:
        _check_structured(params.structured)


def _check_structured(given: StructuredOutputs) -> None:
    if (given.json is not None) + (given.regex is not None) + bool(given.choice) + bool(given.tools) != 1:
        raise UserError("`structured` needs exactly one of `json`, `regex`, `choice` and `tools`")
    if not isinstance(given.regex or "", str) or not all(isinstance(text, str) for text in given.choice):
        raise UserError("`regex` and `choice` of `structured` are texts")


def forbids_tokens(params: SamplingParams) -> bool:
    """Whether a request needs a `Guide`."""
    return bool(params.bad_words or params.answer_scripts or params.thinking_scripts or params.structured)


def nothing_to_sample(params: SamplingParams) -> str:
    """What is said of a sample when no token has a finite logit."""
    if params.logit_bias or forbids_tokens(params):
        return "the model's logits are not finite, or what the request forbids leaves no token to write"
    return "the model's logits are not finite"


def _whole(least: float, most: float = inf) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Integral) and least <= int(value) <= most


def _number(least: float, most: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Real) and least <= float(value) <= most


def _unset_or(is_good: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or is_good(value)


def _all(is_good: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple) and all(map(is_good, value))


def _is_temperature(value: Any) -> bool:
    return isinstance(value, Real) and (value == 0 or LEAST_TEMPERATURE <= float(value) < inf)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_bias(value: Any) -> bool:
    keys = isinstance(value, Mapping) and all(isinstance(token, Integral) for token in value)
    return keys and all(isinstance(bias, Real) and float(bias) < inf for bias in value.values())


def _is_script(value: Any) -> bool:
    return isinstance(value, str) and value in SCRIPTS


RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("n", _whole(1), "a whole number from 1 on"),
    ("temperature", _is_temperature, f"0 (greedy), or a number from {LEAST_TEMPERATURE:g} on"),
    ("top_p", lambda value: _number(0, 1)(value) and value > 0, "above 0 and at most 1"),
    ("top_k", _whole(-1), "a whole number from 1 on; 0 or -1 for off"),
    ("min_p", _number(0, 1), "between 0 and 1"),
    ("max_tokens", _whole(1), "a whole number from 1 on"),
    ("seed", _unset_or(_whole(-inf)), "a whole number, or None"),
    ("stop", _all(_is_text), "texts that are not empty"),
    ("stop_token_ids", _all(_whole(0)), "token ids"),
    ("bad_words", _all(_is_text), "texts that are not empty"),
    ("ignore_eos", _is_flag, "true or false"),
    ("kept_ids", _is_flag, "true or false"),
    ("temperature_last", _is_flag, "true or false"),
    ("presence_penalty", _number(-2, 2), "between -2 and 2"),
    ("frequency_penalty", _number(-2, 2), "between -2 and 2"),
    ("repetition_penalty", _number(1e-6, 1e6), "between 1e-6 and 1e6"),
    ("logit_bias", _is_bias, "numbers below infinity by token id"),
    ("min_tokens", _whole(0), "a whole number from 0 on"),
    ("logprobs", _unset_or(_whole(0, MAX_LOGPROBS)), f"between 0 and {MAX_LOGPROBS}, or None"),
    ("prompt_logprobs", _unset_or(_whole(0, MAX_LOGPROBS)), f"between 0 and {MAX_LOGPROBS}, or None"),
    ("thinking_budget", _unset_or(_whole(0)), "a whole number from 0 on, or None"),
    ("min_thinking_tokens", _whole(0), "a whole number from 0 on"),
    ("max_repeats", _unset_or(_whole(2)), "a whole number from 2 on, or None"),
    ("answer_scripts", _all(_is_script), f"of {', '.join(SCRIPTS)}"),
    ("thinking_scripts", _all(_is_script), f"of {', '.join(SCRIPTS)}"),
    ("structured", _unset_or(lambda value: isinstance(value, StructuredOutputs)), "`StructuredOutputs`, or None"),
)


def recommended_sampling(folder: Path) -> dict[str, Any]:
    """Sampling values of the folder's generation_config.json; empty where it has none.

    `do_sample` false is greedy decoding, whatever the other values. Raises UserError for no JSON object and for
    values that are no numbers.
    """
    file = folder / GENERATION_CONFIG
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{file} holds no JSON object")
    values = {key: config[key] for key in SAMPLING_NAMES if config.get(key) is not None}
    for key, value in values.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise UserError(f"`{key}` is {value!r:.80} in {file}, but must be a number")
    return {**values, "temperature": 0.0} if config.get("do_sample") is False else values
