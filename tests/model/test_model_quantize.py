"""Packed layers against weights that are rounded and laid out one by one."""

import pytest
import torch

from openqwq.kernels import REFERENCE, library
from openqwq.kernels.cpu.packed import MAX_ROWS
from openqwq.model.packed_linear import pack_codes
from openqwq.model.quantize import pack_weight

KINDS = [("bf16", 64), ("int8", 64), ("int4", 32), ("int4", 64), ("int4", 128), ("int4", 256)]


def round_slowly(weight, kind, group_size):
    """The weights that a layer stands for, one group at a time."""
    if kind == "bf16":
        return weight.bfloat16().double()
    if kind == "int8":
        scales = weight.double().abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
        return (weight / scales).round() * scales
    wide = weight.double()
    for row in wide:
        for group in row.split(group_size):
            low, high = min(group.min().item(), 0), max(group.max().item(), 0)
            tried = [round_group(group.tolist(), low * span, high * span) for span in (1, 0.95, 0.9, 0.85)]
            group.copy_(min(tried, key=lambda rounded: (rounded - group).square().sum()))
    return wide


def round_group(values, low, high):
    """Sixteen levels, 0 among them, that span low to high."""
    scale = (high - low) / 15 or 1.0
    zero = round(-low / scale)
    return torch.tensor([scale * (min(max(round(v / scale) + zero, 0), 15) - zero) for v in values]).double()


@pytest.mark.parametrize(("kind", "group_size"), KINDS)
@pytest.mark.parametrize("native", [True, False])
def test_a_layer_multiplies_by_its_rounded_weights(kind, group_size, native):
    torch.manual_seed(0)
    weight, bias, x = torch.randn(21, 300), torch.randn(21), torch.randn(MAX_ROWS + 1, 300)
    weight[3], weight[4] = 0, weight[4].abs() + 1
    layer = pack_weight(weight, kind, bias=bias, group_size=group_size)
    layer.ops = layer.ops if native else REFERENCE
    expected = round_slowly(weight, kind, group_size)
    torch.testing.assert_close(layer.widened().double(), expected, rtol=0, atol=1e-6)
    for num_rows in (1, 2, 3, 7, MAX_ROWS, len(x)):
        torch.testing.assert_close(
            layer(x[:num_rows]).double(), x[:num_rows].double() @ expected.T + bias, rtol=0, atol=1e-4
        )
    assert torch.equal(layer(x[0]), layer(x[:1])[0])
    assert layer(x[:0]).shape == (0, 21)


@pytest.mark.parametrize(("kind", "group_size"), KINDS)
def test_a_row_has_the_same_bits_whatever_other_rows_there_are(kind, group_size):
    torch.manual_seed(0)
    if library() is None:
        pytest.skip("needs a C compiler: a promise of the kernels")
    layer = pack_weight(torch.randn(50, 1400), kind, group_size=group_size)
    x = torch.randn(MAX_ROWS, 1400)
    alone = torch.stack([layer(row) for row in x])
    for num_rows in range(2, len(x) + 1):
        assert torch.equal(layer(x[:num_rows]), alone[:num_rows])


@pytest.mark.parametrize("num_groups", [1, 3, 6, 12])
def test_given_codes_stand_for_themselves(num_groups):
    torch.manual_seed(0)
    codes, zeros = torch.randint(0, 16, (10, 384)), torch.randint(0, 17, (10, num_groups))
    scales = torch.rand(10, num_groups).half()
    order = torch.randperm(384)
    size = 384 // num_groups
    sorted_weights = (codes - zeros.repeat_interleave(size, 1)) * scales.double().repeat_interleave(size, 1)
    expected = torch.empty_like(sorted_weights)
    for i, place in enumerate(order.tolist()):
        expected[:, place] = sorted_weights[:, i]
    layer = pack_codes(codes.byte(), scales, zeros, order=order)
    assert torch.equal(layer.widened().double(), expected.float().double())
    x = torch.randn(2, 384)
    torch.testing.assert_close(layer(x).double(), x.double() @ expected.T, rtol=0, atol=1e-4)


def test_group_sizes_that_the_kernel_is_not_made_for_are_refused():
    with pytest.raises(ValueError, match="`group_size` is 48"):
        pack_weight(torch.zeros(8, 96), "int4", group_size=48)
    with pytest.raises(ValueError, match="96 inputs cannot be packed in 6 groups"):
        pack_codes(torch.zeros(8, 96), torch.ones(8, 6), torch.zeros(8, 6))


def test_gradients_flow_through_to_the_input():
    torch.manual_seed(0)
    layer = pack_weight(torch.randn(6, 40), "int4", group_size=32)
    x = torch.randn(2, 40, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.widened().sum(0).expand(2, 40))
