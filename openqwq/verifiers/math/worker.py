"""What runs inside the worker process of `math`: high-precision comparison, and math-verify where that cannot read.

Only the library's LaTeX reader is used: its reader of plain expressions ends in sympy's `parse_expr`, which is `eval`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify
from sympy import Integer

from .numeric import evaluates, exactly_same
from .reading import Value, is_prose, trees_of
from .rules import read_pair, same_value
from .spelling import spell

logging.disable(logging.WARNING)
READER = [LatexExtractionConfig(boxed_match_priority=0)]
_BASE = re.compile(r"\d\s*_")
PROBE = Integer(7919)
_INFINITE = (("const", "inf"), ("neg", ("const", "inf")))


def judge(job: list[str], mark: Callable[[str], None]) -> str:
    """ "equal", "different", "unreadable" (the answer) or "unreadable gold"."""
    gold, answer = spell(job[0]), spell(job[1])
    gold_value, value = read_pair(gold, answer)
    readable = gold_value is not None and _has_values(gold_value)
    if not readable and not _parse_gold(gold):
        return "unreadable gold"
    mark("candidate")
    if gold_value is not None and value is not None and readable:
        same = same_value(gold_value, value, exactly_same)
        if same is not None:
            return "equal" if same else "different"
    return _judge_by_library(gold, answer)


def _has_values(value: Value) -> bool:
    return all(tree in _INFINITE or evaluates(tree) for tree in trees_of(value))


def _judge_by_library(gold: str, answer: str) -> str:
    gold_values = _parse_gold(gold)
    values = _parse(answer) if gold_values else []
    if not values:
        return "unreadable"
    return "equal" if _equal(gold_values, values) else "different"


@lru_cache(maxsize=1024)
def _parse_gold(gold: str) -> list[Any]:
    """The gold answer's values; empty when they do not even equal themselves.

    Comparing with a probe first makes a gold that hangs the algebra hang here, on the task's side.
    """
    values = _parse(gold)
    _equal(values, [PROBE])
    return values if _equal(values, values) else []


def _equal(gold_values: list[Any], values: list[Any]) -> bool:
    # The library's own timeouts are signals that sympy's broad handlers can swallow; the worker's deadline stands.
    return verify(gold_values, values, strict=True, timeout_seconds=None)


def _parse(text: str) -> list[Any]:
    """Sympy values of an answer; empty when it cannot be read as mathematics."""
    if is_prose(text) or _BASE.search(text):  # the library drops the base of a number
        return []
    return [v for v in parse(f"\\boxed{{{text}}}", READER, parsing_timeout=None) if not isinstance(v, str)]
