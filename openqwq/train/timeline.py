"""Where a step's time goes: phases with their start and length, as rows of `timeline.jsonl`.

What no phase covers is idle time: `seconds_idle` of a step's metrics.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Timeline:
    """Collects the phases of one step after the other.

    phases: (name, start in seconds since 1970, seconds) since the last `take`. Phases of other threads than the one
    that made the timeline run beside its own: they have their time, but cover none of the step's. A phase within
    another is part of it.
    """

    def __init__(self) -> None:
        self.phases: list[tuple[str, float, float]] = []
        self._thread, self._depth, self._covered = threading.get_ident(), 0, 0.0
        self._step_began = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Everything within this block is time of that phase; one that fails is not recorded."""
        own = threading.get_ident() == self._thread
        began, started = time.time(), time.perf_counter()
        self._depth += own
        try:
            yield
        finally:
            self._depth -= own
        seconds = time.perf_counter() - started
        self.phases.append((name, began, seconds))
        if own and not self._depth:
            self._covered += seconds

    def seconds(self, name: str) -> float:
        """Time of a phase since the last `take`, in all."""
        return sum(seconds for phase, _, seconds in self.phases if phase == name)

    def idle_seconds(self) -> float:
        """Time since the last `take` that no phase covers."""
        return time.perf_counter() - self._step_began - self._covered

    def take(self, stage: str, step: int) -> list[dict[str, Any]]:
        """The rows of the step's phases; what follows belongs to the next step."""
        rows = [
            {"stage": stage, "step": step, "phase": name, "start": began, "seconds": seconds}
            for name, began, seconds in self.phases
        ]
        self.phases, self._covered, self._step_began = [], 0.0, time.perf_counter()
        return rows
