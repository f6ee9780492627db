"""Linear against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from visionrnn.layers.linear import Linear, linear
from visionrnn.testing import error


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 12), (1, 30, 12), (2, 3, 5, 12), (0, 12), (12,)], ids=str)
def test_values_and_gradients(shape, bias):
    torch.manual_seed(0)
    layer, plain = Linear(12, 5, bias=bias), torch.nn.Linear(12, 5, bias=bias).double()
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(shape, requires_grad=True)
    exact = x.detach().double().requires_grad_()
    out, expected = layer(x), plain(exact)
    assert error(out, expected) < 1e-6
    cotangent = torch.randn_like(expected)
    found = torch.autograd.grad((out * cotangent).sum(), [x, *layer.parameters()])
    wanted = torch.autograd.grad((expected * cotangent).sum(), [exact, *plain.parameters()])
    assert all(error(a, b) < 1e-6 for a, b in zip(found, wanted, strict=True))
    with torch.no_grad():
        assert error(layer(x), expected) < 1e-6


def test_strided_operands():
    x, weight = torch.randn(40, 3, 8)[:, 1], torch.randn(8, 6).t()
    assert error(linear(x, weight), F.linear(x.double(), weight.double())) < 1e-6
    assert error(linear(x.t().contiguous().t(), weight), F.linear(x.double(), weight.double())) < 1e-6


def test_only_wanted_gradients_and_second_ones():
    x, weight = torch.randn(9, 4), torch.randn(3, 4, requires_grad=True)
    assert torch.allclose(torch.autograd.grad(linear(x, weight).sum(), weight)[0], x.sum(0).expand(3, 4), atol=1e-5)
    x.requires_grad_()
    (first,) = torch.autograd.grad(linear(x, weight).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), weight)
    exact = weight.detach().double().requires_grad_()
    point = x.detach().double().requires_grad_()
    (first,) = torch.autograd.grad(F.linear(point, exact).square().sum(), point, create_graph=True)
    assert error(second, torch.autograd.grad(first.square().sum(), exact)[0]) < 1e-5


def test_other_types_go_torchs_way():
    x, weight = torch.randn(3, 4), torch.randn(2, 4)
    assert torch.equal(linear(x.double(), weight.double()), F.linear(x.double(), weight.double()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    with pytest.raises(RuntimeError):
        linear(x, torch.randn(2, 5))


def test_a_row_gives_the_same_among_any_number_of_rows():
    x, weight = torch.randn(700, 16), torch.randn(8, 16)
    whole = linear(x, weight)
    assert all(torch.equal(linear(x[:number], weight), whole[:number]) for number in (1, 2, 5, 127, 128, 129, 640))


@pytest.mark.parametrize("shape", [(5, 3), (128, 3), (2, 7, 3)])
def test_what_comes_out_may_be_changed_in_place(shape):
    layer, x = Linear(3, 8), torch.randn(shape, requires_grad=True)
    out = layer(x).add_(1.0)
    torch.testing.assert_close(out, torch.nn.functional.linear(x, layer.weight, layer.bias) + 1)
    out.sum().backward()
    assert x.grad.any()


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(2500, 12, 40), (2500, 40, 12), (1024, 16, 16), (1, 5, 3), (197, 20, 300)])
def test_gradient_of_the_weight_over_many_rows(rows, inputs, outputs):
    torch.manual_seed(0)
    x, weight, cotangent = torch.randn(rows, inputs), torch.randn(outputs, inputs, requires_grad=True), torch.randn(rows, outputs)
    (found,) = torch.autograd.grad(linear(x, weight), weight, cotangent)
    exact = cotangent.double().t() @ x.double()
    plain = error(cotangent.t() @ x, exact)
    assert error(found, exact) <= 5 * plain + 1e-7
    assert torch.equal(found, torch.autograd.grad(linear(x, weight), weight, cotangent)[0])


def test_few_numbers_of_rows_are_compiled_and_little_is_wasted(monkeypatch):
    sizes, product = set(), torch.ops.mkldnn._linear_pointwise

    def recorded(rows, *others):
        sizes.add(len(rows))
        return product(rows, *others)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", recorded)
    weight = torch.randn(2, 3)
    for number in range(1000, 4100, 7):
        before = set(sizes)
        linear(torch.randn(number, 3), weight)
        assert all(number <= size <= number * 17 / 16 for size in sizes - before)
    assert len(sizes) < 40


def test_the_library_is_given_no_weight_with_gaps(monkeypatch):
    """Slices of wider tensors, which cost it a thousand times as much."""
    weights, product = [], torch.ops.mkldnn._linear_pointwise

    def recorded(rows, weight, *others):
        weights.append(weight)
        return product(rows, weight, *others)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", recorded)
    wide, both = torch.randn(64, 40), torch.randn(12, 40, requires_grad=True)
    for x in (wide[:, :20], torch.randn(20, 1100).t(), torch.ones(1, 1).expand(32, 20)):
        weight = both[:, 20:]
        out = linear(x, weight)
        (found,) = torch.autograd.grad(torch.cat([out, out], -1), weight, torch.randn(len(x), 24))
        torch.testing.assert_close(out, torch.nn.functional.linear(x, weight))
        assert found.shape == weight.shape
    assert len(weights) >= 6 and all(weight.is_contiguous() or weight.t().is_contiguous() for weight in weights)
