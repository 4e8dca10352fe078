"""One language throughout: the share of letters and of words in the target's script, code and maths left out.

Scripts, not a statistical detector: detectors call "因此 the answer 是" plain English, and answer at random on
short texts. Languages that share a script cannot be told apart this way, and are not offered as targets.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache
from typing import ClassVar

from openqwq.errors import UserError
from openqwq.types import Problem, Verdict

from .base import Verifier, answer_part

SCRIPTS = {
    "latin": ("LATIN",),
    "han": ("CJK",),
    "japanese": ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"),
    "hangul": ("HANGUL",),
    "cyrillic": ("CYRILLIC",),
    "greek": ("GREEK",),
    "arabic": ("ARABIC",),
    "hebrew": ("HEBREW",),
    "devanagari": ("DEVANAGARI",),
    "thai": ("THAI",),
}
"""Each target with the first words of its letters' Unicode names."""

_FENCE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_MATHS = re.compile(r"\$\$[^$]*\$\$|\$[^$\n]*\$|\\\([^\\\n]*(?:\\[^()\n][^\\\n]*)*\\\)|\\[A-Za-z]+")

_WORD = re.compile(r"[^\W\d_]+")


class LanguageVerifier(Verifier):
    """Correct when at least `min_share` of the letters, and `min_word_share` of the words, are in the target script.

    script:         one of `SCRIPTS`.
    min_share:      in [0, 1]; loan words and names are to be expected.
    min_word_share: in [0, 1]; a word is a run of letters, in the script when all of them are.
    part:           "all" judges thinking and answer, "answer" the answer part alone.
    Texts without letters are right. `details` holds the measured `share` and `word_share`.
    """

    name: ClassVar[str] = "language"
    needs_answer: ClassVar[bool] = False

    def __init__(
        self, *, script: str = "latin", min_share: float = 0.95, min_word_share: float = 0.0, part: str = "all"
    ):
        super().__init__()
        if script not in SCRIPTS:
            raise UserError(f"unknown script `{script}`", hint=f"known: {', '.join(SCRIPTS)}")
        if part not in ("all", "answer"):
            raise UserError(f"option `part` of verifier `language` is {part!r}", hint="it takes `all` or `answer`")
        self.script = script
        self.min_share = min_share
        self.min_word_share = min_word_share
        self.part = part

    def __call__(self, problem: Problem, completion: str) -> Verdict:
        text = completion if self.part == "all" else answer_part(completion, opened=problem.thinking_opened)
        if text is None:
            return Verdict.wrong("thinking not closed")
        share, word_share = script_share(text, self.script), script_word_share(text, self.script)
        details = {"share": share, "word_share": word_share}
        holds = share >= self.min_share and word_share >= self.min_word_share
        return Verdict.correct(details=details) if holds else Verdict.wrong("script", details=details)


def script_share(text: str, script: str) -> float:
    """The share of the text's letters that belong to the script, outside code and maths; 1 without letters."""
    letters = [c for c in _prose(text) if c.isalpha()]
    return sum(_letter_script(c) in SCRIPTS[script] for c in letters) / len(letters) if letters else 1.0


def script_shares(text: str) -> dict[str, float]:
    """`script_share` of every script, for the price of one."""
    letters = Counter(_letter_script(c) for c in _prose(text) if c.isalpha())
    total = letters.total()
    return {script: sum(letters[n] for n in names) / total if total else 1.0 for script, names in SCRIPTS.items()}


def script_word_share(text: str, script: str) -> float:
    """The share of the text's words that are wholly in the script, outside code and maths; 1 without words."""
    words = _WORD.findall(_prose(text))
    ours = sum(all(_letter_script(c) in SCRIPTS[script] for c in word if c.isalpha()) for word in words)
    return ours / len(words) if words else 1.0


def foreign_words(text: str, script: str) -> list[tuple[int, int]]:
    """Start and end of every word with a letter outside the script; those in code and maths are left out."""
    return [
        match.span()
        for match in _WORD.finditer(_prose(text))
        if any(_letter_script(c) not in SCRIPTS[script] for c in match[0] if c.isalpha())
    ]


def _prose(text: str) -> str:
    """The text with code and maths blanked out, so that every letter keeps its place."""
    return _MATHS.sub(_blank, _FENCE.sub(_blank, text))


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])


@lru_cache(maxsize=8192)
def _letter_script(letter: str) -> str:
    return unicodedata.name(letter, "UNNAMED").split()[0]
