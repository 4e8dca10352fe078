"""The sampler as one C call against the one of PyTorch's operators."""

import pytest
import torch

from openqwq.inference.sampling.sampler import SamplingTable, sample
from openqwq.inference.sequence import Request
from openqwq.kernels.cpu.library import library
from openqwq.kernels.cpu.sampling import SamplingKernel
from openqwq.types import SamplingParams

pytestmark = pytest.mark.skipif(library() is None, reason="needs a C compiler")

SETTINGS = {
    "plain": {"top_p": 1.0, "top_k": 0},
    "hot": {"temperature": 1.7, "top_p": 1.0, "top_k": 0},
    "greedy": {"temperature": 0.0},
    "top-k": {"temperature": 0.6, "top_p": 1.0, "top_k": 20},
    "top-p": {"temperature": 0.6, "top_p": 0.95, "top_k": 40},
    "one": {"temperature": 0.6, "top_p": 0.01, "top_k": 7},
    "min-p": {"temperature": 1.3, "top_p": 1.0, "top_k": 0, "min_p": 0.1},
    "last": {"temperature": 1.5, "top_p": 0.9, "top_k": 30, "min_p": 0.02, "temperature_last": True},
}


def make_table(params, vocab_size):
    """One row for each of some parameters."""
    table = SamplingTable(len(params), vocab_size, torch.device("cpu"))
    sequences = []
    for row, own in enumerate(params):
        request = Request("r", (row, 3), SamplingParams(**own), row, frozenset(), 8)
        sequences.append(request.sequences[0])
        sequences[-1].row = row
    table.write(sequences)
    table.focus(len(params))
    return table


def compare(logits, params, steps):
    """Tokens and log-probs of some steps over the same logits, by both samplers."""
    table, other = make_table(params, logits.shape[1]), make_table(params, logits.shape[1])
    kernel = SamplingKernel.of(table)
    assert kernel.fits(False)
    tokens, places = torch.zeros(len(params), dtype=torch.int64), torch.arange(len(params))
    equal = []
    for step in range(steps):
        expected, expected_logprobs = sample(logits.clone(), other)
        other.positions += 1
        found, logprobs = kernel(logits.clone(), tokens, places)
        assert torch.equal(table.positions, other.positions)
        assert torch.equal(places, torch.arange(len(params)) + step + 1)
        same = found == expected
        equal += same.tolist()
        torch.testing.assert_close(logprobs[same], expected_logprobs[same], atol=2e-5, rtol=2e-5)
    return sum(equal) / len(equal)


@pytest.mark.parametrize("vocab_size", [37, 4099])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_tokens_and_logprobs(name, vocab_size):
    logits = 3 * torch.randn(6, vocab_size, generator=torch.Generator().manual_seed(0))
    assert compare(logits, [SETTINGS[name]] * 6, 60) > 0.99  # edges between two tokens may lie a rounding apart


def test_rows_of_all_kinds_side_by_side_with_masked_and_equal_logits():
    logits = torch.randn(len(SETTINGS), 300, generator=torch.Generator().manual_seed(1)).round()
    logits[:, 100:250] = -torch.inf
    assert compare(logits, list(SETTINGS.values()), 40) > 0.99


def test_a_masked_token_is_never_drawn():
    logits = torch.full((1, 600), -torch.inf)
    logits[0, [5, 300, 301]] = torch.tensor([0.0, -30.0, 1.0])
    table = make_table([SETTINGS["plain"]], 600)
    kernel = SamplingKernel.of(table)
    tokens, places = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    drawn = {int(kernel(logits, tokens, places)[0]) for _ in range(500)}
    assert drawn == {5, 301}


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_are_told_and_do_not_touch_others(broken):
    logits = torch.randn(3, 50)
    logits[1, 7] = broken
    table = make_table([SETTINGS["plain"], SETTINGS["plain"], SETTINGS["greedy"]], 50)
    tokens, places = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    logprobs = SamplingKernel.of(table)(logits, tokens, places)[1]
    assert logprobs.isnan().tolist() == [False, True, False]


def test_a_top_p_over_the_whole_vocabulary_is_left_to_the_operators():
    assert not SamplingKernel.of(make_table([{"top_p": 0.9, "top_k": 0}], 4000)).fits(False)
    assert SamplingKernel.of(make_table([{"top_p": 0.9, "top_k": 0}], 50)).fits(False)
    assert not SamplingKernel.of(make_table([{"top_k": 2000}], 4000)).fits(False)
    assert SamplingKernel.of(make_table([SETTINGS["top-p"], SETTINGS["greedy"]], 4000)).fits(False)
