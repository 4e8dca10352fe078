"""The rows of a benchmark, from a file in the owners' layout or from the hub.

Public: `Data`, `load_data`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from openqwq.data.sources.hub_files import HubFiles, read_data_file
from openqwq.errors import UserError
from openqwq.types import Problem

from .benchmark import Benchmark


@dataclass(frozen=True, kw_only=True)
class Data:
    """The problems, and what is known of the rows that they were made of.

    origin:   the published file that it is byte for byte, the data set of the hub, or "own file".
    sha256:   of the file; of the problems where they came from the hub.
    """

    problems: list[Problem]
    origin: str
    sha256: str


def load_data(benchmark: Benchmark, file: Path | None) -> Data:
    """The benchmark's problems from the file, or without one from the hub. Raises UserError where there are none."""
    if file is not None:
        return _from_file(benchmark, file)
    source = benchmark.source
    if not source.hub:
        raise UserError(f"the benchmark `{benchmark.name}` names no data set", hint="name a file: --data FILE")
    try:
        files = HubFiles.on_hub(source.hub, source.revision)
        problems = benchmark.problems(files.rows(source.subset, source.split))
    except UserError as error:
        raise UserError(
            error.message,
            hint=f"or name a file with the rows of {source.hub} in their published layout: --data FILE",
        ) from error
    revision = f" at {source.revision}" if source.revision else ""
    return Data(problems=problems, origin=f"{source.hub}{revision} on the hub", sha256=_digest(problems))


def _from_file(benchmark: Benchmark, file: Path) -> Data:
    if not file.is_file():
        raise UserError(f"no file {file}", hint="name the benchmark's rows in their published layout: --data FILE")
    content = hashlib.sha256(file.read_bytes()).hexdigest()
    known = {data.sha256: data.origin for data in benchmark.source.files}
    problems = benchmark.problems(read_data_file(file, str(file)))
    return Data(problems=problems, origin=known.get(content, "own file"), sha256=content)


def _digest(problems: list[Problem]) -> str:
    return hashlib.sha256(repr([(p.id, p.prompt, p.answer) for p in problems]).encode()).hexdigest()
