"""What a reinforcement-learning step reports: one row of numbers, and a few of its rollouts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any

from openqwq.config import RLStage
from openqwq.types import Rollout
from openqwq.verifiers.behaviours import BEHAVIOURS, Behaviour

from .experience.collector import Attempt, Experience
from .learner import Learned
from .monitors import monitor_rollouts
from .stage import StageContext
from .timeline import Timeline

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
        "unjudged": _unjudged(attempts),
        "groups_sampled": len(experience.groups),
        "groups_with_signal": _share(len(experience.useful_groups), len(experience.groups)),
        "refills": experience.refills,
        "completion_tokens_mean": _mean(lengths),
        "completion_tokens_max": max(lengths, default=0),
        "truncated": _mean([a.rollout.finish_reason == "length" for a in attempts]),
        "parts": _parts(attempts),
        "sources": {name: _source_metrics(own) for name, own in by_source.items()},
        "behaviours": monitor_rollouts([a.rollout for a in attempts], [a.verdict for a in attempts]),
        "tokens_generate": sum(lengths),
    }


def _source_metrics(attempts: Sequence[Attempt]) -> dict[str, Any]:
    return {
        "rollouts": len(attempts),
        "reward": _mean(_rewards(attempts)),
        "accuracy": _accuracy(attempts),
        "unjudged": _unjudged(attempts),
        "parts": _parts(attempts),
        "completion_tokens_mean": _mean([len(a.rollout.completion_ids) for a in attempts]),
    }


def _parts(attempts: Sequence[Attempt]) -> dict[str, float | None]:
    """The mean of each named part of the rewards, over the judged rollouts whose verifier gave it."""
    values: dict[str, list[float]] = {}
    for attempt in attempts:
        if attempt.verdict.status != "unjudged":
            for name, part in attempt.verdict.details.get("parts", {}).items():
                if part["status"] != "unjudged":
                    values.setdefault(name, []).append(part["score"])
    return {name: _mean(scores) for name, scores in values.items()}


_OPTIONAL = {"importance": "importance_mean", "kl": "kl"}
"""Observations that only some recipes ask for, and their names in the log."""


def update_metrics(learned: Learned, stage: RLStage) -> dict[str, Any]:
    """Numbers over the trained tokens; all None when the step had no signal and made no update.

    entropy and mismatch are of the first mini-batch, before any update of this batch. With d = policy - rollout
    log-prob: mismatch_max and mismatch_mean are of |d|, mismatch_k3 is the mean of exp(d) - 1 - d, an estimate of
    KL(rollout || policy) in nats. clip_share is the mean over the batch's updates; loss and grad_norm are the last.
    """
    wanted = [*(["importance"] if stage.correction.mode != "none" else []), *(["kl"] if stage.kl.weight else [])]
    names = ["loss", "entropy", "clip_share", "grad_norm", "mismatch_max", "mismatch_mean", "mismatch_k3"]
    row: dict[str, Any] = dict.fromkeys([*names, *(_OPTIONAL[name] for name in wanted)])
    if learned.updates:
        first, last = learned.updates[0].tokens, learned.updates[-1]
        distance = first["distance"]
        row |= {
            "loss": last.loss,
            "entropy": float(first["entropy"].mean()),
            "clip_share": _mean([float(u.tokens["clipped"].mean()) for u in learned.updates]),
            "grad_norm": last.grad_norm,
            "mismatch_max": float(distance.abs().max()),
            "mismatch_mean": float(distance.abs().mean()),
            "mismatch_k3": float((distance.exp() - 1 - distance).mean()),
        }
        row |= {_OPTIONAL[name]: float(first[name].mean()) for name in wanted}
    if stage.advantage == "gae":
        last_values = learned.values[-1] if learned.values else {}
        row |= {name: last_values.get(name) for name in ("value_loss", "value_explained")}
    if stage.entropy.target > 0:
        row["entropy_weight"] = learned.entropy_weight
    return row


def seconds_metrics(timeline: Timeline, *, overlapped: bool) -> dict[str, float]:
    """The step's time by phase; idle is what no phase covers.

    overlapped: generate and verify ran beside the others, and the wait for them is a phase.
    """
    names = ("generate", "verify", *(["wait"] if overlapped else []), "train", "sync", "gate")
    return {**{f"seconds_{n}": timeline.seconds(n) for n in names}, "seconds_idle": timeline.idle_seconds()}


def sample_rows(experience: Experience, step: int, ctx: StageContext) -> list[Mapping[str, Any]]:
    """A few of the step's rollouts with verdict and reason: drawn at random, and one for each behaviour missing there.

    Those behaviours are so rare that a draw would hardly ever show one; `drawn` tells which is which.
    """
    attempts = experience.attempts
    chosen = Random(ctx.seed_for("log", step)).sample(range(len(attempts)), min(_LOGGED_ROLLOUTS, len(attempts)))
    drawn = dict.fromkeys(sorted(chosen), "at random")
    for name, behaviour in BEHAVIOURS.items():
        if not any(_shows(behaviour, attempts[i].rollout) for i in drawn):
            first = next((i for i, a in enumerate(attempts) if _shows(behaviour, a.rollout)), None)
            if first is not None:
                drawn[first] = name
    return [{**_sample_row(attempts[i], step, ctx.name), "drawn": how} for i, how in drawn.items()]


def _shows(behaviour: Behaviour, rollout: Rollout) -> bool:
    return behaviour.shows(rollout.text, rollout.thinking_opened)


def _sample_row(attempt: Attempt, step: int, stage: str) -> dict[str, Any]:
    rollout, verdict = attempt.rollout, attempt.verdict
    return {
        "stage": stage,
        "step": step,
        "problem": rollout.problem.id,
        "source": rollout.problem.source,
        "prompt": rollout.problem.prompt,
        "text": rollout.text,
        "thinking_opened": rollout.thinking_opened,
        "tokens": len(rollout.completion_ids),
        "finish_reason": rollout.finish_reason,
        "policy_versions": sorted(set(rollout.policy_versions)),
        "weight_checksums": [rollout.weight_checksums[v] for v in sorted(rollout.weight_checksums)],
        "verdict": verdict.status,
        "score": verdict.score,
        "reason": verdict.reason,
        "parts": {name: part["score"] for name, part in verdict.details.get("parts", {}).items()},
        "reward": None if math.isnan(attempt.reward) else attempt.reward,
        "advantage": attempt.advantage,
    }


def _rewards(attempts: Sequence[Attempt]) -> list[float]:
    return [a.reward for a in attempts if not math.isnan(a.reward)]


def _unjudged(attempts: Sequence[Attempt]) -> float | None:
    return _mean([a.verdict.status == "unjudged" for a in attempts])


def _accuracy(attempts: Sequence[Attempt]) -> float | None:
    return _mean([a.verdict.status == "correct" for a in attempts if a.verdict.status != "unjudged"])


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
