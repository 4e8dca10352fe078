"""What a step has sampled, put together from the lines that a row and its guesses have.

Public: Sampled, top_logprobs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(slots=True)
class Sampled:
    """What a step has sampled.

    tokens, logprobs: one for each row; a log-prob of NaN where the logits were not finite.
    more:             for rows with a draft, the tokens and log-probs behind the first.
    top:              for rows that asked, raw log-probs by token id at each of the row's tokens.
    """

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    more: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    top: dict[int, list[dict[int, float]]] = field(default_factory=dict)

    def run_of(self, row: int) -> list[tuple[int, float]]:
        """All tokens of a row with their log-probs."""
        return [(self.tokens[row], self.logprobs[row]), *self.more.get(row, ())]


def top_logprobs(logprobs: Tensor, number: int, token_id: int) -> dict[int, float]:
    """The likeliest tokens' log-probs [V] by id, and the given token's."""
    values, ids = logprobs.topk(number)
    return dict(zip(ids.tolist(), values.tolist(), strict=True)) | {token_id: logprobs[token_id].item()}
