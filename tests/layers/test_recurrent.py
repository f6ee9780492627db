"""Recurrent networks along lines of maps: against loops, and all routes against each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from visionrnn.layers.bidirectional_rnn2d import BidirectionalRNN2D
from visionrnn.layers.recurrent import Recurrent
from visionrnn.serialization.grids import Grids

CELLS = ["lstm", "gru", "rnn"]


def step(cell: str, x: Tensor, h: Tensor, c: Tensor, of_input: Tensor, of_state: Tensor) -> tuple[Tensor, Tensor]:
    """One step from the two halves of the gates' sums, [B, G · D] each."""
    if cell == "rnn":
        return (of_input + of_state).tanh(), c
    if cell == "lstm":
        i, f, g, o = (of_input + of_state).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
    (r, z, n), (r2, z2, n2) = of_input.chunk(3, -1), of_state.chunk(3, -1)
    new, keep = (n + (r + r2).sigmoid() * n2).tanh(), (z + z2).sigmoid()
    return keep * h + (1 - keep) * new, c


def loop(net: Recurrent, x: Tensor) -> list[Tensor]:
    """[N, T, C] → [N, T, D] for each direction, step by step."""
    for layer in range(net.num_layers):
        found = []
        for end in ("", "_reverse")[: 1 + net.bidirectional]:
            weights = {name.split("_l")[0]: value for name, value in net.named_parameters() if name.endswith(f"_l{layer}{end}")}
            h = c = x.new_zeros(len(x), net.hidden_size)
            out = [h] * x.shape[1]
            for t in reversed(range(x.shape[1])) if end else range(x.shape[1]):
                of_input, of_state = x[:, t] @ weights["weight_ih"].T, h @ weights["weight_hh"].T
                if net.bias:
                    of_input, of_state = of_input + weights["bias_ih"], of_state + weights["bias_hh"]
                h, c = step(net.cell, x[:, t], h, c, of_input, of_state)
                out[t] = h
            found.append(torch.stack(out, 1))
        x = torch.cat(found, -1)
    return found


@pytest.fixture(params=CELLS)
def net(request) -> Recurrent:
    torch.manual_seed(0)
    return Recurrent(5, 3, cell=request.param)


@pytest.mark.parametrize("options", [{}, dict(bias=False), dict(num_layers=2), dict(bidirectional=False)], ids=str)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_loop(cell, options, dtype):
    torch.manual_seed(0)
    net, x = Recurrent(5, 3, cell=cell, **options).to(dtype), torch.randn(2, 4, 6, 5, dtype=dtype)
    bound = 1e-12 if dtype == torch.float64 else 2e-6
    expected = loop(net, x.flatten(0, 1))
    for given in (x, x.transpose(1, 2).contiguous().transpose(1, 2)):  # however they lie in memory
        found = net(given)
        assert len(found) == len(expected)
        for value, of_loop in zip(found, expected, strict=True):
            torch.testing.assert_close(value, of_loop.unflatten(0, (2, 4)), atol=bound, rtol=0)


def test_routes_agree(net):
    x = torch.randn(7, 6, 5, requires_grad=True)
    routes = {"torch": net._by_torch, "kernel": lambda x: net._by_kernel(x, None, None)}
    if net.cell == "lstm":
        routes["onednn"] = lambda x: [value.transpose(0, 1) for value in net._by_onednn(x.transpose(0, 1).contiguous())]
    weight, results = torch.randn(7, 6, 6), {}
    for name, route in routes.items():
        for training in (True, False):
            net.train(training)
            out = torch.cat(route(x), -1)
            results[name, training] = [out, *torch.autograd.grad((out * weight).sum(), [x, *net.parameters()])]
    for found in results.values():
        for value, expected in zip(found, results["torch", True], strict=True):
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)


def test_torchs_names_and_values(net):
    theirs = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[net.cell](5, 3, batch_first=True, bidirectional=True)
    net.load_state_dict(theirs.state_dict())
    assert list(net.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    found, expected = torch.cat(net.double()(x), -1).flatten(0, 1), theirs.double()(x.flatten(0, 1))[0]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_unknown_names():
    with pytest.raises(ValueError, match="cell='mamba'"):
        Recurrent(4, 2, cell="mamba")
    with pytest.raises(ValueError, match="union='diagonal'"):
        BidirectionalRNN2D(4, 1, union="diagonal")
    with pytest.raises(ValueError, match="12 channels and the input 4"):
        BidirectionalRNN2D(4, 3, with_fc=False)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("union", ["cat", "add", "vertical", "horizontal", "flat"])
def test_packed_maps(cell, union):
    torch.manual_seed(0)
    layer, sizes = BidirectionalRNN2D(6, 3, union=union, cell=cell).double(), ((3, 5), (1, 1), (4, 2), (3, 5))
    x = torch.randn(1, sum(h * w for h, w in sizes), 6, dtype=torch.float64, requires_grad=True)
    grids = Grids(sizes, packed=True)
    out = layer(x, grids)
    parts = [part.view(1, *size, 6) for part, size in zip(x[0].split(grids.lengths), sizes, strict=True)]
    expected = torch.cat([layer(part).flatten(1, 2) for part in parts], 1)
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)
    weight = torch.randn_like(out)
    grads = [torch.autograd.grad((value * weight).sum(), [x, *layer.parameters()]) for value in (out, expected)]
    for found, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-10, rtol=0)


def test_hooks_are_called():
    layer, seen = BidirectionalRNN2D(6, 3), []
    for name, module in layer.named_children():
        module.register_forward_hook(lambda module, inputs, out, name=name: seen.append(name))
    layer(torch.randn(1, 2, 3, 6))
    assert sorted(seen) == ["fc", "rnn_h", "rnn_v"]
