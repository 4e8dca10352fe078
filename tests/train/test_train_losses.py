import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from openqwq.train.algorithm.losses import clipped_policy_loss, preference_loss, sample_weights
from openqwq.train.optim.logprobs import chunked_logprobs


def slow_logprobs(hidden, weight, targets, temperature):
    """Row by row in float64: log-prob of the target and entropy of the whole distribution."""
    logprobs, entropies = [], []
    for row, target in zip(hidden.astype(np.float64), targets, strict=True):
        logits = weight.astype(np.float64) @ row / temperature
        probs = np.exp(logits - logits.max())
        probs /= probs.sum()
        logprobs.append(math.log(probs[target]))
        entropies.append(-sum(p * math.log(p) for p in probs))
    return logprobs, entropies


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunk_tokens", [1, 3, 7, 100])
def test_chunked_logprobs_match_a_slow_reference_for_every_chunk_size(chunk_tokens, temperature):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(7, 5, generator=generator), torch.randn(11, 5, generator=generator)
    targets = torch.randint(0, 11, (7,), generator=generator)
    logprobs, entropies = chunked_logprobs(hidden, weight, targets, temperature=temperature, chunk_tokens=chunk_tokens)
    expected = slow_logprobs(hidden.numpy(), weight.numpy(), targets.tolist(), temperature)
    assert logprobs.tolist() == pytest.approx(expected[0], abs=1e-5)
    assert entropies.tolist() == pytest.approx(expected[1], abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_gradient_of_chunked_logprobs_is_that_of_log_softmax(temperature):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(9, 4, generator=generator, requires_grad=True)
    weight = torch.randn(13, 4, generator=generator, requires_grad=True)
    targets, outer = torch.randint(0, 13, (9,), generator=generator), torch.randn(9, generator=generator)
    expected = torch.autograd.grad(
        ((hidden @ weight.T / temperature).log_softmax(-1)[range(9), targets] * outer).sum(), (hidden, weight)
    )
    logprobs, _ = chunked_logprobs(hidden, weight, targets, temperature=temperature, chunk_tokens=4)
    found = torch.autograd.grad((logprobs * outer).sum(), (hidden, weight))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


class LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that any operator gives."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


@pytest.mark.parametrize("kept", [False, True])
def test_logits_of_a_vocabulary_of_152064_never_exist_whole(kept):
    tokens, chunk, vocabulary = 48, 8, 152_064
    draw = torch.Generator().manual_seed(3)
    hidden = torch.randn(tokens, 2, generator=draw, requires_grad=True)
    weight = torch.randn(vocabulary, 2, generator=draw, requires_grad=True)
    targets = torch.randint(vocabulary, (tokens,), generator=draw)
    own = (torch.full((tokens,), 2), torch.stack([targets, (targets + 1) % vocabulary], 1).flatten()) if kept else None
    with LargestTensor() as largest:
        logprobs, entropies = chunked_logprobs(
            hidden, weight, targets, chunk_tokens=chunk, entropy_gradient=True, kept=own
        )
        (logprobs.sum() + entropies.sum()).backward()
    assert largest.numel == chunk * vocabulary
    assert weight.grad.abs().max() > 0


# ratio e^(policy - old), advantage, expected loss, gradient clipped away; clip range [0.8, 1.28]
CLIP_CASES = [
    (1.0, 2.0, -2.0, False),
    (1.2, 1.0, -1.2, False),
    (1.5, 1.0, -1.28, True),
    (0.5, 1.0, -0.5, False),
    (0.5, -1.0, 0.8, True),
    (1.5, -1.0, 1.5, False),
    (1.5, 0.0, 0.0, False),
]


@pytest.mark.parametrize(("ratio", "advantage", "loss", "clipped"), CLIP_CASES)
def test_clipped_policy_loss_by_hand(ratio, advantage, loss, clipped):
    policy = torch.tensor([-1.0 + math.log(ratio)], requires_grad=True)
    losses, cut = clipped_policy_loss(
        policy, torch.tensor([-1.0]), torch.tensor([advantage]), clip_low=0.2, clip_high=0.28
    )
    assert losses.item() == pytest.approx(loss, abs=1e-6)
    assert cut.item() is clipped
    losses.sum().backward()
    # d(-r A)/d(log r) = -r A while the ratio is free, 0 once it is clipped
    assert policy.grad.item() == pytest.approx(0.0 if clipped else -ratio * advantage, abs=1e-6)


def test_token_weights_share_one_denominator_over_all_tokens():
    assert sample_weights([2, 0, 6], aggregation="token") == [1 / 8, 0.0, 1 / 8]


def test_sequence_aggregation_weights_every_sequence_equally():
    assert sample_weights([2, 0, 6], aggregation="sequence") == [1 / 4, 0.0, 1 / 12]


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_no_trained_token_means_no_weight(aggregation):
    assert sample_weights([0, 0], aggregation=aggregation) == [0.0, 0.0]


def test_preference_loss_by_hand():
    losses = preference_loss(torch.tensor([1.0, 0.0, -2.0]), torch.tensor([1.0, -1.0, 0.0]))
    assert losses.tolist() == pytest.approx([math.log(2), math.log(1 + math.exp(-1)), math.log(1 + math.exp(2))])
