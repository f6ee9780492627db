"""Diagonal scans on Triton: few long sequences, whose chunks run side by side, and what is left out where it is not needed."""

from __future__ import annotations

import pytest
import torch
from triton_checks import DEVICE, check, moved, packed

from visionrnn.kernels import min_gru, selective_scan
from visionrnn.kernels.diagonal import triton_op, triton_plan, triton_selective_op
from visionrnn.kernels.launch import recording
from visionrnn.testing import SAMPLES, error

SCANS = ("diagonal_scan", "complex_diagonal_scan", "gated_selective_scan")


@pytest.fixture
def short_chunks(monkeypatch):
    """Chunks of 16 and 32 steps, so that there are many of them."""
    for module in (triton_plan, triton_op, triton_selective_op):
        monkeypatch.setattr(module, "CHUNK", 16)
    monkeypatch.setattr(triton_selective_op, "WIDE_CHUNK", 32)


@pytest.mark.parametrize("direction", ["forward", "both"])
@pytest.mark.parametrize("name", SCANS)
def test_chunks_of_packed_sequences_side_by_side(name, direction, short_chunks):
    """Empty sequences, and such that end with a chunk, one step before or after; read through an index."""
    sample = SAMPLES[name]
    inputs, boundaries = packed(sample, [0, 1, 33, 0, 64, 31], heads=1, key=3, value=2)
    if direction == "both":
        inputs |= {state: torch.stack([inputs[state], inputs[state].flip(0)]) for state in sample.states}
    order = torch.randperm(129, generator=torch.Generator().manual_seed(3))
    check(sample, inputs, torch.float32, cu_seqlens=boundaries, index=order, direction=direction)


@pytest.mark.parametrize("lengths", [[0, 1, 33, 0, 64, 96], [5, 0, 17]], ids=["chunks", "sequences"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "both"])
def test_selective_scan_without_gradients(direction, lengths, short_chunks):
    sample = SAMPLES["selective_scan"]
    inputs, boundaries = packed(sample, lengths, heads=1, key=3, value=2)
    if direction == "both":
        inputs |= {state: torch.stack([inputs[state], inputs[state].flip(0)]) for state in sample.states}
    options = {"cu_seqlens": boundaries, "direction": direction}
    exact, states = sample.run(inputs, backend="reference", **options)
    single = moved({name: value.detach().float() for name, value in inputs.items()})
    with torch.no_grad():
        out, found = sample.run(single, backend="triton", **options | {"cu_seqlens": boundaries.to(DEVICE)})
    assert error(out.cpu(), exact) <= 2e-6
    assert error(found[0].cpu(), states[0]) <= 2e-6


@pytest.mark.parametrize(("batch", "forward"), [(2, 2), (2048, 1)], ids=["few", "many"])
def test_launches_of_a_selective_scan(batch, forward):
    """Without gradients two, or one where sequences are many; none fills a state with zeros."""
    u, delta, B, C = (torch.zeros(batch, 256, width) for width in (32, 32, 4, 4))
    with recording() as found, torch.no_grad():
        selective_scan(u, delta, -torch.ones(32, 4), B, C, backend="triton")
    assert len(found) == forward
    assert all(launch.arguments.get("state") is None for launch in found)


def test_functions_around_a_scan_take_an_order_and_directions():
    """Any back end: each direction runs by itself."""
    hidden, gate = torch.randn(2, 2, 7, 3, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(14, generator=torch.Generator().manual_seed(1))
    moved_rows = [value.flatten(0, 1)[order].view_as(hidden) for value in (hidden, gate)]
    both = min_gru(*moved_rows) + min_gru(*moved_rows, reverse=True)
    found = min_gru(hidden, gate, index=order, direction="both")
    assert torch.equal(found.flatten(0, 1)[order].view_as(hidden), both)


def test_small_steps_keep_their_precision():
    """softplus of very negative numbers is about their exponential, far below the rounding of 1 + it."""
    delta = torch.linspace(-40, 20, 16).reshape(1, 4, 4).to(DEVICE)
    ones = torch.ones(1, 4, 1, device=DEVICE)
    u = torch.ones(1, 4, 4, device=DEVICE)
    A = torch.full((4, 1), -1e3, device=DEVICE)
    y = selective_scan(u, delta, A, ones, ones, delta_softplus=True, backend="triton")
    size = torch.nn.functional.softplus(delta.double(), threshold=1e9)
    state, expected = torch.zeros(1, 4, dtype=torch.float64, device=DEVICE), []
    for step in size.unbind(1):
        state = torch.exp(-1e3 * step) * state + step
        expected.append(state)
    exact = torch.stack(expected, 1)
    assert float(((y - exact) / exact).abs().max()) < 1e-5
