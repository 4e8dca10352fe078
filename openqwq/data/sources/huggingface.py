"""Problems from a data set of the Hugging Face hub, or from a folder in the same layout.

    [source.gsm8k]
    type = "huggingface"
    dataset = "openai/gsm8k"                     # or `path = "FOLDER"`
    config = { subset = "main", held_out_split = "test", answer_after = "####" }

Public: `HuggingFaceSource`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from openqwq.config import SourceConfig
from openqwq.errors import UserError
from openqwq.rows import RowError
from openqwq.types import Problem

from .finite import FiniteSource, cut_parts
from .hub_files import HubFiles
from .options import read_options
from .problem_rows import RowOptions, RowReader


@dataclass(frozen=True, kw_only=True)
class HubOptions(RowOptions):
    """The table `config` of a source of type "huggingface"."""

    subset: str = ""
    """The data set's configuration; empty: its default one."""
    split: str = "train"
    """The split that is trained on."""
    held_out_split: str = ""
    """The split that is evaluated on, every other row of it by the gate; empty: a tenth each of `split`."""
    revision: str = ""
    """Branch, tag or commit on the hub; empty: the newest."""


class HuggingFaceSource(FiniteSource):
    """The rows of a split as problems, in the data set's order."""

    def __init__(self, name: str, config: SourceConfig):
        options = read_options(HubOptions, config.config, f"source.{name}.config")
        if bool(config.dataset) == bool(config.path):
            both = "both `dataset` and `path` are" if config.path else "neither `dataset` nor `path` is"
            raise UserError(f"source `{name}`: {both} set", hint='e.g. `dataset = "openai/gsm8k"`')
        reader = RowReader(name, config, options, reads_names=False)
        files = _find_files(name, config, options)
        problems = _read_split(reader, files, options, options.split)
        if options.held_out_split:
            unseen = _read_split(reader, files, options, options.held_out_split)
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


def _read_split(reader: RowReader, files: HubFiles, options: HubOptions, split: str) -> list[Problem]:
    """The problems of a split. Raises UserError for the first row that is not a problem."""
    problems = []
    for number, (where, row) in enumerate(files.rows(options.subset, split)):
        try:
            problems.append(reader.read(row, f"{reader.name}/{split}/{number}"))
        except RowError as error:
            raise UserError(error.of(where)) from error
    return problems
