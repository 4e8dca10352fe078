"""LiveCodeBench's packed tests: base64 of zlib of a pickled text. The text is read out of the pickle's own operations;
nothing is unpickled, since unpickling runs what it is given.

Public: `unpack_text`, `PackedError`.
"""

from __future__ import annotations

import base64
import binascii
import pickletools
import zlib

MAX_TEXT_BYTES = 1 << 28
"""The largest packed tests of the published sets unpack to some 50 MB; far more is a decompression bomb."""
_TEXTS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}
_HARMLESS = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"}


class PackedError(ValueError):
    """It is not a packed text."""


def unpack_text(packed: str) -> str:
    """The text. Raises PackedError for anything but base64 of zlib of a pickle that holds one text and no more."""
    try:
        inflater = zlib.decompressobj()
        pickled = inflater.decompress(base64.b64decode(packed, validate=True), MAX_TEXT_BYTES)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise PackedError(str(error)) from error
    if not inflater.eof:
        raise PackedError(f"cut off, or more than {MAX_TEXT_BYTES} bytes")
    texts: list[str] = []
    try:
        for operation, argument, _ in pickletools.genops(pickled):
            if operation.name in _TEXTS and isinstance(argument, str):
                texts.append(argument)
            elif operation.name not in _HARMLESS:
                raise PackedError(f"the pickle does more than hold a text ({operation.name})")
    except PackedError:
        raise
    except Exception as error:  # pickletools raises what it pleases on a broken pickle
        raise PackedError(f"broken: {error}") from error
    if len(texts) != 1:
        raise PackedError(f"the pickle holds {len(texts)} texts")
    return texts[0]
