"""Counting sentences as IFEval's checker does: Punkt's decisions (Kiss and Strunk, 2006) with a small English model.

Public: `count_sentences`, `Punkt`, `read_punkt`. The official checker loads NLTK's English model. Its abbreviations
and its words that start sentences are here; of its statistics on capital letters (20,000 words) stays the rule that
they follow: words of the grammar start a sentence when they are capitalised, names may not. Who has NLTK's model can
give it, and has the official counts to the last one. Linear in the text's length.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from openqwq.errors import UserError

_ABBREVIATION_LIST = """
    ct m.j t a.c n.h ms p.a.m dr pa p.m u.k st dec u.s.a lt g.k adm p h.m ga tenn yr sen n.c j.j d.h s.g inc vs s.p.a
    a.t n feb sr jan s.a.y n.y col g.f c.o.m.b d ft va r.k e.f chg r.i a.g minn a.h k n.j m l.f f.j gen i.m.s s.a aug
    j.p okla m.d.c ltd oct s vt r.a j.c ariz w.w b.v ore h w.r e.h mrs cie corp w n.v a.d r.j ok e.m w.c ill nov u.s
    prof conn u.s.s.r mg f.g ph.d g calif messrs h.f wash tues sw bros u.n l wis mr sep d.c ave e.l co s.s reps c r.t
    h.c r wed a.s v fla jr r.h c.v m.b.a rep a.a e c.i.t l.a b.f j.b d.w j.k ala f w.va sept mich n.m j.r l.p s.c colo
    fri a.m g.d kan maj ky a.m.e n.d t.j cos nev
"""
_STARTER_LIST = """
    most he since so both these it nevertheless this indeed however instead under similarly some though while when in
    despite although nonetheless thus there if the nor separately moreover but they yet many according sales among
    meanwhile even i
"""
_GRAMMAR_LIST = """
    a about after again all also an and another any are as at be because before being by can could did do does each
    every everyone few finally first for from had has have her here his how its just last later let like many may maybe
    more much must my never next no not now of often on once one only or other our out over perhaps please several she
    should such that their them then therefore those three to two was we well were what where whether which who why
    will with within without would you your
"""
_ABBREVIATIONS = frozenset(_ABBREVIATION_LIST.split())
_STARTERS = frozenset(_STARTER_LIST.split())
_COMMON = _STARTERS | frozenset(_GRAMMAR_LIST.split())
_AFTER_END = ")\";}]*:@'({[?!"
_WORD_END = r"""[)";}\]*:@'({\[?!] | -{2,} | \.{2,}"""
_TOKEN = re.compile(
    rf"""-{{2,}} | \.{{2,}} | [^("`{{\[:;&\#*@)}}\]\-,] \S*? (?= $ | {_WORD_END} | ,(?: $ | {_WORD_END} ) ) | \S""",
    re.VERBOSE,
)
_NUMBER = re.compile(r"-?[.,]?\d[\d,.-]*\.?")
NUMBER = "##number##"
MAX_TOKEN_CHARACTERS = 200
"""A run of characters without white space is only read at its end when it is longer: no word is."""


_UPPER_MIDDLE, _UPPER, _LOWER_BEGIN, _LOWER = 4, 14, 16, 112
"""How a word was met: as bits (upper case at the beginning, in the middle, elsewhere; then lower case likewise)."""


@dataclass(frozen=True, slots=True)
class Punkt:
    """NLTK's statistics of a language; `contexts` maps a word to the bits of how it was met."""

    abbreviations: frozenset[str]
    starters: frozenset[str]
    collocations: frozenset[tuple[str, str]]
    contexts: Mapping[str, int]


@functools.cache
def read_punkt(folder: str) -> Punkt:
    """The model in a folder of NLTK's `punkt_tab`, e.g. nltk_data/tokenizers/punkt_tab/english. Raises UserError."""
    try:
        names = ("abbrev_types.txt", "sent_starters.txt", "collocations.tab", "ortho_context.tab")
        lines = [Path(folder, name).read_text(encoding="utf-8").splitlines() for name in names]
        pairs = [tuple(line.split("\t")) for line in lines[2] if line]
        contexts = {word: int(bits) for word, bits in (line.split("\t") for line in lines[3] if line)}
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read NLTK's sentence model in `{folder}`: {error}", hint="give the folder punkt_tab/english"
        ) from None
    return Punkt(frozenset(lines[0]), frozenset(lines[1]), frozenset((a, b) for a, b in pairs), contexts)


@dataclass(slots=True)
class _Token:
    text: str
    ends: bool = False
    is_abbreviation: bool = False

    @property
    def full_kind(self) -> str:
        """The word without case; one kind for all numbers."""
        return NUMBER if _NUMBER.fullmatch(self.text) else self.text.lower()

    @property
    def kind(self) -> str:
        """The same without the final stop."""
        kind = self.full_kind
        return kind[:-1] if len(kind) > 1 and kind.endswith(".") else kind

    @property
    def is_initial(self) -> bool:
        return len(self.text) == 2 and self.text[0].isalpha() and self.text[1] == "."

    @property
    def is_ellipsis(self) -> bool:
        return len(self.text) > 1 and not self.text.strip(".")


def count_sentences(text: str, model: Punkt | None = None) -> int:
    """How many sentences, by NLTK's model or our small one; 0 for white space alone."""
    words = text.split()
    pairs = list(zip(words, [*words[1:], ""], strict=False))
    breaks = [_ends_sentence(word, after, model) for word, after in pairs]
    if not words:
        return 0
    return 1 + sum(breaks) + sum(_ends_before(word, after) for word, after in pairs) - _is_closed(words, breaks)


def _is_closed(words: list[str], breaks: list[bool]) -> bool:
    """Whether nothing but closing marks follows the last break."""
    if not any(breaks):
        return False
    last = len(breaks) - 1 - breaks[::-1].index(True)
    end = _last_end(words[last], words[last + 1] if last + 1 < len(words) else "")
    return not "".join([words[last][end + 1 :], *words[last + 1 :]]).strip("\"')]}")


def _last_end(word: str, following: str) -> int:
    """The last `.`, `?` or `!` that closing marks or a further word follow; -1 without one."""
    for position in range(len(word) - 1, -1, -1):
        if word[position] in ".?!":
            after = word[position + 1 : position + 2]
            if (after and after in _AFTER_END) or (not after and following):
                return position
    return -1


def _ends_before(word: str, following: str) -> bool:
    """Whether the word begins with an end of its own beside its last one, as `?(what?)` does: NLTK takes both."""
    return word[0] in ".?!" and word[1:2] != "" and word[1] in _AFTER_END and _last_end(word, following) > 0


def _context(word: str, following: str) -> list[_Token] | None:
    """The tokens up to a possible end and what follows it."""
    position = _last_end(word, following)
    if position < 0:
        return None
    head = word[max(0, position + 1 - MAX_TOKEN_CHARACTERS) : position + 1]
    tail = word[position + 1 : position + 2] or following[:MAX_TOKEN_CHARACTERS]
    return [_Token(token) for part in (head, tail) for token in _TOKEN.findall(part)]


def _ends_sentence(word: str, following: str, model: Punkt | None) -> bool:
    context = _context(word, following)
    return context is not None and _has_break(context, model)


def _has_break(tokens: list[_Token], model: Punkt | None) -> bool:
    for token in tokens:
        _mark(token, model.abbreviations if model else _ABBREVIATIONS)
    for token, following in pairwise(tokens):
        if token.text.endswith(".") and model:
            _consult(token, following, model)
        elif token.text.endswith("."):
            _reconsider(token, following)
    return any(token.ends for token in tokens[:-1])


def _mark(token: _Token, abbreviations: frozenset[str]) -> None:
    """First look: marks end sentences, words with a final stop do unless they are abbreviations."""
    if token.text in (".", "?", "!"):
        token.ends = True
    elif token.text.endswith(".") and not token.text.endswith(".."):
        kind = token.text[:-1].lower()
        token.is_abbreviation = kind in abbreviations or kind.rpartition("-")[2] in abbreviations
        token.ends = not token.is_abbreviation


def _consult(token: _Token, following: _Token, model: Punkt) -> None:
    """Second look with all of Punkt's statistics (sections 4.1.2, 4.2 and 4.3 of the paper)."""
    word = following.kind if following.ends else following.full_kind
    if (token.kind, word) in model.collocations:
        token.ends, token.is_abbreviation = False, True
        return
    starts = _looks_like_a_start(following, model.contexts.get(word, 0))
    capital = following.text[0].isupper()
    shortened = (token.is_abbreviation or token.is_ellipsis) and not token.is_initial
    if shortened and (starts or (capital and word in model.starters)):
        token.ends = True
    elif token.is_initial or token.kind == NUMBER:
        unknown_name = starts is None and token.is_initial and capital and not model.contexts.get(word, 0) & _LOWER
        if starts is False or unknown_name:
            token.ends = False


def _looks_like_a_start(token: _Token, context: int) -> bool | None:
    """Whether the word is written as at the start of a sentence; None where its case tells nothing."""
    first = token.text[0]
    if token.text in ";:,.!?":
        return False
    if first.isupper() and context & _LOWER and not context & _UPPER_MIDDLE:
        return True
    if first.islower() and (context & _UPPER or not context & _LOWER_BEGIN):
        return False
    return None


def _reconsider(token: _Token, following: _Token) -> None:
    """Second look, with the next token: what abbreviations, initials and ordinals are followed by."""
    first = following.text[0]
    word = following.text.lower().rstrip(".")
    if (token.is_abbreviation or token.is_ellipsis) and not token.is_initial:
        token.ends = token.ends or (first.isupper() and word in _STARTERS)
    elif token.is_initial or token.kind == NUMBER:
        may_be_name = token.is_initial and first.isupper() and word not in _COMMON
        if first in ";:,.!?" or first.islower() or may_be_name:
            token.ends = False
