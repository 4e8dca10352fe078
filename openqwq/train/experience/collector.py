"""The first half of a reinforcement-learning step: problems in, groups with rewards and advantages out.

Zero-variance groups (all rewards equal) teach nothing; they are replaced by groups of new problems for a
bounded number of rounds (DAPO's dynamic sampling, arXiv:2503.14476, section 3.2).
Letters: P problems, G rollouts per problem.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch

from openqwq.config import RLStage
from openqwq.rollout import GroupStream, sample_groups
from openqwq.types import Group, Policy, Problem, Rollout, SamplingParams, Verdict
from openqwq.verifiers import Verifier, verify_all

from ..algorithm.credit import outcome_advantages
from ..algorithm.rewards import RewardScorer, coin_rewards, shape_by_length, verdict_rewards
from ..distributed import collect_dealt, deal
from ..stage import StageContext
from ..timeline import Timeline


class ProblemMixture(Protocol):
    """The problems of a step and of each of its refill rounds, asked for in order."""

    def batch(self, step: int, count: int, refill: int = 0) -> list[Problem]: ...


@runtime_checkable
class Remembers(Protocol):
    """A mixture whose problems also depend on what it gave before; its state is saved with the run."""

    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A rollout with what became of it. reward: NaN where it could not be judged, or is left out: truncated, untrained.

    advantage: from the group's rewards alone; estimators over tokens or batches (`credit.py`) start from it.
    """

    rollout: Rollout
    verdict: Verdict
    reward: float
    advantage: float


@dataclass(slots=True, kw_only=True)
class Experience:
    """Everything one step sampled. groups: P lists of G attempts, refills included.

    needs_spread: whether a group teaches only if its rewards differ, as where they are compared with each other.
    """

    groups: list[list[Attempt]] = field(default_factory=list)
    needs_spread: bool = True
    refills: int = 0

    @property
    def attempts(self) -> list[Attempt]:
        return [attempt for group in self.groups for attempt in group]

    @property
    def useful_groups(self) -> list[list[Attempt]]:
        """Groups in which some rollout has an advantage; where no spread is needed, some judged rollout."""
        return [group for group in self.groups if any(self._teaches(a) for a in group)]

    def _teaches(self, attempt: Attempt) -> bool:
        return bool(attempt.advantage) if self.needs_spread else not math.isnan(attempt.reward)


class Collects(Protocol):
    """Where a step's experience comes from: the policy itself, or a file of rollouts."""

    def collect(self, step: int) -> Experience: ...


class Collector:
    """Samples and judges one step's groups.

    timeline: the phases generate and verify go there. stream: groups in flight, where sampling runs beside training.
    """

    def __init__(
        self,
        stage: RLStage,
        ctx: StageContext,
        *,
        policy: Policy,
        tokenizer: Any,
        mixture: ProblemMixture,
        verifiers: Mapping[str, Verifier],
        reward_scorer: RewardScorer | None,
        timeline: Timeline | None = None,
        stream: GroupStream | None = None,
    ):
        self.stage, self.ctx, self.policy, self.tokenizer = stage, ctx, policy, tokenizer
        self.mixture, self.verifiers, self.reward_scorer = mixture, verifiers, reward_scorer
        self.timeline, self.stream = timeline or Timeline(), stream
        self.needs_spread = needs_spread(stage)

    def collect(self, step: int) -> Experience:
        """Groups until `prompts_per_step` of them have signal, or the refill rounds are used up.

        What is missing then stays missing: the step continues with the available groups.
        """
        experience = Experience(needs_spread=self.needs_spread)
        for refill in range(self.stage.max_refills + 1):
            missing = self.stage.prompts_per_step - len(experience.useful_groups)
            if missing <= 0:
                break
            experience.refills = refill
            experience.groups += self._round(missing, step, refill)
        return experience

    def _round(self, count: int, step: int, refill: int) -> list[list[Attempt]]:
        with self.timeline.phase("generate"):
            groups = self._streamed(count, step, refill) if self.stream else self._sampled(count, step, refill)
        with self.timeline.phase("verify"):
            found = iter(judge([rollout for group in groups for rollout in group.rollouts], self.verifiers))
            judged = collect_dealt([[(r, next(found)) for r in group.rollouts] for group in groups])
            rollouts, verdicts = [r for group in judged for r, _ in group], [v for group in judged for _, v in group]
            rewards = self._rewards(rollouts, verdicts, step, refill)
        return with_advantages([len(group) for group in judged], rollouts, verdicts, rewards, self.stage)

    def _sampled(self, count: int, step: int, refill: int) -> list[Group]:
        problems = self.mixture.batch(step, count, refill)
        params = deal([self._sampling(step, refill, position) for position in range(len(problems))])
        problems = deal(problems)
        sizes = [group_size(self.stage, problem) for problem in problems]
        return sample_groups(self.policy, self.tokenizer, problems, sizes, params)

    def _streamed(self, count: int, step: int, refill: int) -> list[Group]:
        """Complete groups of the stream; from a bound of two steps on, a step's worth of further ones stays in flight.

        A group that is begun for step s is trained on at the latest in step s + max_staleness - 1, by weights that
        are then max_staleness steps newer.
        """
        assert self.stream is not None
        stage, spare = self.stage, 0
        if stage.max_staleness > 1 and step < stage.steps - 1:
            spare = stage.prompts_per_step
        if (new := count + spare - len(self.stream.groups)) > 0:
            for position, problem in enumerate(self.mixture.batch(step, new, refill)):
                params = self._sampling(step, refill, position)
                self.stream.begin(problem, params, step, group_size(stage, problem))
        return self.stream.advance(count, due=step - stage.max_staleness + 1)

    def _rewards(self, rollouts: Sequence[Rollout], verdicts: Sequence[Verdict], step: int, refill: int) -> list[float]:
        if self.stage.reward == "random":
            rewards = coin_rewards(len(rollouts), self.ctx, step, refill)
        elif self.stage.reward == "none":
            rewards = [math.nan if v.status == "unjudged" else 0.0 for v in verdicts]
        else:
            rewards = verdict_rewards(rollouts, verdicts, self.stage, self.reward_scorer)
        return shape_by_length(rollouts, rewards, self.stage)

    def _sampling(self, *place: int) -> SamplingParams:
        """The distribution that is trained, seeded by the place in the run (step, refill round, problem)."""
        stage = self.stage
        return SamplingParams(
            temperature=stage.temperature,
            top_p=stage.top_p,
            top_k=stage.top_k,
            min_p=stage.min_p,
            kept_ids=stage.top_p < 1 or stage.top_k > 0 or stage.min_p > 0,
            max_tokens=stage.max_completion_tokens,
            thinking_budget=stage.thinking_budget or None,
            seed=self.ctx.seed_for("sampling", *place),
        )


def with_advantages(
    sizes: Sequence[int],
    rollouts: Sequence[Rollout],
    verdicts: Sequence[Verdict],
    rewards: Sequence[float],
    stage: RLStage,
) -> list[list[Attempt]]:
    """The rollouts as groups of these sizes, with the advantages that a group's own rewards give.

    A rollout without a trained token (empty, or all put in) has no gradient: its reward becomes NaN, so that it is in
    no baseline and makes no group unequal.
    """
    rewards = [reward if any(r.loss_mask) else math.nan for r, reward in zip(rollouts, rewards, strict=True)]
    groups, start = [], 0
    for size in sizes:
        part = range(start, start + size)
        values = torch.tensor([rewards[i] for i in part])
        advantages = outcome_advantages(values, stage).tolist()
        groups.append(
            [
                Attempt(rollout=rollouts[i], verdict=verdicts[i], reward=rewards[i], advantage=advantage)
                for i, advantage in zip(part, advantages, strict=True)
            ]
        )
        start += size
    return groups


def group_size(stage: RLStage, problem: Problem) -> int:
    """How many rollouts a problem gets."""
    return stage.source_samples_per_prompt.get(problem.source, stage.samples_per_prompt)


def needs_spread(stage: RLStage) -> bool:
    """Whether the stage's advantages compare the rollouts of a group, so that equal rewards teach nothing."""
    return stage.advantage in ("group", "rloo") and stage.reward != "none"


def judge(rollouts: Sequence[Rollout], verifiers: Mapping[str, Verifier]) -> list[Verdict]:
    """One verdict for each rollout; a rollout that failed on our side is unjudged without asking a verifier."""
    whole = [rollout for rollout in rollouts if rollout.status == "ok"]
    judged = iter(verify_all([rollout.judged_pair for rollout in whole], verifiers))
    return [next(judged) if r.status == "ok" else Verdict.unjudged(f"rollout failed: {r.error}") for r in rollouts]
