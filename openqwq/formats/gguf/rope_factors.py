"""Llama 3's rope scaling, which a GGUF file holds as a tensor of divisors instead of the numbers they come from.

Public: llama3_scaling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from openqwq.errors import UserError

LOW, HIGH = 1.0, 4.0  # of every published model with this scaling
CONTEXTS = [1 << exponent for exponent in range(5, 21)]
FACTORS = (8.0, 32.0, 4.0, 16.0, 2.0)  # tried where no pair has the whole factor
CLOSE = 1e-4  # relative: converters compute the divisors in float32


def llama3_scaling(divisors: Sequence[float], theta: float, head_dim: int) -> dict[str, Any] | None:
    """The `rope_scaling` block that gives these divisors of the frequencies; None where all are 1.

    Raises UserError where no settings of Llama 3's kind give them.
    """
    if all(divisor == 1 for divisor in divisors):
        return None
    if len(divisors) == head_dim // 2 and all(math.isfinite(divisor) and divisor >= 1 for divisor in divisors):
        for factor in (round(max(divisors), 3), *FACTORS):
            for context in CONTEXTS:
                expected = _divisors(factor, context, theta, head_dim)
                if all(math.isclose(a, b, rel_tol=CLOSE) for a, b in zip(divisors, expected, strict=True)):
                    return {
                        "rope_type": "llama3",
                        "factor": float(factor),
                        "low_freq_factor": LOW,
                        "high_freq_factor": HIGH,
                        "original_max_position_embeddings": context,
                    }
    raise UserError(
        f"`rope_freqs.weight` divides the rotary frequencies by {len(divisors)} numbers up to {max(divisors):g}, "
        "which are not those of Llama 3's scaling",
        hint="other tables of rotary factors are not supported: use the model's Hugging Face folder",
    )


def _divisors(factor: float, context: int, theta: float, head_dim: int) -> list[float]:
    """What each pair's frequency is divided by: `factor` beyond the trained context, 1 far within it."""
    found = []
    for pair in range(head_dim // 2):
        rotations = context * theta ** (-2 * pair / head_dim) / (2 * math.pi)
        smooth = min(max((rotations - LOW) / (HIGH - LOW), 0.0), 1.0)
        found.append(1 / ((1 - smooth) / factor + smooth))
    return found
