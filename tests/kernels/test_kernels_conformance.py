"""Every operation of every backend at hand, over odd shapes, against float64 written out by hand."""

import math

import pytest
import torch
from torch.testing import assert_close

from openqwq.errors import UserError
from openqwq.kernels import REFERENCE, CacheLayer, Documents, choose_ops, library, missing_reason
from openqwq.kernels import ops as ops_module
from openqwq.kernels.layouts import BLOCK, KINDS, PANEL

needs_library = pytest.mark.skipif(library() is None, reason="needs the C library")


def backends():
    yield pytest.param(REFERENCE, id="reference")
    for invariant, name in ((False, "cpu"), (True, "cpu-invariant")):
        own = choose_ops("cpu", torch.float32, invariant=invariant) if library() is not None else None
        yield pytest.param(own, id=name, marks=needs_library)


BACKENDS = list(backends())
SHAPES = [(1, 1, 1), (3, 7, 5), (17, 64, 33), (70, 96, 130)]  # rows, inputs, outputs
LENGTHS = [5, 1, 23, 18, 2]
HEADS = [(1, 1, 4), (6, 2, 20), (4, 4, 64), (32, 1, 16)]


def draw(seed, *shapes):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=random) for shape in shapes]


def gradients(function, tensors, weights):
    own = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    (function(*own) * weights).sum().backward()
    return [tensor.grad for tensor in own]


def check_op(function, exact, tensors, tolerance=2e-5):
    """Values and gradients of `function` against those of `exact` in float64."""
    wide = [tensor.double() for tensor in tensors]
    expected = exact(*wide)
    assert_close(function(*tensors).double(), expected, rtol=tolerance, atol=tolerance)
    weights = draw(99, expected.shape)[0]
    for got, wanted in zip(
        gradients(function, tensors, weights), gradients(exact, wide, weights.double()), strict=True
    ):
        assert_close(got.double(), wanted, rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("ops", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_linear_is_a_product_with_a_bias(ops, shape):
    rows, inputs, outputs = shape
    x, weight, bias = draw(1, (rows, inputs), (outputs, inputs), (outputs,))
    check_op(ops.linear, lambda x, w, b: x @ w.T + b, [x, weight, bias], 2e-5 * math.sqrt(inputs))
    assert_close(ops.linear(x, weight), x @ weight.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ops", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_multiply_adds_to_what_is_there(ops, shape):
    rows, depth, columns = shape
    a, b, held = draw(2, (rows, depth), (depth, columns), (rows, columns))
    expected = a.double() @ b.double()
    assert_close(ops.multiply(a, b).double(), expected, rtol=1e-4, atol=1e-4)
    out = held.clone()
    assert ops.multiply(a, b, out=out, adds=True) is out
    assert_close(out.double(), expected + held.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ops", BACKENDS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (33, 130)])
def test_rms_norm_divides_by_the_root_of_the_mean_square(ops, shape):
    x, weight = draw(3, shape, shape[1:])

    def exact(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    check_op(lambda x, w: ops.rms_norm(x, w, 1e-6), exact, [x, weight])


@pytest.mark.parametrize("ops", BACKENDS)
@pytest.mark.parametrize("beta", [1.0, math.log(2)])
def test_swiglu_gates_by_a_swish_of_any_beta(ops, beta):
    gate, up = draw(4, (13, 37), (13, 37))
    check_op(lambda g, u: ops.swiglu(g, u, beta), lambda g, u: g / (1 + torch.exp(-beta * g)) * u, [gate, up])


@pytest.mark.parametrize("ops", BACKENDS)
@pytest.mark.parametrize("dim", [2, 16, 20])
def test_rotate_turns_pairs_by_their_angle(ops, dim):
    (x,) = draw(5, (9, 3, dim))
    angles = torch.outer(torch.arange(9), 0.5 ** torch.arange(dim // 2))  # [N, D/2]
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    signed = torch.cat((-sin, sin), -1)

    def exact(x):
        low, high = x.chunk(2, -1)
        c, s = cos.double(), sin.double()
        return torch.cat((low * c - high * s, high * c + low * s), -1)

    check_op(lambda x: ops.rotate(x, torch.cat((cos, cos), -1), signed), exact, [x])


def attend_slowly(q, k, v, lengths=LENGTHS):
    """softmax(q k^T / sqrt(D)) v, one token after another: [R, H*D]."""
    out, start = [], 0
    for length in lengths:
        for i in range(start, start + length):
            heads = []
            for head in range(q.shape[1]):
                own = head // (q.shape[1] // k.shape[1])
                scores = k[start : i + 1, own] @ q[i, head] / math.sqrt(q.shape[2])
                heads.append(scores.softmax(0) @ v[start : i + 1, own])
            out.append(torch.cat(heads))
        start += length
    return torch.stack(out)


@pytest.mark.parametrize("ops", BACKENDS)
@pytest.mark.parametrize("shape", HEADS)
def test_documents_attend_within_themselves(ops, shape):
    heads, kv_heads, dim = shape
    count, documents = sum(LENGTHS), Documents(LENGTHS)
    tensors = draw(6, (count, heads, dim), (count, kv_heads, dim), (count, kv_heads, dim))
    check_op(lambda q, k, v: ops.attend_documents(q, k, v, documents), attend_slowly, tensors)


@pytest.mark.parametrize("ops", BACKENDS)
def test_documents_that_share_a_beginning_attend_as_if_apart(ops):
    rows = torch.tensor([*range(6), 6, 7, *range(6), 8, 9, 10])
    firsts = torch.tensor([(rows == row).nonzero()[0, 0] for row in range(11)])
    documents = Documents([8, 9], (rows, firsts))
    tensors = draw(7, (11, 4, 8), (11, 2, 8), (11, 2, 8))

    def exact(q, k, v):
        return attend_slowly(q[rows], k[rows], v[rows], [8, 9])[firsts]

    check_op(lambda q, k, v: ops.attend_documents(q, k, v, documents), exact, tensors)
    assert documents.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 6, 7, 8]


@needs_library
@pytest.mark.parametrize("invariant", [False, True])
@pytest.mark.parametrize("shape", HEADS)
def test_rows_store_their_keys_and_attend_over_their_blocks(invariant, shape):
    ops = choose_ops("cpu", torch.float32, invariant=invariant)
    heads, kv_heads, dim = shape
    keys, values, q, k, v = draw(
        8, (9, kv_heads, 16, dim), (9, kv_heads, 16, dim), (2, heads, dim), (2, kv_heads, dim), (2, kv_heads, dim)
    )
    tables, positions = torch.tensor([[7, 2, 4], [5, 0, 1]], dtype=torch.int32), torch.tensor([37, 16])
    store = CacheLayer(keys.clone(), values.clone())
    assert ops.attends_rows(store, torch.float32, heads // kv_heads)
    mixed = ops.attend_rows(q, k, v, store, tables, positions)
    for row, position in enumerate(positions.tolist()):
        block, place = tables[row, position // 16], position % 16
        assert torch.equal(store.keys[block, :, place], k[row])
        assert torch.equal(store.values[block, :, place], v[row])
        own = [x[tables[row].long()].transpose(1, 2).flatten(0, 1)[: position + 1].double() for x in store[:2]]
        query = torch.zeros(position + 1, heads, dim, dtype=torch.float64)
        query[position] = q[row].double()
        expected = attend_slowly(query, *own, [position + 1])[position]
        assert_close(mixed[row].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ops", BACKENDS)
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_token_logprobs_are_of_the_softmax(ops, size):
    (logits,) = draw(9, (11, size))
    targets = torch.arange(11) % size
    logprobs, normalizers = ops.token_logprobs(logits * 5, targets)
    expected = (logits.double() * 5).log_softmax(-1)
    assert_close(logprobs.double(), expected[torch.arange(11), targets], rtol=1e-5, atol=1e-5)
    assert_close(normalizers.double(), (logits.double() * 5).logsumexp(-1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_weights_are_widened_alike_by_every_backend(kind):
    from openqwq.model.quantize import pack_weight

    layer = pack_weight(draw(10, (37, 300))[0], kind, group_size=64)
    panels, blocks = layer.codes.shape[:2]
    found = []
    for param in BACKENDS[: 2 if library() is not None else 1]:
        room = torch.empty(panels, PANEL, blocks, BLOCK)
        found.append(param.values[0].widen_panels(layer.weights(), room).clone())
    assert all(torch.equal(found[0], other) for other in found)
    assert found[0].shape == (panels, PANEL, blocks, BLOCK) and found[0].abs().sum() > 0


@needs_library
def test_rows_of_invariant_operations_do_not_depend_on_their_neighbours():
    ops = choose_ops("cpu", torch.float32, invariant=True)
    x, weight, norm, up = draw(11, (300, 48), (64, 48), (48,), (300, 48))
    logits = ops.linear(x, weight)
    targets = torch.arange(300) % 64
    whole = {
        "linear": logits,
        "rms_norm": ops.rms_norm(x, norm, 1e-6),
        "swiglu": ops.swiglu(x, up, 1.0),
        "logprobs": ops.token_logprobs(logits, targets)[0],
    }
    for first, last in ((0, 1), (3, 7), (100, 299)):
        part = slice(first, last)
        assert torch.equal(ops.linear(x[part], weight), whole["linear"][part])
        assert torch.equal(ops.rms_norm(x[part], norm, 1e-6), whole["rms_norm"][part])
        assert torch.equal(ops.swiglu(x[part], up[part], 1.0), whole["swiglu"][part])
        assert torch.equal(ops.token_logprobs(logits[part], targets[part])[0], whole["logprobs"][part])


@needs_library
def test_a_document_attends_to_the_same_bits_whatever_lies_beside_it():
    ops = choose_ops("cpu", torch.float32, invariant=True)
    q, k, v = draw(12, (sum(LENGTHS), 6, 16), (sum(LENGTHS), 2, 16), (sum(LENGTHS), 2, 16))
    whole, start = ops.attend_documents(q, k, v, Documents(LENGTHS)), 0
    for length in LENGTHS:
        part = slice(start, start + length)
        alone = ops.attend_documents(q[part], k[part], v[part], Documents([length]))
        assert torch.equal(alone, whole[part])
        start += length


def test_the_choice_follows_device_dtype_and_library(monkeypatch):
    assert choose_ops("cpu", torch.float64).name == "reference"
    assert choose_ops("meta", torch.float32).name == "reference"
    assert choose_ops("cuda", torch.bfloat16).name == "reference"  # Triton kernels are opt-in
    assert choose_ops("cpu", torch.float32, backend="reference").name == "reference"
    assert choose_ops("cpu", torch.float32).name == ("cpu" if library() is not None else "reference")
    monkeypatch.setattr(ops_module, "library", lambda: None)
    assert choose_ops("cpu", torch.float32).name == "reference"


def test_what_is_not_available_is_refused_with_the_reason(monkeypatch):
    with pytest.raises(UserError, match=r"not available: the weights are torch\.bfloat16 on cpu"):
        choose_ops("cpu", torch.bfloat16, invariant=True)
    with pytest.raises(UserError, match="Triton kernels are not available on cpu"):
        choose_ops("cpu", torch.float32, backend="triton")
    monkeypatch.setattr(ops_module, "missing_reason", lambda: "no C compiler was found (cc, gcc or clang)")
    with pytest.raises(UserError, match="no C compiler"):
        choose_ops("cpu", torch.float32, invariant=True)


def test_a_library_that_cannot_be_compiled_is_told_once_and_not_used(monkeypatch, tmp_path, caplog):
    from openqwq.kernels.cpu import library as library_module

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(library_module.compiling, "STRICT_FLAGS", ("-no-such-flag",))
    library_module.library.cache_clear()
    try:
        with caplog.at_level("WARNING"):
            assert library_module.library() is None and library_module.library() is None
            assert "could not be compiled" in missing_reason() or "no C compiler" in missing_reason()
        assert sum("C kernels are not available" in record.message for record in caplog.records) == 1
    finally:
        library_module.library.cache_clear()
