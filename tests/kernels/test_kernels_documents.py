"""Attention for training by the C kernel: values and gradients against float64 operators, document by document."""

from functools import partial

import pytest
import torch

from openqwq.kernels import Documents, library
from openqwq.kernels.cpu.documents import attend_documents, fits

pytestmark = pytest.mark.skipif(library() is None, reason="needs a C compiler")

SHAPES = {
    "wide heads": (4, 2, 64),
    "narrow heads": (2, 2, 24),
    "many queries a key": (24, 2, 8),
    "one head": (1, 1, 40),
}
LENGTHS = [1, 90, 3, 150, 33]


def draw(seed, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


def one_by_one(lengths, q, k, v):
    """The definition: each document by itself, every query over the keys up to its own."""
    outputs = []
    for one, keys, values in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True):
        group = q.shape[1] // k.shape[1]
        keys, values = (x.repeat_interleave(group, 1).transpose(0, 1) for x in (keys, values))
        scores = one.transpose(0, 1) @ keys.transpose(1, 2) * q.shape[2] ** -0.5
        later = torch.ones(len(one), len(one)).triu(1).bool()
        outputs.append((scores.masked_fill(later, -torch.inf).softmax(-1) @ values).transpose(0, 1).flatten(1))
    return torch.cat(outputs)


def slopes(function, tensors, weights):
    found = torch.autograd.grad((function(*tensors) * weights).sum(), tensors)
    return [grad.double() for grad in found]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_documents_are_mixed_as_the_definition_says(shape):
    heads, kv_heads, dim = shape
    count = sum(LENGTHS)
    tensors = draw(1, (count, heads, dim), (count, kv_heads, dim), (count, kv_heads, dim))
    exact = [t.detach().double().requires_grad_() for t in tensors]
    weights = draw(2, (count, heads * dim))[0].detach()
    documents = Documents(LENGTHS)
    assert fits(tensors[0].detach(), tensors[1])
    torch.testing.assert_close(
        attend_documents(*tensors, documents).double(), one_by_one(LENGTHS, *exact), rtol=1e-6, atol=2e-6
    )
    theirs = slopes(lambda *x: one_by_one(LENGTHS, *x), exact, weights.double())
    for mine, other in zip(
        slopes(partial(attend_documents, documents=documents), tensors, weights), theirs, strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_documents_that_begin_alike_give_what_they_give_apart():
    """Rows 0-19 are a prompt of three documents, rows 50-54 one of two; a document by itself lies between."""
    prompt, other = torch.arange(20), torch.arange(50, 55)
    parts = [
        (prompt, torch.arange(20, 50)),
        (prompt, torch.arange(55, 62)),
        (other, torch.arange(62, 63)),
        (prompt[:0], torch.arange(63, 80)),
        (prompt, torch.arange(80, 83)),
        (other, torch.arange(83, 100)),
    ]
    rows = torch.cat([torch.cat(pair) for pair in parts])
    firsts = torch.stack([(rows == row).nonzero()[0, 0] for row in range(100)])
    lengths = [len(a) + len(b) for a, b in parts]
    tensors = draw(3, (100, 4, 16), (100, 2, 16), (100, 2, 16))
    exact = [t.detach().double().requires_grad_() for t in tensors]
    weights = draw(4, (100, 64))[0].detach()

    def apart(q, k, v):
        return one_by_one(lengths, q[rows], k[rows], v[rows])[firsts]

    shared = Documents(lengths, (rows, firsts))
    torch.testing.assert_close(attend_documents(*tensors, shared).double(), apart(*exact), rtol=1e-6, atol=2e-6)
    theirs = slopes(apart, exact, weights.double())
    for mine, expected in zip(
        slopes(partial(attend_documents, documents=shared), tensors, weights), theirs, strict=True
    ):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)


def test_the_number_of_threads_changes_no_bit_of_the_gradients():
    tensors = draw(5, (277, 4, 32), (277, 2, 32), (277, 2, 32))
    weights, documents, found = draw(6, (277, 128))[0].detach(), Documents(LENGTHS), []
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(slopes(partial(attend_documents, documents=documents), tensors, weights))
    torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_what_is_not_float32_on_a_cpu_is_left_to_pytorch():
    q, k = torch.zeros(3, 4, 8), torch.zeros(3, 2, 8)
    assert fits(q, k)
    assert not fits(q.double(), k.double()) and not fits(q.to("meta"), k.to("meta"))
