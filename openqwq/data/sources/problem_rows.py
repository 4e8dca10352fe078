"""A user's rows as problems: plain ones by the names of their columns, whole problems as they are.

    {"question": "7 * 8?", "answer": "56"}                          or "prompt", "problem", "instruction" (+ "input")
    {"messages": [{"role": "user", "content": "7 * 8?"}], "answer": "56"}
    {"id", "source", "kind", "messages", "verifier", "answer"}      as `openqwq data problems` writes them

Every further column reaches the verifier in `problem.metadata`. What the source says (`verifier`, `prompt_suffix`,
`kind`) holds for all of its rows, or is refused by name.

Public: `RowOptions`, `RowReader`, `EXAMPLE`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from openqwq.config import SourceConfig
from openqwq.errors import UserError
from openqwq.rows import RowError, is_whole_problem, kind_of, messages_of, whole_problem
from openqwq.types import Message, Problem
from openqwq.verifiers import check_verifier_name, needs_answer
from openqwq.verifiers.own.child import FOR_MESSAGES

PROMPT_COLUMNS = ("prompt", "question", "problem", "instruction", "messages", "conversations")
ANSWER_COLUMNS = ("answer", "ground_truth", "solution", "target")
WHOLE_ROW = "*"
NOT_FURTHER = {"prompt", "answer", "id", "verifier", "messages", "conversations"}
"""Columns that a problem has in fields of its own."""
EXAMPLE = '{"question": "7 * 8?", "answer": "56"}'


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """What the table `config` of a source says of its rows."""

    columns: Mapping[str, Any] = field(default_factory=dict)
    """`prompt`, `answer`, `id` and `verifier` -> the column; `a.b` is the field b of column a. The prompt is a text or
    a list of messages. `answer` may be "*", the whole row, or a table of names and columns. Empty: the usual names."""
    answer_after: str = ""
    """The gold answer is what stands after the last of these marks in the answer's text, e.g. "####" in GSM8K."""
    answer_json: bool = False
    """The answer's text is JSON."""


def _check_columns(name: str, options: RowOptions) -> None:
    """Raise UserError for a mapping of columns that says nothing."""
    for key, column in options.columns.items():
        if key not in ("prompt", "answer", "id", "verifier"):
            raise UserError(
                f"source.{name}.config.columns has the unknown key `{key}`", hint="known: prompt, answer, id, verifier"
            )
        is_table = key == "answer" and isinstance(column, Mapping) and all(isinstance(c, str) for c in column.values())
        if not isinstance(column, str) and not is_table:
            raise UserError(f"`{key}` is {column!r} in source.{name}.config.columns, but it must name a column")


class RowReader:
    """Rows to problems of one source.

    default_verifier: of rows that name none, where the source names none either.
    reads_names:      columns `id` and `verifier` count without being named in `columns`, as in files of one's own.
    """

    def __init__(
        self,
        name: str,
        config: SourceConfig,
        options: RowOptions,
        *,
        default_verifier: str = "math",
        reads_names: bool = True,
    ):
        self.name, self.config, self.options, self.default_verifier = name, config, options, default_verifier
        self.reads_names = reads_names
        self._needs_answer: dict[str, bool] = {}
        self._ids: set[str] = set()
        _check_columns(name, options)

    def read(self, row: Mapping[str, Any], identity: str) -> Problem:
        """The problem of a row; `identity` is its id where the row has none. Raises RowError for other rows."""
        if is_whole_problem(row) and not self.options.columns:
            return self._whole(row)
        verifier = self._verifier(self._named(row, "verifier"))
        messages, is_text = self._messages(row)
        answer = self._answer(row, verifier)
        further = {key: _plain(value) for key, value in row.items() if key not in NOT_FURTHER}
        return Problem(
            id=self._id(row, identity),
            source=self.name,
            kind=self.config.kind or "math",
            messages=messages,
            verifier=verifier,
            answer=answer,
            metadata=further if is_text else {**further, FOR_MESSAGES: True},
        )

    def _named(self, row: Mapping[str, Any], what: str) -> Any:
        if what in self.options.columns:
            return _value(row, self.options.columns[what])
        return row.get(what) if self.reads_names else None

    def _id(self, row: Mapping[str, Any], identity: str) -> str:
        """The row's own id, unless another row has it too: results are kept by id."""
        given = self._named(row, "id")
        found = str(given) if isinstance(given, str | int) and str(given) not in self._ids else identity
        self._ids.add(found)
        return found

    def _whole(self, row: Mapping[str, Any]) -> Problem:
        problem = whole_problem(row)
        self._verifier(problem.verifier)
        last = problem.messages[-1]
        if self.config.prompt_suffix:
            last = replace(last, content=last.content + self.config.prompt_suffix)
        return replace(
            problem,
            source=self.name,
            kind=self.config.kind or problem.kind,
            messages=(*problem.messages[:-1], last),
        )

    def _verifier(self, named: Any) -> str:
        """The verifier of a row that names this one, or none."""
        if named is not None and not isinstance(named, str):
            raise RowError(f"`verifier` is {kind_of(named)}, not a text")
        given = self.config.verifier
        if named and given and named != given:
            raise RowError(f"names the verifier `{named}`, and the source `{given}`: take one of them out")
        verifier = named or given or self.default_verifier
        if verifier not in self._needs_answer:
            try:
                check_verifier_name(verifier)
            except UserError as error:
                raise RowError(
                    f"asks for a verifier that is not there: no verifier `{verifier}` ({error.hint})"
                ) from error
            self._needs_answer[verifier] = needs_answer(verifier, self.config.verifier_options)
        return verifier

    def _messages(self, row: Mapping[str, Any]) -> tuple[tuple[Message, ...], bool]:
        """The conversation, and whether it was one text."""
        column = self.options.columns.get("prompt") or _usual(row, PROMPT_COLUMNS, "prompt")
        prompt = _value(row, column)
        if isinstance(prompt, str):
            if column == "instruction" and isinstance(row.get("input"), str) and row["input"]:
                prompt = f"{prompt}\n\n{row['input']}"
            if prompt.strip():
                return (Message("user", prompt + self.config.prompt_suffix),), True
        if not isinstance(prompt, list) or not prompt:
            raise RowError(f"the prompt is neither a text nor a list of messages (`{column}` is {_short(prompt)})")
        turns = messages_of(prompt, column)
        if turns[-1].role != "user":
            raise RowError(f"the last message is the {turns[-1].role}'s, but a problem ends with the user's")
        return (*turns[:-1], replace(turns[-1], content=turns[-1].content + self.config.prompt_suffix)), False

    def _answer(self, row: Mapping[str, Any], verifier: str) -> Any:
        """The answer; None where there is no such column and the verifier needs none."""
        column = self.options.columns.get("answer")
        if not column:
            if not self._needs_answer[verifier] and not any(name in row for name in ANSWER_COLUMNS):
                return None
            column = _usual(row, ANSWER_COLUMNS, "answer")
        if isinstance(column, Mapping):
            return {key: _plain(_value(row, name)) for key, name in column.items()}
        if column == WHOLE_ROW:
            return _plain(dict(row))
        value = _value(row, column)
        if self.options.answer_after:
            _, mark, value = _text(value, column).rpartition(self.options.answer_after)
            if not mark:
                raise RowError(f"`{column}` holds no `{self.options.answer_after}`")
            value = value.strip()
        if self.options.answer_json:
            try:
                value = json.loads(_text(value, column))
            except ValueError as error:
                raise RowError(f"`{column}` is no JSON: {error}") from error
        if self._needs_answer[verifier] and (value is None or value == ""):
            raise RowError(f"the answer in `{column}` is empty")
        return _plain(value)


def _usual(row: Mapping[str, Any], names: tuple[str, ...], what: str) -> str:
    found = next((name for name in names if name in row), None)
    if found is None:
        raise RowError(
            f"has none of the columns {', '.join(names)} (its columns: {', '.join(row) or 'none'}; "
            f'name yours: `config = {{ columns = {{ {what} = "..." }} }}`)'
        )
    return found


def _value(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, or of the field that a dotted name points to."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise RowError(f"has no column `{column}` (its columns: {', '.join(row) or 'none'})")
        value = value[part]
    return value


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"`{column}` is {value!r}, but a text is needed")
    return value


def _short(value: Any) -> str:
    return repr(value) if isinstance(value, str | int | float | None) else kind_of(value)


def _plain(value: Any) -> Any:
    """The value as JSON has it: Parquet's dates, decimals and bytes as texts."""
    return json.loads(json.dumps(value, default=str))
