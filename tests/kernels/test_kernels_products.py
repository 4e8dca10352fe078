"""Our own product of float32 matrices and its gradients, against PyTorch's in float64."""

import pytest
import torch
import torch.nn.functional as F

from openqwq.kernels.cpu import products
from openqwq.kernels.cpu.library import library
from openqwq.model.decoder import Linear

pytestmark = pytest.mark.skipif(library() is None, reason="needs a C compiler")
SHAPES = [(1, 1, 1), (14, 256, 32), (15, 257, 33), (225, 64, 31), (100, 600, 65), (450, 33, 7)]


@pytest.fixture(autouse=True)
def every_product_ours(monkeypatch):
    monkeypatch.setattr(products, "multiply_pays", lambda: True)
    monkeypatch.setattr(products, "MIN_ROWS", 1)
    monkeypatch.setattr(products, "MIN_SIZE", 1)
    monkeypatch.setattr(torch, "mm", None)


def matrix(rows, columns, transposed):
    return torch.randn(columns, rows).T if transposed else torch.randn(rows, columns)


def assert_close(found, wanted, depth):
    assert float((found.double() - wanted).detach().abs().max()) < 1e-6 * depth**0.5 * 3


@pytest.mark.parametrize("transposed", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_product_is_that_in_float64(shape, transposed):
    torch.manual_seed(0)
    rows, depth, columns = shape
    a, b = matrix(rows, depth, transposed[0]), matrix(depth, columns, transposed[1])
    bias, out = torch.randn(columns), torch.randn(rows, columns)
    exact = a.double() @ b.double()
    assert_close(products.multiply(a, b), exact, depth)
    assert_close(products.multiply(a, b, bias=bias), exact + bias.double(), depth)
    before = out.double()
    assert products.multiply(a, b, out=out, adds=True) is out
    assert_close(out, before + exact, depth)
    products.multiply(a, b, out=out)
    assert_close(out, exact, depth)


def test_sums_depend_on_neither_threads_nor_other_rows():
    torch.manual_seed(0)
    a, b = torch.randn(500, 300), torch.randn(300, 70)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(products.multiply(a, b))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert torch.equal(products.multiply(a[37:41], b), found[0][37:41])


@pytest.mark.parametrize("depth", [40, 256, 600])
def test_few_rows_become_bit_for_bit_what_they_become_among_many(depth):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(300, depth), torch.randn(45, depth), torch.randn(45)
    whole = products.linear_exactly(x, weight, bias)
    assert_close(whole, x.double() @ weight.double().T + bias.double(), depth)
    for first, last in ((0, 1), (7, 12), (3, 19), (20, 37), (0, 65), (40, 296)):
        assert torch.equal(products.linear_exactly(x[first:last], weight, bias), whole[first:last])
    assert torch.equal(products.linear_exactly(x[:4], weight), products.multiply(x, weight.T)[:4])


@pytest.mark.parametrize("bias", [False, True])
def test_gradients_of_a_linear_layer_add_up_as_float64_ones_do(bias):
    torch.manual_seed(0)
    layer = Linear(70, 45, bias=bias)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    exact = [p.detach().double().requires_grad_() for p in layer.parameters()]
    for _ in range(2):  # the second adds to the first's
        x = torch.randn(3, 50, 70, requires_grad=True)
        wide = x.detach().double().requires_grad_()
        slopes = torch.randn(3, 50, 45)
        out = layer(x)
        out.backward(slopes)
        F.linear(wide, *exact).backward(slopes.double())
        assert_close(out, F.linear(wide, *exact), 70)
        assert_close(x.grad, wide.grad, 45)
    for parameter, wanted in zip(layer.parameters(), exact, strict=True):
        assert_close(parameter.grad, wanted.grad, 300)


def test_a_frozen_weight_gets_no_gradient():
    layer = Linear(64, 64, bias=False).requires_grad_(False)
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(64, 64, requires_grad=True)
    layer(x).sum().backward()  # the slopes are one number, expanded
    assert layer.weight.grad is None
    assert_close(x.grad, layer.weight.double().sum(0).expand(64, 64), 64)


def test_without_the_kernel_the_product_is_that_of_pytorch(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(products, "library", lambda: None)
    a, b, bias, out = torch.randn(128, 128), torch.randn(128, 128), torch.randn(128), torch.randn(128, 128)
    assert torch.equal(products.multiply(a, b), a @ b)
    assert torch.equal(products.multiply(a, b, bias=bias), torch.addmm(bias, a, b))
    wanted = out + a @ b
    assert_close(products.multiply(a, b, out=out, adds=True), wanted.double(), 128)
