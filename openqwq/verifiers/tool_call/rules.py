"""Whether function calls match acceptable ones: BFCL's AST comparison for Python, rule for rule.

Public: `find_mismatch`, `TaskError`. After ShishirPatil/gorilla berkeley-function-call-leaderboard (d0299e6):
names are exact; required arguments present, unknown ones absent; types exact, but whole numbers pass for floats and
booleans never for numbers; texts are compared without case and without ` ,./-_*^`; an argument may be left out where
`""` is among its acceptable values; several calls match in any order. Types that only JSON Schema has, and schemas
without one, are compared by `json_values.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .json_values import JSON_TYPES, has_json_type, one_typed, same_json

Call = tuple[str, dict[str, Any]]

_TYPES: dict[str, type] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
}
_IGNORED = re.compile(r"[ ,./\-_*^]")
OTHER_VALUE = "has another value"


class TaskError(Exception):
    """The task's functions or expected calls are of another shape."""


def find_mismatch(
    functions: Sequence[Mapping[str, Any]],
    expected: Sequence[Mapping[str, Any]],
    calls: Sequence[Call],
    *,
    underscores: bool = False,
) -> str:
    """Why the calls are not the expected ones; empty when they are. Raises TaskError for an unreadable task."""
    if len(calls) != len(expected):
        return f"{len(calls)} calls where {len(expected)} are right"
    try:
        return _match_in_any_order(functions, expected, list(calls), underscores)
    except (KeyError, TypeError, AttributeError, IndexError, StopIteration) as error:
        raise TaskError(f"{type(error).__name__}: {error}") from error


def _match_in_any_order(functions: Any, expected: Any, calls: list[Call], underscores: bool) -> str:
    left = list(calls)
    known = [function.get("function", function) for function in functions]  # OpenAI's wrapping, or none
    for wanted in expected:
        name = next(iter(wanted))
        function = known[0] if len(known) == 1 else next(f for f in known if f["name"] == name)
        reasons = [_mismatch(function, wanted[name], call, underscores) for call in left]
        if "" not in reasons:
            return reasons[0] if len(expected) == 1 else f"no call matches `{name}`: {reasons[0]}"
        del left[reasons.index("")]
    return ""


def _mismatch(function: Mapping[str, Any], wanted: Mapping[str, Any], call: Call, underscores: bool) -> str:
    """Why one call is not the wanted one."""
    name, arguments = call
    if name != (function["name"].replace(".", "_") if underscores else function["name"]):
        return f"the function is not `{name}`"
    schema = function.get("parameters") or {}
    properties = schema.get("properties")
    for parameter in schema.get("required", ()):
        if parameter not in arguments:
            return f"`{parameter}` is missing"
    for parameter, value in arguments.items():
        if parameter not in wanted or (properties is not None and parameter not in properties):
            return f"there is no argument `{parameter}`"
        reason = _value_mismatch((properties or {}).get(parameter, {}), wanted[parameter], value)
        if reason:
            return f"`{parameter}` {reason}"
    for parameter, acceptable in wanted.items():
        if parameter not in arguments and "" not in acceptable:
            return f"`{parameter}` is missing"
    return ""


def _value_mismatch(schema: Any, acceptable: Sequence[Any], value: Any) -> str:
    """Why a value is of none of the schema's types, or none of the acceptable ones."""
    reasons = [
        _json_mismatch(one, acceptable, value)
        if _is_json_schema(one)
        else _leaderboard_mismatch(one, acceptable, value)
        for one in one_typed(schema)
    ]
    return "" if "" in reasons else next((r for r in reasons if r == OTHER_VALUE), reasons[0])


def _is_json_schema(schema: Any) -> bool:
    """Whether it is JSON Schema's own word for a type, or none, where the leaderboard has another."""
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    items = schema.get("items") if kind == "array" else {"type": "any"}
    if kind == "array":
        return not isinstance(items, Mapping) or not isinstance(items.get("type"), str) or _is_json_schema(items)
    return kind in (None, *JSON_TYPES)


def _json_mismatch(schema: Any, acceptable: Sequence[Any], value: Any) -> str:
    if not has_json_type(schema, value):
        return f"is of type {type(value).__name__}, not {schema['type']}"
    return "" if any(same_json(value, answer, schema, _plain) for answer in acceptable) else OTHER_VALUE


def _leaderboard_mismatch(schema: Mapping[str, Any], acceptable: Sequence[Any], value: Any) -> str:
    kind = schema["type"]
    expected = _TYPES[kind]
    item = _TYPES[schema["items"]["type"]] if kind in ("array", "tuple") else None
    if kind == "float" and type(value) is int:
        value = _as_float(value)
    example = next((type(answer) for answer in acceptable if answer != ""), None)
    if type(value) is expected:
        if item is not None and isinstance(value, list) and not _has_item_types(value, acceptable, item):
            return "has items of another type"
        by_name = example is not None and example is not expected  # the answer is a variable's name
        compare = None if by_name else _comparison(expected, item)
    elif example is not None and type(value) is example:
        compare = None
    else:
        return f"is of type {type(value).__name__}, not {kind}"
    equal = value in acceptable if compare is None else compare(value, acceptable)
    return "" if equal else OTHER_VALUE


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def _has_item_types(values: list[Any], acceptable: Sequence[Any], item: type) -> bool:
    """Whether all items are of the type, or each of the type of some acceptable list's items."""
    return any(not isinstance(answer, list) or all(_has_type(v, answer, item) for v in values) for answer in acceptable)


def _has_type(value: Any, acceptable: list[Any], item: type) -> bool:
    example = next((type(answer) for answer in acceptable if answer != ""), None)
    return type(value) is item or (example is not None and type(value) is example)


def _comparison(expected: type, item: type | None) -> Callable[[Any, Sequence[Any]], bool] | None:
    if expected is dict:
        return _same_dict
    if expected is list:
        return _same_dicts if item is dict else _same_list
    return _same_text if expected is str else None


def _plain(value: Any) -> Any:
    """A text without case and the ignored marks, one kind of quote; anything else as it is."""
    return _IGNORED.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value


def _same_text(value: str, acceptable: Sequence[Any]) -> bool:
    return _plain(value) in [_plain(answer) for answer in acceptable if isinstance(answer, str)]


def _same_list(values: list[Any], acceptable: Sequence[Any]) -> bool:
    """Item by item; an acceptable "" stands for the empty list too, as in the original."""
    return [_plain(value) for value in values] in [[_plain(item) for item in answer] for answer in acceptable]


def _same_dict(value: Mapping[str, Any], acceptable: Sequence[Any]) -> bool:
    """Any of the acceptable ones: its keys with one of their values each, those with "" may be left out."""
    return isinstance(value, dict) and any(_is_this_dict(value, answer) for answer in acceptable if answer != "")


def _is_this_dict(value: Mapping[str, Any], answer: Mapping[str, Any]) -> bool:
    known = all(key in answer and _plain(v) in [_plain(a) for a in answer[key]] for key, v in value.items())
    return known and all(key in value or "" in answers for key, answers in answer.items())


def _same_dicts(values: list[Any], acceptable: Sequence[Any]) -> bool:
    return any(
        len(values) == len(answer) and all(_same_dict(v, [a]) for v, a in zip(values, answer, strict=True))
        for answer in acceptable
    )
