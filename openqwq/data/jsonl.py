"""Problems from a JSON-lines file: rows of `Problem.to_dict()`, or plain {"question", "answer"}."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openqwq.config import SourceConfig
from openqwq.errors import UserError
from openqwq.types import Message, Problem


class JsonlSource:
    """A finite file of problems; a row belongs to the held-out, gate or training part by its position."""

    def __init__(self, name: str, config: SourceConfig):
        self.name = name
        self.kind = config.kind or "math"
        self._parts = _split(read_problems(Path(config.path), name=name, config=config))

    def problem(self, split: str, key: int) -> Problem:
        """A row of the split's own part of the file: one in ten is held out, one in ten serves the gate."""
        rows = self._parts[split if split in self._parts else "train"]
        return rows[key % len(rows)]


def read_problems(path: Path, *, name: str, config: SourceConfig) -> list[Problem]:
    """Every problem of the file. Raises UserError with the line's number for a row that is none."""
    if not path.is_file():
        raise UserError(f"source `{name}`: no file at {path}", hint="set the source's `path`")
    problems = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                problems.append(_read_row(line, f"{path}:{number}", f"{name}/{number}", name, config))
    if len(problems) < 10:
        raise UserError(
            f"source `{name}`: {path} holds {len(problems)} problems, and 10 are the least",
            hint="a tenth is held out for evaluation and a tenth for the regression gate",
        )
    return problems


def _read_row(line: bytes, where: str, identity: str, name: str, config: SourceConfig) -> Problem:
    try:
        row = json.loads(line)
        if "messages" in row:
            return Problem.from_dict(row)
        return _from_question(row, identity, name, config)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{where} is no problem: {error}",
            hint='rows are {"question": ..., "answer": ...} or whole problems with "messages"',
        ) from error


def _from_question(row: Mapping[str, Any], identity: str, name: str, config: SourceConfig) -> Problem:
    return Problem(
        id=str(row.get("id", identity)),
        source=name,
        kind=config.kind or "math",
        messages=(Message("user", row["question"] + config.prompt_suffix),),
        verifier=config.verifier or "math",
        answer=row["answer"],
    )


def _split(rows: list[Problem]) -> dict[str, list[Problem]]:
    return {
        "held_out": rows[0::10],
        "gate": rows[1::10],
        "train": [row for i, row in enumerate(rows) if i % 10 > 1],
    }
