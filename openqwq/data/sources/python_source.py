"""Problems from a function of the user's own, or from rows handed in from Python.

    [source.mine]
    type = "python"
    path = "problems.py:make"          # relative to the recipe
    config = { digits = 3 }            # the function's keyword arguments

`make(**config)` gives rows, as a list or one by one: what a JSON-lines file of problems may hold, or `Problem`s.
`make(rng, **config)` gives one row for a `random.Random`: such a source never runs out, and the same generator must
give the same row. A function in a file runs in a worker process.

Public: `python_source`, `given_rows`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from random import Random
from typing import Any

from openqwq.config import SourceConfig, is_own
from openqwq.errors import UserError
from openqwq.rows import RowError, kind_of
from openqwq.types import Problem
from openqwq.verifiers.own.child import shape_of
from openqwq.verifiers.own.verifier import OwnFunction, OwnPool, digest_of, why_failed

from .finite import FiniteSource, cut_parts
from .problem_rows import EXAMPLE, RowOptions, RowReader

LOAD_SECONDS = 600.0
"""A function that reads or downloads its data may take this long."""
ROW_SECONDS = 30.0
Rows = Iterable[Mapping[str, Any] | Problem] | Callable[..., Any]
"""What Python may hand in as a source: rows, or a function that makes them."""
_given: dict[str, Rows] = {}


@contextmanager
def given_rows(sources: Mapping[str, Rows]) -> Iterator[dict[str, str]]:
    """Within this block sources of type "python" of these names take their rows here; gives a digest of each.

    Rows that come one by one are read once, now.
    """
    read = {name: given if callable(given) else list(given) for name, given in sources.items()}
    _given.update(read)
    try:
        yield {name: _digest(given) for name, given in read.items()}
    finally:
        for name in read:
            del _given[name]


def _digest(given: Rows) -> str:
    if callable(given):
        return digest_of(given)
    plain = [row.to_dict() if isinstance(row, Problem) else row for row in given]
    return hashlib.sha256(json.dumps(plain, default=str, sort_keys=True).encode()).hexdigest()


class _Maker:
    """Rows of one function or list, wherever it runs."""

    def __init__(self, name: str, given: Rows | str, options: Mapping[str, Any]):
        self.options = dict(options)
        self.function = OwnFunction.in_file(given) if isinstance(given, str) else None
        self.given: Any = given
        self.label = self.function.label if self.function else f"source `{name}`"
        self._pool: OwnPool | None = None
        shape = self._shape()
        self.makes_one = "rng" in shape["names"]
        if not shape["takes_all"] and (unknown := [key for key in options if key not in shape["names"]]):
            raise UserError(
                f"source.{name}.config has the unknown key `{unknown[0]}`",
                hint=f"{self.label} takes {', '.join(n for n in shape['names'] if n != 'rng') or 'none'}",
            )

    def _shape(self) -> Mapping[str, Any]:
        if self.function:
            return self._ask({"do": "describe", "takes_problem": False}, ROW_SECONDS)
        if not callable(self.given):
            return {"names": (), "takes_all": False}
        shape = shape_of(self.given, takes_problem=False)
        return {"names": shape.names, "takes_all": shape.takes_all}

    def all(self) -> list[Any]:
        """Every row."""
        if self.function:
            return self._ask({"do": "rows", "options": self.options}, LOAD_SECONDS)
        rows = self.given(**self.options) if callable(self.given) else self.given
        return [row.to_dict() if isinstance(row, Problem) else row for row in rows]

    def one(self, key: int) -> Any:
        """The row of this seed."""
        if self.function:
            return self._ask({"do": "row", "seed": key, "options": self.options}, ROW_SECONDS)
        row = self.given(rng=Random(key), **self.options)
        return row.to_dict() if isinstance(row, Problem) else row

    def _ask(self, job: dict[str, Any], timeout_s: float) -> Any:
        """The answer of a worker that stays for the next question. Raises UserError where there is none."""
        assert self.function is not None
        if self._pool is None or self._pool.wall_s != timeout_s:
            self.close()
            self._pool = OwnPool(self.function, timeout_s=timeout_s, num_workers=1)
        [outcome] = self._pool.run([job])
        if why := why_failed(outcome, self.label, timeout_s):
            raise UserError(f"{why}, so that there are no problems")
        return outcome.result

    def close(self) -> None:
        """End the worker."""
        if self._pool is not None:
            self._pool.close()

    __del__ = close


class _EndlessSource:
    """A function of a random generator: the problem of a key is the row for `Random(key)`."""

    def __init__(self, name: str, config: SourceConfig, maker: _Maker):
        self.name, self._maker = name, maker
        self._config = config
        first = self.problem("train", 0)
        self.kind, self.verifier = first.kind, first.verifier

    def problem(self, split: str, key: int) -> Problem:
        """The problem of this key."""
        reader = RowReader(self.name, self._config, RowOptions())
        return _read(reader, self._maker.one(key), f"{self.name}/{split}/{key:x}", self._maker.label)


class _FiniteRows(FiniteSource):
    """All rows of a function or list, cut as those of a file are."""

    def __init__(self, name: str, config: SourceConfig, maker: _Maker):
        problems = _read_all(name, name, config, maker)
        held_out = None
        if config.held_out_path:
            other = _Maker(name, config.held_out_path, config.config)
            held_out = _read_all(name, f"{name}/held_out", config, other)
        parts = cut_parts(problems, name, maker.label, held_out=held_out)
        super().__init__(name, problems[0].kind, problems[0].verifier, parts)


def python_source(name: str, config: SourceConfig) -> FiniteSource | _EndlessSource:
    """The source of a function in a file, or of what was handed in under this name. Raises UserError."""
    given = _given.get(name)
    if given is None and not config.path:
        raise UserError(
            f"source `{name}` has the type `python`, but no `path`, and no rows were handed in under this name",
            hint='set `path = "problems.py:make"`, or call openqwq.train(..., sources={"' + name + '": rows})',
        )
    if given is not None and config.path:
        raise UserError(f"source `{name}` has a `path`, but rows were handed in as well", hint="take one of them out")
    for path in filter(None, (config.path, config.held_out_path)):
        if not is_own(path):
            raise UserError(
                f"source `{name}`: {path} names no function", hint='write it as `path = "problems.py:make"`'
            )
    maker = _Maker(name, given if given is not None else config.path, config.config)
    return (_EndlessSource if maker.makes_one else _FiniteRows)(name, config, maker)


def _read_all(name: str, ids: str, config: SourceConfig, maker: _Maker) -> list[Problem]:
    reader = RowReader(name, config, RowOptions())
    problems = [
        _read(reader, row, f"{ids}/{number}", f"row {number} of {maker.label}")
        for number, row in enumerate(maker.all(), 1)
    ]
    maker.close()
    if not problems:
        raise UserError(f"{maker.label} gives no rows")
    return problems


def _read(reader: RowReader, row: Any, identity: str, where: str) -> Problem:
    try:
        if not isinstance(row, Mapping):
            raise RowError(f"is {kind_of(row)}, not an object")
        return reader.read(row, identity)
    except RowError as error:
        raise UserError(error.why_no(where, "problem"), hint=f"a row looks like {EXAMPLE}") from error
