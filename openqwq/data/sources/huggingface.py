"""Problems from a data set of the Hugging Face hub, or from a folder in the same layout.

    [source.gsm8k]
    type = "huggingface"
    dataset = "openai/gsm8k"                     # or `path = "FOLDER"`
    config = { subset = "main", held_out_split = "test", answer_after = "####" }

Public: `HuggingFaceSource`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openqwq.config import SourceConfig
from openqwq.errors import UserError
from openqwq.types import Message, Problem
from openqwq.verifiers import verifier_names

from .finite import FiniteSource, cut_parts
from .hub_files import HubFiles
from .options import read_options

PROMPT_COLUMNS = ("prompt", "question", "problem", "messages")
ANSWER_COLUMNS = ("answer", "ground_truth", "solution", "target")
WHOLE_ROW = "*"
_ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """The table `config` of a source of type "huggingface"."""

    subset: str = ""
    """The data set's configuration; empty: its default one."""
    split: str = "train"
    """The split that is trained on."""
    held_out_split: str = ""
    """The split that is evaluated on, every other row of it by the gate; empty: a tenth each of `split`."""
    revision: str = ""
    """Branch, tag or commit on the hub; empty: the newest."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """`prompt`, `answer`, `id` and `verifier` -> the column; `a.b` is the field b of column a. The prompt is a text or
    a list of messages. `answer` may be "*", the whole row, or a table of names and columns. Empty: the usual names."""
    answer_after: str = ""
    """The gold answer is what stands after the last of these marks in the answer's text, e.g. "####" in GSM8K."""
    answer_json: bool = False
    """The answer's text is JSON."""


class HuggingFaceSource(FiniteSource):
    """The rows of a split as problems, in the data set's order."""

    def __init__(self, name: str, config: SourceConfig):
        options = read_options(HubOptions, config.config, f"source.{name}.config")
        if bool(config.dataset) == bool(config.path):
            both = "both `dataset` and `path` are" if config.path else "neither `dataset` nor `path` is"
            raise UserError(f"source `{name}`: {both} set", hint='e.g. `dataset = "openai/gsm8k"`')
        _check_columns(name, options)
        files = _find_files(name, config, options)
        reader = _Reader(name, config, options)
        problems = list(reader.read(files, options.split))
        if options.held_out_split:
            unseen = list(reader.read(files, options.held_out_split))
            parts = {"train": problems, "held_out": unseen[0::2], "gate": unseen[1::2]}
        else:
            parts = cut_parts(problems, name, files.where)
        for part in parts.values():
            if not part:
                raise UserError(f"source `{name}`: a split of {files.where} that is asked for has too few rows")
        super().__init__(name, config.kind or "math", problems[0].verifier, parts)


def _find_files(name: str, config: SourceConfig, options: HubOptions) -> HubFiles:
    if config.dataset:
        return HubFiles.on_hub(config.dataset, options.revision)
    if options.revision:
        raise UserError(f"source `{name}`: a folder has no revisions", hint="take out `revision`, or set `dataset`")
    if not Path(config.path).is_dir():
        raise UserError(f"source `{name}`: no folder {config.path}", hint="set the source's `path` or `dataset`")
    return HubFiles.in_folder(Path(config.path))


def _check_columns(name: str, options: HubOptions) -> None:
    for key, column in options.columns.items():
        if key not in ("prompt", "answer", "id", "verifier"):
            raise UserError(
                f"source.{name}.config.columns has the unknown key `{key}`", hint="known: prompt, answer, id, verifier"
            )
        is_table = key == "answer" and isinstance(column, Mapping) and all(isinstance(c, str) for c in column.values())
        if not isinstance(column, str) and not is_table:
            raise UserError(f"`{key}` is {column!r} in source.{name}.config.columns, but it must name a column")


class _Reader:
    """Rows to problems, by the source's columns."""

    def __init__(self, name: str, config: SourceConfig, options: HubOptions):
        self.name, self.config, self.options = name, config, options
        self._known_verifiers = frozenset(verifier_names())

    def read(self, files: HubFiles, split: str) -> Iterator[Problem]:
        """The problems of a split. Raises UserError for the first row that is none."""
        for number, (where, row) in enumerate(files.rows(self.options.subset, split)):
            yield self._problem(where, f"{self.name}/{split}/{number}", row)

    def _problem(self, where: str, identity: str, row: Mapping[str, Any]) -> Problem:
        columns = self.options.columns
        given = columns.get("verifier")
        verifier = str(_value(row, given, where)) if given else self.config.verifier or "math"
        if verifier not in self._known_verifiers:
            raise UserError(f"{where}: there is no verifier `{verifier}`", hint=_known(self._known_verifiers))
        prompt = _value(row, columns.get("prompt") or _usual(row, PROMPT_COLUMNS, "prompt", where), where)
        return Problem(
            id=str(_value(row, columns["id"], where)) if "id" in columns else identity,
            source=self.name,
            kind=self.config.kind or "math",
            messages=_messages(prompt, self.config.prompt_suffix, where),
            verifier=verifier,
            answer=self._answer(row, where),
        )

    def _answer(self, row: Mapping[str, Any], where: str) -> Any:
        column = self.options.columns.get("answer") or _usual(row, ANSWER_COLUMNS, "answer", where)
        if isinstance(column, Mapping):
            return {key: _plain(_value(row, name, where)) for key, name in column.items()}
        if column == WHOLE_ROW:
            return _plain(dict(row))
        value = _value(row, column, where)
        if self.options.answer_after:
            value = _text(value, column, where)
            _, mark, value = value.rpartition(self.options.answer_after)
            if not mark:
                raise UserError(f"{where}: `{column}` holds no `{self.options.answer_after}`")
            value = value.strip()
        if self.options.answer_json:
            try:
                value = json.loads(_text(value, column, where))
            except ValueError as error:
                raise UserError(f"{where}: `{column}` is no JSON: {error}") from error
        if value is None or value == "":
            raise UserError(f"{where}: the answer in `{column}` is empty")
        return _plain(value)


def _messages(prompt: Any, suffix: str, where: str) -> tuple[Message, ...]:
    if isinstance(prompt, str) and prompt.strip():
        return (Message("user", prompt + suffix),)
    if not isinstance(prompt, list) or not prompt:
        raise UserError(f"{where}: the prompt is neither a text nor a list of messages")
    turns = []
    for turn in prompt:
        role = _ROLES.get(str(turn.get("role") or turn.get("from"))) if isinstance(turn, Mapping) else None
        content = (turn.get("content") or turn.get("value")) if role else None
        if role is None or not isinstance(content, str):
            raise UserError(f"{where}: {str(turn)[:80]} is no message", hint='messages have "role" and "content"')
        turns.append(Message(role, content))  # type: ignore[arg-type]
    if turns[-1].role != "user":
        raise UserError(f"{where}: the last message is the {turns[-1].role}'s, but a problem ends with the user's")
    return (*turns[:-1], Message("user", turns[-1].content + suffix))


def _usual(row: Mapping[str, Any], names: tuple[str, ...], what: str, where: str) -> str:
    found = next((name for name in names if name in row), None)
    if found is None:
        raise UserError(
            f"{where} has none of the columns {', '.join(names)}",
            hint=f'set `columns = {{ {what} = "..." }}` to one of: {", ".join(row)}',
        )
    return found


def _value(row: Mapping[str, Any], column: str, where: str) -> Any:
    """The value of a column, or of the field that a dotted name points to."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise UserError(f"{where} has no column `{column}`", hint=f"its columns are {', '.join(row)}")
        value = value[part]
    return value


def _text(value: Any, column: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: `{column}` is {value!r}, but a text is needed")
    return value


def _plain(value: Any) -> Any:
    """The value as JSON has it: Parquet's dates, decimals and bytes as texts."""
    return json.loads(json.dumps(value, default=str))


def _known(names: frozenset[str]) -> str:
    return f"known: {', '.join(sorted(names))}"
