"""JSON schemas of Python functions, and arguments checked against them.

Public: schema_of, describe, fault_in.
"""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Union

from openqwq.errors import UserError

KINDS: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
CHECKS: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, Mapping),
}
ALLOWED = "str, int, float, bool, None, list[...], dict[str, ...], Literal[...], and unions of these"
SHOWN = 60


def schema_of(function: Callable[..., Any], hidden: type) -> tuple[dict[str, Any], str]:
    """The schema of a function's parameters, and the name of the parameter that the model does not see, or "".

    hidden: the type by which that parameter is known.
    Raises UserError for a parameter without a type hint, or of a type that has no schema.
    """
    name = function.__name__
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        raise UserError(f"the type hints of tool `{name}` cannot be read: {error}") from error
    texts = describe(function)[1]
    properties, required, context = {}, [], ""
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise UserError(f"`{parameter}` of tool `{name}` cannot be named in a call", hint="name every parameter")
        if parameter.name not in hints:
            raise UserError(
                f"`{parameter.name}` of tool `{name}` has no type hint",
                hint=f"write it as in `def {name}({parameter.name}: str)`; allowed: {ALLOWED}",
            )
        hint = hints[parameter.name]
        if hint is hidden:
            context = parameter.name
            continue
        properties[parameter.name] = _parameter(hint, texts.get(parameter.name, ""), f"{name}({parameter.name})")
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return schema, context


def describe(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The first paragraph of a function's docstring, and the texts of its parameters, in Google's form."""
    head, _, rest = (inspect.getdoc(function) or "").partition("\n\n")
    texts: dict[str, str] = {}
    section = re.search(r"^Arg(?:ument)?s:\n((?:[ \t]+.*(?:\n|$)|\n)*)", f"{head}\n\n{rest}", re.MULTILINE)
    name = ""
    for line in (section[1] if section else "").splitlines():
        found = re.match(r"\s+(\w+)(?: ?\([^)]*\))?:\s*(.*)", line)
        if found:
            name = found[1]
            texts[name] = found[2].strip()
        elif name and line.strip():
            texts[name] = f"{texts[name]} {line.strip()}".strip()
    return " ".join(re.split(r"^Arg(?:ument)?s:$", head, flags=re.MULTILINE)[0].split()), texts


def _parameter(hint: Any, text: str, where: str) -> dict[str, Any]:
    if typing.get_origin(hint) is Annotated:
        hint, *notes = typing.get_args(hint)
        text = next((note for note in notes if isinstance(note, str)), text)
    return {**_schema(hint, where), **({"description": text} if text else {})}


def _schema(hint: Any, where: str) -> dict[str, Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in KINDS:
        return {"type": KINDS[hint]}
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(arg, where) for arg in args]}
    if origin is list:
        return {"type": "array", "items": _schema(args[0], where)}
    if origin is dict and args[0] is str:
        return {"type": "object", "additionalProperties": _schema(args[1], where)}
    raise UserError(f"the type {hint} of tool parameter `{where}` has no schema", hint=f"allowed: {ALLOWED}")


def fault_in(value: Any, schema: Mapping[str, Any], where: str = "") -> str:
    """What is wrong with a value, in words for the model; "" if nothing is.

    The schema's `type`, `enum`, `anyOf`, `items`, `properties`, `required` and `additionalProperties` count.
    """
    place = f"`{where}`" if where else "the arguments"
    if "anyOf" in schema:
        faults = [fault_in(value, option, where) for option in schema["anyOf"]]
        return "" if "" in faults else " or ".join(faults)
    if "enum" in schema and not any(value == one and type(value) is type(one) for one in schema["enum"]):
        return f"{place} must be one of {', '.join(map(json.dumps, schema['enum']))}, not {_shown(value)}"
    kind = schema.get("type")
    if isinstance(kind, str) and not CHECKS[kind](value):
        return f"{place} must be of type {kind}, not {_shown(value)}"
    if kind == "array" and "items" in schema:
        faults = [fault_in(item, schema["items"], f"{where}[{i}]") for i, item in enumerate(value)]
        return next(filter(None, faults), "")
    if kind == "object":
        return _fault_in_object(value, schema, where)
    return ""


def _fault_in_object(value: Mapping[str, Any], schema: Mapping[str, Any], where: str) -> str:
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name in schema.get("required", ()):
        if name not in value:
            return f"`{name}` is missing"
    for name, item in value.items():
        own = known.get(name, others)
        if own is False:
            return f"there is no `{name:.40}`; allowed: {', '.join(known) or 'nothing'}"
        if isinstance(own, Mapping) and (fault := fault_in(item, own, f"{where}.{name}" if where else name)):
            return fault
    return ""


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
