"""The feed-forward layer: its formula, with and without gradients, and hooks inside it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from visionrnn.layers.mlp import Mlp


@pytest.mark.parametrize("shape", [(2, 3, 4, 8), (2, 100, 8), (5, 8), (8,)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_formula(shape, dtype):
    torch.manual_seed(0)
    layer, x = Mlp(8, 20).to(dtype), torch.randn(shape, dtype=dtype) * 3
    expected = F.linear(F.gelu(F.linear(x, layer.fc1.weight, layer.fc1.bias)), layer.fc2.weight, layer.fc2.bias)
    bound = 2e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(layer(x), expected, atol=bound, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, atol=bound, rtol=0)


def test_hooks_inside_are_called():
    layer, seen = Mlp(8, 20).eval(), []
    x = torch.randn(4, 8)
    with torch.no_grad():
        expected = layer(x)
        layer.act.register_forward_hook(lambda module, inputs, out: seen.append(out))
        found = layer(x)
        torch.testing.assert_close(seen[0], F.gelu(layer.fc1(x)), atol=1e-6, rtol=0)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


class Twice(torch.nn.Module):
    """As adapters stand in for a linear layer: they have its weight, and do more."""

    def __init__(self, inner: torch.nn.Linear):
        super().__init__()
        self.inner = inner
        self.weight, self.bias = inner.weight, inner.bias

    def forward(self, x):
        return 2 * self.inner(x)


@pytest.mark.parametrize("change", ["activation", "rougher", "adapter", "forward"])
def test_what_was_put_in_the_place_of_a_part_is_used(change):
    torch.manual_seed(0)
    layer, x = Mlp(8, 20), torch.randn(4, 8)
    if change == "activation":
        layer.act = torch.nn.ReLU()
    elif change == "rougher":
        layer.act = torch.nn.GELU("tanh")
    elif change == "adapter":
        layer.fc1 = Twice(layer.fc1)
    else:
        inner = layer.fc1.forward
        layer.fc1.forward = lambda x: 2 * inner(x)
    expected = layer(x)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=0)
