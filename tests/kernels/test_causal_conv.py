"""The short causal convolution: against torch's own, across the native blocks of time, any number of taps and threads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from recurrence_checks import same_bits_on_threads

from visionrnn.kernels import available_backends, causal_conv
from visionrnn.kernels.launch import is_interpreted
from visionrnn.testing import error

BACKENDS = available_backends("causal_conv", device="cpu")
SIMULATED = is_interpreted() and not torch.cuda.is_available()
ALL = [*BACKENDS, pytest.param("triton", marks=pytest.mark.skipif(not SIMULATED, reason="for CPU tensors"))]
native = pytest.mark.skipif("native" not in BACKENDS, reason="the native library is not built")


def inputs(length: int, channels: int, taps: int, seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = {"u": (1, length, channels), "weight": (taps, channels), "bias": (channels,), "initial_state": (1, taps - 1, channels)}
    return {name: torch.randn(*shape, generator=draw).requires_grad_() for name, shape in shapes.items()}


def gradients(given: dict[str, torch.Tensor], **options) -> list[torch.Tensor]:
    out, state = causal_conv(**given, return_final_state=True, **options)
    loss = out.square().sum() + state.square().sum()
    return [out, state, *torch.autograd.grad(loss, list(given.values()))]


@pytest.mark.parametrize("backend", BACKENDS)
def test_is_the_convolution_of_torch(backend):
    given = inputs(20, 5, 4)
    wide = torch.cat([given["initial_state"], given["u"]], 1).transpose(1, 2)
    want = F.conv1d(wide, given["weight"].flip(0).T.unsqueeze(1), given["bias"], groups=5).transpose(1, 2)
    assert error(causal_conv(**given, backend=backend), want) <= 1e-6
    assert error(causal_conv(**given, activation="silu", backend=backend), F.silu(want)) <= 1e-6


@native
@pytest.mark.parametrize("taps", [1, 2, 4, 8, 19, 300])
@pytest.mark.parametrize("reverse", [False, True], ids=["ahead", "reverse"])
def test_blocks_of_time_and_channels_fit_together(taps, reverse):
    given = inputs(530, 133, taps)
    wide = {name: value.detach().double().requires_grad_() for name, value in given.items()}
    options = dict(reverse=reverse, activation="silu")
    want = gradients(wide, backend="chunkwise", **options)
    for got, expected in zip(gradients(given, backend="native", **options), want, strict=True):
        assert error(got, expected) <= 5e-6


@native
def test_threads_do_not_change_a_bit():
    given = inputs(1100, 150, 4)
    same_bits_on_threads(lambda: dict(enumerate(gradients(given, backend="native", activation="silu"))), (1, 3))


@pytest.mark.parametrize("backend", ALL)
def test_gradients_may_come_in_any_layout(backend):
    given = inputs(5, 3, 2)
    out = causal_conv(**given, backend=backend)
    factors = torch.arange(15.0).view(1, 3, 5)
    found = torch.autograd.grad((out.transpose(1, 2) * factors).sum(), list(given.values()), retain_graph=True)
    for value, same in zip(found, torch.autograd.grad((out * factors.mT.contiguous()).sum(), list(given.values())), strict=True):
        assert torch.equal(value, same)


def test_unknown_activation_and_wrong_ranks_are_refused():
    given = inputs(6, 3, 2)
    with pytest.raises(ValueError, match=r"activation='relu'; expected one of \[None, 'silu'\]"):
        causal_conv(**given, activation="relu")
    with pytest.raises(ValueError, match=r"expected u \[B, T, C\] and weight \[taps, C\]"):
        causal_conv(given["u"], given["weight"][0])


@pytest.mark.parametrize("merge", ["sum", "stack"])
@pytest.mark.parametrize("backend", ALL)
def test_shared_inputs_with_weights_of_each_direction(backend, merge):
    given, boundaries, order = inputs(9, 5, 4), torch.tensor([0, 2, 2, 9]), torch.randperm(9)
    draw = torch.Generator().manual_seed(1)
    shapes = {"weight": (2, 4, 5), "bias": (2, 5), "initial_state": (2, 3, 3, 5)}
    given |= {name: torch.randn(*shape, generator=draw).requires_grad_() for name, shape in shapes.items()}
    options = dict(cu_seqlens=boundaries, activation="silu", backend=backend)
    got = gradients(given, index=order, direction="both", merge=merge, **options)
    rows = {name: value for name, value in given.items() if name != "u"}
    runs = [
        causal_conv(
            given["u"][:, order], **{name: value[i] for name, value in rows.items()}, reverse=i == 1, return_final_state=True, **options
        )
        for i in range(2)
    ]
    out, state = (torch.stack(parts) for parts in zip(*runs, strict=True))
    back = torch.empty_like(out)
    back[:, :, order] = out
    out = back.sum(0) if merge == "sum" else back
    want = [out, state, *torch.autograd.grad(out.square().sum() + state.square().sum(), list(given.values()))]
    for value, expected in zip(got, want, strict=True):
        assert error(value, expected) <= 1e-6
