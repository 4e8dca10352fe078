"""The second half of a reinforcement-learning step: judged groups in, optimiser updates out.

Each optional part is asked for by the recipe and absent otherwise: a reference policy (`kl`), a value model
(`advantage = "gae"`), a second pass for the trainer's own log-probs (`correction`), demonstrations.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from torch import Tensor

from openqwq.config import RLStage
from openqwq.log import logger
from openqwq.model import Decoder

from .algorithm.credit import Scored, assign_credit
from .algorithm.kl import steer_entropy_weight
from .algorithm.losses import sample_weights
from .algorithm.objective import policy_objective
from .demonstrations import Demonstrations
from .experience.collector import Attempt, Experience
from .optim.activations import recomputed_activations
from .optim.optimizer import learning_rate
from .optim.update import UpdateResult, policy_logprobs, update
from .packing import PackedBatch, Sample, pack, rollout_sample, spread, token_scores
from .reference import Reference
from .stage import StageRun
from .value_model import Critic

_ENTROPY_WEIGHT = "entropy_weight"


@dataclass(slots=True, kw_only=True)
class Learned:
    """What a step's updates did. updates: of the policy, one for each mini-batch; values: the value model's.

    idle: why nothing was updated; empty where something was.
    """

    updates: list[UpdateResult] = field(default_factory=list)
    values: list[dict[str, float]] = field(default_factory=list)
    entropy_weight: float = 0.0
    idle: str = ""


class Learner:
    """Holds what the updates need beside policy and optimizer, and makes a step's updates."""

    def __init__(self, stage: RLStage, run: StageRun[RLStage, Decoder], tokenizer: Any):
        self.stage, self.run = stage, run
        self.value_stage = replace(stage, learning_rate=stage.value.learning_rate, muon_learning_rate=0.0)
        self.reference = Reference(stage, run) if stage.kl.weight else None
        self.critic = Critic(self.value_stage, run) if stage.advantage == "gae" else None
        self.demonstrations = Demonstrations(stage, tokenizer, run.ctx) if stage.demonstrations_file else None

    def learn(self, experience: Experience, step: int, ready: Callable[[], None] = lambda: None) -> Learned:
        """The updates of one batch of rollouts, one for each mini-batch of whole groups: none without signal.

        ready: called before any weights of the policy change.
        """
        stage, run = self.stage, self.run
        learned = Learned(entropy_weight=run.values.get(_ENTROPY_WEIGHT, stage.entropy.weight))
        batch = self.samples(experience.useful_groups)
        only_values = self.critic is not None and step < stage.value.warmup_steps
        with recomputed_activations(run.model, stage.activation_checkpointing):
            for number, samples in enumerate(split_groups(batch, stage.updates_per_batch)):
                batches = self._packed([sample for group in samples for sample in group])
                is_trained_on = any(sample.trained_tokens for group in samples for sample in group)
                if self.critic and is_trained_on:
                    rate = learning_rate(self.value_stage, step, run.steps)
                    learned.values.append(self.critic.update(run, batches, rate))
                if is_trained_on and not only_values:
                    learned.updates.append(self._update(batches, step, number, learned.entropy_weight, ready))
        if not learned.updates:
            why = "only the value model learns" if only_values and learned.values else missing_signal(experience)
            learned.idle = "" if learned.values else why
            logger.info("step %d of `%s`: %s, no update", step, run.ctx.name, why)
        self._steer_entropy(learned)
        return learned

    def samples(self, groups: Sequence[list[Attempt]]) -> list[list[Sample]]:
        """The groups' trained rollouts as samples with every stream that the objective reads."""
        kept = [[a for a in group if is_trained(a)] for group in groups]
        weights = self.stage.source_weights
        samples = [
            rollout_sample(a.rollout, a.advantage, weight=weights.get(a.rollout.problem.source, 1.0))
            for group in kept
            for a in group
        ]
        if self.reference:
            samples = self._with(samples, "ref_logprobs", self._scores(samples, self.reference.logprobs))
        if self.stage.correction.mode != "none":
            samples = self._with(samples, "old_logprobs", self._scores(samples, self._policy_logprobs))
        values = self._scores(samples, self.critic.model) if self.critic else [[]] * len(samples)
        places = [(number, a) for number, group in enumerate(kept) for a in group]
        scored = [
            Scored(sample=sample, group=number, source=a.rollout.problem.source, reward=a.reward, values=own)
            for sample, own, (number, a) in zip(samples, values, places, strict=True)
        ]
        rest = iter(assign_credit(scored, self.stage))
        return [[next(rest) for _ in group] for group in kept]

    def _scores(self, samples: Sequence[Sample], score: Any) -> list[list[float]]:
        limit = self.stage.tokens_per_microbatch
        return token_scores(samples, score, tokens_per_microbatch=limit, device=self.run.model.device)

    def _policy_logprobs(self, batch: PackedBatch) -> Tensor:
        return policy_logprobs(self.run.model, batch, temperature=self.stage.temperature)[0]

    @staticmethod
    def _with(
        samples: Sequence[Sample], name: Literal["ref_logprobs", "old_logprobs"], scores: Sequence[Sequence[float]]
    ) -> list[Sample]:
        streams: list[dict[str, Any]] = [
            {name: spread(own, sample.loss_mask)} for sample, own in zip(samples, scores, strict=True)
        ]
        return [replace(sample, **stream) for sample, stream in zip(samples, streams, strict=True)]

    def _packed(self, samples: Sequence[Sample]) -> list[PackedBatch]:
        stage = self.stage
        weights = sample_weights(
            [s.trained_tokens for s in samples],
            aggregation=stage.loss_aggregation,
            longest=stage.max_completion_tokens,
        )
        limit, device = stage.tokens_per_microbatch, self.run.model.device
        return pack(samples, weights, tokens_per_microbatch=limit, device=device)

    def _update(
        self,
        batches: list[PackedBatch],
        step: int,
        number: int,
        entropy_weight: float,
        ready: Callable[[], None],
    ) -> UpdateResult:
        stage, run = self.stage, self.run
        return update(
            run.model,
            run.optimizer,
            batches,
            partial(policy_objective, stage),
            learning_rate=learning_rate(stage, step, run.steps),
            max_grad_norm=stage.max_grad_norm,
            temperature=stage.temperature,
            entropy_weight=entropy_weight,
            ready=ready,
            further=[self.demonstrations.component(step, number, run.model.device)] if self.demonstrations else (),
        )

    def _steer_entropy(self, learned: Learned) -> None:
        config = self.stage.entropy
        if config.target > 0 and learned.updates:
            entropy = float(learned.updates[0].tokens["entropy"].mean())
            self.run.values[_ENTROPY_WEIGHT] = steer_entropy_weight(
                learned.entropy_weight, entropy, target=config.target, step=config.step
            )


def missing_signal(experience: Experience) -> str:
    """Why nothing can be learned from the groups; what most verdicts say where no rollout could be judged."""
    verdicts = [attempt.verdict for attempt in experience.attempts]
    if verdicts and all(verdict.status == "unjudged" for verdict in verdicts):
        [(reason, _)] = Counter(verdict.reason for verdict in verdicts).most_common(1)
        return f"no rollout could be judged ({reason})"
    return "no group has signal"


def is_trained(attempt: Attempt) -> bool:
    """Whether a rollout takes part in the loss: judged, and not left out as truncated."""
    return attempt.verdict.status != "unjudged" and not math.isnan(attempt.reward)


def split_groups(groups: Sequence[list[Sample]], parts: int) -> list[list[list[Sample]]]:
    """At most `parts` mini-batches of whole groups, sizes differing by one at most; groups are dealt in turn."""
    return [list(groups[i::parts]) for i in range(min(parts, len(groups)))]
