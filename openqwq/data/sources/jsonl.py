"""Problems from a JSON-lines file: rows of `Problem.to_dict()`, or plain {"question", "answer"}."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from openqwq.config import SourceConfig
from openqwq.errors import UserError
from openqwq.types import Message, Problem

from .finite import FiniteSource, cut_parts


class JsonlSource(FiniteSource):
    """A finite file of problems; a row belongs to the held-out, gate or training part by its position.

    Whole problems keep their verifier and, unless the recipe names one, their kind; their source is this one.
    """

    def __init__(self, name: str, config: SourceConfig):
        rows = read_problems(Path(config.path), name=name, config=config)
        problems = [replace(row, source=name, kind=config.kind or row.kind) for row in rows]
        super().__init__(name, problems[0].kind, problems[0].verifier, cut_parts(problems, name, config.path))


def read_problem_file(path: Path, *, verifier: str = "math", prompt_suffix: str = "") -> list[Problem]:
    """The problems of a file outside of any recipe, as a source named after it would read them."""
    config = SourceConfig(type="jsonl", path=str(path), verifier=verifier, prompt_suffix=prompt_suffix)
    return read_problems(path, name=path.stem, config=config)


def read_problems(path: Path, *, name: str, config: SourceConfig) -> list[Problem]:
    """Every problem of the file. Raises UserError with the line's number for a row that is none."""
    if not path.is_file():
        raise UserError(f"source `{name}`: no file at {path}", hint="set the source's `path`")
    problems = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                problems.append(_read_row(line, f"{path}:{number}", f"{name}/{number}", name, config))
    if not problems:
        raise UserError(f"source `{name}`: {path} holds 0 problems")
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
