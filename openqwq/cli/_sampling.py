"""Sampling parameters on the command line and in JSON rows, checked by their types.

Public: add_sampling_arguments, parse_params, read_params.
"""

from __future__ import annotations

import argparse
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from openqwq.config.build import suggest
from openqwq.errors import UserError
from openqwq.types import SamplingParams, StructuredOutputs

NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """`--set NAME=VALUE`, any number of times; read them with `parse_params(args.overrides)`."""
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="change a sampling parameter, e.g. --set temperature=1.0 --set max_tokens=512; may be repeated",
    )


def parse_params(overrides: Sequence[str], base: SamplingParams | None = None) -> SamplingParams:
    """Sampling parameters from "temperature=0.6"-like texts. Raises UserError for an unknown name or a wrong type.

    A value is TOML, or a text as it stands where it is none; one string stands for a list of one.
    """
    values = {}
    for override in overrides:
        name, _, text = override.partition("=")
        try:
            values[name] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[name] = text
    return (base or SamplingParams()).replace(**read_params(values))


def read_params(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of sampling parameters by name, as `SamplingParams` holds them. Raises UserError as `parse_params`."""
    if not isinstance(values, Mapping):
        raise UserError("sampling parameters are not an object of names and values")
    kinds = typing.get_type_hints(SamplingParams)
    for name in values:
        if name not in kinds:
            raise UserError(f"there is no sampling parameter `{name}`", hint=suggest(name, kinds))
    return {name: _read(name, value, kinds[name]) for name, value in values.items()}


def _read(name: str, value: Any, kind: Any) -> Any:
    if name == "structured":
        return _read_structured(value)
    if name == "logit_bias":
        return _read_bias(value)
    if typing.get_origin(kind) is tuple:
        item_kind = typing.get_args(kind)[0]
        items = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        if all(type(item) is item_kind for item in items):
            return items
        raise _wrong(name, value, f"a list, each item {NAMES[item_kind]}")
    allowed = typing.get_args(kind) or (kind,)
    if type(value) in allowed or (float in allowed and type(value) is int):
        return value
    raise _wrong(name, value, NAMES[allowed[0]])


def _read_bias(value: Any) -> dict[int, float]:
    try:
        return {int(token): float(bias) for token, bias in value.items()}
    except (AttributeError, TypeError, ValueError):
        raise _wrong("logit_bias", value, "a number for each token id, as in { 11 = -100.0 }") from None


def _read_structured(value: Any) -> StructuredOutputs:
    names = [field.name for field in fields(StructuredOutputs)]
    if not isinstance(value, Mapping) or not set(value) <= set(names):
        raise _wrong("structured", value, f"an object with {', '.join(names)}")
    values: dict[str, Any] = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}
    return StructuredOutputs(**values)


def _wrong(name: str, value: Any, allowed: str) -> UserError:
    return UserError(f"`{name}={value}` has a value of the wrong type; {name} is {allowed}")
