"""The specification: one step at a time, in any floating-point type."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def diagonal_scan(x: Tensor, log_decay: Tensor, sign: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    """x, log_decay, sign: [B, T, ...]; state: [B, ...] → h [B, T, ...], final state."""
    return complex_diagonal_scan(x, log_decay.exp() if sign is None else sign * log_decay.exp(), state)


def complex_diagonal_scan(x: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """x, decay: [B, T, ...]; state: [B, ...] → h [B, T, ...], final state."""
    outputs = []
    for x_t, decay_t in zip(x.unbind(1), decay.unbind(1), strict=True):
        state = decay_t * state + x_t
        outputs.append(state)
    return (torch.stack(outputs, 1) if outputs else x.clone()), state.clone()


def selective_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """u, delta: [B, T, D]; A: [D, N]; B, C: [B, T, G, N]; state: [B, D, N] → y [B, T, D], final state."""
    share = u.shape[2] // B.shape[2]
    outputs = []
    for u_t, delta_t, B_t, C_t in zip(u.unbind(1), delta.unbind(1), B.unbind(1), C.unbind(1), strict=True):
        B_t, C_t = B_t.repeat_interleave(share, 1), C_t.repeat_interleave(share, 1)  # [B, D, N]
        state = (delta_t[..., None] * A).exp() * state + (delta_t * u_t)[..., None] * B_t
        outputs.append((state * C_t).sum(-1))
    return (torch.stack(outputs, 1) if outputs else u.clone()), state.clone()


def prefix_softmax(
    scores: Tensor, values: Tensor, log_decay: Tensor | None, bonus: Tensor | None, maximum: Tensor, denominator: Tensor, numerator: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scores, log_decay: [B, T, H]; values: [B, T, H, V]; bonus: [H]; states [B, H], [B, H], [B, H, V] → out [B, T, H, V], final states."""
    outputs = []
    decays: Sequence[Tensor | float] = [0.0] * scores.shape[1] if log_decay is None else log_decay.unbind(1)
    for score, value, decay in zip(scores.unbind(1), values.unbind(1), decays, strict=True):
        if bonus is not None:
            _, above, below = _add_token(maximum, denominator, numerator, score + bonus, value)
            outputs.append(above / _nonzero(below)[..., None])
        maximum, numerator, denominator = _add_token(maximum + decay, denominator, numerator, score, value)
        if bonus is None:
            outputs.append(numerator / _nonzero(denominator)[..., None])
    out = torch.stack(outputs, 1) if outputs else values.clone()
    return out, maximum.clone(), denominator.clone(), numerator.clone()


def _add_token(maximum: Tensor, denominator: Tensor, numerator: Tensor, score: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(new maximum, numerator, denominator), both sums relative to exp(maximum)."""
    new = torch.maximum(maximum, score)
    old, token = (maximum - new).exp(), (score - new).exp()
    return new, old[..., None] * numerator + token[..., None] * value, old * denominator + token


def _nonzero(denominator: Tensor) -> Tensor:
    return torch.where(denominator == 0, 1, denominator)  # no token yet: the output is 0, not 0 / 0
