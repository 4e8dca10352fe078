"""Plain data in and out of the jail, type for type: what a candidate returns is data, never an object.

`encode` turns None, bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict and the standard
library's Counter, OrderedDict, defaultdict, deque, Decimal and Fraction into JSON values (all but the first
ones and str carry a tag), `decode` is its inverse. Exact types only: a subclass may lie about its own equality,
so it is refused. The module runs on both sides of the wall and imports nothing of ours.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, defaultdict, deque

TYPE_CHECKING = False  # importing `typing` for it would be a tenth of a jail's start
if TYPE_CHECKING:
    from typing import Any

MAX_DEPTH = 60  # far below the recursion limit, far above any honest result
MAX_NODES = 4_000_000  # values in one encoded result
PLAIN_INT_BITS = 63  # larger ints travel as hexadecimal: decimal text is quadratic and capped by Python

_SEQUENCES: dict[type, str] = {list: "l", tuple: "t", set: "s", frozenset: "f", deque: "q"}
_MAPPINGS: dict[type, str] = {dict: "d", Counter: "C", OrderedDict: "O", defaultdict: "D"}
MAPPING_TAGS = frozenset(_MAPPINGS.values())


class CodecError(ValueError):
    """The value is not plain data."""


class CodecSizeError(CodecError):
    """The value is too deep or too large."""


class CodecTypeError(CodecError):
    """The value, or one inside of it, is of a type that is not plain data."""

    def __init__(self, kind: type):
        super().__init__(f"a value of type {kind.__name__} is not plain data")
        self.kind = kind


def encode(value: Any) -> Any:
    """The value as a JSON value. Raises CodecError for anything but plain data of bounded depth and size."""
    return _encode(value, 0, [MAX_NODES])


def _encode(value: Any, depth: int, left: list[int]) -> Any:
    left[0] -= 1
    if depth > MAX_DEPTH or left[0] < 0:
        raise CodecSizeError("the value is too deep or too large")
    kind = type(value)
    if value is None or kind is bool or kind is str or kind is float:
        return value
    if kind is int:
        return value if value.bit_length() <= PLAIN_INT_BITS else ["i", hex(value)]
    if kind is bytes:
        return ["b", value.hex()]
    if kind in _MAPPINGS:
        pairs = [[_encode(k, depth + 1, left), _encode(v, depth + 1, left)] for k, v in dict.items(value)]
        return [_MAPPINGS[kind], pairs]
    if kind in _SEQUENCES:
        return [_SEQUENCES[kind], [_encode(item, depth + 1, left) for item in value]]
    if kind is complex:
        return ["c", [value.real, value.imag]]
    if kind is _loaded("fractions", "Fraction"):
        return ["r", [hex(value.numerator), hex(value.denominator)]]
    if kind is _loaded("decimal", "Decimal"):
        return ["m", str(value)]
    raise CodecTypeError(kind)


def decode(data: Any) -> Any:
    """Inverse of `encode`. Raises CodecError for data that `encode` cannot have made.

    Sets and dicts are built from the data, so decode only trusted data outside the jail: crafted hash
    collisions make building them slow. Untrusted results are read by `compare.matches` instead.
    """
    try:
        return _decode(data, 0)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CodecError(f"unreadable data: {error}") from None


def _decode(data: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise CodecError("the data is too deep")
    if not isinstance(data, list):
        if data is None or isinstance(data, (bool, int, float, str)):
            return data
        raise CodecError("an untagged container")
    tag, body = data
    if tag in _READERS:
        return _READERS[tag](body)
    if tag in MAPPING_TAGS:
        items = {_decode(k, depth + 1): _decode(v, depth + 1) for k, v in body}
        return _BUILDERS[tag](items)
    if tag not in _BUILDERS:
        raise CodecError("an unknown tag")
    return _BUILDERS[tag]([_decode(item, depth + 1) for item in body])


def _default_dict(items: dict) -> defaultdict:
    return defaultdict(None, items)


_BUILDERS: dict[str, Any] = {tag: kind for kind, tag in (_SEQUENCES | _MAPPINGS).items()} | {"D": _default_dict}


def _loaded(module: str, name: str) -> Any:
    """A class of a module that whoever made a value has loaded; loading it here would slow every jail's start."""
    return getattr(sys.modules.get(module), name, None)


def _fraction(body: Any) -> Any:
    from fractions import Fraction

    return Fraction(int(body[0], 16), int(body[1], 16))


def _decimal(body: Any) -> Any:
    from decimal import Decimal

    return Decimal(body)


_READERS: dict[str, Any] = {
    "i": lambda body: int(body, 16),
    "b": bytes.fromhex,
    "c": lambda body: complex(*body),
    "r": _fraction,
    "m": _decimal,
}
