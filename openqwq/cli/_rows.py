"""Rows of JSON-lines files that are judged: the readable ones, and why the others are none.

Public: read_rows, plain_problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from openqwq.errors import UserError
from openqwq.types import Message, Problem

Row = TypeVar("Row")


def read_rows(file: Path, read: Callable[[int, bytes], Row], rejects: list[dict[str, Any]]) -> Iterator[Row]:
    """What `read(line number, line)` makes of each line, in order; lines it fails on go to `rejects` with the reason.

    Raises UserError where there is no such file.
    """
    if not file.is_file():
        raise UserError(f"there is no file {file}")
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield read(number, line)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                why = f"lacks `{error.args[0]}`" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
                rejects.append({"line": number, "why": why})


def plain_problem(row: Mapping[str, Any], number: int, verifier: str) -> Problem:
    """The problem of a row that has only what the verifier needs. Raises KeyError for one without `answer`."""
    return Problem(
        id=str(row.get("id", number)),
        source=str(row.get("source", "")),
        kind=str(row.get("kind", "")),
        messages=(Message("user", str(row.get("prompt", ""))),),
        verifier=verifier,
        answer=row["answer"],
    )
