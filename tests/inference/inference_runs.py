"""What the tests of the paged cache share: prompts, and a run that gives every block back."""

import torch

from openqwq.types import Prompt

V = 97  # vocabulary of the models


def ids(length, seed=0):
    return tuple(torch.randint(V, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def run(engine, requests):
    """The results of (prompt, params) pairs; afterwards the pool is whole."""
    results = engine.generate([Prompt(p) for p, _ in requests], [own for _, own in requests])
    assert engine.pool.num_free == engine.pool.num_blocks
    return results
