"""The same batch through TRL's GRPO loss and ours: same number, same gradient."""

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from openqwq.config import CorrectionConfig, KLConfig, RLStage
from openqwq.train.algorithm.losses import sample_weights
from openqwq.train.algorithm.objective import policy_objective
from openqwq.train.algorithm.rewards import overlong_penalty

grpo_trainer = pytest.importorskip("trl.trainer.grpo_trainer", reason="TRL is not installed", exc_type=ImportError)

LENGTHS, LONGEST = [5, 2, 7, 1], 9
STAGE = RLStage(max_completion_tokens=LONGEST)
# our stage, TRL's loss_type, its importance_sampling_level, its upper clip
CASES = {
    "dapo": (STAGE, "dapo", "token", 0.28),
    "grpo": (replace(STAGE, loss_aggregation="sequence", clip_high=0.2), "grpo", "token", 0.2),
    "dr_grpo": (replace(STAGE, loss_aggregation="constant"), "dr_grpo", "token", 0.28),
    "gspo": (replace(STAGE, loss="gspo", loss_aggregation="sequence"), "grpo", "sequence", 0.28),
    "cispo": (replace(STAGE, loss="cispo", clip_low=0.999, clip_high=0.5), "cispo", "token", 1.5),
    "kl": (replace(STAGE, kl=KLConfig(weight=0.3)), "dapo", "token", 0.28),
    "entropy": (STAGE, "dapo", "token", 0.28),
    "corrected": (replace(STAGE, correction=CorrectionConfig(mode="truncate")), "dapo", "token", 0.28),
}


@pytest.fixture
def batch():
    """Padded streams [B, T] and which of their places are tokens."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    streams = {name: -2 * torch.rand(mask.shape, generator=generator) for name in ("policy", "old", "ref", "rollout")}
    streams["entropy"] = torch.rand(mask.shape, generator=generator)
    return SimpleNamespace(mask=mask, advantages=torch.randn(len(LENGTHS), generator=generator), **streams)


def trl_loss(batch, stage, loss_type, level, epsilon_high, entropy_weight):
    """TRL's own `_compute_loss` on a trainer that has nothing but what the loss reads."""
    policy = batch.policy.clone().requires_grad_()
    entropies = batch.entropy.clone().requires_grad_()
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (policy, entropies, None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=level,
        beta=stage.kl.weight,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        loss_type=loss_type,
        epsilon_low=stage.clip_low,
        epsilon_high=epsilon_high,
        use_vllm=stage.correction.mode != "none",
        vllm_importance_sampling_correction=True,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=LONGEST,
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, **_: x, gather_for_metrics=lambda x: x
        ),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _entropy_bonus_enabled=entropy_weight > 0,
        use_adaptive_entropy=False,
        entropy_coef=entropy_weight,
    )
    inputs = {
        "prompt_ids": torch.zeros(len(LENGTHS), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(LENGTHS), 1, dtype=torch.long),
        "completion_ids": torch.zeros(batch.mask.shape, dtype=torch.long),
        "completion_mask": batch.mask.long(),
        "advantages": batch.advantages,
        "old_per_token_logps": batch.old,
        "ref_per_token_logps": batch.ref,
        "importance_sampling_ratio": (batch.old - batch.rollout).exp().clamp(max=2.0),
        "num_items_in_batch": torch.tensor(float(sum(LENGTHS))),
    }
    trainer.accelerator.sync_gradients = True
    loss = grpo_trainer.GRPOTrainer._compute_loss(trainer, None, inputs)
    slopes = torch.autograd.grad(loss, (policy, entropies), allow_unused=True)
    return loss.detach(), slopes[0][batch.mask], None if slopes[1] is None else slopes[1][batch.mask]


def our_loss(batch, stage, entropy_weight):
    mask = batch.mask
    policy = batch.policy[mask].clone().requires_grad_()
    entropies = batch.entropy[mask].clone().requires_grad_()
    packed = SimpleNamespace(
        rollout_logprobs=batch.rollout[mask],
        old_logprobs=batch.old[mask],
        ref_logprobs=batch.ref[mask],
        advantages=batch.advantages.repeat_interleave(torch.tensor(LENGTHS)),
        sequences=torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS)),
    )
    weights = sample_weights(LENGTHS, aggregation=stage.loss_aggregation, longest=LONGEST)
    losses = policy_objective(stage, policy, packed)[0] - entropy_weight * entropies
    loss = (losses * torch.tensor(weights).repeat_interleave(torch.tensor(LENGTHS))).sum()
    return loss.detach(), *torch.autograd.grad(loss, (policy, entropies))


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_trls(batch, name):
    stage, *theirs = CASES[name]
    entropy_weight = 0.07 if name == "entropy" else 0.0
    expected = trl_loss(batch, stage, *theirs, entropy_weight)
    found = our_loss(batch, stage, entropy_weight)
    torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found[1], expected[1], atol=1e-7, rtol=1e-5)
    assert expected[1].abs().max() > 1e-3
    if expected[2] is not None:
        torch.testing.assert_close(found[2], expected[2], atol=1e-8, rtol=1e-5)


def test_overlong_penalty_is_trls():
    rewards = pytest.importorskip("trl.rewards", reason="TRL is not installed", exc_type=ImportError)
    theirs = rewards.get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=40)
    for length in range(0, 130, 3):
        (expected,) = theirs(completion_ids=[[0] * length])
        assert -overlong_penalty(length, longest=100, soft_tokens=40) == pytest.approx(expected)
