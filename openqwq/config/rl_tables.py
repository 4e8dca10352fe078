"""The tables within an RL stage: gate, KL, entropy, correction, value model, adapters, curriculum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """The regression gate: if a kind falls too far, the stage stops and keeps its last good weights."""

    kinds: tuple[str, ...] = ()
    """Protected kinds, e.g. ["math", "code"]; empty: no gate."""
    max_drop: float = 0.02
    """Maximum drop of the held-out mean score since the start of the stage, in [0, 1]."""
    every: int = 10
    """Steps between evaluations."""
    problems_per_family: int = 128
    """Held-out problems per family, separate from those of the final evaluation."""


@dataclass(frozen=True, kw_only=True)
class KLConfig:
    """KL penalty towards the reference policy (the stage's `reference`); weight 0: off."""

    weight: float = 0.0
    """Penalty weight (beta). GRPO: 0.04; DAPO, Dr. GRPO and Open-Reasoner-Zero: 0."""
    estimator: Literal["k1", "k2", "k3"] = "k3"
    """Schulman's estimators: k1 = log p/q, k2 = (log p/q)^2 / 2, k3 = q/p - 1 - log q/p (GRPO)."""
    place: Literal["loss", "reward"] = "loss"
    """"loss": added to the token loss (GRPO); "reward": subtracted from the reward (RLOO, PPO, REINFORCE++)."""


@dataclass(frozen=True, kw_only=True)
class EntropyConfig:
    """Entropy bonus, with a constant weight or one adapted towards a target."""

    weight: float = 0.0
    """Weight of the mean entropy (nats) subtracted from the loss; with a target: the initial weight."""
    target: float = 0.0
    """Target entropy in nats: the weight rises below it and falls above it (Skywork-OR1); 0: constant weight."""
    step: float = 0.005
    """Change of the weight per step with a target; the weight never falls below 0."""


@dataclass(frozen=True, kw_only=True)
class CorrectionConfig:
    """Importance correction for a sampler whose log-probs are not the trainer's (another engine, stale weights)."""

    mode: Literal["none", "truncate", "mask"] = "none"
    """"truncate": weights are capped at `high` (TIS); "mask": weights outside [low, high] become 0 (IcePop, MIS)."""
    level: Literal["token", "sequence", "geometric"] = "token"
    """Importance weight per token, per rollout (product of ratios), or per rollout by the geometric mean."""
    low: float = 0.5
    """Minimum weight that "mask" keeps."""
    high: float = 2.0
    """Maximum weight."""


@dataclass(frozen=True, kw_only=True)
class ValueConfig:
    """PPO's value model, used by `advantage = "gae"`: a copy of the policy with a scalar head."""

    learning_rate: float = 1e-3
    """Peak AdamW learning rate of the value model, same schedule as the stage's."""
    gamma: float = 1.0
    """Discount factor; 1: no discount (Open-Reasoner-Zero)."""
    gae_lambda: float = 1.0
    """GAE lambda; 1: return minus value (Open-Reasoner-Zero), lower: less variance, more bias."""
    clip: float = 0.0
    """Value clip range around the rollout-time values (PPO); 0: no clipping."""
    warmup_steps: int = 0
    """Initial steps that train only the value model."""


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """LoRA adapters (arXiv:2106.09685) on a frozen base; rank 0: full training."""

    rank: int = 0
    """Rank of the adapters."""
    alpha: float = 32.0
    """Scale: adapter outputs are multiplied by alpha / rank."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Linear layers with an adapter."""


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """A fixed pool of problems that pauses those too easy or too hard; pool 0: always new problems."""

    pool: int = 0
    """Number of problems in the pool."""
    easy: float = 0.95
    """Problems with a higher last pass rate are paused."""
    hard: float = 0.0
    """Problems with this pass rate or lower are paused."""
    rest_steps: int = 20
    """Steps of a pause; doubles for each pause in a row."""
