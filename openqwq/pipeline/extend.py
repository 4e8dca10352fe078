"""A run resumed with another recipe than it was started with: what may change, and what that does.

A resumed run repeats nothing, so only values may differ on which no finished step depends: how long a stage that is not
done takes, how it is saved and tracked, how held-out problems are answered, and targets.

Public: check_change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openqwq.errors import UserError

LENGTHS = ("steps", "epochs", "tokens")
"""Keys of a stage that say how long it takes."""
STAGE_KEYS = (*LENGTHS, "trackers", "checkpoint_every", "checkpoint_seconds", "keep_every")
HELD_OUT = ("families", "problems_per_family")
"""Keys of [eval] on which it depends which problems no stage may train on."""


def check_change(path: Any, saved: Mapping[str, Any], given: Mapping[str, Any], *, current: str) -> dict[str, str]:
    """What changes with the new recipe: dotted key -> a sentence. Raises UserError for what may not.

    current: the stage of the newest checkpoint, empty where there is none. Stages before it are done.
    """
    differing = differing_keys(saved, given)
    if not all(map(_may_change, differing)):
        shown = ", ".join(f"`{key}`" for key in differing[:8]) + (" ..." if len(differing) > 8 else "")
        raise UserError(
            f"{path} was started with another recipe; it differs in {shown}",
            hint="resume with the same recipe and `--set` values (a stage's length, [eval], trackers and checkpoints "
            "may change), or start anew with another `--out`",
        )
    stages = list(saved.get("stage", {}))
    notes = {}
    for key in differing:
        old, new = (_value(tables, key) for tables in (saved, given))
        table, name, *rest = [*key.split("."), "", ""]
        done = table == "stage" and current in stages and stages.index(name) < stages.index(current)
        if done and rest[0] in LENGTHS:
            raise UserError(
                f"`{key}` changes from {old} to {new}, but {path} has gone on to stage `{current}` since",
                hint=f"start a new recipe from {path}/checkpoints/{name} instead, with `path` in [model]",
            )
        notes[key] = _describe(key, old, new)
    return notes


def differing_keys(saved: Any, given: Any, prefix: str = "") -> list[str]:
    """Dotted names of the values in which two resolved recipes differ."""
    if isinstance(saved, Mapping) and isinstance(given, Mapping):
        keys = list(dict.fromkeys([*saved, *given]))
        return [
            name
            for key in keys
            for name in differing_keys(saved.get(key), given.get(key), f"{prefix}.{key}" if prefix else str(key))
        ]
    return [] if saved == given else [prefix]


def changed_stages(notes: Mapping[str, str]) -> list[str]:
    """The stages whose length changes: what was made of their end has to be made again."""
    return [key.split(".")[1] for key in notes if key.startswith("stage.") and key.split(".")[2] in LENGTHS]


def _may_change(key: str) -> bool:
    table, *rest = key.split(".")
    if table == "stage":
        return len(rest) == 2 and rest[1] in STAGE_KEYS
    if table == "eval":
        return bool(rest) and rest[0] not in HELD_OUT
    return table == "target"


def _describe(key: str, old: Any, new: Any) -> str:
    text = f"`{key}`: {old} -> {new}"
    if key.startswith("stage.") and key.rpartition(".")[2] in LENGTHS:
        text += "; the learning rate's schedule is stretched over the new length from here on"
    elif key.startswith("eval."):
        text += "; evaluations that are there already stay as they were made"
    return text


def _value(tables: Any, key: str) -> Any:
    for part in key.split("."):
        tables = tables.get(part) if isinstance(tables, Mapping) else None
    return tables
