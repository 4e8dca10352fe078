"""The free table `config` of a source, read into a dataclass that says what the type of source takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from openqwq.errors import UserError

Options = TypeVar("Options")


def read_options(cls: type[Options], table: Mapping[str, Any], where: str) -> Options:
    """The dataclass with the table's values. Raises UserError for an unknown key, or a value of another type.

    A value's type is that of the field's default.
    """
    defaults = {f.name: _default(f) for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key, value in table.items():
        if key not in defaults:
            near = get_close_matches(key, defaults, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(defaults)}"
            raise UserError(f"{where} has the unknown key `{key}`", hint=hint)
        wanted = type(defaults[key])
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise UserError(f"`{key}` is {value!r} in {where}, but it must be of type {wanted.__name__}")
    return cls(**table)


def _default(field: dataclasses.Field) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
