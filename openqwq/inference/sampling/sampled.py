"""What a step has sampled, put together from the lines that a row and its guesses have.

Public: Sampled, line_numbers, accept, top_logprobs.
"""

from __future__ import annotations

from collections.abc import Iterable
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


def line_numbers(rows: Iterable[int], drafts: dict[int, list[int]], num_rows: int) -> dict[int, list[int]]:
    """The lines of some rows: the row's own, then those of its guesses."""
    starts, line = {}, num_rows
    for row, draft in drafts.items():
        starts[row] = line
        line += len(draft)
    return {row: [row, *(starts[row] + i for i in range(len(drafts[row])))] if row in drafts else [row] for row in rows}


def accept(tokens: list[int], logprobs: list[float], num_rows: int, drafts: dict[int, list[int]]) -> Sampled:
    """Each row's first token, and behind it what its draft got right and the one token after that."""
    result = Sampled(tokens[:num_rows], logprobs[:num_rows])
    line = num_rows
    for row, draft in drafts.items():
        accepted, last = [], tokens[row]
        for i, guess in enumerate(draft):
            if last != guess:
                break
            last = tokens[line + i]
            accepted.append((last, logprobs[line + i]))
        result.more[row] = accepted
        line += len(draft)
    return result


def top_logprobs(logprobs: Tensor, number: int, token_id: int) -> dict[int, float]:
    """The likeliest tokens' log-probs [V] by id, and the given token's."""
    values, ids = logprobs.topk(number)
    return dict(zip(ids.tolist(), values.tolist(), strict=True)) | {token_id: logprobs[token_id].item()}
