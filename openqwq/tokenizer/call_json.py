"""The JSON of a Hermes tool call: a name and its arguments, exactly as they were written, or an error.

Public: read_tool_call.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from openqwq.types import ToolCall

# Other words for `arguments` that models write, compared without case and without spaces and marks around them.
ARGUMENTS = frozenset(("arguments", "argument", "args", "parameters", "parameter", "params", "kwargs", "input"))
# Keys of the call itself, as other APIs' objects have them beside the arguments.
ENVELOPE = frozenset(("name", "id", "index", "call_id"))
KINDS = ("function", "function_call", "tool_call", "tool_use")


def read_tool_call(text: str) -> ToolCall:
    """The call that a JSON object describes.

    The arguments are an object, or its JSON in a string; absent, null or blank means none.
    Raises ValueError saying what is wrong, also where it is not clear what the arguments are: a call is never made
    with other arguments than were written.
    """
    try:
        value = _DECODER.decode(text.strip())
        if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"].strip():
            raise ValueError("it is not an object with a `name`")
        _check_name(value["name"])
        arguments = _arguments(value)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    return ToolCall(value["name"], arguments)


def _check_name(name: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("its `name` has half of a surrogate pair") from None


def _arguments(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of a call's object, under whichever key they stand."""
    keys = [key for key in value if key.strip().strip("_").casefold() in ARGUMENTS]
    if len(keys) > 1:
        raise ValueError(f"its arguments stand under several keys: {_listed(keys)}")
    known = {"name", *keys}
    if keys:
        known |= ENVELOPE | ({"type"} if value.get("type") in KINDS else set())
    others = [key for key in value if key not in known]
    if others:
        raise ValueError(f"it has keys that are neither `name` nor `arguments`: {_listed(others)}")
    if not keys:
        return {}
    arguments = value[keys[0]]
    if isinstance(arguments, str):
        arguments = _DECODER.decode(arguments) if arguments.strip() else None
    if arguments is None:
        return {}
    if not isinstance(arguments, Mapping):
        raise ValueError(f"its `{keys[0]}` are not an object")
    return arguments


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(f"`{key:.40}`" for key in keys[:3])


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text} is too large")
    return value


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise ValueError(f"its JSON has the key `{key:.40}` more than once")
        value[key] = item
    return value


_DECODER = json.JSONDecoder(
    strict=False, parse_constant=_reject_constant, parse_float=_finite, object_pairs_hook=_without_repeats
)
