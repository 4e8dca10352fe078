"""The tables within an RL stage: gate, KL, entropy, correction, value model, adapters, curriculum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """The regression gate: the stage stops, and its last good weights stand, if a kind falls too far."""

    kinds: tuple[str, ...] = ()
    """Kinds that must not fall, e.g. ["math", "code"]; empty: no gate."""
    max_drop: float = 0.02
    """Largest fall of the held-out mean score from the stage's start, in [0, 1]."""
    every: int = 10
    """Steps between looks."""
    problems_per_family: int = 128
    """Held-out problems a family for one look; drawn apart from the final evaluation's."""


@dataclass(frozen=True, kw_only=True)
class KLConfig:
    """A penalty for leaving the reference policy (`reference` of the stage); weight 0: there is none."""

    weight: float = 0.0
    """The penalty's factor (beta); GRPO's first paper: 0.04, DAPO, Dr. GRPO and Open-Reasoner-Zero: none."""
    estimator: Literal["k1", "k2", "k3"] = "k3"
    """Schulman's estimators: log p/q, its square over two, q/p - 1 - log q/p (GRPO's)."""
    place: Literal["loss", "reward"] = "loss"
    """"loss": added to each token's loss (GRPO); "reward": taken from the reward (RLOO, PPO, REINFORCE++)."""


@dataclass(frozen=True, kw_only=True)
class EntropyConfig:
    """Pay for entropy, by a constant weight or by one that is steered towards a target."""

    weight: float = 0.0
    """Factor of the mean entropy (nats) in the loss, subtracted; with a target: where it starts."""
    target: float = 0.0
    """Nats below which the weight rises and above which it falls (Skywork-OR1); 0: the weight is constant."""
    step: float = 0.005
    """By how much the weight changes a step when there is a target; it never falls below 0."""


@dataclass(frozen=True, kw_only=True)
class CorrectionConfig:
    """Importance correction for a sampler whose log-probs are not the trainer's (another engine, stale weights)."""

    mode: Literal["none", "truncate", "mask"] = "none"
    """"truncate": weights above `high` count as `high` (TIS); "mask": those outside [low, high] as 0 (IcePop, MIS)."""
    level: Literal["token", "sequence", "geometric"] = "token"
    """What has a weight: each token, each rollout (product of its ratios), or its geometric mean ratio."""
    low: float = 0.5
    """Least weight that "mask" keeps."""
    high: float = 2.0
    """Largest weight."""


@dataclass(frozen=True, kw_only=True)
class ValueConfig:
    """PPO's value model, used by `advantage = "gae"`: a copy of the policy with a scalar head."""

    learning_rate: float = 1e-3
    """Peak rate of its AdamW, scheduled as the stage's."""
    gamma: float = 1.0
    """Discount; 1: none (Open-Reasoner-Zero)."""
    gae_lambda: float = 1.0
    """GAE's lambda; 1: the return minus the value (Open-Reasoner-Zero), below: less variance, more bias."""
    clip: float = 0.0
    """Values may move by this much from those of the rollout's time (PPO's value clip); 0: freely."""
    warmup_steps: int = 0
    """Steps at the beginning in which only the value model learns."""


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Low-rank adapters (arXiv:2106.09685) with the base frozen; rank 0: every weight is trained."""

    rank: int = 0
    """Inner size of the adapters."""
    alpha: float = 32.0
    """The adapter's output is scaled by alpha / rank."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Linear layers that get one."""


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """A fixed pool of problems whose too easy and impossible ones rest; pool 0: always new problems."""

    pool: int = 0
    """Problems in the pool."""
    easy: float = 0.95
    """A problem with a higher pass rate at its last turn rests."""
    hard: float = 0.0
    """A problem with this pass rate or a lower one rests."""
    rest_steps: int = 20
    """Steps of rest; each further one in a row is twice as long as the one before."""
