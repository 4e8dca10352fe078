"""Which weights sampled each token, and how old they were when they were trained on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from openqwq.types import Rollout

from ..stage import StageRun

_PUBLISHED = "published"


class Freshness:
    """The weights of the last steps: (policy version, checksum) of each, the newest last; saved with the run.

    bound: `max_staleness` of the stage; None: rollouts come from elsewhere, and nothing is known of their weights.
    """

    def __init__(self, run: StageRun, bound: int | None):
        self.bound = bound
        self._published: list[tuple[int, str]] = [tuple(entry) for entry in run.values.get(_PUBLISHED, ())]
        self._run = run

    def publish(self, version: int, checksum: str) -> None:
        """The next step begins, with these weights."""
        if self.bound is not None:
            self._published = [*self._published, (version, checksum)][-(self.bound + 1) :]
            self._run.values[_PUBLISHED] = [list(entry) for entry in self._published]

    def measure(self, rollouts: Iterable[Rollout]) -> dict[str, Any]:
        """The largest and mean number of steps by which tokens lag behind the newest weights.

        Raises RuntimeError when a token is older than the bound, or has the checksum of other weights than those
        that its version had: the sampler then ran weights that the trainer never gave it.
        """
        rollouts = list(rollouts)
        version, checksum = self._published[-1] if self._published else (None, None)
        row: dict[str, Any] = {"policy_version": version, "weight_checksum": checksum}
        if self.bound is None:
            return {**row, "staleness_max": None, "staleness_mean": None}
        # A step without an update publishes the version of the step before again: the newest place counts.
        ages = {own: age for age, (own, _) in reversed(list(enumerate(reversed(self._published))))}
        known = dict(self._published)
        lags = [ages.get(version) for rollout in rollouts for version in rollout.policy_versions]
        if None in lags:
            raise RuntimeError(f"a token is more than `max_staleness` = {self.bound} steps old")
        for rollout in rollouts:
            for own, name in rollout.weight_checksums.items():
                if known[own] and known[own] != name:
                    raise RuntimeError(
                        f"version {own} was sampled from weights {name}, the trainer's were {known[own]}"
                    )
        found = [lag for lag in lags if lag is not None]
        return {
            **row,
            "staleness_max": max(found, default=None),
            "staleness_mean": sum(found) / len(found) if found else None,
        }
