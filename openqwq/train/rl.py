"""Reinforcement learning on verified rewards: the loop of QwQ's two RL stages.

Group advantages without deviation (Dr. GRPO, arXiv:2503.20783), token-level clipped policy gradient with
a higher upper bound and refilled groups (DAPO, arXiv:2503.14476). Where this differs from the papers:
1. An unjudged rollout (the verifier's or the machine's fault) is left out of mean, loss and denominator.
2. The old log-probs are the sampler's own records: it is the same module, and `mismatch_max` shows it.
3. No KL term: there is no reference model.
4. `updates_per_batch` splits the batch's groups into so many mini-batches, one update each (PPO's
   mini-batches, one epoch); each has its own global denominator.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn

from openqwq.config import RLStage
from openqwq.errors import UserError
from openqwq.log import logger
from openqwq.model import Qwen2ForCausalLM
from openqwq.types import Policy
from openqwq.verifiers import Verifier

from .experience import Attempt, Collector, Experience, ProblemMixture
from .gate import GateEvaluate, RegressionGate
from .losses import clipped_policy_loss, sample_weights
from .optimizer import build_optimizer, learning_rate
from .packing import PackedBatch, pack, rollout_sample
from .rewards import RewardScorer, check_rewards
from .rl_metrics import experience_metrics, sample_rows, update_metrics
from .stage import StageContext, StageRun
from .update import UpdateResult, update


class TrainedPolicy(Policy, Protocol):
    """A policy that takes the trainer's weights and counts them as a version."""

    def load_weights(self, source: nn.Module, *, version: int | None = None) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RLOutcome:
    """How a stage ended. gate_fell: what fell, empty when nothing did; gate_scores: the last look's, by kind."""

    steps: int
    gate_fell: str
    gate_scores: Mapping[str, float]


def run_rl(
    stage: RLStage,
    *,
    model: Qwen2ForCausalLM,
    policy: TrainedPolicy,
    tokenizer: Any,
    mixture: ProblemMixture,
    verifiers: Mapping[str, Verifier],
    ctx: StageContext,
    reward_scorer: RewardScorer | None = None,
    gate_evaluate: GateEvaluate | None = None,
) -> RLOutcome:
    """Train the model in place; the policy samples with its weights.

    gate_evaluate: needed when `stage.gate.kinds` names any. If the gate closes, the model ends with the
    weights of the last look that passed.
    """
    check_rewards(stage, reward_scorer)
    _check_stage(stage, ctx)
    optimizer = build_optimizer(model, stage)
    collector = Collector(
        stage,
        ctx,
        policy=policy,
        tokenizer=tokenizer,
        mixture=mixture,
        verifiers=verifiers,
        reward_scorer=reward_scorer,
    )
    with StageRun(ctx, stage, model, optimizer, steps=stage.steps) as run:
        policy.load_weights(model, version=run.values.setdefault("policy_version", policy.version))
        gate = RegressionGate(stage.gate, gate_evaluate, run)
        gate.look_if_due()
        for step in run.remaining_steps():
            experience = collector.collect(step)
            with run.uninterrupted():
                started = time.perf_counter()
                updates = update_policy(run, experience, step)
                policy.load_weights(model, version=policy.version + len(updates))
                run.values["policy_version"] = policy.version
                row = _metrics_row(run, experience, updates, gate, step, time.perf_counter() - started)
                run.finish(row, sample_rows(experience, step, ctx))
            gate.look_if_due()
        policy.load_weights(model, version=policy.version)
    return RLOutcome(
        steps=run.step,
        gate_fell=run.values.get("gate_fell", ""),
        gate_scores=run.values.get("gate_scores", {}),
    )


def update_policy(run: StageRun, experience: Experience, step: int) -> list[UpdateResult]:
    """The optimiser updates of one batch of rollouts, one for each mini-batch: none when no group has signal."""
    stage: RLStage = run.stage
    device = next(run.model.parameters()).device
    results = []
    for groups in split_groups(experience.useful_groups, stage.updates_per_batch):
        judged = [a for group in groups for a in group if a.verdict.status != "unjudged"]
        samples = [rollout_sample(attempt.rollout, attempt.advantage) for attempt in judged]
        weights = sample_weights([s.trained_tokens for s in samples], aggregation=stage.loss_aggregation)
        results.append(
            update(
                run.model,
                run.optimizer,
                pack(samples, weights, tokens_per_microbatch=stage.tokens_per_microbatch, device=device),
                partial(policy_objective, stage),
                learning_rate=learning_rate(stage, step, run.steps),
                max_grad_norm=stage.max_grad_norm,
                temperature=stage.temperature,
            )
        )
    if not results:
        logger.info("step %d of `%s`: no group has signal, no update", step, run.ctx.name)
    return results


def split_groups(groups: Sequence[list[Attempt]], parts: int) -> list[list[list[Attempt]]]:
    """At most `parts` mini-batches of whole groups, sizes differing by one at most; groups are dealt in turn."""
    return [list(groups[i::parts]) for i in range(min(parts, len(groups)))]


def policy_objective(stage: RLStage, logprobs: Tensor, batch: PackedBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped policy-gradient loss of each trained token, with what the log wants to see of it."""
    losses, clipped = clipped_policy_loss(
        logprobs,
        batch.rollout_logprobs,
        batch.advantages,
        clip_low=stage.clip_low,
        clip_high=stage.clip_high,
    )
    return losses, {"clipped": clipped.float(), "mismatch": (logprobs - batch.rollout_logprobs).abs()}


def _metrics_row(
    run: StageRun[RLStage, Qwen2ForCausalLM],
    experience: Experience,
    updates: list[UpdateResult],
    gate: RegressionGate,
    step: int,
    seconds_train: float,
) -> dict[str, Any]:
    return {
        "stage": run.ctx.name,
        "step": step,
        **experience_metrics(experience, run.stage.mix),
        **update_metrics(updates),
        "learning_rate": learning_rate(run.stage, step, run.steps),
        "updates": len(updates),
        "gate": gate.scores_before(step),
        "tokens_train": sum(u.num_tokens for u in updates),
        "seconds_train": seconds_train,
    }


def _check_stage(stage: RLStage, ctx: StageContext) -> None:
    if stage.samples_per_prompt < 2:
        raise UserError(
            f"`samples_per_prompt` is {stage.samples_per_prompt} in stage `{ctx.name}`, "
            "but group advantages need at least 2",
            hint="set `samples_per_prompt = 8`",
        )
    if stage.max_staleness != 0:
        raise UserError(
            f"`max_staleness` is {stage.max_staleness} in stage `{ctx.name}`, but only 0 (synchronous) is built",
            hint="set `max_staleness = 0`",
        )
    if stage.temperature <= 0:
        raise UserError(f"`temperature` is {stage.temperature} in stage `{ctx.name}`, but rollouts must be sampled")
