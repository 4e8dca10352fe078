"""Bodies with half a surrogate pair, which JSON can spell as an escape and no UTF-8 text can hold: refused at the door.

Public: refuse_half_pairs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TypeAlias

from fastapi import Request

from .errors import field_path, wrong

# Pairs that are whole; then what may be half of one, as an escape or as bytes that Python's reader lets through.
WHOLE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
HALF = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\xed[\xa0-\xbf]")
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
# Where a value lies: the place of what holds it, and its key or position there; None: the body itself.
Place: TypeAlias = "tuple[Place, int | str] | None"


async def refuse_half_pairs(request: Request) -> None:
    """Raises ApiError 400 naming the place of the first half pair in a body's keys and texts.

    Only bodies whose bytes may hold one are looked through.
    """
    raw = await request.body()
    if not _may_hold_one(raw):
        return
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):  # said when the body is read
        return
    for place in _half_pairs(body):
        path: list[int | str] = []
        while place is not None:
            place, key = place
            path.insert(0, key)
        named = field_path(
            [HALF_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", str(k)) if isinstance(k, str) else k for k in path]
        )
        param = path[0] if path and isinstance(path[0], str) else "body"
        raise wrong(param, f"`{named or param}` holds half of a surrogate pair, which no UTF-8 text can")


def _may_hold_one(raw: bytes) -> bool:
    if b"\0" in raw[:4]:  # not in UTF-8, which Python's reader lets through too
        return True
    return bool(HALF.search(raw)) and bool(HALF.search(WHOLE.sub(b"", raw.replace(rb"\\", b"/"))))


def _half_pairs(body: Any) -> Iterator[Place]:
    """Places of texts with half a pair; a key's place is its object."""
    waiting: list[tuple[Place, Any]] = [(None, body)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, str):
            if HALF_CHARACTER.search(value):
                yield place
        elif isinstance(value, list):
            waiting += [((place, i), item) for i, item in enumerate(value) if not isinstance(item, int)]
        elif isinstance(value, dict):
            if any(map(HALF_CHARACTER.search, value)):
                yield place
            waiting += [((place, key), item) for key, item in value.items()]
