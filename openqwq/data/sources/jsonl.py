"""Problems from a JSON-lines file of one's own; `problem_rows.py` says what a row may look like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from openqwq.config import SourceConfig
from openqwq.errors import UserError
from openqwq.rows import RowError, parse_row
from openqwq.types import Problem

from .finite import FiniteSource, cut_parts
from .options import read_options
from .problem_rows import EXAMPLE, RowOptions, RowReader


class JsonlSource(FiniteSource):
    """A finite file of problems; a row belongs to the held-out, gate or training part by its position.

    With `held_out_path`, the evaluation has that file's problems. Whole problems keep their verifier and, unless the
    recipe names one, their kind; their source is this one.
    """

    def __init__(self, name: str, config: SourceConfig):
        options = read_options(RowOptions, config.config, f"source.{name}.config")
        problems = read_problems(Path(config.path), RowReader(name, config, options), name)
        held_out = None
        if config.held_out_path:
            held_out = read_problems(Path(config.held_out_path), RowReader(name, config, options), f"{name}/held_out")
        parts = cut_parts(problems, name, config.path, held_out=held_out)
        super().__init__(name, problems[0].kind, problems[0].verifier, parts)


def read_problem_file(path: Path, *, verifier: str = "math", prompt_suffix: str = "") -> list[Problem]:
    """The problems of a file outside of any recipe, as a source named after it would read them.

    verifier: of rows that name none.
    """
    config = SourceConfig(type="jsonl", path=str(path), prompt_suffix=prompt_suffix)
    return read_problems(path, RowReader(path.stem, config, RowOptions(), default_verifier=verifier), path.stem)


def read_problems(path: Path, reader: RowReader, ids: str) -> list[Problem]:
    """Every problem of the file. Raises UserError with the line's number for a row that is not a problem.

    ids: what the ids of rows without one begin with.
    """
    if not path.is_file():
        raise UserError(f"source `{reader.name}`: no file at {path}", hint="set the source's `path`")
    problems = []
    for number, line in _lines(path):
        try:
            problems.append(reader.read(parse_row(line), f"{ids}/{number}"))
        except RowError as error:
            raise UserError(error.why_no(f"{path}:{number}", "problem"), hint=f"a row looks like {EXAMPLE}") from error
    if not problems:
        raise UserError(f"source `{reader.name}`: {path} holds 0 problems")
    return problems


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line
