"""The header of a GGUF file, every length and offset checked before it is followed.

Layout: `docs/gguf.md` of ggml. Little endian: magic, version, counts, keys with typed values, then each tensor's name,
shape, type and place; the data begin at the next multiple of the alignment, without gaps. The `gguf` package's own
reader makes an array of each token of the vocabulary and takes forty times as long.

Public: GgufFile, TensorInfo, read_gguf, is_gguf.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openqwq.errors import UserError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
NUMBERS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<B"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
"""The form of a value by the number of its type."""
UINT32, UINT64, FLOAT32, BOOL, TEXT, ARRAY = 4, 10, 6, 7, 8, 9
LEAST_KEY_BYTES = 8 + 4 + 1  # an empty name, a type, a byte
LEAST_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8
MAX_DIMS = 4
MAX_NAME_BYTES = 64
DEFAULT_ALIGNMENT = 32
BLOCKS = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    20: ("IQ4_NL", 32, 18),
    23: ("IQ4_XS", 256, 136),
    30: ("BF16", 1, 2),
}
"""Types of tensors that are read, by their number: name, weights of a block, bytes of a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """Where a tensor is and how it is stored.

    kind:  the type's name, as in BLOCKS. shape: outermost first, as PyTorch has it. start: in bytes, from the file's.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    start: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFile:
    """What a file's header says.

    keys: texts, numbers, booleans and lists of them. digest: of the header's bytes.
    """

    path: Path
    keys: dict[str, Any]
    tensors: dict[str, TensorInfo]
    digest: str


def is_gguf(path: Path) -> bool:
    """Whether a file begins as a GGUF does, or is called one."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return path.suffix == ".gguf" or file.read(4) == MAGIC


def read_gguf(path: Path) -> GgufFile:
    """The header of a file. Raises UserError for what is no whole GGUF file that can be read here."""
    try:
        with open(path, "rb") as file:
            if file.read(4) != MAGIC:
                raise UserError(f"{path} is no GGUF file: it does not begin with `GGUF`", hint="download it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Header(path, data).read()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


class _Header:
    """A place in a file's bytes that only moves forward and never beyond their end."""

    def __init__(self, path: Path, data: mmap.mmap):
        self.path, self.data, self.place = path, data, len(MAGIC)

    def read(self) -> GgufFile:
        version = self.number(UINT32)
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            what = "is big-endian" if swapped in VERSIONS else f"has the GGUF version {version}"
            raise UserError(
                f"{self.path} {what}, but versions 2 and 3, little-endian, are read", hint="convert it anew"
            )
        num_tensors, num_keys = self.count(LEAST_TENSOR_BYTES, "tensors"), self.count(LEAST_KEY_BYTES, "keys")
        keys: dict[str, Any] = {}
        for _ in range(num_keys):
            name = self.text("a key's name")
            if name in keys:
                raise self.damaged(f"the key `{name}` is there twice")
            keys[name] = self.value(name, self.number(UINT32))
        alignment = keys.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self.damaged(f"`general.alignment` is {alignment!r:.80}, but must be a power of two")
        found = [self.tensor() for _ in range(num_tensors)]
        digest = hashlib.sha256(self.data[: self.place]).hexdigest()
        start = _align(self.place, alignment)
        return GgufFile(path=self.path, keys=keys, tensors=self.placed(found, start, alignment), digest=digest)

    def placed(self, found: list[tuple[TensorInfo, int]], start: int, alignment: int) -> dict[str, TensorInfo]:
        """The tensors by name, from the data's start; they must lie one behind the other up to the file's end."""
        tensors: dict[str, TensorInfo] = {}
        expected = end = 0
        for info, offset in found:
            if info.name in tensors:
                raise self.damaged(f"the tensor `{info.name}` is there twice")
            if offset != expected:
                raise self.damaged(f"`{info.name}` is said to begin at byte {offset}, but must at {expected}")
            end = offset + info.num_bytes
            expected = _align(end, alignment)
            tensors[info.name] = TensorInfo(
                name=info.name, kind=info.kind, shape=info.shape, start=start + offset, num_bytes=info.num_bytes
            )
        if start + end > len(self.data):
            raise self.cut_off(start + end)
        return tensors

    def tensor(self) -> tuple[TensorInfo, int]:
        """The next tensor's description, and its offset from the start of the data."""
        name = self.text("a tensor's name", MAX_NAME_BYTES)
        num_dims = self.number(UINT32)
        if not 1 <= num_dims <= MAX_DIMS:
            raise self.damaged(f"`{name}` has {num_dims} dimensions, but 1 to {MAX_DIMS} are allowed")
        shape = tuple(self.number(UINT64) for _ in range(num_dims))[::-1]
        number, offset = self.number(UINT32), self.number(UINT64)
        if number not in BLOCKS:
            known = ", ".join(kind for kind, _, _ in BLOCKS.values())
            raise UserError(
                f"`{name}` in {self.path} is of the type {_kind_name(number)}, which is not supported",
                hint=f"use a file with the types {known}",
            )
        kind, weights, num_bytes = BLOCKS[number]
        if min(shape) < 1 or shape[-1] % weights:
            raise self.damaged(f"`{name}` has the shape {list(shape)}, but rows of {kind} are of {weights} weights")
        total = math.prod(shape) // weights * num_bytes
        return TensorInfo(name=name, kind=kind, shape=shape, start=0, num_bytes=total), offset

    def value(self, name: str, kind: int) -> Any:
        """The value of a key."""
        if kind == TEXT:
            return self.text(f"`{name}`")
        if kind == ARRAY:
            return self.array(name)
        if kind not in NUMBERS:
            raise self.damaged(f"`{name}` has a value of the unknown type {kind}")
        return bool(self.number(kind)) if kind == BOOL else self.number(kind)

    def array(self, name: str) -> list[Any]:
        kind = self.number(UINT32)
        if kind == TEXT:
            return [self.text(f"`{name}`") for _ in range(self.count(8, f"values of `{name}`"))]
        if kind not in NUMBERS:
            raise self.damaged(f"`{name}` is an array of the unknown type {kind}")
        form = NUMBERS[kind]
        number = self.count(form.size, f"values of `{name}`")
        start = self.take(number * form.size)
        return np.frombuffer(self.data[start : self.place], form.format).tolist()

    def number(self, kind: int) -> Any:
        form = NUMBERS[kind]
        [value] = form.unpack_from(self.data, self.take(form.size))
        return _shortest(value) if kind == FLOAT32 else value

    def count(self, least_bytes: int, what: str) -> int:
        """A number of things that each take at least so many bytes of what is left."""
        number = self.number(UINT64)
        if number * least_bytes > len(self.data) - self.place:
            raise UserError(
                f"{self.path} is said to have {number} {what}, which are more than its {len(self.data)} bytes hold",
                hint="it is cut off or damaged: download it again",
            )
        return number

    def text(self, what: str, longest: int | None = None) -> str:
        length = self.number(UINT64)
        if longest is not None and length > longest:
            raise self.damaged(f"{what} has {length} bytes, but at most {longest} are allowed")
        start = self.take(length)
        try:
            return self.data[start : self.place].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.damaged(f"{what} is no UTF-8") from error

    def take(self, size: int) -> int:
        """Where the next bytes start, having gone past them."""
        if size > len(self.data) - self.place:
            raise self.cut_off(self.place + size)
        self.place += size
        return self.place - size

    def cut_off(self, needed: int) -> UserError:
        return UserError(
            f"{self.path} is cut off: it has {len(self.data)} bytes, and at least {needed} are needed",
            hint="download or copy it again",
        )

    def damaged(self, what: str) -> UserError:
        return UserError(f"{self.path} is damaged: {what}", hint="download or convert it again")


def _align(place: int, alignment: int) -> int:
    return -(-place // alignment) * alignment


def _shortest(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-05 instead of 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _kind_name(number: int) -> str:
    from gguf import GGMLQuantizationType

    return next((kind.name for kind in GGMLQuantizationType if kind.value == number), str(number))
