"""Reinforcement learning on verified rewards: the loop of QwQ's two RL stages.

    experience = collector.collect(step)         problems, rollouts, verdicts, rewards      experience.py
    learned = learner.learn(experience, step)    advantages, packing, loss, updates         learner.py
    publish(policy, model, ...)                  the next rollouts use the new policy

By default group advantages without deviation (Dr. GRPO, arXiv:2503.20783) and token-level clipped policy gradient
with a higher upper bound and refilled groups (DAPO, arXiv:2503.14476); the recipe names other algorithms. Where this
differs from the papers:
1. An unjudged rollout (the verifier's or the machine's fault) is left out of mean, loss and denominator.
2. The old log-probs are the sampler's own records: it is the same module, and `mismatch_max` shows it.
3. `updates_per_batch` splits the batch's groups into so many mini-batches, one update each (PPO's
   mini-batches, one epoch); each has its own global denominator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from openqwq.config import RLStage, check_algorithm
from openqwq.data.curriculum import DifficultyPool, draw_pool
from openqwq.errors import UserError
from openqwq.log import logger
from openqwq.model import Decoder, set_batch_invariant, weight_checksum
from openqwq.model.lora import add_lora, merge_lora, save_lora
from openqwq.rollout import GroupStream, SteppedPolicy
from openqwq.verifiers import Verifier

from .algorithm.rewards import RewardScorer, check_rewards
from .distributed import is_first, num_ranks
from .experience.collector import Collector, Collects, Experience, ProblemMixture, Remembers
from .experience.overlap import InTurn, Overlap
from .experience.staleness import Freshness
from .gate import GateEvaluate, RegressionGate
from .learner import Learned, Learner
from .optim.optimizer import build_optimizer, learning_rate
from .rl_metrics import experience_metrics, sample_rows, seconds_metrics, update_metrics
from .stage import StageContext, StageRun
from .timeline import Timeline

_PROBLEMS = "problems"
_UPDATES = "updates_by_reason"


class TrainedPolicy(SteppedPolicy, Protocol):
    """A policy that takes the trainer's weights, counts them as a version and knows their checksum.

    model: what it samples from, the trainer's own module or another one.
    """

    @property
    def model(self) -> nn.Module: ...
    @property
    def weight_checksums(self) -> Mapping[int, str]: ...
    def load_weights(self, source: nn.Module, *, version: int | None = None) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RLOutcome:
    """How a stage ended. gate_fell: what fell, empty when nothing did; gate_scores: the last look's, by kind.

    idle: why no step made an update; empty when some did, or when the gate closed before there was any step.
    """

    steps: int
    idle: str
    gate_fell: str
    gate_scores: Mapping[str, float]


def run_rl(
    stage: RLStage,
    *,
    model: Decoder,
    policy: TrainedPolicy,
    tokenizer: Any,
    mixture: ProblemMixture,
    verifiers: Mapping[str, Verifier],
    ctx: StageContext,
    reward_scorer: RewardScorer | None = None,
    gate_evaluate: GateEvaluate | None = None,
    replay: Collects | None = None,
) -> RLOutcome:
    """Train the model in place; the policy samples with its weights.

    gate_evaluate: needed when `stage.gate.kinds` names any. If the gate closes, the model ends with the
    weights of the last look that passed.
    replay: where the rollouts come from instead of the policy.
    """
    check_rewards(stage, reward_scorer)
    _check_stage(stage, ctx)
    pool = None if replay else build_pool(stage, mixture, ctx)
    problems = pool or mixture
    timeline = Timeline()
    overlapped = stage.max_staleness > 0 and replay is None
    stream = GroupStream(policy, tokenizer, stage.samples_per_prompt) if overlapped else None
    collector = Collector(
        stage,
        ctx,
        policy=policy,
        tokenizer=tokenizer,
        mixture=problems,
        verifiers=verifiers,
        reward_scorer=reward_scorer,
        timeline=timeline,
        stream=stream,
    )
    with adapters(model, stage, ctx), invariance(model, stage):
        optimizer = build_optimizer(model, stage)
        with StageRun(ctx, stage, model, optimizer, steps=stage.steps) as run:
            freshness = Freshness(run, None if replay else stage.max_staleness)
            policy.load_weights(model, version=run.values.setdefault("policy_version", 0))
            if run.step == 0:
                freshness.publish(policy.version, _trainer_checksum(policy, model))
            if isinstance(problems, Remembers) and _PROBLEMS in run.values:
                problems.load_state(run.values[_PROBLEMS])
            learner = Learner(stage, run, tokenizer)
            gate = RegressionGate(stage.gate, gate_evaluate, run)
            with timeline.phase("gate"):
                gate.look_if_due()
            with Overlap(collector, stream, stage, run, timeline) if stream else InTurn(replay or collector) as source:
                for step in run.remaining_steps():
                    experience = source.collect(step)
                    with run.uninterrupted():
                        fresh = freshness.measure(a.rollout for a in experience.attempts)
                        source.begin(step + 1)
                        with timeline.phase("train"):
                            learned = learner.learn(experience, step, ready=source.wait)
                            source.wait()
                        if model.batch_invariant and policy.model is model and not (overlapped or replay):
                            check_agreement(learned, step)
                        with timeline.phase("sync"):
                            publish(policy, model, freshness, policy.version + len(learned.updates))
                        run.values["policy_version"] = policy.version
                        note_idle(run.values, learned)
                        row = _metrics_row(run, experience, learned, gate, step) | fresh
                        row |= record_curriculum(pool, experience, run.step)
                        if isinstance(problems, Remembers):
                            run.values[_PROBLEMS] = problems.state()
                        row |= seconds_metrics(timeline, overlapped=overlapped)
                        run.finish(row, sample_rows(experience, step, ctx), timeline.take(ctx.name, step))
                    with timeline.phase("gate"):
                        gate.look_if_due()
            policy.load_weights(model, version=policy.version)
    return RLOutcome(
        steps=run.step,
        idle=describe_idle(run.values, run.step),
        gate_fell=run.values.get("gate_fell", ""),
        gate_scores=run.values.get("gate_scores", {}),
    )


def publish(policy: TrainedPolicy, model: Decoder, freshness: Freshness, version: int) -> None:
    """Give the policy the model's weights under this version, and note which weights they are."""
    policy.load_weights(model, version=version)
    freshness.publish(version, _trainer_checksum(policy, model))


def check_agreement(learned: Learned, step: int) -> None:
    """Raises RuntimeError unless the step's rollouts have the trainer's own log-probs, to the last bit."""
    largest = max((float(u.tokens["distance"].abs().max()) for u in learned.updates[:1]), default=0.0)
    if largest != 0.0:
        raise RuntimeError(
            f"step {step}: log-probs of sampler and trainer are up to {largest:.1e} apart, but in the batch-invariant "
            "mode they are the same numbers: one of the two is wrong"
        )


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


def _trainer_checksum(policy: TrainedPolicy, model: Decoder) -> str:
    """Of the trainer's weights; where the sampler runs the very same module, what it has just computed."""
    return policy.weight_checksums[policy.version] if policy.model is model else weight_checksum(model)


@contextmanager
def adapters(model: Decoder, stage: RLStage, ctx: StageContext) -> Iterator[None]:
    """With `lora.rank`: only adapters are trained in this block; at its end they are saved and merged.

    They go to `adapters/STAGE` of the run folder, as PEFT reads them.
    """
    lora = stage.lora
    if not lora.rank:
        yield
        return
    add_lora(model, rank=lora.rank, alpha=lora.alpha, targets=lora.targets, seed=ctx.seed_for("lora"))
    yield
    if is_first():
        save_lora(model, ctx.checkpoints.run_folder / "adapters" / ctx.name, base=ctx.base_model)
    merge_lora(model)


@contextmanager
def invariance(model: Decoder, stage: RLStage) -> Iterator[None]:
    """With `batch_invariant`: the model, and so sampler and trainer, compute in that mode within this block."""
    before = model.batch_invariant
    try:
        set_batch_invariant(model, stage.batch_invariant != "off" or before)
    except UserError as error:
        if stage.batch_invariant == "on":
            raise
        logger.warning("%s: log-probs of sampler and trainer will differ by rounding", error.message)
    try:
        yield
    finally:
        set_batch_invariant(model, before)


def build_pool(stage: RLStage, mixture: ProblemMixture, ctx: StageContext) -> DifficultyPool | None:
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


def _metrics_row(
    run: StageRun[RLStage, Decoder],
    experience: Experience,
    learned: Learned,
    gate: RegressionGate,
    step: int,
) -> dict[str, Any]:
    return {
        "stage": run.ctx.name,
        "step": step,
        **experience_metrics(experience, run.stage.mix),
        **update_metrics(learned, run.stage),
        "learning_rate": learning_rate(run.stage, step, run.steps),
        "updates": len(learned.updates),
        "gate": gate.scores_before(step),
        "tokens_train": sum(u.num_tokens for u in learned.updates),
    }


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
