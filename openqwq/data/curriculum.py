"""Difficulty pools: a fixed set of problems of which those rest that teach nothing now.

A problem that (nearly) every rollout solves, and one that none does, give no signal. Either rests for some steps and
comes back; if it still teaches nothing, it rests twice as long. The pass rate is measured by the training itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any, Protocol

from openqwq.errors import UserError
from openqwq.types import Problem

from .sources.build import distinct

_MAX_DOUBLINGS = 10
_MAX_DRAWS = 20


class Draws(Protocol):
    """What the pool is filled from."""

    def batch(self, step: int, count: int, refill: int = 0) -> list[Problem]: ...


def draw_pool(mixture: Draws, size: int) -> list[Problem]:
    """`size` problems with distinct texts, the mixture's steps -1, -2, ...: the same ones in every run.

    Raises UserError when the mixture has not so many.
    """
    pool = distinct((p for draw in range(1, _MAX_DRAWS + 1) for p in mixture.batch(-draw, size)), size)
    if len(pool) < size:
        raise UserError(
            f"the sources gave only {len(pool)} different problems where `curriculum.pool` asks for {size}",
            hint="lower `curriculum.pool`, or widen the sources' `config`",
        )
    return pool


class DifficultyPool:
    """A stand-in for a mixture: batches from the problems that are awake.

    easy, hard: a problem rests when its pass rate is above `easy`, or `hard` or below.
    rest_steps: of the first rest. seed: decides the order, together with step and refill round.
    """

    def __init__(self, problems: Sequence[Problem], *, easy: float, hard: float, rest_steps: int, seed: int):
        self.problems, self.easy, self.hard, self.rest_steps, self.seed = problems, easy, hard, rest_steps, seed
        self._number = {problem.prompt: i for i, problem in enumerate(problems)}
        self._rates: dict[int, float] = {}
        self._wakes: dict[int, int] = {}
        self._rests: dict[int, int] = {}
        self._step, self._given = -1, set[int]()

    def batch(self, step: int, count: int, refill: int = 0) -> list[Problem]:
        """`count` problems, none twice in a step; where too few are awake, those that wake first are taken too.

        Raises UserError when the whole pool has been given out in this step.
        """
        if step != self._step:
            self._step, self._given = step, set()
        left = [i for i in range(len(self.problems)) if i not in self._given]
        if len(left) < count:
            raise UserError(
                f"step {step} asks for more problems than the pool of {len(self.problems)} has",
                hint="raise `curriculum.pool`, or lower `prompts_per_step` or `max_refills`",
            )
        Random(f"{self.seed}/{step}/{refill}").shuffle(left)
        left.sort(key=lambda i: max(self._wakes.get(i, 0) - step, 0))
        self._given.update(left[:count])
        return [self.problems[i] for i in left[:count]]

    def record(self, step: int, results: Iterable[tuple[Problem, float]]) -> None:
        """Note the pass rates that a step measured, and send to rest what teaches nothing."""
        for problem, rate in results:
            number = self._number[problem.prompt]
            self._rates[number] = rate
            if self.hard < rate <= self.easy:
                self._rests.pop(number, None)
                continue
            rests = self._rests.get(number, 0)
            self._wakes[number] = step + 1 + self.rest_steps * 2 ** min(rests, _MAX_DOUBLINGS)
            self._rests[number] = rests + 1

    def measures(self, step: int) -> dict[str, float | int | None]:
        """How many problems were tried, how many of them rest as too easy and as too hard, the mean pass rate."""
        resting = [i for i, wake in self._wakes.items() if wake > step]
        rates = list(self._rates.values())
        return {
            "tried": len(rates),
            "resting_easy": sum(self._rates[i] > self.easy for i in resting),
            "resting_hard": sum(self._rates[i] <= self.hard for i in resting),
            "pass_rate": sum(rates) / len(rates) if rates else None,
        }

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON."""
        return {
            name: {str(k): v for k, v in table.items()}
            for name, table in (("rates", self._rates), ("wakes", self._wakes), ("rests", self._rests))
        }

    def load_state(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Put back what `state` gave."""
        for table, name in ((self._rates, "rates"), (self._wakes, "wakes"), (self._rests, "rests")):
            table.clear()
            table.update({int(k): v for k, v in state[name].items()})
