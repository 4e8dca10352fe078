"""Plain tables to the typed recipe and back, field by field, strictly.

An integer is taken where a float is declared, never the reverse; unknown keys fail and name the nearest.
In a table of named entries (stages, sources, shares of a mix) the value `false` leaves the entry out: that is
how a recipe that extends another one drops parts of it.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, Union

from openqwq.errors import UserError

from .other_names import hint_for_key, hint_for_value
from .rates import with_learning_rates
from .recipe import PretrainStage, Recipe, RewardModelStage, RLStage, SFTStage, Stage

STAGE_CLASSES: dict[str, type[Stage]] = {c.kind: c for c in (PretrainStage, SFTStage, RewardModelStage, RLStage)}


def build_recipe(tables: Mapping[str, Any], where: str) -> Recipe:
    """The recipe that the tables spell out. `where` names their file in errors. Raises UserError."""
    return _build(Recipe, with_learning_rates(tables), _Place(where))


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Every field of a recipe, defaults included, as plain JSON values; `recipe_from_dict` is the inverse."""
    return _plain(recipe)


def recipe_from_dict(tables: Mapping[str, Any], where: str = "recipe.json") -> Recipe:
    """The recipe that `recipe_to_dict` wrote. Raises UserError for tables of another shape.

    `code`, which a run folder's recipe.json has besides, is left out: digests of the user's own files.
    """
    return build_recipe({key: value for key, value in tables.items() if key != "code"}, where)


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where in a file a value stands, for error messages."""

    file: str
    table: tuple[str, ...] = ()

    def __truediv__(self, key: str) -> _Place:
        return _Place(self.file, (*self.table, key))

    def __str__(self) -> str:
        return f"[{'.'.join(self.table)}] of {self.file}" if self.table else self.file


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        kind = {"kind": value.kind} if isinstance(value, Stage) else {}
        return kind | {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


@lru_cache(maxsize=32)
def _field_types(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _build(cls: type, table: Any, place: _Place) -> Any:
    """An instance of a dataclass from its table."""
    if not isinstance(table, Mapping):
        name = place.table[-1] if place.table else ""
        raise UserError(f"{place} is {table!r}, but it must be a table", hint=hint_for_value(name, table))
    fields = _field_types(cls)
    for key in table:
        if key not in fields:
            hint = hint_for_key(key, table[key]) or suggest(key, fields)
            raise UserError(f"unknown key `{key}` in {place}", hint=hint)
    values = {key: _convert(value, fields[key], place / key) for key, value in table.items()}
    missing = [f.name for f in dataclasses.fields(cls) if _is_required(f) and f.name not in values]
    if missing:
        raise UserError(f"`{missing[0]}` is missing in {place}", hint=f"add `{missing[0]} = ...`")
    return cls(**values)


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def suggest(word: str, known: typing.Iterable[str]) -> str:
    """A hint for a mistyped word: the nearest known one, or all of them."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean `{near[0]}`?" if near else f"known are {', '.join(sorted(known))}"


def _build_stage(table: Any, place: _Place) -> Stage:
    if not isinstance(table, Mapping):
        raise UserError(f"{place} is {table!r}, but it must be a table", hint="`false` removes a stage")
    kind = table.get("kind")
    if kind not in STAGE_CLASSES:
        given = f"`kind` is {kind!r}" if "kind" in table else "`kind` is missing"
        hint = hint_for_value("kind", kind) or f"set it to one of {', '.join(sorted(STAGE_CLASSES))}"
        raise UserError(f"{given} in {place}", hint=hint)
    return _build(STAGE_CLASSES[kind], {key: value for key, value in table.items() if key != "kind"}, place)


def _convert(value: Any, declared: Any, place: _Place) -> Any:
    """The value as its field's declared type has it; UserError where it is of another type."""
    origin = typing.get_origin(declared)
    if declared is Any:
        return value
    if declared is Stage:
        return _build_stage(value, place)
    if isinstance(declared, type) and dataclasses.is_dataclass(declared):
        return _build(declared, value, place)
    if origin is Literal:
        return _convert_choice(value, typing.get_args(declared), place)
    if origin in (Union, types.UnionType):
        inner = next(a for a in typing.get_args(declared) if a is not type(None))
        return None if value is None else _convert(value, inner, place)
    if origin is tuple:
        return _convert_list(value, typing.get_args(declared)[0], place)
    if origin is not None and issubclass(origin, Mapping):
        return _convert_table(value, typing.get_args(declared)[1], place)
    return _convert_scalar(value, declared, place)


def _convert_choice(value: Any, choices: tuple[Any, ...], place: _Place) -> Any:
    if value not in choices:
        raise _wrong(value, place, "one of " + ", ".join(repr(choice) for choice in choices))
    return value


def _convert_list(value: Any, declared: Any, place: _Place) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _wrong(value, place, "a list, as in [...]")
    return tuple(_convert(item, declared, place / str(i)) for i, item in enumerate(value))


def _convert_table(value: Any, declared: Any, place: _Place) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(value, place, "a table")
    if declared is Any:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise _wrong(value, place, "made of texts, finite numbers, true, false, lists and tables") from error
        return dict(value)
    return {key: _convert(item, declared, place / key) for key, item in value.items() if item is not False}


def _convert_scalar(value: Any, declared: type, place: _Place) -> Any:
    if declared is float and type(value) in (int, float):
        if not math.isfinite(value):
            raise _wrong(value, place, "finite")
        return float(value)
    if type(value) is not declared:
        names = {int: "a whole number", float: "a number", str: "a text in quotes", bool: "true or false"}
        raise _wrong(value, place, names[declared])
    return value


def _wrong(value: Any, place: _Place, allowed: str) -> UserError:
    table = _Place(place.file, place.table[:-1])
    name = place.table[-1]
    return UserError(f"`{name}` is {value!r} in {table}, but it must be {allowed}", hint=hint_for_value(name, value))
