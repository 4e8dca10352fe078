import math
import random
from functools import partial

import pytest
import torch

from openqwq.config import CorrectionConfig, KLConfig, RLStage
from openqwq.kernels import library
from openqwq.model import set_batch_invariant
from openqwq.train import packing
from openqwq.train.algorithm.losses import sample_weights
from openqwq.train.algorithm.objective import policy_objective
from openqwq.train.optim.update import next_token_objective, policy_logprobs
from openqwq.train.packing import Sample, completion_sample, document_sample, pack, rollout_sample, split_microbatches
from openqwq.types import Message, Problem, Rollout


def random_samples(count=9, seed=0):
    rng = random.Random(seed)
    samples = []
    for _ in range(count):
        length = rng.randrange(3, 20)
        samples.append(
            Sample(
                token_ids=[rng.randrange(16) for _ in range(length)],
                loss_mask=[0] + [rng.randrange(2) for _ in range(length - 2)] + [1],
                rollout_logprobs=[-rng.uniform(2, 3.5) for _ in range(length)],
                advantages=[rng.uniform(-1, 1)] * length,
                old_logprobs=[-rng.uniform(2, 3.5) for _ in range(length)],
                ref_logprobs=[-rng.uniform(2, 3.5) for _ in range(length)],
            )
        )
    return samples


def gradient(model, samples, objective, aggregation, tokens_per_microbatch):
    weights = sample_weights([s.trained_tokens for s in samples], aggregation=aggregation, longest=8)
    model.zero_grad()
    for batch in pack(samples, weights, tokens_per_microbatch=tokens_per_microbatch):
        logprobs, _ = policy_logprobs(model, batch)
        (objective(logprobs, batch)[0] * batch.weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


OBJECTIVES = {
    "next token": next_token_objective,
    "ppo": partial(policy_objective, RLStage()),
    "cispo": partial(policy_objective, RLStage(loss="cispo")),
    "gspo": partial(policy_objective, RLStage(loss="gspo")),
    "kl": partial(policy_objective, RLStage(kl=KLConfig(weight=0.5))),
    "token mask": partial(policy_objective, RLStage(correction=CorrectionConfig(mode="mask"))),
    "sequence cap": partial(policy_objective, RLStage(correction=CorrectionConfig(mode="truncate", level="sequence"))),
    "geometric mask": partial(policy_objective, RLStage(correction=CorrectionConfig(mode="mask", level="geometric"))),
}


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_gradient_is_the_same_for_every_microbatch_split_and_packing_order(world, objective, aggregation):
    model, samples = world.model(), random_samples()
    whole = gradient(model, samples, objective, aggregation, 10_000)
    assert max(g.abs().max() for g in whole.values()) > 1e-4
    for tokens, seed in ((1, 1), (20, 2), (45, 3), (100, 4)):
        shuffled = random.Random(seed).sample(samples, len(samples))
        found = gradient(model, shuffled, objective, aggregation, tokens)
        assert max((found[n] - whole[n]).abs().max() for n in whole) < 1e-6


def test_packed_logprobs_are_those_of_each_sequence_alone(world):
    model, samples = world.model(), random_samples()
    (batch,) = pack(samples, [1.0] * len(samples), tokens_per_microbatch=10_000)
    logprobs, entropies = policy_logprobs(model, batch)
    expected, expected_entropies = [], []
    for sample in sorted(samples, key=lambda s: -len(s.token_ids)):
        table = model(torch.tensor([sample.token_ids]))[0].detach().double().log_softmax(-1)
        for place, (token, trained) in enumerate(zip(sample.token_ids, sample.loss_mask, strict=True)):
            if trained:
                expected.append(table[place - 1, token].item())
                expected_entropies.append(-(table[place - 1].exp() * table[place - 1]).sum().item())
    assert logprobs.tolist() == pytest.approx(expected, abs=1e-5)
    assert entropies.tolist() == pytest.approx(expected_entropies, abs=1e-5)


def test_streams_stay_aligned_with_their_tokens():
    first = Sample(
        token_ids=[3, 4, 5], loss_mask=[0, 1, 0], rollout_logprobs=[0.0, -1.0, 0.0], advantages=[0.5, 0.5, 0.5]
    )
    second = Sample(
        token_ids=[6, 7, 8, 9], loss_mask=[0, 0, 1, 1], rollout_logprobs=[0, 0, -2.0, -3.0], advantages=[0, 0, 1.0, 2.0]
    )
    (batch,) = pack([first, second], [0.25, 0.75], tokens_per_microbatch=100)
    assert batch.input_ids.tolist() == [6, 7, 8, 9, 3, 4, 5]
    assert batch.lengths == [4, 3]
    assert batch.positions.tolist() == [2, 3, 5]
    assert batch.targets.tolist() == [8, 9, 4]
    assert batch.rollout_logprobs.tolist() == [-2.0, -3.0, -1.0]
    assert batch.advantages.tolist() == [1.0, 2.0, 0.5]
    assert batch.weights.tolist() == [0.75, 0.75, 0.25]


def test_microbatches_are_filled_longest_first_up_to_the_bound():
    assert split_microbatches([3, 9, 4, 2, 30, 5], 10) == [[4], [1], [5, 2], [0, 3]]


def test_every_sequence_is_in_exactly_one_microbatch():
    lengths = [random.Random(1).randrange(1, 40) for _ in range(50)]
    split = split_microbatches(lengths, 64)
    assert sorted(i for part in split for i in part) == list(range(50))
    assert all(sum(lengths[i] for i in part) <= 64 for part in split)


def test_samples_without_trained_tokens_are_left_out():
    silent = Sample(token_ids=[1, 2], loss_mask=[0, 0])
    (batch,) = pack([silent, document_sample([3, 4])], [0.0, 1.0], tokens_per_microbatch=10)
    assert batch.input_ids.tolist() == [3, 4]


def test_only_the_completion_is_trained():
    assert completion_sample([1, 2], [3, 4, 5]).loss_mask == [0, 0, 1, 1, 1]


def test_inserted_tokens_of_a_rollout_are_not_trained():
    rollout = Rollout(
        problem=Problem(id="p", source="s", kind="math", messages=(Message("user", "?"),), verifier="v"),
        prompt_ids=(1, 2),
        completion_ids=(3, 4, 5),
        loss_mask=(1, 0, 1),
        rollout_logprobs=(-1.0, 0.0, -3.0),
        policy_versions=(7, 7, 8),
        text="",
        finish_reason="stop",
    )
    sample = rollout_sample(rollout, 0.5)
    assert sample.token_ids == [1, 2, 3, 4, 5]
    assert sample.loss_mask == [0, 0, 1, 0, 1]
    assert sample.rollout_logprobs == [0.0, 0.0, -1.0, 0.0, -3.0]
    assert sample.policy_versions == [0, 0, 7, 7, 8]


@pytest.mark.parametrize(
    "streams",
    [
        {"token_ids": [1, 2], "loss_mask": [1, 1]},
        {"token_ids": [1, 2], "loss_mask": [0]},
        {"token_ids": [1, 2], "loss_mask": [0, 1], "advantages": [1.0]},
        {"token_ids": [], "loss_mask": []},
    ],
)
def test_a_sample_of_unequal_streams_or_a_trained_first_token_is_refused(streams):
    with pytest.raises(ValueError, match=r"streams of lengths|first token"):
        Sample(**streams)


def test_entropy_of_an_untrained_model_is_near_that_of_the_uniform_distribution(world):
    samples = [document_sample([1, 2, 3, 4])]
    _, entropies = policy_logprobs(world.model(), pack(samples, [1.0], tokens_per_microbatch=10)[0])
    assert entropies.tolist() == pytest.approx([math.log(16)] * 3, abs=0.05)


@pytest.mark.parametrize("invariant", [False, True])
def test_a_shared_prompt_computed_once_gives_the_same_log_probs_and_gradient(world, monkeypatch, invariant):
    rng = random.Random(4)
    prompts = [[rng.randrange(16) for _ in range(length)] for length in (17, 5, 30)]
    samples = [
        completion_sample(prompts[k % 3], [rng.randrange(16) for _ in range(rng.randrange(1, 20))]) for k in range(12)
    ]
    model = world.model()
    if invariant and library() is None:
        pytest.skip("needs a C compiler")
    set_batch_invariant(model, invariant)
    results = []
    for bound in (0.9, 0.0):
        monkeypatch.setattr(packing, "SHARED_BELOW", bound)
        (batch,) = pack(samples, [1.0] * 12, tokens_per_microbatch=10_000)
        model.zero_grad()
        logprobs, _ = policy_logprobs(model, batch)
        (logprobs * torch.linspace(-1, 1, len(logprobs))).sum().backward()
        results.append((batch, logprobs.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}))
    (shared, ours, grads), (whole, theirs, plain_grads) = results
    assert whole.shared is None and shared.shared is not None
    computed, total = len(shared.shared[1]), len(shared.input_ids)
    assert total - computed == 3 * sum(map(len, prompts))  # four samples of each prompt
    assert float((ours - theirs).abs().max()) <= (0 if invariant else 2e-6)
    assert max(float((grads[n] - plain_grads[n]).abs().max()) for n in grads) < 1e-5


def test_prompts_are_not_shared_where_there_is_little_to_gain():
    samples = [completion_sample([1], list(range(2, 15))) for _ in range(3)]
    (batch,) = pack(samples, [1.0] * 3, tokens_per_microbatch=100)
    assert batch.shared is None
