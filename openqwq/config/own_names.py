"""Names of a user's own functions, `FILE.py:FUNCTION`, wherever a recipe has them.

Public: `is_own`, `split_own`, `own_files`, `resolve_own`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_OWN = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")


def is_own(name: str) -> bool:
    """Whether a name points into a file, as in `rewards.py:score`."""
    return _OWN.fullmatch(name) is not None


def split_own(name: str) -> tuple[Path, str]:
    """File and function of such a name. Raises ValueError for another one."""
    match = _OWN.fullmatch(name)
    if match is None:
        raise ValueError(f"{name} is not of the form FILE.py:FUNCTION")
    return Path(match["file"]), match["name"]


def own_files(value: Any) -> Iterator[Path]:
    """The files of all such names in a value of nested tables and lists, keys included."""
    if isinstance(value, str):
        if is_own(value):
            yield split_own(value)[0]
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from own_files(key)
            yield from own_files(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from own_files(item)


def resolve_own(value: Any, folder: Path) -> Any:
    """The value with the files of all such names made absolute, from this folder."""
    if isinstance(value, str) and is_own(value):
        file, name = split_own(value)
        return f"{os.path.abspath(folder / os.path.expanduser(file))}:{name}"
    if isinstance(value, Mapping):
        return {resolve_own(key, folder): resolve_own(item, folder) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [resolve_own(item, folder) for item in value]
    return value
