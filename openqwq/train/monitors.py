"""How many of a step's rollouts show each behaviour of `openqwq.verifiers.behaviours`."""

from __future__ import annotations

from collections.abc import Sequence

from openqwq.types import Rollout, Verdict
from openqwq.verifiers.behaviours import BEHAVIOURS


def monitor_rollouts(rollouts: Sequence[Rollout], verdicts: Sequence[Verdict]) -> dict[str, float | None]:
    """The share of the rollouts that show each behaviour; None of no rollouts.

    paid_hack_canary: of all rollouts, those with a canary that a verifier called correct.
    """
    texts = [(rollout.text, rollout.thinking_opened) for rollout in rollouts]
    if not texts:
        return dict.fromkeys([*BEHAVIOURS, "paid_hack_canary"])
    shares: dict[str, float | None] = {
        name: sum(behaviour.shows(*text) for text in texts) / len(texts) for name, behaviour in BEHAVIOURS.items()
    }
    canary = BEHAVIOURS["hack_canary"]
    paid = [canary.shows(*t) for t, v in zip(texts, verdicts, strict=True) if v.status == "correct"]
    return {**shares, "paid_hack_canary": sum(paid) / len(texts)}
