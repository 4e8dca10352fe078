"""A recipe from its TOML file: parents merged, overrides applied, every field typed and cross-checked.

    extends = "tiny.toml"        # start from another recipe; relative to this file
    [stage.rl]
    reward = "random"            # tables merge key by key; lists and values replace
    [stage]
    rl_general = false           # removes a stage (or a source, or a share of a mix)

A stage table with another `kind` than its parent's replaces it whole. Relative paths in a recipe are relative to
the recipe's own folder, those given as overrides to the working directory. A recipe without a `name` is named
after its file.

Public: load_recipe, recipe_from_tables.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openqwq.errors import UserError

from .build import build_recipe, suggest
from .checks import check_files, check_recipe
from .own_names import resolve_own
from .recipe import Recipe
from .shipped import find_recipe

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, only_source: str = "") -> Recipe:
    """The checked recipe of a TOML file, with overrides such as "stage.rl.learning_rate=3e-6" applied.

    only_source: the one source that is used, so that files of others may be missing; empty: all are.
    An override's value is read as TOML, or as plain text where it is none. Raises UserError for anything that
    is missing, unknown, of another type or out of range, before any work begins.
    """
    tables = _read_with_parents(find_recipe(path), ())
    tables = _merge(tables, _resolve_paths(_parse_overrides(overrides, tables), Path.cwd()))
    return _checked(tables, str(path), only_source)


def recipe_from_tables(
    recipe: str | Path | Mapping[str, Any], sources: Mapping[str, Mapping[str, Any]] | None = None
) -> Recipe:
    """The checked recipe of a TOML file, or of tables as such a file has them; their paths are from the working folder.

    sources: tables of sources that the recipe may leave out.
    """
    if isinstance(recipe, Mapping):
        tables, where = {"name": "run", **_resolve_paths(recipe, Path.cwd())}, "the recipe"
    else:
        tables, where = _read_with_parents(find_recipe(recipe), ()), str(recipe)
    own = tables.get("source", {})
    if sources and isinstance(own, Mapping):
        tables = {**tables, "source": {**sources, **own}}
    return _checked(tables, where)


def _checked(tables: Mapping[str, Any], where: str, only_source: str = "") -> Recipe:
    recipe = build_recipe(tables, where)
    check_recipe(recipe, where)
    check_files(recipe, where, only_source=only_source)
    return recipe


def _read_with_parents(path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    resolved = path.resolve()
    if resolved in children:
        raise UserError(f"{path} extends itself", hint="remove one `extends` of the circle")
    tables = _read_toml(path, children)
    parent = tables.pop("extends", None)
    # a control arm must not write into its parent's run folder, so the name is never inherited
    tables = {"name": path.stem, **_resolve_paths(tables, path.parent)}
    if parent is None:
        return tables
    if not isinstance(parent, str):
        raise UserError(f"`extends` is {parent!r} in {path}, but it must be the path of one recipe")
    return _merge(_read_with_parents(path.parent / parent, (*children, resolved)), tables)


def _read_toml(path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}", hint="texts need quotes, tables [brackets]") from error
    except OSError as error:
        by = f", which {children[-1].name} extends" if children else ""
        raise UserError(f"cannot read the recipe {path}{by}: {error.strerror}") from error


def _merge(parent: Mapping[str, Any], child: Mapping[str, Any], under: str = "") -> dict[str, Any]:
    """Tables merged key by key; where not both hold a table, the child's value counts.

    under: the name of the table that is merged; in "stage", another `kind` replaces the whole entry.
    """
    merged = dict(parent)
    for key, value in child.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            replaces = under == "stage" and value.get("kind", old.get("kind")) != old.get("kind")
            value = dict(value) if replaces else _merge(old, value, key)
        merged[key] = value
    return merged


def _parse_overrides(overrides: Sequence[str], tables: Mapping[str, Any]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        keys = [key.strip() for key in name.split(".")]
        if not equals or not all(keys):
            raise UserError(
                f"`--set {override}` is not an assignment", hint="write it as --set stage.rl.learning_rate=3e-6"
            )
        if len(keys) > 2 and keys[0] in ("stage", "source") and keys[1] not in tables.get(keys[0], {}):
            known = tables.get(keys[0], {})
            raise UserError(f"`--set {override}` names a {keys[0]} that is not there", hint=suggest(keys[1], known))
        parsed = _merge(parsed, _nest(keys, _parse_value(text), _merge(tables, parsed)))
    return parsed


def _nest(keys: Sequence[str], value: Any, tables: Mapping[str, Any]) -> dict[str, Any]:
    """Tables that hold one value. A number in the keys points into a list that the recipe has, e.g. target.0."""
    first, rest = keys[0], keys[1:]
    if not rest:
        return {first: value}
    below = tables.get(first, {})
    if isinstance(below, list):
        return {first: _replace_in_list(below, first, rest, value)}
    return {first: _nest(rest, value, below if isinstance(below, Mapping) else {})}


def _replace_in_list(items: list[Any], name: str, keys: Sequence[str], value: Any) -> list[Any]:
    if not keys[0].isdecimal() or int(keys[0]) >= len(items):
        raise UserError(f"`{name}` has {len(items)} entries, there is no `{name}.{keys[0]}`")
    position = int(keys[0])
    table = {"entry": items[position]}
    changed = _merge(table, _nest(["entry", *keys[1:]], value, table))["entry"]
    return [*items[:position], changed, *items[position + 1 :]]


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _resolve_paths(tables: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The tables with their relative paths made absolute; hub names stay."""

    def resolved(table: Any, key: str, may_be_hub_name: bool = False) -> Any:
        value = table.get(key) if isinstance(table, Mapping) else None
        if not isinstance(value, str) or not value:
            return table
        full = os.path.abspath(folder / os.path.expanduser(value))
        if may_be_hub_name and _HUB_NAME.fullmatch(value) and not os.path.exists(full):
            return table
        return {**table, key: full}

    result = dict(tables)

    def each(name: str, key: str) -> Any:
        entries = result[name]
        return {n: resolved(t, key) for n, t in entries.items()} if isinstance(entries, Mapping) else entries

    for name, key in (("model", "path"), ("tokenizer", "path")):
        if name in tables:
            result[name] = resolved(tables[name], key, may_be_hub_name=True)
    for name, key in (
        ("source", "path"),
        ("source", "held_out_path"),
        ("stage", "chains_file"),
        ("stage", "demonstrations_file"),
        ("stage", "reference"),
    ):
        if name in tables:
            result[name] = each(name, key)
    if isinstance(sources := result.get("source"), Mapping):
        result["source"] = {name: _resolve_verifier(table, folder) for name, table in sources.items()}
    return result


def _resolve_verifier(source: Any, folder: Path) -> Any:
    """A source's table with the files of verifiers of the user's own made absolute."""
    if not isinstance(source, Mapping):
        return source
    return {**source, **{k: resolve_own(source[k], folder) for k in ("verifier", "verifier_options") if k in source}}
