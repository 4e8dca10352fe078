"""Distance from a reference policy, and control of entropy: pure functions.

Estimators of KL(policy || reference) from samples of the policy (J. Schulman, "Approximating KL divergence",
2020), with d = log policy - log reference:

    k1 = d                    unbiased, can be negative; right as a reward
    k2 = d^2 / 2              biased; as a loss on the policy's own samples its gradient is the KL's
    k3 = exp(-d) - 1 + d      unbiased, never negative; GRPO's loss (arXiv:2402.03300, eq. 4)

The gradient of k1 as a loss is 0 in expectation, so recipes may not ask for it. k2 as a loss towards a teacher,
with no other reward, is on-policy distillation: its gradient is the policy gradient of log teacher - log policy.
Letters: M trained tokens.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]


def kl_estimate(policy_logprobs: Tensor, ref_logprobs: Tensor, estimator: Estimator) -> Tensor:
    """The estimate at each token [M]; its gradient is the estimator's own."""
    distance = policy_logprobs - ref_logprobs
    if estimator == "k1":
        return distance
    if estimator == "k2":
        return distance.square() / 2
    return (-distance).exp() - 1 + distance


def steer_entropy_weight(weight: float, entropy: float, *, target: float, step: float) -> float:
    """The entropy bonus of the next step: up by `step` below the target, else down, never below 0.

    Skywork-OR1's adaptive entropy control (arXiv:2505.22312, section 4.2).
    """
    return max(0.0, weight + (step if entropy < target else -step))
