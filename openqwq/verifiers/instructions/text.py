"""Counting words and capitalised tokens as NLTK does for IFEval's checker, without its data; linear in the length.

The tokens are those of the Penn Treebank: the steps of its tokenizer in their order, which matters.
"""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+")
_STEPS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"([«“‘„]|`+)", r" \1 "),
        (r"(?i)(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", "' "),
        (r"([:,])(\D)", r" \1 \2"),
        (r"(\.{2,}|[;@#$%&?!*\u2012-\u2015]|[\]\[(){}<>]|--)", r" \1 "),
        (r"([^'])' ", r"\1 ' "),
        (r"([»”’\"]|'')", r" \1 "),
        (r"\s+", " "),
        (r"([^' ])('[sSmMdD]|') ", r"\1 \2 "),
        (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", r"\1 \2 "),
        (r"(?i)\b(can)(not)\b", r"\1 \2"),
        (r"(?i)\b(d)('ye)\b", r"\1 \2"),
        (r"(?i)\b(gim|lem)(me)\b", r"\1 \2"),
        (r"(?i)\b(gon|wan)(na)\b", r"\1 \2"),
        (r"(?i)\b(got)(ta)\b", r"\1 \2"),
        (r"(?i)\b(more)('n)\b", r"\1 \2"),
        (r"(?i) ('t)(is|was)\b", r" \1 \2"),
    )
]


def count_words(text: str) -> int:
    r"""How many runs of letters, digits and underscores (`\w+`)."""
    return len(_WORD.findall(text))


def count_capital_tokens(text: str) -> int:
    """How many Treebank tokens are all capitals: `DON'T` is two (DO, N'T), `WELL-KNOWN` and `3D` one."""
    text = f" {text} "
    for pattern, replacement in _STEPS:
        text = pattern.sub(replacement, text)
    return sum(token.isupper() for token in text.split())
