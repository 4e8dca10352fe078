"""Does an encoded result equal the expected value? Decided outside the jail, on plain data.

The expected value leads: hash lookups happen only in containers that we built, so a result crafted with
colliding hashes costs no more than an honest one.

Public: matches, matches_json.
"""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

from .inside.codec import MAPPING_TAGS, MAX_DEPTH, CodecError, encode

REL_TOL = 1e-6  # results of different but right orders of float operations agree far better than this
ABS_TOL = 1e-9
MAX_KEY_ITEMS = 1000  # of a frozenset among keys, which is built from the result: quadratic at worst
MAX_INTEGER_KEY = 10**1000  # Python writes longer ones only where a limit of its own is lifted

_LISTS = frozenset("lt")
_TAGS: dict[type, frozenset[str]] = {
    list: frozenset("l"),
    tuple: frozenset("t"),
    set: frozenset("s"),
    frozenset: frozenset("f"),
    deque: frozenset("q"),
    **dict.fromkeys((dict, Counter, OrderedDict, defaultdict), MAPPING_TAGS),  # Python compares these as dicts too
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
    if kind is complex:
        parts = _body(frozenset("c"), result)
        return bool(parts) and len(parts) == 2 and all(map(_close, (expected.real, expected.imag), parts))
    if kind not in _TAGS:  # bytes, Decimal, Fraction: one value has one form
        return result == encode(expected)
    body = _body(_TAGS[kind], result)
    if body is None or len(body) != len(expected):
        return False
    if kind in (list, tuple, deque):
        return all(matches(e, r, depth + 1) for e, r in zip(expected, body, strict=True))
    if kind in (set, frozenset):
        return _members_match(dict.fromkeys(expected), [[item, None] for item in body], depth)
    return _members_match(expected, body, depth)


def matches_json(expected: Any, result: Any, depth: int = 0) -> bool:
    """Whether `result` is the expected value as far as JSON, in which the tests are written, can say it.

    A tuple is a list, a float without a fraction an integer (3.0 for 3), a key that is no text (1, -2.5, True, None)
    the text that JSON makes of it; a bool is still no integer. What JSON cannot say is compared as by `matches`.
    """
    if depth > MAX_DEPTH:
        return False
    kind = type(expected)
    if kind is int and type(result) is float:
        return result == expected
    if kind in (list, tuple):
        body = _body(_LISTS, result)
        if body is None or len(body) != len(expected):
            return False
        return all(matches_json(e, r, depth + 1) for e, r in zip(expected, body, strict=True))
    if kind is dict:
        return _objects_match(expected, _body(MAPPING_TAGS, result), depth)
    return matches(expected, result, depth)


def _objects_match(expected: dict, pairs: list | None, depth: int) -> bool:
    if pairs is None or len(pairs) != len(expected):
        return False
    found: dict[str, Any] = {}
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2):
            return False
        key = _key_as_text(pair[0])
        if key is None or key in found:
            return _members_match(expected, pairs, depth)
        found[key] = pair[1]
    texts = {_key_as_text(key): value for key, value in expected.items()}
    return found.keys() == texts.keys() and all(matches_json(texts[k], found[k], depth + 1) for k in found)


def _key_as_text(key: Any) -> str | None:
    """The text that JSON makes of a key; None for what it has no text for."""
    if type(key) is str:
        return key
    whole = _as_int(key)
    if whole is not None:
        return str(whole) if abs(whole) < MAX_INTEGER_KEY else None
    return json.dumps(key) if key is None or type(key) in (bool, float) else None


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


def _body(tags: frozenset[str], result: Any) -> Any:
    """The contents of a container with one of these tags, or None."""
    if isinstance(result, list) and len(result) == 2 and isinstance(result[0], str) and result[0] in tags:
        return result[1] if isinstance(result[1], list) else None
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
    """The encoded scalar, tuple or frozenset as a Python value to look up."""
    if depth > MAX_DEPTH:
        raise CodecError("the data is too deep")
    if not isinstance(data, list):
        return data if not isinstance(data, dict) else None
    whole = _as_int(data)
    if whole is not None:
        return whole
    if len(data) == 2 and data[0] == "t" and isinstance(data[1], list):
        return tuple(_hashable(item, depth + 1) for item in data[1])
    if len(data) == 2 and data[0] == "f" and isinstance(data[1], list) and len(data[1]) <= MAX_KEY_ITEMS:
        return frozenset(_hashable(item, depth + 1) for item in data[1])
    if len(data) == 2 and data[0] == "b" and isinstance(data[1], str):
        try:
            return bytes.fromhex(data[1])
        except ValueError:
            raise CodecError("bytes that are no hexadecimal") from None
    raise CodecError("not a key")
