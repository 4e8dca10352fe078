"""Which tokens hold letters of a script, so that an answer can be kept to some: masks over the vocabulary.

Letters of other scripts are forbidden; digits, signs and spaces are nobody's. A token that cuts a character apart is
forbidden when letters begin with its bytes, and none of an allowed script; what follows such bytes never is.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from functools import cache

SCRIPTS = {
    "latin": ("LATIN", "FEMININE", "MASCULINE", "MICRO", "KELVIN", "ANGSTROM"),
    "greek": ("GREEK",),
    "cyrillic": ("CYRILLIC",),
    "han": ("CJK", "IDEOGRAPHIC"),
    "japanese": ("HIRAGANA", "KATAKANA", "CJK", "IDEOGRAPHIC", "KATAKANA-HIRAGANA", "HALFWIDTH"),
    "hangul": ("HANGUL",),
    "arabic": ("ARABIC",),
    "hebrew": ("HEBREW",),
    "devanagari": ("DEVANAGARI",),
    "thai": ("THAI",),
}
"""First words of Unicode names of the letters that each script allows."""


def forbidden_tokens(scripts: Iterable[str], vocab_size: int, token_bytes: Callable[[int], bytes]) -> list[int]:
    """Ids of the tokens that hold, or begin, a letter of no allowed script."""
    words = frozenset(word for script in scripts for word in SCRIPTS[script])
    return [token for token in range(vocab_size) if not _allowed(token_bytes(token), words)]


def _allowed(data: bytes, words: frozenset[str]) -> bool:
    start = 0
    while start < len(data) and 0x80 <= data[start] < 0xC0:  # the rest of a character begun by an allowed token
        start += 1
    while start < len(data):
        size = _utf8_size(data[start])
        piece = data[start : start + size]
        letters = _letter_words(piece, size)
        if letters and not letters & words:
            return False
        start += size
    return True


@cache
def _letter_words(piece: bytes, size: int) -> frozenset[str]:
    """First words of the names of the letters that are, or begin with, these bytes.

    Where more than one byte is missing, every 16th character is looked at: blocks of letters are larger.
    """
    missing = size - len(piece)
    words = set()
    for number in range(0, 64**missing, 16 if missing > 1 else 1):
        rest = bytes(0x80 | (number >> (6 * i) & 0x3F) for i in reversed(range(missing)))
        try:
            character = (piece + rest).decode("utf-8")
        except UnicodeDecodeError:  # overlong forms and surrogates
            continue
        if character.isalpha():
            words.add(unicodedata.name(character, "").partition(" ")[0])
    return frozenset(words)


def _utf8_size(first: int) -> int:
    return 1 if first < 0xC0 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
