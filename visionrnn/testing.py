"""What tests of kernels share: an error measure, bounds derived from the reference's own rounding, sample inputs."""

from __future__ import annotations

import torch
from torch import Tensor

BOUNDS = {torch.float64: 5, torch.float32: 5, torch.float16: 2, torch.bfloat16: 2}


def error(value: Tensor, exact: Tensor) -> float:
    """max |value - exact| / max |exact|, in float64; 0 for empty tensors. Raises ValueError when the shapes differ."""
    if value.shape != exact.shape:
        raise ValueError(f"shapes differ: {list(value.shape)} and {list(exact.shape)}")
    if not value.numel():
        return 0.0
    value, exact = value.detach().double(), exact.detach().double()
    return float((value - exact).abs().max() / exact.abs().max().clamp(min=1e-30))


def diagonal_inputs(batch: int, length: int, channels: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> dict[str, Tensor]:
    """Arguments of ``diagonal_scan``: x, log_decay, initial_state, all requiring gradients."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    values = {
        "x": draw(batch, length, channels),
        "log_decay": -draw(batch, length, channels).abs(),
        "initial_state": draw(batch, channels),
    }
    return {name: value.to(dtype).requires_grad_() for name, value in values.items()}


def selective_inputs(
    batch: int, length: int, channels: int, states: int, groups: int = 1, dtype: torch.dtype = torch.float64, seed: int = 0
) -> dict[str, Tensor]:
    """Arguments of ``selective_scan``: u, delta (to be passed with ``delta_softplus``), A, B, C, D, z, initial_state."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    values = {
        "u": draw(batch, length, channels),
        "delta": draw(batch, length, channels) - 1,
        "A": -draw(channels, states).exp(),
        "B": draw(batch, length, groups, states),
        "C": draw(batch, length, groups, states),
        "D": draw(channels),
        "z": draw(batch, length, channels),
        "initial_state": draw(batch, channels, states),
    }
    return {name: value.to(dtype).requires_grad_() for name, value in values.items()}
