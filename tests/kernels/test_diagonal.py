"""What is special to the diagonal recurrences; what all recurrences share is in test_recurrences.py."""

from __future__ import annotations

import math

import pytest
import torch
from recurrence_checks import cast

from visionrnn.kernels import available_backends, diagonal_scan, longhorn, prefix_softmax, s4d, selective_scan
from visionrnn.testing import SAMPLES, error

BACKENDS = available_backends("diagonal", device="cpu")
FAST = [name for name in BACKENDS if name != "reference"]


def selective_inputs(**sizes):
    return cast(SAMPLES["selective_scan"].inputs(**sizes), torch.float32)


@pytest.mark.parametrize("backend", FAST)
def test_saved_memory_is_linear_and_small(backend):
    """[B, T, D, N] is never kept: what autograd saves stays below a quarter of it."""
    inputs = {name: value.requires_grad_() for name, value in selective_inputs(batch=1, length=2048, heads=1, key=16, value=16).items()}
    saved = 0

    def count(tensor):
        nonlocal saved
        saved += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        selective_scan(**inputs, delta_softplus=True, backend=backend)
    assert saved < 2048 * 16 * 16 / 4 + 12 * 2048 * 16


def test_three_dimensional_projections_are_one_group():
    inputs = selective_inputs(length=9, heads=1, key=3, value=4)
    flat = {**inputs, "B": inputs["B"][:, :, 0], "C": inputs["C"][:, :, 0]}
    assert torch.equal(selective_scan(**flat), selective_scan(**inputs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta": torch.zeros(2, 8, 4)}, r"delta: expected shape \[2, 9, 4\], got \[2, 8, 4\]"),
        ({"A": torch.zeros(5, 3)}, r"A: expected \[4, N\], got \[5, 3\]"),
        ({"B": torch.zeros(2, 9, 1, 2)}, r"B: expected shape \[2, 9, 1, 3\], got \[2, 9, 1, 2\]"),
        ({"D": torch.zeros(4, dtype=torch.float64)}, r"D: expected torch.float32 .*, got torch.float64 on cpu"),
        ({"B": torch.zeros(2, 9, 3, 3), "C": torch.zeros(2, 9, 3, 3)}, "3 groups do not divide 4 channels"),
        ({"initial_state": torch.zeros(1, 4, 3)}, r"state: expected shape \[2, 4, 3\], got \[1, 4, 3\]"),
        ({"cu_seqlens": torch.tensor([0, 9])}, "cu_seqlens goes with batch size 1"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        selective_scan(**{**selective_inputs(length=9, heads=1, key=3, value=4), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_decay": torch.zeros(3)}, r"log_decay: expected shape \[2, 5, 4\], got \[3\]"),
        ({"sign": torch.ones(3)}, r"sign: expected a shape that broadcasts to \[2, 5, 4\], got \[3\]"),
        ({"sign": torch.ones(4), "log_decay": torch.zeros(4, dtype=torch.complex64)}, "sign: expected None with complex values"),
    ],
)
def test_wrong_arguments_of_a_scan_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        diagonal_scan(**{"x": torch.zeros(2, 5, 4), "log_decay": torch.zeros(2, 5, 4), **change})


@pytest.mark.parametrize("backend", BACKENDS)
def test_decays_may_be_constant_in_time(backend):
    x, log_decay = torch.randn(2, 30, 3, 4), -torch.rand(3, 4)
    assert torch.equal(diagonal_scan(x, log_decay, backend=backend), diagonal_scan(x, log_decay.expand_as(x), backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_negative_decay_is_a_turn_by_half_a_circle(backend):
    x, log_decay = torch.randn(2, 40, 6), -torch.rand(2, 40, 6)
    signed = diagonal_scan(x, log_decay, sign=torch.tensor(-1.0), backend=backend)
    turned = diagonal_scan(x, torch.complex(log_decay, torch.full_like(log_decay, math.pi)), backend=backend)
    assert turned.is_complex()
    assert error(turned.real, signed) <= 1e-5
    assert turned.imag.abs().max() <= 1e-5


@pytest.mark.parametrize("backend", available_backends("diagonal", "prefix_softmax", "cpu"))
@pytest.mark.parametrize("scale", [50, 1e4, 1e30])
def test_prefix_softmax_survives_any_score(backend, scale):
    """Far apart, the largest score so far takes all; the first of the values is the output as long as it leads."""
    scores = torch.tensor([3.0, 1, 2, -4, 5, 4]).mul(scale)[None, :, None].requires_grad_()
    values = torch.arange(6.0)[None, :, None, None]
    out = prefix_softmax(scores, values, backend=backend)
    assert error(out.flatten(), torch.tensor([0.0, 0, 0, 0, 4, 4])) <= 1e-6
    assert torch.autograd.grad(out.sum(), scores)[0].isfinite().all()


@pytest.mark.parametrize("backend", available_backends("diagonal", "diagonal_scan", "cpu"))
def test_longhorn_with_one_large_key_forgets_all(backend):
    """The decay is 1 / (1 + β k²): it must neither become 0 - 0 nor lose its gradient."""
    x, beta, k = torch.ones(1, 3, 2), torch.full((1, 3, 2), 0.5), torch.full((1, 3, 1), 1e6).requires_grad_()
    out = longhorn(x, beta, k, 1 / k.detach(), backend=backend)
    assert error(out, torch.full_like(out, 1e-12)) <= 1e-5
    assert torch.autograd.grad(out.sum(), k)[0].isfinite().all()


def test_s4d_takes_small_steps():
    """exp(dt A) - 1 for dt A near 0, in float32."""
    u, A, C = torch.randn(1, 50, 2), torch.full((2, 3), -0.5 + 1j), torch.randn(2, 3, dtype=torch.complex64)
    dt = torch.full((2,), 1e-5)
    exact = s4d(u.double(), dt.double(), A.to(torch.complex128), C.to(torch.complex128))
    assert error(s4d(u, dt, A, C), exact) <= 1e-6
