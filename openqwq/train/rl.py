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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from openqwq.config import RLStage
from openqwq.errors import UserError
from openqwq.model import Qwen2ForCausalLM
from openqwq.types import Policy
from openqwq.verifiers import Verifier

from .experience import Collector, Experience, ProblemMixture, needs_spread
from .gate import GateEvaluate, RegressionGate
from .learner import Learned, Learner
from .optimizer import build_optimizer, learning_rate
from .rewards import RewardScorer, check_rewards
from .rl_metrics import experience_metrics, sample_rows, update_metrics
from .stage import StageContext, StageRun


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
        learner = Learner(stage, run, tokenizer)
        gate = RegressionGate(stage.gate, gate_evaluate, run)
        gate.look_if_due()
        for step in run.remaining_steps():
            experience = collector.collect(step)
            with run.uninterrupted():
                started = time.perf_counter()
                learned = learner.learn(experience, step)
                policy.load_weights(model, version=policy.version + len(learned.updates))
                run.values["policy_version"] = policy.version
                row = _metrics_row(run, experience, learned, gate, step, time.perf_counter() - started)
                run.finish(row, sample_rows(experience, step, ctx))
            gate.look_if_due()
        policy.load_weights(model, version=policy.version)
    return RLOutcome(
        steps=run.step,
        gate_fell=run.values.get("gate_fell", ""),
        gate_scores=run.values.get("gate_scores", {}),
    )


def _metrics_row(
    run: StageRun[RLStage, Qwen2ForCausalLM],
    experience: Experience,
    learned: Learned,
    gate: RegressionGate,
    step: int,
    seconds_train: float,
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
        "seconds_train": seconds_train,
    }


def _check_stage(stage: RLStage, ctx: StageContext) -> None:
    if needs_spread(stage) and stage.samples_per_prompt < 2:
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
