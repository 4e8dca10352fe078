import torch
from torch import nn

from openqwq.config import PretrainStage
from openqwq.train.optim.muon import Muon, orthogonalize
from openqwq.train.optim.optimizer import (
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
)


def test_orthogonalized_matrices_have_singular_values_near_one():
    for shape in ((3, 6, 4), (2, 4, 6), (1, 5, 5)):
        made = orthogonalize(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
        values = torch.linalg.svdvals(made)
        assert values.min() > 0.3 and values.max() < 1.3


def test_orthogonalized_matrix_keeps_the_singular_vectors_of_the_gradient():
    matrix = torch.diag(torch.tensor([3.0, -2.0, 1.0]))
    made = orthogonalize(matrix[None])[0]
    assert torch.equal(made.sign(), torch.diag(torch.tensor([1.0, -1.0, 1.0])))


def test_first_step_is_nesterov_momentum_scaled_by_shape():
    weight = nn.Parameter(torch.zeros(8, 2))
    weight.grad = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
    expected = -0.1 * 2.0 * orthogonalize(weight.grad[None])[0]  # the momentum only rescales a first gradient
    Muon([weight], lr=0.1).step()
    torch.testing.assert_close(weight.detach(), expected)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"embed_tokens": nn.Embedding(7, 4), "layer": nn.Linear(4, 4), "lm_head": nn.Linear(4, 7)})


def test_muon_takes_hidden_matrices_and_adamw_the_rest():
    net = model()
    parts = build_optimizer(net, PretrainStage(learning_rate=1e-3, muon_learning_rate=0.02)).parts
    adamw, muon = ([p for g in part.param_groups for p in g["params"]] for part in parts)
    assert [p is net["layer"].weight for p in muon] == [True]
    assert len(adamw) == 4


def test_rates_of_both_optimizers_follow_the_stage_and_state_survives_a_reload():
    stage = PretrainStage(learning_rate=1e-3, muon_learning_rate=0.02)
    nets = [model(), model()]
    optimizers = [build_optimizer(net, stage) for net in nets]

    def step(net: nn.Module, optimizer) -> None:
        loss = net["lm_head"](net["layer"](net["embed_tokens"].weight)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        set_learning_rate(optimizer, 5e-4)
        optimizer.step()

    step(nets[0], optimizers[0])
    assert sorted({round(g["lr"], 9) for g in optimizers[0].param_groups}) == [5e-4, 0.01]
    nets[1].load_state_dict(nets[0].state_dict())
    load_optimizer_tensors(nets[1], optimizers[1], optimizer_tensors(nets[0], optimizers[0]))
    for net, optimizer in zip(nets, optimizers, strict=True):
        step(net, optimizer)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)
