"""What runs inside the worker process of `proof` for Metamath: one proof of one theorem of a database."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from .metamath import Database, DatabaseError, ProofError


def judge(job: list[str], mark: Callable[[str], None]) -> list[str]:
    """["proved"], ["refuted", why] or ["unreadable", why]; the database is the task's side."""
    text, file, label, proof = job
    try:
        database = _read_file(file, Path(file).stat().st_mtime_ns) if file else _read_text(text)
        if label not in database.proofs:
            return ["unreadable", f"the database states no theorem {label!r}"]
        mark("candidate")
        database.verify(label, proof)
    except (DatabaseError, OSError, UnicodeDecodeError) as error:
        return ["unreadable", str(error)]
    except ProofError as error:
        return ["refuted", str(error)]
    return ["proved"]


@lru_cache(maxsize=1)
def _read_file(file: str, changed: int) -> Database:
    return Database(Path(file).read_text(encoding="ascii"))


@lru_cache(maxsize=64)
def _read_text(text: str) -> Database:
    return Database(text)
