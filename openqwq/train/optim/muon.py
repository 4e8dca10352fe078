"""Muon: momentum whose matrix updates are made orthogonal (Jordan et al., 2024; arXiv:2502.16982).

Differences from `torch.optim.Muon`: the Newton-Schulz iteration runs in float32 (bfloat16 products are
hundreds of times slower on CPUs without bfloat16 units), and matrices of one shape go through it together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration; chosen by its authors for steep convergence of small singular values."""
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; for hidden matrices only. `lr` is the update's spectral size for a
    square matrix; taller ones are scaled by sqrt(rows / columns)."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95):
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure: gradients are ready
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape].append(parameter)
            for shape, matrices in shapes.items():
                updates = torch.stack([self._momentum(p, group["momentum"]) for p in matrices])  # [K, M, N]
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, update in zip(matrices, orthogonalize(updates), strict=True):
                    parameter.add_(update.to(parameter.dtype), alpha=-group["lr"] * scale)

    def _momentum(self, parameter: nn.Parameter, decay: float) -> Tensor:
        state, grad = self.state[parameter], parameter.grad
        assert grad is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        buffer = state["momentum_buffer"].lerp_(grad, 1 - decay)
        return grad.lerp(buffer, decay)


def orthogonalize(matrices: Tensor) -> Tensor:
    """[K, M, N] matrices with their singular values brought near 1, by Newton-Schulz iterations in float32."""
    x = matrices.float()
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT  # [K, M, M]
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
