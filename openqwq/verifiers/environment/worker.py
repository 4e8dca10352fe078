"""What runs inside the worker process of `environment`: an environment's own rewards on one answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from .library import reward_of, task_of

LOADS_LATER = True
"""The environment's package is imported by the first job."""
_loaded: set[str] = set()


def judge(job: list[Any], mark: Callable[[str], None]) -> dict[str, Any]:
    """{"reward": ...}, or {"error": ...} with what the environment's own code raised."""
    environment, args, data, thinking, answer = job
    # importing the library and the environment takes seconds of processor time that are no one's fault
    mark("setup" if environment in _loaded else "import")
    try:
        task = task_of(environment, args, json.loads(data))
    finally:
        mark("task")
    _loaded.add(environment)
    mark("candidate")
    try:
        return {"reward": reward_of(task, thinking, answer)}
    except Exception as error:  # the rewards' faults are not the candidate's: unjudged
        return {"error": f"{type(error).__name__}: {error}"[:300]}
