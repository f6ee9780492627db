"""Options of the test-time training layers, and what they carry from part to part."""

from __future__ import annotations

import pytest
import torch

import visionrnn.operators  # noqa: F401
from visionrnn.registry import OPERATORS
from visionrnn.testing import error


def build(**config):
    torch.manual_seed(0)
    layer = OPERATORS.build({"mini_batch_size": 5, **config}, dim=20).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return layer


@pytest.mark.parametrize("name", ["ttt_linear", "ttt_mlp"])
@pytest.mark.parametrize("options", [{"share_qk": True}, {"gate": True, "num_heads": 5}, {"num_heads": 1, "mini_batch_size": 1}], ids=str)
def test_parts_of_any_length_equal_the_whole(name, options):
    layer, x = build(type=name, **options), torch.randn(2, 33, 20, dtype=torch.float64)
    for sizes in ([1] * 33, [4, 1, 5, 23], [0, 33]):
        state, outs = None, []
        for part in x.split(sizes, 1):
            out, state = layer.stream(part, state)
            outs.append(out)
        assert error(torch.cat(outs, 1), layer(x)) < 1e-11


def test_sequences_at_different_positions_go_on_together():
    layer, parts = build(type="ttt_linear"), [torch.randn(1, length, 20, dtype=torch.float64) for length in (3, 0, 12, 7)]
    boundaries = torch.tensor([0, 3, 3, 15, 22])
    _, state = layer.mix(torch.cat(parts, 1), None, boundaries, 12)
    more = torch.randn(4, 9, 20, dtype=torch.float64)
    out, _ = layer.stream(more, state)
    for i, part in enumerate(parts):
        assert error(out[i : i + 1], layer(torch.cat([part, more[i : i + 1]], 1))[:, part.shape[1] :]) < 1e-11


def test_gradients_pass_through_the_state():
    layer, x = build(type="ttt_linear"), torch.randn(1, 12, 20, dtype=torch.float64, requires_grad=True)
    first, state = layer.stream(x[:, :7])
    second, _ = layer.stream(x[:, 7:], state)
    gradients = [torch.autograd.grad(out.square().sum(), x)[0] for out in (torch.cat([first, second], 1), layer(x))]
    assert error(*gradients) < 1e-10
