"""Logs for people on stderr, and `metrics.jsonl` for machines. Nothing is configured on import."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

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
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False, allow_nan=True) + "\n")


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Every whole line of a JSON-lines file; a torn last line (a killed writer) is left out."""
    rows = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n") and line.strip():
                rows.append(json.loads(line))
    return rows


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write a whole file or nothing: a temporary file beside it, synced, then renamed."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
