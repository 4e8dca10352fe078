"""Losses, KL estimators and importance weights against hand-computed values and a plain numpy reference."""

import math

import numpy as np
import pytest
import torch

from openqwq.train.algorithm.importance import importance_weights
from openqwq.train.algorithm.kl import kl_estimate, steer_entropy_weight
from openqwq.train.algorithm.losses import cispo_loss, gspo_loss, sample_weights, sequence_means, value_loss
from openqwq.train.algorithm.rewards import overlong_penalty
from openqwq.train.optim.logprobs import chunked_logprobs

BOUNDS = {"clip_low": 0.2, "clip_high": 0.28}


def ratios(*values):
    """Log-probs with these ratios to old ones of -1."""
    return torch.tensor([-1.0 + math.log(v) for v in values], requires_grad=True), torch.full((len(values),), -1.0)


def test_cispo_bounds_the_weight_and_never_takes_a_gradient_away():
    policy, old = ratios(0.5, 1.0, 1.5, 1.5)
    advantages = torch.tensor([1.0, 2.0, 1.0, -1.0])
    losses, clipped = cispo_loss(policy, old, advantages, **BOUNDS)
    weights = [0.8, 1.0, 1.28, 1.28]
    expected = [-w * a * p for w, a, p in zip(weights, advantages.tolist(), policy.tolist(), strict=True)]
    assert losses.tolist() == pytest.approx(expected)
    assert clipped.tolist() == [True, False, True, True]
    losses.sum().backward()
    assert policy.grad.tolist() == pytest.approx([-0.8, -2.0, -1.28, 1.28])


def test_gspo_has_one_ratio_a_sequence_the_geometric_mean():
    # sequence 0: ratios 1.2 and 1.0 -> sqrt(1.2); sequence 1: 4.0 alone, clipped for a positive advantage
    policy, old = ratios(1.2, 4.0, 1.0)
    sequences = torch.tensor([0, 1, 0])
    losses, clipped = gspo_loss(policy, old, torch.tensor([2.0, 1.0, 2.0]), sequences, **BOUNDS)
    assert losses.tolist() == pytest.approx([-2 * math.sqrt(1.2), -1.28, -2 * math.sqrt(1.2)])
    assert clipped.tolist() == [False, True, False]
    losses.sum().backward()
    # d/d(policy of a token) of both tokens' losses: -2 s * 1/2, twice
    assert policy.grad.tolist() == pytest.approx([-2 * math.sqrt(1.2), 0.0, -2 * math.sqrt(1.2)])


def test_sequence_means_are_over_each_sequences_own_tokens():
    means = sequence_means(torch.tensor([1.0, 10.0, 3.0, 20.0]), torch.tensor([1, 0, 1, 0]))
    assert means.tolist() == [2.0, 15.0, 2.0, 15.0]


def test_constant_weights_do_not_depend_on_the_lengths():
    assert sample_weights([2, 0, 6], aggregation="constant", longest=10) == [1 / 20, 0.0, 1 / 20]
    with pytest.raises(ValueError, match="longest"):
        sample_weights([2], aggregation="constant")


def test_value_loss_by_hand_free_and_clipped():
    values, returns, old = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.0, 2.0, 2.0]), torch.tensor([0.9, 0.0, 0.9])
    assert value_loss(values, returns, old, clip=0.0).tolist() == [0.5, 0.5, 0.5]
    # held to old +- 0.2: 1.0, 0.2, 1.0; errors 1, 1.8^2, 1
    assert value_loss(values, returns, old, clip=0.2).tolist() == pytest.approx([0.5, 1.62, 0.5])


def test_kl_estimators_by_hand_and_their_means_near_the_kl():
    distance = torch.tensor([0.5, -0.3])
    policy, ref = torch.tensor([-1.0, -2.0]) + distance, torch.tensor([-1.0, -2.0])
    assert kl_estimate(policy, ref, "k1").tolist() == pytest.approx([0.5, -0.3])
    assert kl_estimate(policy, ref, "k2").tolist() == pytest.approx([0.125, 0.045])
    assert kl_estimate(policy, ref, "k3").tolist() == pytest.approx([math.exp(-0.5) - 0.5, math.exp(0.3) - 1.3])
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.45, 0.35, 0.2])
    exact = float((p * np.log(p / q)).sum())
    table = [kl_estimate(torch.tensor(np.log(p)), torch.tensor(np.log(q)), name).numpy() for name in ("k1", "k3")]
    assert [(p * row).sum() for row in table] == pytest.approx([exact, exact])


def test_k2_as_a_loss_has_the_gradient_of_the_kl_and_k1_has_none():
    torch.manual_seed(0)
    logits = torch.randn(5, dtype=torch.float64, requires_grad=True)
    ref = torch.randn(5, dtype=torch.float64).log_softmax(-1)
    policy = logits.log_softmax(-1)
    (exact,) = torch.autograd.grad((policy.exp() * (policy - ref)).sum(), logits, retain_graph=True)
    weights = policy.exp().detach()  # an infinite batch of the policy's own samples
    for estimator, expected in (("k2", exact), ("k1", torch.zeros(5, dtype=torch.float64))):
        loss = (weights * kl_estimate(policy, ref, estimator)).sum()
        (found,) = torch.autograd.grad(loss, logits, retain_graph=True)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


# log ratios old - rollout of two sequences: [ln 3, ln 1/2] and [ln 4]
IMPORTANCE_CASES = [
    ("truncate", "token", [2.0, 0.5, 2.0]),
    ("mask", "token", [0.0, 0.5, 0.0]),
    ("truncate", "sequence", [1.5, 1.5, 2.0]),
    ("mask", "sequence", [1.5, 1.5, 0.0]),
    ("truncate", "geometric", [math.sqrt(1.5), math.sqrt(1.5), 2.0]),
    ("mask", "geometric", [math.sqrt(1.5), math.sqrt(1.5), 0.0]),
]


@pytest.mark.parametrize(("mode", "level", "expected"), IMPORTANCE_CASES)
def test_importance_weights_by_hand(mode, level, expected):
    old = torch.tensor([3.0, 0.5, 4.0]).log().requires_grad_()
    weights = importance_weights(
        old, torch.zeros(3), torch.tensor([0, 0, 1]), mode=mode, level=level, low=0.5, high=2.0
    )
    assert weights.tolist() == pytest.approx(expected)
    assert not weights.requires_grad


@pytest.mark.parametrize(("length", "penalty"), [(0, 0.0), (60, 0.0), (70, 0.25), (99, 0.975), (100, 1.0), (120, 1.0)])
def test_overlong_penalty_rises_over_the_last_tokens(length, penalty):
    assert overlong_penalty(length, longest=100, soft_tokens=40) == pytest.approx(penalty)
    assert overlong_penalty(length, longest=100, soft_tokens=0) == 0.0


def test_entropy_weight_is_steered_towards_the_target_and_never_negative():
    assert steer_entropy_weight(0.01, 0.5, target=1.0, step=0.005) == pytest.approx(0.015)
    assert steer_entropy_weight(0.01, 1.5, target=1.0, step=0.005) == pytest.approx(0.005)
    assert steer_entropy_weight(0.002, 1.5, target=1.0, step=0.005) == 0.0


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_entropy_gradient_is_that_of_the_whole_table(temperature):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(7, 5, generator=generator, requires_grad=True)
    weight = torch.randn(11, 5, generator=generator, requires_grad=True)
    targets = torch.randint(0, 11, (7,), generator=generator)
    outer, inner = torch.randn(7, generator=generator), torch.randn(7, generator=generator)
    table = (hidden @ weight.T / temperature).log_softmax(-1)
    entropy = -(table.exp() * table).sum(-1)
    loss = (table.gather(1, targets[:, None])[:, 0] * outer + entropy * inner).sum()
    expected = torch.autograd.grad(loss, (hidden, weight))
    logprobs, entropies = chunked_logprobs(
        hidden, weight, targets, temperature=temperature, chunk_tokens=3, entropy_gradient=True
    )
    found = torch.autograd.grad((logprobs * outer + entropies * inner).sum(), (hidden, weight))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
