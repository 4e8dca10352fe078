"""The recipe's own targets against what the run measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from openqwq.config.recipe import TargetConfig
from openqwq.errors import UserError

from .families import Scores
from .intervals import Interval, paired_change


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetResult:
    """One target: the change in points (0 to 100) with its 95% interval, and whether it was met.

    goal: the target's bounds in words.
    """

    what: str
    goal: str
    got: Interval
    met: bool

    @property
    def change(self) -> str:
        """The measured change in words, e.g. "+21.5 (+15.0 to +28.0)"."""
        return f"{self.got.mean:+.1f} ({self.got.low:+.1f} to {self.got.high:+.1f})"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_targets(
    targets: Sequence[TargetConfig], scores: Mapping[str, Scores], kinds: Mapping[str, str]
) -> list[TargetResult]:
    """The outcome of every target whose two stages have been evaluated.

    scores: stage -> family -> problem id -> strict score. kinds: family -> kind.
    Raises UserError for a target that no evaluated family belongs to.
    """
    return [
        _check(target, scores[target.over], scores[target.stage], kinds)
        for target in targets
        if target.over in scores and target.stage in scores
    ]


def goal_text(target: TargetConfig) -> str:
    """The target's bounds in words, e.g. "change >= +20.0, low end >= +10.0"."""
    bounds = [f"change >= {target.min_change:+.1f}"] if target.min_change is not None else []
    if target.min_change_low is not None:
        bounds.append(f"low end >= {target.min_change_low:+.1f}")
    if target.max_change is not None:
        bounds.append(f"change <= {target.max_change:+.1f}")
    return ", ".join(bounds)


def families_of(target: TargetConfig, kinds: Mapping[str, str]) -> list[str]:
    """The evaluated families that a target averages."""
    return [
        family
        for family, kind in kinds.items()
        if kind in target.kinds and (not target.families or family in target.families)
    ]


def _check(target: TargetConfig, before: Scores, after: Scores, kinds: Mapping[str, str]) -> TargetResult:
    families = families_of(target, kinds)
    if not families:
        raise UserError(
            f"target `{target.what}` asks for kinds {', '.join(target.kinds)}, but no evaluated family has one of them",
            hint=f"the families and kinds of [eval] are: {', '.join(f'{f} ({k})' for f, k in kinds.items())}",
        )
    change = paired_change(
        {family: before.get(family, {}) for family in families},
        {family: after.get(family, {}) for family in families},
    )
    points = Interval(100 * change.mean, 100 * change.low, 100 * change.high)
    met = target.min_change is None or points.mean >= target.min_change
    if target.min_change_low is not None:
        met = met and points.low >= target.min_change_low
    if target.max_change is not None:
        met = met and points.mean <= target.max_change
    return TargetResult(what=target.what, goal=goal_text(target), got=points, met=met)
