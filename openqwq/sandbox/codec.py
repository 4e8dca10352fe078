"""Plain data in and out of the jail, type for type: what a candidate returns is data, never an object.

`encode` turns None, bool, int, float, str, bytes, list, tuple, set and dict into JSON values (containers
and large ints carry a tag), `decode` is its inverse. Exact types only: a subclass may lie about its own
equality, so it is refused. The module runs on both sides of the wall and imports nothing of ours.
"""

from __future__ import annotations

from typing import Any

MAX_DEPTH = 60  # far below the recursion limit, far above any honest result
MAX_NODES = 400_000  # values in one encoded result
PLAIN_INT_BITS = 63  # larger ints travel as hexadecimal: decimal text is quadratic and capped by Python

_TAGS: dict[type, str] = {list: "l", tuple: "t", set: "s"}


class CodecError(ValueError):
    """The value is not plain data, or is too deep or too large."""


def encode(value: Any) -> Any:
    """The value as a JSON value. Raises CodecError for anything but plain data of bounded depth and size."""
    return _encode(value, 0, [MAX_NODES])


def _encode(value: Any, depth: int, left: list[int]) -> Any:
    left[0] -= 1
    if depth > MAX_DEPTH or left[0] < 0:
        raise CodecError("the value is too deep or too large")
    kind = type(value)
    if value is None or kind is bool or kind is str or kind is float:
        return value
    if kind is int:
        return value if value.bit_length() <= PLAIN_INT_BITS else ["i", hex(value)]
    if kind is bytes:
        return ["b", value.hex()]
    if kind is dict:
        return ["d", [[_encode(k, depth + 1, left), _encode(v, depth + 1, left)] for k, v in value.items()]]
    if kind in _TAGS:
        return [_TAGS[kind], [_encode(item, depth + 1, left) for item in value]]
    raise CodecError(f"a value of type {kind.__name__} is not plain data")


def decode(data: Any) -> Any:
    """Inverse of `encode`. Raises CodecError for data that `encode` cannot have made.

    Sets and dicts are built from the data, so decode only trusted data outside the jail: crafted hash
    collisions make building them slow. Untrusted results are read by `compare.matches` instead.
    """
    try:
        return _decode(data, 0)
    except (TypeError, ValueError) as error:
        raise CodecError(f"unreadable data: {error}") from None


def _decode(data: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise CodecError("the data is too deep")
    if not isinstance(data, list):
        if data is None or isinstance(data, (bool, int, float, str)):
            return data
        raise CodecError("an untagged container")
    tag, body = data
    if tag == "i":
        return int(body, 16)
    if tag == "b":
        return bytes.fromhex(body)
    if tag == "d":
        return {_decode(k, depth + 1): _decode(v, depth + 1) for k, v in body}
    build = {"l": list, "t": tuple, "s": set}.get(tag)
    if build is None:
        raise CodecError("an unknown tag")
    return build([_decode(item, depth + 1) for item in body])
