"""A learned scorer as a verifier: the scorer is handed in, so that no model is loaded here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

from openqwq.types import Problem, Verdict

from .base import Verifier

Scorer = Callable[[Sequence[tuple[Problem, str]]], Sequence[float]]
"""Unbounded scores (the logits of a Bradley-Terry head), one for each (problem, completion)."""


class RewardModelVerifier(Verifier):
    """The sigmoid of the scorer's output as a score in [0, 1]; correct from `threshold` on.

    scorer: called once for a whole batch; an exception of its own is not caught, a NaN or infinite score is
            unjudged.
    """

    name: ClassVar[str] = "reward_model"
    needs_answer: ClassVar[bool] = False

    def __init__(self, *, scorer: Scorer, threshold: float = 0.5):
        super().__init__()
        self.scorer = scorer
        self.threshold = threshold

    def __call__(self, problem: Problem, completion: str) -> Verdict:
        return self.verify_many([(problem, completion)])[0]

    def verify_many(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        scores = [float(score) for score in self.scorer(pairs)] if pairs else []
        if len(scores) != len(pairs):
            raise ValueError(f"the scorer gave {len(scores)} scores for {len(pairs)} completions")
        return [self._verdict(score) for score in scores]

    def _verdict(self, raw: float) -> Verdict:
        if not math.isfinite(raw):
            return Verdict.unjudged("the reward model gave no finite score")
        score = 1 / (1 + math.exp(-max(-60.0, min(60.0, raw))))
        details = {"raw_score": raw}
        if score >= self.threshold:
            return Verdict.correct(score=score, details=details)
        return Verdict.wrong("low score", score=score, details=details)
