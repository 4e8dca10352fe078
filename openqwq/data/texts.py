"""Pretraining documents from several text sources, mixed by share and streamed without end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path

from openqwq.config import TEXT_TYPES, SourceConfig
from openqwq.errors import UserError

from .corpus import CorpusSource
from .keys import item_rng
from .sources.build import ProblemSource


def build_documents(
    configs: Mapping[str, SourceConfig],
    mix: Mapping[str, float],
    problems: Mapping[str, ProblemSource],
    *,
    seed: int,
    exclude: frozenset[str] = frozenset(),
    start: int = 0,
) -> Iterator[str]:
    """Documents without end from position `start`; document i is a function of the seed and i alone.

    exclude: texts of held-out problems, which no generated document states.
    Of a file, position i is document i, counted round and round.
    """
    readers = {name: _reader(name, configs[name], problems, exclude, seed) for name in mix}
    names, weights = list(mix), list(mix.values())
    for position in count(start):
        name = item_rng("corpus", "choice", seed, position).choices(names, weights)[0]
        yield readers[name](position)


def _reader(
    name: str,
    config: SourceConfig,
    problems: Mapping[str, ProblemSource],
    exclude: frozenset[str],
    seed: int,
) -> Callable[[int], str]:
    if config.type not in TEXT_TYPES:
        raise UserError(
            f"source `{name}` of type `{config.type}` holds problems, and pretraining reads texts",
            hint='use a source of type "corpus" or "text"',
        )
    if config.type == "corpus":
        corpus = CorpusSource(name, config, problems, exclude)
        return lambda position: corpus.document(seed, position)
    return TextFile(name, Path(config.path)).document


class TextFile:
    """Documents of a .jsonl file (its "text" field) or of a text file (split at blank lines).

    Only the documents' byte offsets are held in memory: the file is read as it is needed.
    """

    def __init__(self, name: str, path: Path):
        if not path.is_file():
            raise UserError(f"source `{name}`: no file at {path}", hint="set the source's `path`")
        self.path = path
        self._json = path.suffix == ".jsonl"
        self._spans = list(self._find_spans())
        if not self._spans:
            raise UserError(f"source `{name}`: {path} holds no document")

    def document(self, position: int) -> str:
        """The document at this position, counted round and round. Raises UserError for a broken JSON line."""
        begin, end = self._spans[position % len(self._spans)]
        with open(self.path, "rb") as file:
            file.seek(begin)
            text = file.read(end - begin).decode("utf-8", errors="replace")
        if not self._json:
            return text
        try:
            row = json.loads(text)
        except ValueError as error:
            raise UserError(f"{self.path}: the row at byte {begin} is no JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise UserError(f"{self.path}: the row at byte {begin} has no `text`", hint='rows are {"text": "..."}')
        return row["text"]

    def _find_spans(self) -> Iterator[tuple[int, int]]:
        begin = end = 0
        with open(self.path, "rb") as file:
            for line in file:
                blank = not line.strip()
                if blank or self._json:
                    if not blank:
                        yield end, end + len(line)
                    elif end > begin and not self._json:
                        yield begin, end
                    begin = end + len(line)
                end += len(line)
        if end > begin and not self._json:
            yield begin, end
