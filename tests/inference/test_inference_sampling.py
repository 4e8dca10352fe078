"""Sampling against slow references: exact integers for the noise, numpy loops for the distributions."""

import math

import numpy as np
import pytest
import torch

from openqwq.inference.sampling.sampler import SamplingTable, draw_uniform, sample
from openqwq.inference.sequence import Request
from openqwq.types import SamplingParams

FREE = SamplingParams(temperature=1.0, top_p=1.0, top_k=0)
V = 11


def make_table(params, keys=None, vocab_size=V):
    """A table with one row for each of the params; a row's noise key is its number, or as given."""
    table = SamplingTable(len(params), vocab_size, torch.device("cpu"))
    rows = []
    for row, own in enumerate(params):
        [sequence, *_] = Request(str(row), (1,), own, 0, frozenset(), 9).sequences
        sequence.row = row
        rows.append(sequence)
    table.write(rows)
    table.keys[:] = torch.tensor(range(len(params)) if keys is None else keys)
    table.focus(len(params))
    return table


def splitmix64(key, position):
    mask = 2**64 - 1
    z = (key + (position + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def reference_distribution(logits, params):
    """Temperature, top-k, top-p, min-p, or the temperature last, with plain loops in float64."""
    early, late = (1, params.temperature) if params.temperature_last else (params.temperature, 1)
    scaled = np.asarray(logits, dtype=np.float64) / early
    order = sorted(range(len(scaled)), key=lambda i: -scaled[i])
    if params.top_k > 0:
        order = order[: params.top_k]
    weights = {i: math.exp(scaled[i] - scaled[order[0]]) for i in order}
    total, before, kept = sum(weights.values()), 0.0, []
    for i in order:
        if not kept or before < params.top_p:
            kept.append(i)
        before += weights[i] / total
    kept = [i for i in kept if weights[i] >= params.min_p * weights[order[0]]]
    weights = {i: weights[i] ** (1 / late) for i in kept}
    total = sum(weights.values())
    return {i: weights[i] / total for i in kept}


def test_uniform_numbers_are_splitmix64():
    keys = [0, 1, -1, 2**63 - 1, -(2**63), 123456789]
    for position in (0, 1, 1000):
        drawn = draw_uniform(torch.tensor(keys), torch.full((len(keys),), position))
        expected = [(splitmix64(key, position) >> 40) / 2**24 for key in keys]
        assert drawn.tolist() == expected
        many = draw_uniform(torch.tensor(keys * 5), torch.full((5 * len(keys),), position))
        assert many.tolist() == expected * 5


def test_uniform_numbers_are_uniform_and_streams_are_not_correlated():
    keys = torch.arange(2)[:, None].expand(2, 40_000).reshape(-1)
    positions = torch.arange(40_000).repeat(2)
    first, second = draw_uniform(keys, positions).view(2, -1)
    counts = torch.histc(first, 20, 0, 1)
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 43.8  # chi-squared, 19 degrees, p = 0.001
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.02
    assert abs(float(torch.corrcoef(torch.stack([first[:-1], first[1:]]))[0, 1])) < 0.02


SETTINGS = [
    FREE,
    FREE.replace(temperature=0.6),
    FREE.replace(top_k=3),
    FREE.replace(top_p=0.7),
    FREE.replace(min_p=0.2),
    SamplingParams(temperature=0.6, top_p=0.95, top_k=4),
    SamplingParams(temperature=1.7, top_p=0.8, top_k=7, min_p=0.1),
    FREE.replace(top_p=1e-6),
    FREE.replace(top_k=1),
    FREE.replace(top_k=500),
    SamplingParams(temperature=1.8, top_p=0.8, top_k=7, min_p=0.05, temperature_last=True),
    SamplingParams(temperature=0.5, top_p=0.7, top_k=0, temperature_last=True),
]


@pytest.mark.parametrize(
    "params", SETTINGS, ids=lambda p: f"t{p.temperature}-k{p.top_k}-p{p.top_p}-m{p.min_p}-{p.temperature_last}"
)
def test_frequencies_and_logprobs_match_the_reference_distribution(params):
    rows = 20_000
    logits = torch.randn(V, generator=torch.Generator().manual_seed(5)) * 2
    table = make_table([params] * rows)
    tokens, logprobs = sample(logits.repeat(rows, 1), table)
    expected = reference_distribution(logits.tolist(), params)
    counts = np.bincount(tokens.numpy(), minlength=V)
    assert set(np.flatnonzero(counts)) <= set(expected)
    statistic = sum((counts[i] - rows * p) ** 2 / (rows * p) for i, p in expected.items())
    assert statistic < 31  # chi-squared, at most 10 degrees, p = 0.0006
    for token, logprob in zip(tokens.tolist(), logprobs.tolist(), strict=True):
        assert abs(logprob - math.log(expected[token])) < 1e-5


def test_rows_with_different_settings_do_not_disturb_each_other():
    logits = torch.randn(len(SETTINGS), V, generator=torch.Generator().manual_seed(1))
    greedy = SamplingParams(temperature=0)
    mixed = [*SETTINGS, greedy]
    logits = torch.cat([logits, logits[:1]])
    together = sample(logits.clone(), make_table(mixed))
    for row, params in enumerate(mixed):
        alone = sample(logits[row : row + 1].clone(), make_table([params], keys=[row]))
        assert alone[0].item() == together[0][row].item()
        assert alone[1].item() == pytest.approx(together[1][row].item(), abs=1e-6)


def test_greedy_takes_the_largest_logit_and_reports_the_models_logprob():
    logits = torch.randn(5, V, generator=torch.Generator().manual_seed(2))
    tokens, logprobs = sample(logits.clone(), make_table([SamplingParams(temperature=0, top_k=2, min_p=0.5)] * 5))
    assert tokens.tolist() == logits.argmax(-1).tolist()
    assert torch.allclose(logprobs, logits.log_softmax(-1).amax(-1), atol=1e-6)


def test_equal_logits_at_the_edge_of_top_k_are_all_kept():
    logits = torch.tensor([3.0, 1.0, 1.0, 1.0] + [0.0] * (V - 4)).repeat(4000, 1)
    tokens, _ = sample(logits, make_table([FREE.replace(top_k=2)] * 4000))
    assert set(tokens.tolist()) == {0, 1, 2, 3}


def test_the_next_position_draws_new_noise():
    table = make_table([FREE] * 4000)
    first, _ = sample(torch.zeros(4000, V), table)
    table.positions += 1
    second, _ = sample(torch.zeros(4000, V), table)
    assert abs(float((first == second).float().mean()) - 1 / V) < 0.02


def test_a_row_of_nan_or_infinite_logits_is_marked_and_the_others_are_not():
    logits = torch.zeros(4, V)
    logits[1, 3] = math.nan
    logits[2, 4] = math.inf
    tokens, logprobs = sample(logits, make_table([FREE] * 4))
    assert torch.isnan(logprobs).tolist() == [False, True, True, False]
    assert tokens.max() < V


def test_moved_settings_draw_what_they_would_have_drawn():
    table = make_table([FREE, FREE.replace(top_k=2), FREE])
    logits = torch.randn(V, generator=torch.Generator().manual_seed(3))
    expected = sample(logits.repeat(3, 1), table)[0].tolist()
    table.move(torch.tensor([2]), torch.tensor([0]))
    table.focus(2)
    assert sample(logits.repeat(2, 1), table)[0].tolist() == [expected[2], expected[1]]


def test_lines_of_a_draft_draw_the_noise_of_their_own_places():
    table = make_table([FREE, FREE.replace(top_k=3, temperature=0.5)])
    logits = torch.randn(3, V, generator=torch.Generator().manual_seed(4))
    rows, offsets = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])
    together = sample(logits.clone(), table, rows, offsets)
    one_by_one = []
    for line in range(3):
        own = make_table([FREE.replace(top_k=3, temperature=0.5) if rows[line] else FREE], keys=[rows[line].item()])
        own.positions += offsets[line]
        one_by_one.append(sample(logits[line : line + 1].clone(), own))
    assert together[0].tolist() == [tokens.item() for tokens, _ in one_by_one]
    assert together[1].tolist() == pytest.approx([logprobs.item() for _, logprobs in one_by_one], abs=1e-6)
