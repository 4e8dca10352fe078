"""What a reinforcement-learning step reports: one row of numbers, and a few of its rollouts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any

from .experience import Attempt, Experience
from .stage import StageContext
from .update import UpdateResult

# Enough to see what a step's rollouts look like, small enough that a long run's file stays readable.
_LOGGED_ROLLOUTS = 4


def experience_metrics(experience: Experience, sources: Iterable[str]) -> dict[str, Any]:
    """Numbers over every sampled rollout, before groups without signal are dropped.

    reward and accuracy are over judged rollouts; None where there are none.
    """
    attempts = experience.attempts
    lengths = [len(a.rollout.completion_ids) for a in attempts]
    by_source = {name: [a for a in attempts if a.rollout.problem.source == name] for name in sources}
    return {
        "reward": _mean(_rewards(attempts)),
        "accuracy": _accuracy(attempts),
        "unjudged": _mean([a.verdict.status == "unjudged" for a in attempts]),
        "groups_sampled": len(experience.groups),
        "groups_with_signal": _mean([any(a.advantage for a in group) for group in experience.groups]),
        "refills": experience.refills,
        "completion_tokens_mean": _mean(lengths),
        "completion_tokens_max": max(lengths, default=0),
        "truncated": _mean([a.rollout.finish_reason == "length" for a in attempts]),
        "sources": {
            name: {"rollouts": len(own), "reward": _mean(_rewards(own)), "accuracy": _accuracy(own)}
            for name, own in by_source.items()
        },
        "tokens_generate": sum(lengths),
        "seconds_generate": experience.seconds_generate,
        "seconds_verify": experience.seconds_verify,
    }


def update_metrics(updates: Sequence[UpdateResult]) -> dict[str, Any]:
    """Numbers over the trained tokens; all None when the step had no signal and made no update.

    entropy and mismatch (|rollout - policy| log-prob) are of the first mini-batch, before any update of this
    batch; clip_share is the mean over the batch's updates; loss and grad_norm are the last one's.
    """
    if not updates:
        return dict.fromkeys(("loss", "entropy", "clip_share", "grad_norm", "mismatch_max", "mismatch_mean"))
    first, last = updates[0].tokens, updates[-1]
    return {
        "loss": last.loss,
        "entropy": float(first["entropy"].mean()),
        "clip_share": _mean([float(u.tokens["clipped"].mean()) for u in updates]),
        "grad_norm": last.grad_norm,
        "mismatch_max": float(first["mismatch"].max()),
        "mismatch_mean": float(first["mismatch"].mean()),
    }


def sample_rows(experience: Experience, step: int, ctx: StageContext) -> list[Mapping[str, Any]]:
    """A few of the step's rollouts, drawn at random, with verdict and reason."""
    attempts = experience.attempts
    chosen = Random(ctx.seed_for("log", step)).sample(range(len(attempts)), min(_LOGGED_ROLLOUTS, len(attempts)))
    return [_sample_row(attempts[i], step, ctx.name) for i in sorted(chosen)]


def _sample_row(attempt: Attempt, step: int, stage: str) -> dict[str, Any]:
    rollout, verdict = attempt.rollout, attempt.verdict
    return {
        "stage": stage,
        "step": step,
        "problem": rollout.problem.id,
        "source": rollout.problem.source,
        "prompt": rollout.problem.prompt,
        "text": rollout.text,
        "tokens": len(rollout.completion_ids),
        "finish_reason": rollout.finish_reason,
        "verdict": verdict.status,
        "score": verdict.score,
        "reason": verdict.reason,
        "reward": None if math.isnan(attempt.reward) else attempt.reward,
        "advantage": attempt.advantage,
    }


def _rewards(attempts: Sequence[Attempt]) -> list[float]:
    return [a.reward for a in attempts if not math.isnan(a.reward)]


def _accuracy(attempts: Sequence[Attempt]) -> float | None:
    return _mean([a.verdict.status == "correct" for a in attempts if a.verdict.status != "unjudged"])


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
