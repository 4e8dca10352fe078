"""What runs inside the worker process of `math`: math-verify on one (gold, answer) pair.

Only its LaTeX reader is used: its reader of plain expressions ends in sympy's `parse_expr`, which is `eval`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify
from sympy import Integer

logging.disable(logging.WARNING)
READER = [LatexExtractionConfig(boxed_match_priority=0)]
PROBE = Integer(7919)


def judge(job: list[str], mark: Callable[[str], None]) -> str:
    """ "equal", "different", "unreadable" (the answer) or "unreadable gold"."""
    gold, answer, _ = job
    gold_values = _parse_gold(gold)
    if not gold_values:
        return "unreadable gold"
    mark("candidate")
    values = _parse(answer)
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
    text = text.strip().strip("$")
    return [v for v in parse(f"\\boxed{{{text}}}", READER, parsing_timeout=None) if not isinstance(v, str)]
