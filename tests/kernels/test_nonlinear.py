"""Nonlinear recurrences beyond the checks that all recurrences share."""

from __future__ import annotations

import pytest
import torch
from recurrence_checks import same_bits_on_threads

from visionrnn.kernels import available_backends, bidirectional_nonlinear_rnn, nonlinear_rnn
from visionrnn.testing import SAMPLES, error

BACKENDS = available_backends("nonlinear", "nonlinear_rnn", "cpu")
NAMES = ("elman", "gru", "lstm", "slstm", "slstm_without_floor")
native = pytest.mark.skipif("native" not in BACKENDS, reason="the native library is not built")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("cell", "module"), [("lstm", torch.nn.LSTM), ("gru", torch.nn.GRU), ("elman", torch.nn.RNN)])
def test_one_head_is_what_torch_computes(backend, cell, module):
    torch.manual_seed(0)
    width, theirs = 12, module(5, 12, batch_first=True)
    given = torch.randn(3, 17, 5)
    order = {"lstm": [0, 1, 2, 3], "gru": [0, 1, 2], "elman": [0]}[cell]
    x = torch.nn.functional.linear(given, theirs.weight_ih_l0).unflatten(-1, (len(order), 1, width))
    R = theirs.weight_hh_l0.view(len(order), 1, width, width)
    inside, outside = theirs.bias_hh_l0.view(-1, 1, width), theirs.bias_ih_l0.view(-1, 1, width)
    if cell == "gru":  # R and the bias begin with the candidate
        R, bias = R[[2, 0, 1]], torch.cat([inside[2:], inside[:2] + outside[:2], outside[2:]])
    else:
        bias = inside + outside
    y = nonlinear_rnn(x, R, bias, cell=cell, backend=backend)
    want, _ = theirs(given)
    assert error(y.flatten(2), want) < 2e-6
    weights = torch.randn_like(want)
    got, expected = (torch.autograd.grad((value * weights).sum(), theirs.weight_hh_l0)[0] for value in (y.flatten(2), want))
    assert error(got, expected) < 5e-6


@native
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [1, 16, 33, 70])
def test_native_bits_depend_on_neither_neighbours_nor_threads(name, width):
    """Thirteen sequences of many lengths: blocks of several sizes, cut differently by one thread and by three."""
    sample, lengths = SAMPLES[name], [5, 40, 0, 17, 16, 33, 1, 40, 2, 31, 32, 7, 16]
    inputs = sample.inputs(batch=1, length=sum(lengths), heads=2, key=width, dtype=torch.float32)
    inputs |= {
        key: value
        for key, value in sample.inputs(batch=13, length=1, heads=2, key=width, seed=1, dtype=torch.float32).items()
        if key in sample.states
    }
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    one = same_bits_on_threads(lambda: sample.gradients(inputs, backend="native", cu_seqlens=bounds), (1, 3))
    for i in (1, 3, 6, 12):
        part = {key: value[:, bounds[i] : bounds[i + 1]] if key in sample.timed else value for key, value in inputs.items()}
        part |= {key: inputs[key][i : i + 1] for key in sample.states}
        alone = sample.gradients(part, backend="native")
        assert torch.equal(alone["out"], one["out"][:, bounds[i] : bounds[i + 1]])
        assert torch.equal(alone["d x"], one["d x"][:, bounds[i] : bounds[i + 1]])
        for key in sample.states:
            assert torch.equal(alone[f"d {key}"], one[f"d {key}"][i : i + 1]), key


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_bias_is_optional(backend, name):
    inputs = {**SAMPLES[name].inputs(dtype=torch.float32), "bias": None}
    zero = {**inputs, "bias": torch.zeros(4 if name != "elman" else 1, 2, 8)}
    got, want = (SAMPLES[name].gradients(given, backend=backend) for given in (inputs, zero))
    assert all(torch.equal(got[key], want[key]) for key in got)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("floor", [True, False])
def test_slstm_from_an_empty_state(backend, floor):
    """The scale m of units that hold nothing is the first input gate, however small, and units do not see each other's."""
    x, R = torch.zeros(1, 2, 4, 1, 3), torch.zeros(4, 1, 3, 3)
    x[0, :, 0, 0] = torch.tensor([-200.0, 0.0, 80.0])
    x[0, :, 2] = 1
    given = [torch.zeros(1, 1, 3) for _ in range(4)]
    given[2][..., 1] = 2
    x, given = x.requires_grad_(), [value.requires_grad_() for value in given]
    y, (_, c, n, m) = nonlinear_rnn(x, R, None, given, cell="slstm", normalizer_floor=floor, return_final_state=True, backend=backend)
    assert torch.allclose(y[0, :, 0, [0, 2]], torch.tensor(0.5).mul(torch.tensor(1.0).tanh()).expand(2, 2))
    assert error(m[0, 0], torch.tensor([-200.0, 0.0, 80.0])) < 1e-6
    gradients = torch.autograd.grad(sum(value.square().sum() for value in (y, c, n, m)), [x, *given])
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_both_directions_stand_side_by_side():
    torch.manual_seed(0)
    x, R, bias = torch.randn(2, 1, 9, 4, 2, 3), torch.randn(2, 4, 2, 3, 3), torch.randn(2, 4, 2, 3)
    bounds = torch.tensor([0, 4, 9])
    start = [(torch.randn(2, 2, 3), torch.randn(2, 2, 3)) for _ in range(2)]
    y, (ahead, back) = bidirectional_nonlinear_rnn(x, R, bias, start, return_final_state=True, cu_seqlens=bounds)
    one, last = nonlinear_rnn(x[0], R[0], bias[0], start[0], return_final_state=True, cu_seqlens=bounds)
    other, first = nonlinear_rnn(x[1], R[1], bias[1], start[1], return_final_state=True, cu_seqlens=bounds, reverse=True)
    assert torch.equal(y, torch.cat([one, other], 2))
    for got, want in zip((*ahead, *back), (*last, *first), strict=True):
        assert torch.equal(got, want)
    with pytest.raises(ValueError, match=r"x: expected two directions"):
        bidirectional_nonlinear_rnn(x[:1], R, bias)


def test_what_is_wrong_is_named():
    x, R = torch.randn(1, 5, 4, 2, 3), torch.randn(4, 2, 3, 3)
    with pytest.raises(ValueError, match=r"cell='mgu'; expected one of \['elman'"):
        nonlinear_rnn(x, R, cell="mgu")
    with pytest.raises(ValueError, match=r"x: expected \[B, T, 3, H, D\] for cell='gru'"):
        nonlinear_rnn(x, R, cell="gru")
    with pytest.raises(ValueError, match=r"initial_state: expected 4 tensors \(y, c, n, m\), got 1"):
        nonlinear_rnn(x, R, None, torch.zeros(1, 2, 3), cell="slstm")
    with pytest.raises(ValueError, match=r"initial_state c: expected shape \[1, 2, 3\], got \[2, 2, 3\]"):
        nonlinear_rnn(x, R, None, (torch.zeros(1, 2, 3), torch.zeros(2, 2, 3)))
