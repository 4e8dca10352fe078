"""Sizes and checksums of files, so that what the disk changed is seen before it is computed with.

Public: checksum, record_sum, FinishedStages.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from openqwq.errors import UserError
from openqwq.log import read_json, torn_file, write_text_atomic

_CHUNK_BYTES = 1 << 20

Sum = dict[str, int]
"""{"bytes", "crc32"} of a file."""


def checksum(path: Path) -> Sum:
    """The size and the CRC-32 of a file, about a second for 1 to 3 GB."""
    crc, size = 0, 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
    return {"bytes": size, "crc32": crc}


def record_sum(record: Any) -> int:
    """The checksum of a JSON value, to be stored next to it."""
    return zlib.crc32(json.dumps(record).encode())


class FinishedStages:
    """`finished.json` of a run: for each finished stage, the sums of the files that later stages start from."""

    def __init__(self, run_folder: Path):
        self.run_folder = run_folder
        self.file = run_folder / "finished.json"

    def write(self, stage: str, paths: Iterable[Path]) -> None:
        """Note what a stage has left: its files, and all files of its folders. Those that do not exist are left out."""
        files = (file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*"))))
        sums = {str(file.relative_to(self.run_folder)): checksum(file) for file in files if file.is_file()}
        self._write({**(self._read() if self.file.exists() else {}), stage: sums})

    def forget(self, stage: str) -> None:
        """The stage is run again: what it has left may change."""
        if self.file.exists():
            finished = self._read()
            if finished.pop(stage, None) is not None:
                self._write(finished)

    def check_present(self, stage: str) -> None:
        """As `check`, of those files of one stage that are there: the others are made again, or were not copied."""
        for name, expected in (self._read() if self.file.exists() else {}).get(stage, {}).items():
            if (self.run_folder / name).exists():
                self._check_file(stage, self.run_folder / name, expected)

    def check(self, stages: Iterable[str]) -> None:
        """Raise UserError naming the first file of these stages that is missing or is not what was written."""
        stages = list(stages)
        if not stages:
            return
        if not self.file.exists():
            raise torn_file(self.file, "it is missing, and names what the finished stages have left")
        finished = self._read()
        for stage in stages:
            if stage not in finished:
                raise torn_file(self.file, f"it says nothing of the finished stage `{stage}`")
            for name, expected in finished[stage].items():
                self._check_file(stage, self.run_folder / name, expected)

    def _check_file(self, stage: str, file: Path, expected: Sum) -> None:
        hint = "put a copy of it back, or start anew in another folder"
        if not file.is_file():
            raise UserError(f"{file} is missing, which stage `{stage}` has written", hint=hint)
        if checksum(file) != expected:
            raise UserError(f"{file} is not what stage `{stage}` has written: its checksum differs", hint=hint)

    def _read(self) -> dict[str, dict[str, Sum]]:
        sealed = read_json(self.file)
        finished = sealed.get("stages")
        if sealed.get("crc32") != record_sum(finished) or not isinstance(finished, dict):
            raise torn_file(self.file, "it is not what was written")
        return finished

    def _write(self, finished: dict[str, dict[str, Sum]]) -> None:
        sealed = {"crc32": record_sum(finished), "stages": finished}
        write_text_atomic(self.file, json.dumps(sealed, indent=1) + "\n")
