"""Does an encoded result equal the expected value? Decided outside the jail, on plain data.

The expected value leads: hash lookups happen only in containers that we built, so a result crafted with
colliding hashes costs no more than an honest one.
"""

from __future__ import annotations

import math
from typing import Any

from openqwq.sandbox.codec import MAX_DEPTH, CodecError

REL_TOL = 1e-6  # results of different but right orders of float operations agree far better than this
ABS_TOL = 1e-9

_SHAPES: dict[type, tuple[str, type]] = {
    list: ("l", list),
    tuple: ("t", list),
    set: ("s", list),
    dict: ("d", list),
    bytes: ("b", str),
}


def matches(expected: Any, result: Any, depth: int = 0) -> bool:
    """Whether `result` (as `codec.encode` gives it) is the expected value, type for type.

    A bool is no int, a list no tuple. An expected float accepts an int and a relative error of 1e-6;
    an expected int accepts no float. Data that no encoder makes is simply unequal.
    """
    if depth > MAX_DEPTH:
        return False
    kind = type(expected)
    if expected is None or kind in (bool, str):
        return type(result) is kind and result == expected
    if kind is int:
        return _as_int(result) == expected
    if kind is float:
        return _close(expected, result)
    body = _body(kind, result)
    if body is None:
        return False
    if kind is bytes:
        return body == expected.hex()
    if len(body) != len(expected):
        return False
    if kind in (list, tuple):
        return all(matches(e, r, depth + 1) for e, r in zip(expected, body, strict=True))
    if kind is set:
        return _members_match(dict.fromkeys(expected), [[item, None] for item in body], depth)
    return _members_match(expected, body, depth)


def _as_int(result: Any) -> int | None:
    if type(result) is int:
        return result
    if isinstance(result, list) and len(result) == 2 and result[0] == "i" and isinstance(result[1], str):
        try:
            return int(result[1], 16)
        except ValueError:
            return None
    return None


def _close(expected: float, result: Any) -> bool:
    if type(result) is not float:
        whole = _as_int(result)
        if whole is None:
            return False
        try:
            result = float(whole)
        except OverflowError:
            return False
    if math.isnan(expected):
        return math.isnan(result)
    return math.isclose(expected, result, rel_tol=REL_TOL, abs_tol=ABS_TOL)


def _body(kind: type, result: Any) -> Any:
    """The contents of a tagged container of this kind, or None."""
    tag, shape = _SHAPES[kind]
    if isinstance(result, list) and len(result) == 2 and result[0] == tag and isinstance(result[1], shape):
        return result[1]
    return None


def _members_match(expected: dict, pairs: list, depth: int) -> bool:
    """Every key of the result is a distinct key of `expected`, type for type, with a matching value."""
    keys = {key: key for key in expected}
    seen = set()
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2):
            return False
        try:
            key = keys.get(_hashable(pair[0], depth + 1))
            if key not in expected or not matches(key, pair[0], depth + 1):
                return False
        except CodecError:
            return False
        if key in seen or not matches(expected[key], pair[1], depth + 1):
            return False
        seen.add(key)
    return True


def _hashable(data: Any, depth: int) -> Any:
    """The encoded scalar or tuple as a Python value to look up."""
    if depth > MAX_DEPTH:
        raise CodecError("the data is too deep")
    if not isinstance(data, list):
        return data if not isinstance(data, dict) else None
    whole = _as_int(data)
    if whole is not None:
        return whole
    if len(data) == 2 and data[0] == "t" and isinstance(data[1], list):
        return tuple(_hashable(item, depth + 1) for item in data[1])
    if len(data) == 2 and data[0] == "b" and isinstance(data[1], str):
        try:
            return bytes.fromhex(data[1])
        except ValueError:
            raise CodecError("bytes that are no hexadecimal") from None
    raise CodecError("not a key")
