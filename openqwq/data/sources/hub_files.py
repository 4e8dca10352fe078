"""The rows of a data set in the Hugging Face hub's layout: on the hub, in its cache, or in a folder on this machine.

Which files belong to a split is found as the hub finds it: from `configs` in the head of README.md, else from the
files' names (`train.jsonl`, `data/train-00000-of-00002.parquet`, `main/test/part.json`).

Public: `HubFiles`, `read_data_file`.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any

from openqwq.errors import UserError
from openqwq.log import logger

FORMATS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv")
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words by which files name the usual splits (datasets' documentation, "Structure your repository")."""


class HubFiles:
    """One data set: its file names, and a way to have each of them on this machine.

    where: for messages.
    """

    def __init__(self, where: str, names: Sequence[str], fetch: Callable[[str], Path]):
        self.where, self._names, self._fetch = where, sorted(names), fetch
        self._configs = self._read_configs()

    @classmethod
    def in_folder(cls, folder: Path) -> HubFiles:
        """The data set in a folder."""
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        return cls(str(folder), names, lambda name: folder / name)

    @classmethod
    def on_hub(cls, repository: str, revision: str = "") -> HubFiles:
        """The data set of that name; without a connection the copy that was downloaded before, and the log says so.

        Raises UserError when there is neither.
        """
        from huggingface_hub import HfApi, hf_hub_download

        at = revision or "main"
        try:
            info = HfApi().dataset_info(repository, revision=at)
            names = [sibling.rfilename for sibling in info.siblings or ()]
        except Exception as error:  # the hub client raises its own, its HTTP library's and the system's errors
            folder = _cached(repository, at)
            if folder is None or _is_refusal(error):
                raise _unreachable(repository, revision, error) from error
            logger.warning("the hub does not answer: taking %s as it was downloaded before, at %s", repository, folder)
            return cls.in_folder(folder)

        def fetch(name: str) -> Path:
            try:
                return Path(hf_hub_download(repository, name, repo_type="dataset", revision=at))
            except Exception as error:
                raise _unreachable(repository, revision, error) from error

        return cls(f"{repository} on the hub", names, fetch)

    def rows(self, subset: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(place for messages, row) of every row of the split, file by file.

        subset: one of the data set's configurations; empty: its default one. Raises UserError for names that it has
        not, and for rows that cannot be read.
        """
        for name in self._files_of(subset, split):
            yield from read_data_file(self._fetch(name), f"{self.where}, {name}")

    def _read_configs(self) -> dict[str, dict[str, Any]]:
        """Subset -> its entry in the head of README.md."""
        if "README.md" not in self._names:
            return {}
        from huggingface_hub.repocard import metadata_load

        try:
            head = metadata_load(self._fetch("README.md")) or {}
        except ValueError as error:
            raise UserError(f"README.md of {self.where} has a head that is no YAML: {error}") from error
        entries = head.get("configs") or []
        return {str(e.get("config_name", "default")): e for e in entries if isinstance(e, dict) and e.get("data_files")}

    def _files_of(self, subset: str, split: str) -> list[str]:
        found = self._declared(subset) if self._configs else self._named(subset)
        if split not in found:
            raise UserError(
                f"{self.where} has no split `{split}`{f' in its subset `{subset}`' if subset else ''}",
                hint=f"it has {', '.join(sorted(found)) or 'no data in a format that is read here'}",
            )
        return found[split]

    def _declared(self, subset: str) -> dict[str, list[str]]:
        """Split -> files, as README.md has them."""
        names = list(self._configs)
        default = next((n for n in names if self._configs[n].get("default")), "default" if "default" in names else "")
        chosen = subset or default or (names[0] if len(names) == 1 else "")
        if chosen not in self._configs:
            asked = f"has no subset `{subset}`" if subset else "has several subsets"
            raise UserError(f"{self.where} {asked}", hint=f"set `subset` to one of {', '.join(names)}")
        entry = self._configs[chosen]
        files, folder = entry["data_files"], str(entry.get("data_dir") or "").strip("/")
        parts = files if isinstance(files, list) and files and isinstance(files[0], dict) else [{"path": files}]
        found: dict[str, list[str]] = {}
        for part in parts:
            patterns = part["path"] if isinstance(part["path"], list) else [part["path"]]
            own = [n for n in self._names if any(_matches(n, f"{folder}/{p}" if folder else p) for p in patterns)]
            found.setdefault(str(part.get("split", "train")), []).extend(own)
        return found

    def _named(self, subset: str) -> dict[str, list[str]]:
        """Split -> files by their names; files that name no split are all "train"."""
        data = [n for n in self._names if _format_of(n)]
        if subset:
            data = [n for n in data if subset in Path(n).parts[:-1]]
        found: dict[str, list[str]] = {}
        for name in data:
            words = re.split(r"[^a-z0-9]+", name.lower())
            for split, known in SPLIT_WORDS.items():
                if any(word in known for word in words):
                    found.setdefault(split, []).append(name)
                    break
        return found or ({"train": data} if data else {})


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern of the hub names the file: `*` crosses no matter what, `**/` may be nothing at all."""
    return fnmatch(name, pattern) or fnmatch(name, pattern.replace("**/", ""))


def _format_of(name: str) -> str:
    suffix = Path(name.removesuffix(".gz")).suffix.lower()
    return suffix if suffix in FORMATS else ""


def read_data_file(path: Path, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place for messages, row) of every row of one file. Raises UserError for a file or row that cannot be read."""
    kind = _format_of(path.name)
    if not kind:
        raise UserError(f"{where} is in no format that is read here", hint=f"formats: {', '.join(FORMATS)}")
    if kind == ".parquet":
        numbered: Iterator[tuple[int, Any]] = enumerate(_read_parquet(path, where), 1)
    else:
        numbered = _read_text(path, kind, where)
    for number, row in numbered:
        if not isinstance(row, dict):
            raise UserError(f"{where}: row {number} is no table of columns but {type(row).__name__}")
        yield f"{where}, row {number}", row


def _read_text(path: Path, kind: str, where: str) -> Iterator[tuple[int, Any]]:
    try:
        with _open_text(path) as file:
            if kind == ".csv":
                yield from enumerate(csv.DictReader(file), 1)
            elif kind == ".json" and _first_character(file) == "[":
                yield from enumerate(json.load(file), 1)
            else:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, json.loads(line)
    except (ValueError, EOFError, OSError, csv.Error) as error:
        raise UserError(f"{where} cannot be read: {error}") from error


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return open(path, encoding="utf-8", newline="")


def _first_character(file: IO[str]) -> str:
    start = file.read(1)
    while start and start.isspace():
        start = file.read(1)
    file.seek(0)
    return start


def _read_parquet(path: Path, where: str) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{where} is a Parquet file, which needs pyarrow", hint="pip install 'openqwq[hub]'") from error
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{where} cannot be read: {error}") from error


def _cached(repository: str, revision: str) -> Path | None:
    """The newest downloaded state of that revision in the hub client's cache, as its documentation lays it out."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"datasets--{repository.replace('/', '--')}"
    reference = folder / "refs" / revision
    snapshot = folder / "snapshots" / (reference.read_text().strip() if reference.is_file() else revision)
    return snapshot if snapshot.is_dir() else None


def _is_refusal(error: Exception) -> bool:
    """Whether the hub answered: then what was downloaded before is not what was asked for."""
    return getattr(error, "response", None) is not None


def _unreachable(repository: str, revision: str, error: Exception) -> UserError:
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    at = f" at revision `{revision}`" if revision else ""
    return UserError(
        f"the data set `{repository}`{at} could not be downloaded: {reason}",
        hint="check the name, the network and, for a gated one, `hf auth login`; or set `path` to a folder with it",
    )
