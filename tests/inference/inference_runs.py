"""What the tests of the paged cache share: prompts, and a run that gives every block back."""

from contextlib import contextmanager

import torch
from hypothesis import strategies as st

from openqwq.kernels import REFERENCE
from openqwq.model import use_ops
from openqwq.types import Prompt

V = 97  # vocabulary of the models


def ids(length, seed=0):
    return tuple(torch.randint(V, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def run(engine, requests):
    """The results of (prompt, params) pairs; afterwards the pool is whole."""
    results = engine.generate([Prompt(p) for p, _ in requests], [own for _, own in requests])
    assert engine.pool.num_free == engine.pool.num_blocks
    return results


@contextmanager
def reference_ops(model, wanted=True):
    """The model on PyTorch's operators within this block."""
    before = model.ops
    use_ops(model, REFERENCE if wanted else before)
    try:
        yield
    finally:
        use_ops(model, before)


ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 6), st.integers(1, 60), st.integers(1, 3), st.integers(1, 30), st.booleans(), st.integers(0, 1)
    ),
    min_size=1,
    max_size=5,
)
"""Requests: the step they come at, prompt's length, samples, most tokens, whether they are aborted, its beginning."""


def run_arrivals(engine, requests, params):
    """Outputs by number and the prompts, when requests come at their steps and some are aborted four steps later."""
    outputs, step = {}, 0
    prompts = [ids(length, beginning) for _, length, _, _, _, beginning in requests]
    params = [params.replace(n=n, max_tokens=most, seed=i) for i, (_, _, n, most, _, _) in enumerate(requests)]
    while step <= 6 or engine.has_unfinished:
        for i, request in enumerate(requests):
            if request[0] == step:
                engine.add_request(prompts[i], params[i], str(i))
            if request[4] and request[0] + 4 == step:
                engine.abort(str(i))
        outputs |= {int(output.request_id): output for output in engine.step()}
        step += 1
        assert step < 3000
    assert engine.pool.num_free == engine.pool.num_blocks and engine.stats().running == engine.stats().waiting == 0
    assert all(request[4] or i in outputs for i, request in enumerate(requests))
    return outputs, prompts, params
