"""IFEval's instruction kinds as pure functions of an answer, by their official names and arguments.

Public: `CHECKS` (name -> `Check`), `TaskError`. After google-research/instruction_following_eval (arXiv:2311.07911),
with these differences:
1. Sentences are counted by `sentences.py` and tokens by `text.py`, not by NLTK.
2. `english_lowercase` and `english_capital` ask for Latin letters only where the original asks langdetect, which
   errs on short texts (`official.py` asks it too).
3. `letter_frequency` counts the character it is given; the original draws a random letter for `!` and `#`.
4. Keywords are literal text, never regular expressions.
`startend:start_checker` is ours.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .language_id import detect
from .sentences import count_sentences
from .text import count_capital_tokens, count_words

CONSTRAINED_RESPONSES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")

_STAR_BULLET = re.compile(r"^[^\S\n]*\*[^*].*$", re.MULTILINE)
_DASH_BULLET = re.compile(r"^[^\S\n]*-.*$", re.MULTILINE)
_PARAGRAPH_RULE = re.compile(r"\s?\*\*\*\s?")
_HIGHLIGHT = re.compile(r"\*[^\n*]*\*")
_DOUBLE_HIGHLIGHT = re.compile(r"\*\*[^\n*]*\*\*")
_POSTSCRIPTS = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}


class TaskError(Exception):
    """An instruction that does not exist or whose arguments cannot be read: the task's fault."""


@dataclass(frozen=True, slots=True)
class Check:
    """One instruction kind: the predicate, and the type of each argument it must be given."""

    function: Callable[..., bool]
    arguments: Mapping[str, type | tuple[type, ...]]

    def __call__(self, text: str, arguments: Mapping[str, Any]) -> bool:
        """Whether the text follows the instruction. Raises TaskError for unreadable arguments."""
        given = {name: value for name, value in arguments.items() if value is not None}
        if given.keys() != self.arguments.keys():
            raise TaskError(f"takes {sorted(self.arguments)}, given {sorted(given)}")
        for name, expected in self.arguments.items():
            if not isinstance(given[name], expected) or isinstance(given[name], bool):
                raise TaskError(f"`{name}` is {given[name]!r}")
        return self.function(text, **given)


def compare(count: int, relation: str, limit: int) -> bool:
    """Whether the relation, "at least" or "less than", holds. Raises TaskError for another one."""
    if relation == "at least":
        return count >= limit
    if relation == "less than":
        return count < limit
    raise TaskError(f"`relation` is {relation!r}, but must be 'at least' or 'less than'")


def _is_latin(text: str) -> bool:
    return all("LATIN" in unicodedata.name(c, "") for c in text if c.isalpha() and not c.isascii())


def english_lowercase(text: str) -> bool:
    return text.islower() and _is_latin(text)


def english_capital(text: str) -> bool:
    return text.isupper() and _is_latin(text)


def response_language(text: str, language: str) -> bool:
    """A text without letters that tell obeys any language, as with the original."""
    return detect(text) in (language, None)


def capital_word_frequency(text: str, capital_frequency: int, capital_relation: str) -> bool:
    return compare(count_capital_tokens(text), capital_relation, capital_frequency)


def number_words(text: str, num_words: int, relation: str) -> bool:
    return compare(count_words(text), relation, num_words)


def number_sentences(text: str, num_sentences: int, relation: str) -> bool:
    return compare(count_sentences(text), relation, num_sentences)


def number_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Paragraphs are divided by `***`; an empty one is allowed only at either end and does not count."""
    paragraphs = [bool(p.strip()) for p in _PARAGRAPH_RULE.split(text)]
    return all(paragraphs[1:-1]) and sum(paragraphs) == num_paragraphs


def nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Paragraphs are divided by an empty line; the nth begins with the word, up to case and punctuation."""
    paragraphs = text.split("\n\n")
    if sum(bool(p.strip()) for p in paragraphs) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
        return False
    words = paragraphs[nth_paragraph - 1].split()
    if not words:
        return False
    word = re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'), maxsplit=1)[0]
    return word.lower() == first_word.lower()


def keywords_exist(text: str, keywords: Sequence[str]) -> bool:
    """Each keyword occurs, be it inside a longer word."""
    return all(_occurrences(keyword, text) for keyword in keywords)


def forbidden_words_absent(text: str, forbidden_words: Sequence[str]) -> bool:
    """None of the words occurs as a whole word."""
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words)


def keyword_frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return compare(_occurrences(keyword.strip(), text), relation, frequency)


def letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return compare(text.lower().count(letter.strip().lower()), let_relation, let_frequency)


def _occurrences(keyword: str, text: str) -> int:
    return len(re.findall(re.escape(keyword), text, re.IGNORECASE))


def ends_with(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def starts_with(text: str, start_word: str) -> bool:
    """The first word is this one, up to case and the punctuation around it."""
    words = re.findall(r"[\w'-]+", text[:1000])
    return bool(words) and words[0].lower() == start_word.strip().lower()


def is_quoted(text: str) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == '"' == text[-1]


def has_no_comma(text: str) -> bool:
    return "," not in text


def number_bullet_lists(text: str, num_bullets: int) -> bool:
    return len(_STAR_BULLET.findall(text)) + len(_DASH_BULLET.findall(text)) == num_bullets


def has_title(text: str) -> bool:
    """Some line holds `<<title>>` with something between the brackets."""
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if start >= 0 and end > start + 2 and line[start : end + 2].lstrip("<").rstrip(">").strip():
            return True
    return False


def is_json(text: str) -> bool:
    """The whole answer is one JSON value, in a ``` fence or not."""
    text = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", text)) >= num_sections


def constrained_response(text: str) -> bool:
    return any(response in text for response in CONSTRAINED_RESPONSES)


def number_highlighted_sections(text: str, num_highlights: int) -> bool:
    """`*text*` and `**text**` count; the original counts the second kind by both of its patterns, and so do we."""
    single = sum(bool(h.strip("*").strip()) for h in _HIGHLIGHT.findall(text))
    double = sum(bool(h.removeprefix("**").removesuffix("**").strip()) for h in _DOUBLE_HIGHLIGHT.findall(text))
    return single + double >= num_highlights


def number_placeholders(text: str, num_placeholders: int) -> bool:
    """`[anything]` within a line, scanned once: `[` repeated a million times is one pass."""
    count = 0
    for line in text.split("\n"):
        position = 0
        while (opening := line.find("[", position)) >= 0 and (closing := line.find("]", opening)) >= 0:
            count += 1
            position = closing + 1
    return count >= num_placeholders


def has_postscript(text: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    return bool(re.search(_POSTSCRIPTS.get(marker, re.escape(marker.lower())), text.lower()))


def two_responses(text: str) -> bool:
    """Two different answers divided by `******`."""
    responses = [r.strip() for r in text.split("******")]
    given = [r for r in responses if r]
    return all(responses[1:-1]) and len(given) == 2 and given[0] != given[1]


def repeats_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


CHECKS: dict[str, Check] = {
    "change_case:english_lowercase": Check(english_lowercase, {}),
    "change_case:english_capital": Check(english_capital, {}),
    "language:response_language": Check(response_language, {"language": str}),
    "change_case:capital_word_frequency": Check(
        capital_word_frequency, {"capital_frequency": int, "capital_relation": str}
    ),
    "length_constraints:number_words": Check(number_words, {"num_words": int, "relation": str}),
    "length_constraints:number_sentences": Check(number_sentences, {"num_sentences": int, "relation": str}),
    "length_constraints:number_paragraphs": Check(number_paragraphs, {"num_paragraphs": int}),
    "length_constraints:nth_paragraph_first_word": Check(
        nth_paragraph_first_word, {"num_paragraphs": int, "nth_paragraph": int, "first_word": str}
    ),
    "keywords:existence": Check(keywords_exist, {"keywords": (list, tuple)}),
    "keywords:forbidden_words": Check(forbidden_words_absent, {"forbidden_words": (list, tuple)}),
    "keywords:frequency": Check(keyword_frequency, {"keyword": str, "frequency": int, "relation": str}),
    "keywords:letter_frequency": Check(letter_frequency, {"letter": str, "let_frequency": int, "let_relation": str}),
    "startend:end_checker": Check(ends_with, {"end_phrase": str}),
    "startend:start_checker": Check(starts_with, {"start_word": str}),
    "startend:quotation": Check(is_quoted, {}),
    "punctuation:no_comma": Check(has_no_comma, {}),
    "detectable_format:number_bullet_lists": Check(number_bullet_lists, {"num_bullets": int}),
    "detectable_format:title": Check(has_title, {}),
    "detectable_format:json_format": Check(is_json, {}),
    "detectable_format:multiple_sections": Check(multiple_sections, {"section_spliter": str, "num_sections": int}),
    "detectable_format:constrained_response": Check(constrained_response, {}),
    "detectable_format:number_highlighted_sections": Check(number_highlighted_sections, {"num_highlights": int}),
    "detectable_content:number_placeholders": Check(number_placeholders, {"num_placeholders": int}),
    "detectable_content:postscript": Check(has_postscript, {"postscript_marker": str}),
    "combination:two_responses": Check(two_responses, {}),
    "combination:repeat_prompt": Check(repeats_prompt, {"prompt_to_repeat": str}),
}
"""Every instruction that can be judged."""
