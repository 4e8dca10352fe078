"""The official IFEval checker's judgements, and what runs inside the worker process of `instructions`.

Public: `OFFICIAL` (name -> `Check`), `official_checks`, `judge`. The official checker asks langdetect where
`checks.py` asks for Latin letters only, and takes a text without a language as obeying. Two of the 541 prompts ask for
the frequency of `#` and `!`, where it draws a random letter instead; here the character counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .checks import CHECKS, Check, TaskError, compare
from .language_id import detect
from .sentences import count_sentences, read_punkt


def english_lowercase(text: str) -> bool:
    return text.islower() and detect(text) in ("en", None)


def english_capital(text: str) -> bool:
    return text.isupper() and detect(text) in ("en", None)


OFFICIAL: dict[str, Check] = {
    **CHECKS,
    "change_case:english_lowercase": Check(english_lowercase, {}),
    "change_case:english_capital": Check(english_capital, {}),
}


def official_checks(punkt: str) -> dict[str, Check]:
    """The official checker's kinds; punkt: the folder of NLTK's sentence model, "" for our small one."""
    if not punkt:
        return OFFICIAL
    model = read_punkt(punkt)
    name = "length_constraints:number_sentences"

    def number_sentences(text: str, num_sentences: int, relation: str) -> bool:
        return compare(count_sentences(text, model), relation, num_sentences)

    return {**OFFICIAL, name: Check(number_sentences, CHECKS[name].arguments)}


def judge(job: list[Any], mark: Callable[[str], None]) -> dict[str, Any]:
    """`{"followed": [...]}`, one for each rule, or `{"unreadable": why}`: the rules are the task's side."""
    protocol, rules, texts, punkt = job[:4]
    checks = official_checks(punkt) if protocol == "ifeval" else CHECKS
    try:
        detect("any text")  # a detector that is missing, or slow to load, is no fault of the candidate's
        for name, arguments in rules:
            checks[name]("", arguments)
        mark("candidate")
        return {
            "followed": [
                any(checks[name](text, arguments) for text in texts if text.strip()) for name, arguments in rules
            ]
        }
    except TaskError as error:
        return {"unreadable": str(error)}
