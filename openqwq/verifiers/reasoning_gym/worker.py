"""What runs inside the worker process of `reasoning_gym`: the library's own scorer on one answer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import reasoning_gym

warnings.simplefilter("ignore")


def judge(job: list[Any], mark: Callable[[str], None]) -> str:
    """ "equal", "different" or "unreadable gold"; the gold answer, where there is one, must pass first."""
    dataset, entry, answer = job
    scorer = _scorer(dataset)
    gold = entry.get("answer")
    if gold is not None and scorer(gold, entry) != 1.0:
        return "unreadable gold"
    mark("candidate")
    return "equal" if scorer(answer, entry) == 1.0 else "different"


@cache
def _scorer(dataset: str) -> Callable[[str, Any], float]:
    return reasoning_gym.create_dataset(dataset, size=1, seed=0).score_answer
