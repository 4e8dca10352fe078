import pytest
import torch
from torch import nn

from openqwq.config import SFTStage
from openqwq.train.optim.optimizer import (
    build_optimizer,
    clip_gradients,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
)


def test_learning_rate_rises_then_falls_to_its_final_share():
    stage = SFTStage(learning_rate=1.0, warmup_steps=3, final_learning_rate=0.2)
    rates = [learning_rate(stage, step, 8) for step in range(8)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.8, 0.6, 0.4, 0.2])


def test_a_stage_of_one_step_runs_at_the_peak():
    assert learning_rate(SFTStage(learning_rate=0.5), 0, 1) == 0.5


def test_adamw_follows_the_paper_and_decays_matrices_only():
    model = nn.Linear(2, 2)
    stage = SFTStage(learning_rate=0.1, weight_decay=0.5, beta1=0.9, beta2=0.95)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    optimizer = build_optimizer(model, stage)
    model.weight.grad, model.bias.grad = torch.full((2, 2), 3.0), torch.full((2,), -3.0)
    optimizer.step()
    # the first AdamW step is lr * sign(gradient), after decoupled decay by lr * weight_decay
    torch.testing.assert_close(model.weight.detach(), weight * (1 - 0.1 * 0.5) - 0.1, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.bias.detach(), bias + 0.1, atol=1e-6, rtol=0)


def test_clipping_scales_the_global_norm_and_reports_the_one_before():
    model = nn.Linear(1, 1)
    model.weight.grad, model.bias.grad = torch.tensor([[3.0]]), torch.tensor([4.0])
    assert clip_gradients(model.parameters(), 1.0) == pytest.approx(5.0)
    assert [model.weight.grad.item(), model.bias.grad.item()] == pytest.approx([0.6, 0.8], abs=1e-5)
    assert clip_gradients(model.parameters(), 10.0) == pytest.approx(1.0, abs=1e-5)
    assert model.weight.grad.item() == pytest.approx(0.6, abs=1e-5)


def test_a_restored_optimizer_continues_bit_for_bit():
    def three_steps(interrupted: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = build_optimizer(model, SFTStage(learning_rate=0.1))
        for step in range(3):
            if interrupted and step == 2:
                state = {k: v.clone() for k, v in optimizer_tensors(model, optimizer).items()}
                optimizer = build_optimizer(model, SFTStage(learning_rate=0.1))
                load_optimizer_tensors(model, optimizer, state)
            optimizer.zero_grad()
            model(torch.arange(3.0) + step).square().sum().backward()
            optimizer.step()
        return model.weight.detach()

    assert torch.equal(three_steps(interrupted=True), three_steps(interrupted=False))


def test_state_of_an_unknown_parameter_is_refused():
    model = nn.Linear(1, 1)
    optimizer = build_optimizer(model, SFTStage())
    with pytest.raises(ValueError, match=r"elsewhere"):
        load_optimizer_tensors(model, optimizer, {"elsewhere:exp_avg": torch.zeros(1)})
