"""Counting sentences, words and capitalised tokens in English text, deterministically and without data files.

IFEval's checker counts with NLTK (Punkt sentences, `\\w+` words, Treebank tokens). These are small rules of our
own for the same three counts; they agree on ordinary prose, and every pass is linear in the text's length.
"""

from __future__ import annotations

import re

_ABBREVIATIONS = """
    mr mrs ms dr prof sr jr st rev gen sen rep gov capt col lt sgt u.s u.k u.n e.g i.e vs inc ltd co corp bros
    jan feb aug sept oct nov dec a.m p.m ph.d d.c u.s.a
"""
_NO_SENTENCE_END = frozenset(_ABBREVIATIONS.split())
_OPENERS, _CLOSERS, _MARKS = "\"'“‘([{*", "\"'”’)]}*", ".?!"
_WORD = re.compile(r"\w+")

_SPLIT_ALWAYS = re.compile(r"([;@#$%&?!\"“”‘’«»()\[\]{}<>]|--+|\.{3}|…)")
_SPLIT_BEFORE_TEXT = re.compile(r"([:,])(?!\d)")
_CONTRACTION = re.compile(r"(?i)('(?:s|m|d|ll|re|ve)|n't)(?=\s|$)")
_PAIRS = re.compile(r"(?i)\b(can)(not)\b|\b(gim|lem)(me)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b")


def count_sentences(text: str) -> int:
    """How many sentences: runs of words up to one that ends in `.`, `?` or `!`, and what is left at the end.

    Not an end: the full stop of a common abbreviation, of an initial, or of a number before a small letter.
    """
    words = text.split()
    ends = [i for i, word in enumerate(words) if _ends_sentence(word, words[i + 1] if i + 1 < len(words) else "")]
    return len(ends) + (bool(words) and (not ends or ends[-1] != len(words) - 1))


def _ends_sentence(word: str, following: str) -> bool:
    core = word.rstrip(_CLOSERS)
    bare = core.rstrip(_MARKS)
    if len(bare) == len(core):
        return False
    if not following or core[len(bare) :] != ".":
        return True
    bare = bare.lstrip(_OPENERS)
    if bare.casefold() in _NO_SENTENCE_END or (len(bare) == 1 and bare.isalpha() and bare != "I"):
        return False
    return not (bare.isdecimal() and following[0].islower())


def count_words(text: str) -> int:
    r"""How many runs of letters, digits and underscores (`\w+`)."""
    return len(_WORD.findall(text))


def count_capital_tokens(text: str) -> int:
    """How many Treebank-like tokens are all capitals: `DON'T` is two (DO, N'T), `WELL-KNOWN` and `3D` one."""
    text = _SPLIT_ALWAYS.sub(r" \1 ", text)
    text = _SPLIT_BEFORE_TEXT.sub(r" \1 ", text)
    text = _CONTRACTION.sub(r" \1", text)
    text = _PAIRS.sub(lambda match: " ".join(part for part in match.groups() if part), text)
    return sum(token.isupper() for token in text.split())
