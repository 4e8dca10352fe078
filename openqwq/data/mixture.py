"""The mixture of sources that a stage trains on.

Generated problems are a pure function of seed, stage and step. Those of files and data sets come in epochs, each a
new order of all of them, as everybody who has a data set expects; how far each has come is the mixture's state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from openqwq.errors import UserError
from openqwq.types import Problem

from .keys import item_key, item_rng
from .sources.build import ProblemSource
from .sources.finite import FiniteSource

ROUNDING = 1e-9
"""Shares such as 20 * 0.7 that floating point leaves a hair under a whole number are that number."""


class Mixture:
    """Draws each step's problems from several sources by ratio, leaving out every held-out problem's text."""

    def __init__(
        self,
        sources: Mapping[str, ProblemSource],
        weights: Mapping[str, float],
        *,
        seed: int,
        stage: str,
        exclude: frozenset[str] = frozenset(),
    ):
        self.sources = {name: sources[name] for name in weights}
        self.weights = dict(weights)
        self.seed = seed
        self.stage = stage
        self._exclude = exclude
        self._taken = {name: 0 for name, source in self.sources.items() if isinstance(source, FiniteSource)}
        self._orders: dict[str, tuple[int, list[int]]] = {}

    def batch(self, step: int, count: int, refill: int = 0) -> list[Problem]:
        """`count` problems for a step; `refill` 1, 2, ... give further ones for the same step."""
        names = share_out(self.weights, count, item_rng("train", self.seed, self.stage, step, refill))
        return [self._draw(name, step, refill, position) for position, name in enumerate(names)]

    def state(self) -> dict[str, Any]:
        """How many problems of each file and data set were taken, as JSON."""
        return {"taken": dict(self._taken)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        self._taken |= state["taken"]

    def _draw(self, name: str, step: int, refill: int, position: int) -> Problem:
        source = self.sources[name]
        for attempt in range(self._attempts(source)):
            if isinstance(source, FiniteSource):
                problem = self._next(source, name)
            else:
                key = item_key("train", self.seed, self.stage, step, refill, position, name, attempt)
                problem = source.problem("train", key)
            if problem.prompt not in self._exclude:
                return problem
        raise UserError(
            f"source `{name}` has nothing to train on: {self._attempts(source)} problems in a row were held-out ones",
            hint="widen the source's `config`, or lower `eval.problems_per_family`",
        )

    @staticmethod
    def _attempts(source: ProblemSource) -> int:
        return 2 * len(source.part("train")) if isinstance(source, FiniteSource) else 1000

    def _next(self, source: FiniteSource, name: str) -> Problem:
        part = source.part("train")
        epoch, place = divmod(self._taken[name], len(part))
        self._taken[name] += 1
        known, order = self._orders.get(name, (-1, []))
        if known != epoch:
            order = list(range(len(part)))
            item_rng("train", self.seed, self.stage, name, epoch).shuffle(order)
            self._orders[name] = epoch, order
        return part[order[place]]


def share_out(weights: Mapping[str, float], count: int, rng: Random) -> list[str]:
    """`count` names in random order: each name's whole share, the rest drawn by the fractions left over."""
    total = sum(weights.values())
    exact = {name: count * weight / total for name, weight in weights.items()}
    names: list[str] = [name for name, share in exact.items() for _ in range(int(share + ROUNDING))]
    left = {name: max(share - int(share + ROUNDING), 0.0) for name, share in exact.items()}
    if len(names) < count:
        names += rng.choices(list(left), weights=[max(w, 1e-9) for w in left.values()], k=count - len(names))
    rng.shuffle(names)
    return names


def problem_texts(problems: Sequence[Problem]) -> frozenset[str]:
    """The texts that training must not see."""
    return frozenset(problem.prompt for problem in problems)
