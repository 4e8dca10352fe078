"""A benchmark of one's own: a TOML file with the fields of `Benchmark` beside a JSON-lines file.

Public: `read_benchmark`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from openqwq.errors import UserError
from openqwq.verifiers import check_verifier_name

from .benchmark import Benchmark, Protocol, Published, Source
from .catalogue import RECOMMENDED
from .mappers import columns_row

FIELDS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "data": str,
    "prompt": str,
    "verifier": str,
    "verifier_options": dict,
    "columns": dict,
    "protocol": dict,
    "published": list,
    "known_bad": dict,
    "kind": str,
    "version": str,
    "licence": str,
}
PROTOCOL_FIELDS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "temperature": (int, float),
    "top_p": (int, float),
    "top_k": int,
    "max_tokens": int,
    "samples": int,
    "source": str,
}
PUBLISHED_FIELDS: dict[str, type | tuple[type, ...]] = {
    "model": str,
    "score": (int, float),
    "samples": int,
    "source": str,
}


def read_benchmark(path: Path) -> tuple[Benchmark, Path]:
    """The benchmark and its data file. Raises UserError for a file that is none, naming the field."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the benchmark {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is no TOML: {error}") from error
    _check(table, FIELDS, str(path))
    for name in ("name", "data", "prompt", "verifier"):
        if not table.get(name):
            raise UserError(f"{path} lacks `{name}`", hint="see docs/evaluate.md for an example of ten lines")
    check_verifier_name(table["verifier"])
    columns = table.get("columns", {})
    _check(columns, {"key": str, "answer": str, "group": str}, f"{path}, table `columns`")
    benchmark = Benchmark(
        name=table["name"],
        version=table.get("version", "1"),
        kind=table.get("kind", "math"),
        source=Source(),
        mapper=columns_row(columns),
        prompt=table["prompt"],
        protocols=(_protocol(table.get("protocol", {}), path),),
        verifier=table["verifier"],
        verifier_options=table.get("verifier_options", {}),
        licence=table.get("licence", ""),
        published=tuple(_published(row, path) for row in table.get("published", [])),
        known_bad={key: str(why) for key, why in table.get("known_bad", {}).items()},
    )
    return benchmark, path.parent / table["data"]


def _protocol(table: Mapping[str, Any], path: Path) -> Protocol:
    _check(table, PROTOCOL_FIELDS, f"{path}, table `protocol`")
    return replace(RECOMMENDED, **{"name": "own", "source": str(path.name), **table})


def _published(row: Any, path: Path) -> Published:
    _check(row, PUBLISHED_FIELDS, f"{path}, table `published`")
    missing = [name for name in ("model", "score", "source") if name not in row]
    if missing:
        raise UserError(f"{path}, table `published`, lacks `{missing[0]}`")
    return Published(model=row["model"], score=row["score"], samples=row.get("samples"), source=row["source"])


def _check(table: Any, fields: Mapping[str, type | tuple[type, ...]], where: str) -> None:
    """Raise UserError for a key that is not among the fields, or a value of another type."""
    if not isinstance(table, Mapping):
        raise UserError(f"{where} is {table!r}, but must be a table")
    for key, value in table.items():
        if key not in fields:
            near = get_close_matches(key, fields, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(fields)}"
            raise UserError(f"{where} has the unknown key `{key}`", hint=hint)
        if not isinstance(value, fields[key]) or isinstance(value, bool):
            raise UserError(f"`{key}` is {value!r} in {where}, which is of another type")
