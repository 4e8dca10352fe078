"""Values of function calls under plain JSON Schema: their types, and whether one is the acceptable one.

Public: JSON_TYPES, one_typed, has_json_type, same_json. For the words that the leaderboard's files do not have
(`number`, `object`, `null`), several types at once, `anyOf` and `oneOf`, and schemas that name no type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

# Types by JSON Schema's own words, as far as the leaderboard has no word like it.
JSON_TYPES = ("number", "object", "null")
_KINDS: dict[str, tuple[type, ...]] = {
    "number": (int, float),
    "integer": (int,),
    "float": (int, float),
    "string": (str,),
    "boolean": (bool,),
    "object": (dict,),
    "dict": (dict,),
    "array": (list,),
    "tuple": (list,),
    "null": (type(None),),
}


def one_typed(schema: Any) -> Iterator[Any]:
    """The schema as one or more that name at most one type each: lists of types, `anyOf` and `oneOf` taken apart."""
    if not isinstance(schema, Mapping):
        yield {}
        return
    kinds = schema.get("type")
    if isinstance(kinds, list):
        for kind in kinds:
            yield from one_typed({**schema, "type": kind})
        return
    choices = schema.get("anyOf") or schema.get("oneOf")
    if kinds is None and isinstance(choices, list):
        for choice in choices:
            yield from one_typed(choice)
        return
    yield schema


def has_json_type(schema: Any, value: Any) -> bool:
    """Whether the value is of the schema's type, its items too; any value is where none is named.

    Raises KeyError for a type that is none.
    """
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if kind is None:
        return True
    if type(value) not in _KINDS[kind]:
        return False
    items = schema.get("items")
    if not isinstance(value, list) or not isinstance(items, Mapping):
        return True
    return all(any(has_json_type(one, item) for one in one_typed(items)) for item in value)


def same_json(value: Any, answer: Any, schema: Any, plain: Callable[[Any], Any]) -> bool:
    """Whether a value is the acceptable one: numbers by value, never booleans for them; texts as `plain` leaves them.

    An object's answer may list the acceptable values of a key, as the leaderboard's do, where the schema shows that
    the list itself cannot be meant.
    """
    if isinstance(value, dict) and isinstance(answer, dict):
        return _same_object(value, answer, schema, plain)
    if isinstance(value, list) and isinstance(answer, list):
        items = schema.get("items") if isinstance(schema, Mapping) else None
        return len(value) == len(answer) and all(
            same_json(v, a, items, plain) for v, a in zip(value, answer, strict=True)
        )
    if isinstance(value, bool) or isinstance(answer, bool):
        return value is answer
    return plain(value) == plain(answer)


def _same_object(value: dict[str, Any], answer: dict[str, Any], schema: Any, plain: Callable[[Any], Any]) -> bool:
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    acceptable = {}
    for key, one in answer.items():
        own = properties.get(key) if isinstance(properties, Mapping) else None
        acceptable[key] = one if _lists_alternatives(one, own) else [one]
    for key, item in value.items():
        own = properties.get(key) if isinstance(properties, Mapping) else None
        if not any(same_json(item, one, own, plain) for one in acceptable.get(key, ())):
            return False
    return all(key in value or (isinstance(answer[key], list) and "" in acceptable[key]) for key in answer)


def _lists_alternatives(answer: Any, schema: Any) -> bool:
    """Whether a list in an object's answer holds acceptable values rather than being the value."""
    if not isinstance(answer, list) or schema is None:
        return False
    kinds = [one.get("type") for one in one_typed(schema) if isinstance(one, Mapping)]
    if None in kinds:
        return False
    return not {"array", "tuple"} & set(kinds) or (bool(answer) and all(isinstance(a, list) or a == "" for a in answer))
