"""Rows of JSON-lines files that are judged: the readable ones, and why the others are none.

Public: read_rows, row_problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from openqwq.errors import UserError
from openqwq.rows import RowError, messages_of, parse_row, whole_problem
from openqwq.types import Message, Problem
from openqwq.verifiers import check_verifier_name, needs_answer

Row = TypeVar("Row")
PROMPTS = ("prompt", "question", "problem", "messages")
"""Columns that may hold the prompt, as a text or as messages; a row without one has an empty prompt."""
_NOT_FURTHER = {"id", "source", "kind", "prompt", "messages", "answer", "completion", "verifier", "thinking_opened"}


def read_rows(
    file: Path, read: Callable[[int, bytes, dict[str, Any]], Row], rejects: list[dict[str, Any]]
) -> Iterator[Row]:
    """What `read(line number, line, its object)` makes of each line, in order; the others go to `rejects`.

    A reject has its line's number and the reason. Raises UserError where there is no such file.
    """
    if not file.is_file():
        raise UserError(f"there is no file {file}")
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield read(number, line, parse_row(line))
            except RowError as error:
                rejects.append({"line": number, "why": str(error)})


def row_problem(
    row: Mapping[str, Any], number: int, verifier: str, options: Mapping[str, Any] | None = None
) -> Problem:
    """The problem of a row: a whole one under `problem`, else one of what the verifier needs. Raises RowError.

    Further columns go to the problem's metadata, for functions that ask for them.
    """
    if isinstance(row.get("problem"), Mapping):
        return whole_problem(row["problem"])
    try:
        check_verifier_name(verifier)
        asks = needs_answer(verifier, options)
    except UserError as error:
        raise RowError(f"asks for a verifier that is not there: `{verifier}` ({error.hint})") from error
    if asks and "answer" not in row:
        raise RowError("lacks `answer`")
    return Problem(
        id=str(row.get("id", number)),
        source=str(row.get("source", "")),
        kind=str(row.get("kind", "")),
        messages=_messages(row),
        verifier=verifier,
        answer=row.get("answer"),
        metadata={key: value for key, value in row.items() if key not in _NOT_FURTHER},
    )


def _messages(row: Mapping[str, Any]) -> tuple[Message, ...]:
    for key in PROMPTS:
        if isinstance(row.get(key), list):
            return messages_of(row[key], key)
        if key in row:
            return (Message("user", str(row[key])),)
    return (Message("user", ""),)
