"""softplus, log sigmoid, sigmoid, tanh and SiLU gates of the native library."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from visionrnn.kernels import activations, native

FUNCTIONS = {"softplus": F.softplus, "log_sigmoid": F.logsigmoid, "sigmoid": torch.sigmoid, "tanh": torch.tanh}
needs_library = pytest.mark.skipif(not native.is_built(), reason="the native library is not built")


@pytest.mark.parametrize("name", list(FUNCTIONS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_number_keeps_its_relative_precision(name, dtype):
    x = torch.cat([torch.linspace(-80, 80, 40003), torch.linspace(-1, 1, 40001), 10.0 ** -torch.arange(30), -(10.0 ** -torch.arange(30))])
    x = x.to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    found, expected = getattr(activations, name)(x), (F.softplus(exact, threshold=1e9) if name == "softplus" else FUNCTIONS[name](exact))
    assert found.dtype == dtype
    assert torch.allclose(found.double(), expected, rtol=6e-6, atol=1e-36)  # that of the exponential far below zero
    small = x.detach().abs() < 3
    assert torch.allclose(found.double()[small], expected[small], rtol=6e-7)
    (gradient,), (wanted,) = torch.autograd.grad(found.sum(), x), torch.autograd.grad(expected.sum(), exact)
    assert torch.allclose(gradient.double(), wanted, rtol=4e-7, atol=2e-7)


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_infinities_and_nothing(name):
    x = torch.tensor([torch.inf, -torch.inf, torch.nan])
    assert torch.allclose(getattr(activations, name)(x), FUNCTIONS[name](x), atol=1e-36, equal_nan=True)
    assert getattr(activations, name)(torch.zeros(0, 3)).shape == (0, 3)


@needs_library
@pytest.mark.parametrize("name", ["softplus", "sigmoid", "tanh"])
def test_opcheck(name):
    op = getattr(torch.ops.visionrnn, name)
    torch.library.opcheck(op, (torch.randn(5, 7, requires_grad=True),))
    torch.library.opcheck(op, (torch.randn(5, 7).T,))


@needs_library
def test_silu_gate():
    y, z = torch.randn(2, 7, 1201).mul(5).requires_grad_().unbind(0)
    exact = [value.detach().double().requires_grad_() for value in (y, z)]
    found, wanted = activations.silu_gate(y, z), exact[0] * F.silu(exact[1])
    assert torch.allclose(found.double(), wanted, rtol=1e-6, atol=1e-7)
    weights = torch.randn_like(found)
    gradients = torch.autograd.grad((found * weights).sum(), (y, z))
    for gradient, expected in zip(gradients, torch.autograd.grad((wanted * weights).sum(), exact), strict=True):
        assert torch.allclose(gradient.double(), expected, rtol=2e-6, atol=1e-6)
    assert torch.equal(activations.silu_gate(y[:, 5:], z[:, 5:]), found[:, 5:])  # a number's place does not matter
    assert activations.silu_gate(y.double(), z).dtype == torch.float64
    torch.library.opcheck(torch.ops.visionrnn.silu_gate, (torch.randn(5, 7, requires_grad=True), torch.randn(7, 5, requires_grad=True).T))
