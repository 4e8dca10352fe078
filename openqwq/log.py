"""Logs for people on stderr, and `metrics.jsonl` for machines. Nothing is configured on import."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openqwq.errors import UserError

logger = logging.getLogger("openqwq")


class StderrHandler(logging.Handler):
    """Writes each line to what `sys.stderr` is at that moment: a progress bar puts itself in between."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line."""
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


def setup_logging(level: int = logging.INFO) -> None:
    """Send the package's log to stderr as plain lines; called by the command line only."""
    handler = StderrHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


def counted(number: int, noun: str) -> str:
    """ "1 thread", "2 threads"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def append_jsonl(path: str | Path, row: dict[str, Any]) -> None:
    """Append one JSON line and hand it to the operating system before returning."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=True) + "\n")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Every whole line of a file of JSON objects; a torn last line (a killed writer) is left out.

    Raises UserError naming the file and the line for any other line that is no object.
    """
    return list(_read_rows(Path(path)))


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n") or not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise torn_file(path, f"line {number} is no JSON ({error})") from None
            if not isinstance(row, dict):
                raise torn_file(path, f"line {number} is no object")
            yield row


def read_json(path: str | Path, *, kind: type = dict) -> Any:
    """The value of a JSON file that this package wrote. Raises UserError for one that is torn or holds another kind."""
    path = Path(path)
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise torn_file(path, f"it is no JSON ({error})") from None
    if not isinstance(value, kind):
        raise torn_file(path, f"it holds a {type(value).__name__} and no {kind.__name__}")
    return value


def torn_file(path: str | Path, why: str) -> UserError:
    """The error for a file of a run that is not what was written."""
    return UserError(f"{path} is damaged: {why}", hint="put a copy of it back, or start anew in another folder")


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write a whole file or nothing: a temporary file beside it, synced, then renamed."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error
