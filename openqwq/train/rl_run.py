"""One RL stage as an object: what `run_rl` does in a step, and everything that it needs for it.

Public: RLParts, RLRun, RolloutRun, RLOutcome, record_curriculum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

from openqwq.config import RLStage, check_algorithm
from openqwq.data.curriculum import DifficultyPool, draw_pool
from openqwq.errors import UserError
from openqwq.model import Decoder
from openqwq.rollout import GroupStream
from openqwq.verifiers import Verifier

from .algorithm.rewards import RewardScorer, check_rewards
from .distributed import num_ranks
from .experience.collector import Collector, Collects, Experience, ProblemMixture, Remembers
from .experience.overlap import InTurn, Overlap
from .experience.staleness import Freshness
from .gate import GateEvaluate, RegressionGate
from .learner import Learned, Learner
from .optim.optimizer import build_optimizer, learning_rate
from .policy import TrainedPolicy, adapters, check_agreement, invariance, publish, trainer_checksum
from .rl_metrics import experience_metrics, sample_rows, seconds_metrics, update_metrics
from .stage import StageContext, StageRun
from .timeline import Timeline

_PROBLEMS = "problems"
_UPDATES = "updates_by_reason"


@dataclass(frozen=True, slots=True, kw_only=True)
class RLParts:
    """What a stage works with.

    policy:        samples with the model's weights.
    gate_evaluate: needed when `stage.gate.kinds` names any.
    replay:        where the rollouts come from instead of the policy.
    """

    model: Decoder
    policy: TrainedPolicy
    tokenizer: Any
    mixture: ProblemMixture
    verifiers: Mapping[str, Verifier]
    reward_scorer: RewardScorer | None = None
    gate_evaluate: GateEvaluate | None = None
    replay: Collects | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RLOutcome:
    """How a stage ended. gate_fell: what fell, empty when nothing did; gate_scores: the last evaluation's, by kind.

    idle: why no step made an update; empty when some did, or when the gate closed before there was any step.
    """

    steps: int
    idle: str
    gate_fell: str
    gate_scores: Mapping[str, float]


class RLRun:
    """A stage's steps, as a context: resumes on entry; saves when due, on Ctrl-C and at the end.

    Raises UserError for a stage that cannot be trained with these parts.
    """

    def __init__(self, stage: RLStage, parts: RLParts, ctx: StageContext):
        check_rewards(stage, parts.reward_scorer)
        _check_stage(stage, ctx)
        self.stage, self.parts, self.ctx = stage, parts, ctx
        self._timeline, self._stack = Timeline(), ExitStack()
        self._pool = None if parts.replay else _build_pool(stage, parts.mixture, ctx)
        self._problems = self._pool or parts.mixture
        self._overlapped = stage.max_staleness > 0 and parts.replay is None
        self._step, self._fresh = 0, dict[str, Any]()

    def __enter__(self) -> RLRun:
        with ExitStack() as stack:
            model, policy = self.parts.model, self.parts.policy
            stack.enter_context(adapters(model, self.stage, self.ctx))
            stack.enter_context(invariance(model, self.stage))
            optimizer = build_optimizer(model, self.stage)
            self._run = stack.enter_context(StageRun(self.ctx, self.stage, model, optimizer, steps=self.stage.steps))
            self._freshness = Freshness(self._run, None if self.parts.replay else self.stage.max_staleness)
            policy.load_weights(model, version=self._run.values.setdefault("policy_version", 0))
            if self._run.step == 0:
                self._freshness.publish(policy.version, trainer_checksum(policy, model))
            if isinstance(self._problems, Remembers) and _PROBLEMS in self._run.values:
                self._problems.load_state(self._run.values[_PROBLEMS])
            self._learner = Learner(self.stage, self._run, self.parts.tokenizer)
            self._gate = RegressionGate(self.stage.gate, self.parts.gate_evaluate, self._run)
            self.check_gate()
            stack.push(self._hand_over)
            self._source = self._make_source()
            stack.enter_context(self._source)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def remaining_steps(self) -> Iterator[int]:
        """The steps that are still to be made; ends early once the gate has closed."""
        return self._run.remaining_steps()

    def collect(self, step: int) -> Experience:
        """The step's problems, rollouts, verdicts and rewards."""
        self._step = step
        return self._source.collect(step)

    def uninterrupted(self) -> AbstractContextManager[None]:
        """Hold back Ctrl-C while weights and logs change, so that every saved state is one between two steps."""
        return self._run.uninterrupted()

    def learn(self, experience: Experience) -> Learned:
        """Advantages, packing, loss and updates; where sampling overlaps, the next step's begins beside them.

        Raises RuntimeError where sampler and trainer must have the same log-probs to the last bit and have not.
        """
        self._fresh = self._freshness.measure(attempt.rollout for attempt in experience.attempts)
        self._source.begin(self._step + 1)
        with self._timeline.phase("train"):
            learned = self._learner.learn(experience, self._step, ready=self._source.wait)
            self._source.wait()
        model, policy = self.parts.model, self.parts.policy
        if model.batch_invariant and policy.model is model and not (self._overlapped or self.parts.replay):
            check_agreement(learned, self._step)
        return learned

    def publish(self, learned: Learned) -> None:
        """Let the next rollouts use these weights, under a version that counts the updates."""
        policy = self.parts.policy
        with self._timeline.phase("sync"):
            publish(policy, self.parts.model, self._freshness, policy.version + len(learned.updates))
        self._run.values["policy_version"] = policy.version

    def log(self, experience: Experience, learned: Learned) -> None:
        """Write the step's metrics, samples and phases; count it as done, and save if a checkpoint is due."""
        note_idle(self._run.values, learned)
        row = self._metrics(experience, learned) | self._fresh
        row |= record_curriculum(self._pool, experience, self._run.step)
        if isinstance(self._problems, Remembers):
            self._run.values[_PROBLEMS] = self._problems.state()
        row |= seconds_metrics(self._timeline, overlapped=self._overlapped)
        phases = self._timeline.take(self.ctx.name, self._step)
        self._run.finish(row, sample_rows(experience, self._step, self.ctx), phases)

    def check_gate(self) -> None:
        """Evaluate the kinds that must not fall, if an evaluation is due; the stage stops where one has fallen."""
        with self._timeline.phase("gate"):
            self._gate.look_if_due()

    def outcome(self) -> RLOutcome:
        """How the stage ended."""
        values = self._run.values
        return RLOutcome(
            steps=self._run.step,
            idle=describe_idle(values, self._run.step),
            gate_fell=values.get("gate_fell", ""),
            gate_scores=values.get("gate_scores", {}),
        )

    def _make_source(self) -> InTurn | Overlap:
        parts, stage = self.parts, self.stage
        stream = GroupStream(parts.policy, parts.tokenizer, stage.samples_per_prompt) if self._overlapped else None
        collector = _make_collector(stage, parts, self.ctx, self._problems, timeline=self._timeline, stream=stream)
        if stream is not None:
            return Overlap(collector, stream, stage, self._run, self._timeline)
        return InTurn(parts.replay or collector)

    def _hand_over(self, kind: type[BaseException] | None, *_: Any) -> None:
        """After the last step the policy has the weights that the stage ends with."""
        if kind is None:
            self.parts.policy.load_weights(self.parts.model, version=self.parts.policy.version)

    def _metrics(self, experience: Experience, learned: Learned) -> dict[str, Any]:
        return {
            "stage": self.ctx.name,
            "step": self._step,
            **experience_metrics(experience, self.stage.mix),
            **update_metrics(learned, self.stage),
            "learning_rate": learning_rate(self.stage, self._step, self._run.steps),
            "updates": len(learned.updates),
            "gate": self._gate.scores_before(self._step),
            "tokens_train": sum(u.num_tokens for u in learned.updates),
        }


def note_idle(values: dict[str, Any], learned: Learned) -> None:
    """Count a step as one that made an update, or under the reason why it made none; saved with the run."""
    counts = values.setdefault(_UPDATES, {})
    counts[learned.idle] = counts.get(learned.idle, 0) + 1


def describe_idle(values: Mapping[str, Any], steps: int) -> str:
    """ "0 of 3 steps made an update: no group has signal"; empty when one did, or no step was counted."""
    counts = values.get(_UPDATES, {})
    if not counts or "" in counts:
        return ""
    reasons = sorted(counts, key=lambda reason: -counts[reason])
    told = reasons[0] if len(reasons) == 1 else ", ".join(f"{reason} ({counts[reason]} steps)" for reason in reasons)
    return f"0 of {steps} steps made an update: {told}"


class RolloutRun:
    """The first half of a stage's steps alone, as a context: the weights stand still, so steps differ in problems.

    state: what `state` gave before, to continue from.
    """

    def __init__(self, stage: RLStage, parts: RLParts, ctx: StageContext, state: Mapping[str, Any] | None = None):
        check_rewards(stage, parts.reward_scorer)
        _check_stage(stage, ctx)
        self.stage, self.parts, self.ctx = stage, parts, ctx
        self._problems = _build_pool(stage, parts.mixture, ctx) or parts.mixture
        if isinstance(self._problems, Remembers) and state is not None:
            self._problems.load_state(state)
        self._collector = _make_collector(stage, parts, ctx, self._problems)

    def __enter__(self) -> RolloutRun:
        self._mode = invariance(self.parts.model, self.stage)
        self._mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._mode.__exit__(*error)

    def collect(self, step: int) -> Experience:
        """As `RLRun.collect`, by the weights of the beginning."""
        self.parts.policy.load_weights(self.parts.model, version=0)  # no step finds what an earlier one left cached
        return self._collector.collect(step)

    def state(self) -> dict[str, Any] | None:
        """What the next step's problems depend on; None where it is the step alone."""
        return self._problems.state() if isinstance(self._problems, Remembers) else None


def _make_collector(
    stage: RLStage,
    parts: RLParts,
    ctx: StageContext,
    problems: ProblemMixture,
    *,
    timeline: Timeline | None = None,
    stream: GroupStream | None = None,
) -> Collector:
    return Collector(
        stage,
        ctx,
        policy=parts.policy,
        tokenizer=parts.tokenizer,
        mixture=problems,
        verifiers=parts.verifiers,
        reward_scorer=parts.reward_scorer,
        timeline=timeline,
        stream=stream,
    )


def _build_pool(stage: RLStage, mixture: ProblemMixture, ctx: StageContext) -> DifficultyPool | None:
    """The stage's difficulty pool, where it asks for one."""
    config = stage.curriculum
    if not config.pool:
        return None
    return DifficultyPool(
        draw_pool(mixture, config.pool),
        easy=config.easy,
        hard=config.hard,
        rest_steps=config.rest_steps,
        seed=ctx.seed_for("curriculum"),
    )


def record_curriculum(pool: DifficultyPool | None, experience: Experience, step: int) -> dict[str, Any]:
    """Tell the pool what the step's groups scored; what the log says of the pool.

    A rollout without a trained token says nothing of how hard a problem is.
    """
    if pool is None:
        return {}
    judged = [
        [a for a in group if a.verdict.status != "unjudged" and any(a.rollout.loss_mask)] for group in experience.groups
    ]
    rates = [(g[0].rollout.problem, sum(a.verdict.status == "correct" for a in g) / len(g)) for g in judged if g]
    pool.record(step, rates)
    return {"curriculum": pool.measures(step + 1)}


def _check_stage(stage: RLStage, ctx: StageContext) -> None:
    check_algorithm(stage, f"stage `{ctx.name}`")
    if stage.max_staleness > 0 and num_ranks() > 1:
        raise UserError(
            f"`max_staleness` is {stage.max_staleness} in stage `{ctx.name}`, but sampling beside training is not "
            f"there for {num_ranks()} ranks",
            hint="set `max_staleness = 0`, or train with one process",
        )
    if stage.temperature <= 0:
        raise UserError(f"`temperature` is {stage.temperature} in stage `{ctx.name}`, but rollouts must be sampled")
