"""Several verifiers as one: a weighted mean, and gates that must hold for the rest to count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from openqwq.errors import UserError
from openqwq.types import Problem, Verdict

from .base import Verifier
from .registry import get_verifier


class CompositeVerifier(Verifier):
    """The weighted mean of the parts' scores; correct when every part is.

    weights: verifier name (or instance's own name) -> weight, positive.
    gates:   names that must be correct, or the score is 0; they need no weight.
    parts:   for names that are not a verifier's own or that take options: an instance, or its options as a table,
             in which `verifier` names the kind, e.g. `{short = {verifier = "length", limit = 2000}}`.
    A part that cannot judge makes the whole unjudged, unless a gate is wrong already: then the score is 0 whatever
    the part would have said. `details["parts"]` holds each part's status, score and reason. Where a part pays another
    reward than its score, the whole pays the weighted mean of the parts' rewards.
    """

    name: ClassVar[str] = "composite"

    def __init__(
        self,
        *,
        weights: Mapping[str, float],
        gates: Sequence[str] = (),
        parts: Mapping[str, Verifier | Mapping[str, Any]] | None = None,
        format_free: bool = False,
    ):
        super().__init__(format_free=format_free)
        if not weights or any(not weight > 0 for weight in weights.values()):
            raise UserError("`weights` of verifier `composite` must name at least one part, each with a weight above 0")
        self.weights = dict(weights)
        self.gates = tuple(gates)
        names = list(dict.fromkeys([*weights, *gates]))
        if unused := [name for name in parts or {} if name not in names]:
            raise UserError(f"part `{unused[0]}` of verifier `composite` has neither a weight nor a gate")
        self.parts = {name: _make_part(name, (parts or {}).get(name, {})) for name in names}

    def __call__(self, problem: Problem, completion: str) -> Verdict:
        return self.verify_many([(problem, completion)])[0]

    def verify_many(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        by_part = {name: part.verify_many(pairs) for name, part in self.parts.items()}
        return [self._combine({name: verdicts[i] for name, verdicts in by_part.items()}) for i in range(len(pairs))]

    def _combine(self, verdicts: Mapping[str, Verdict]) -> Verdict:
        details = {
            "parts": {n: {"status": v.status, "score": v.score, "reason": v.reason} for n, v in verdicts.items()}
        }
        extracted = next((v.extracted for n, v in verdicts.items() if n in self.weights and v.extracted), None)
        for gate in self.gates:
            if verdicts[gate].status == "wrong":
                return Verdict.wrong(f"{gate}: {verdicts[gate].reason}", extracted=extracted, details=details)
        for name, verdict in verdicts.items():
            if verdict.status == "unjudged":
                return Verdict.unjudged(f"{name}: {verdict.reason}", extracted=extracted, details=details)
        score = self._mean({name: verdict.score for name, verdict in verdicts.items()})
        paid = any(verdict.reward is not None for verdict in verdicts.values())
        reward = self._mean({n: v.training_reward for n, v in verdicts.items()}) if paid else None
        wrong = [f"{n}: {v.reason}" for n, v in verdicts.items() if v.status == "wrong"]
        if wrong:
            return Verdict.wrong("; ".join(wrong), score=score, reward=reward, extracted=extracted, details=details)
        return Verdict.correct(score=score, reward=reward, extracted=extracted, details=details)

    def _mean(self, values: Mapping[str, float]) -> float:
        return sum(weight * values[name] for name, weight in self.weights.items()) / sum(self.weights.values())


def _make_part(name: str, given: Verifier | Mapping[str, Any]) -> Verifier:
    if isinstance(given, Verifier):
        return given
    options = dict(given)
    return get_verifier(options.pop("verifier", name), **options)
