"""The specification: one step at a time, in any floating-point type. States are [B, H, K, V]."""

from __future__ import annotations

import torch
from torch import Tensor

from .reference_test_time import titans_linear, ttt_linear, ttt_linear_fla, ttt_mlp  # noqa: F401


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None, state: Tensor, *, scale: float
) -> tuple[Tensor, Tensor]:
    """q: [B, T, H, K]; k, v, beta: [B, T, steps, H, K|V|-]; log_decay: None, [B, T, H] or [B, T, H, K] → o [B, T, H, V], final state."""
    outputs = []
    decays = [None] * q.shape[1] if log_decay is None else log_decay.exp().unbind(1)
    for q_t, k_t, v_t, beta_t, decay_t in zip(q.unbind(1), k.unbind(1), v.unbind(1), beta.unbind(1), decays, strict=True):
        if decay_t is not None:
            state = (decay_t[..., None, None] if decay_t.dim() == 2 else decay_t[..., None]) * state
        for k_j, v_j, beta_j in zip(k_t.unbind(1), v_t.unbind(1), beta_t.unbind(1), strict=True):
            error = v_j - _read(state, k_j)
            state = state + (beta_j[..., None] * k_j)[..., None] * error[..., None, :]
        outputs.append(scale * _read(state, q_t))
    return (torch.stack(outputs, 1) if outputs else v[:, :, -1].clone()), state.clone()


def generalized_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, log_decay: Tensor, state: Tensor, *, scale: float
) -> tuple[Tensor, Tensor]:
    """q, k, a, b, log_decay: [B, T, H, K]; v: [B, T, H, V] → o [B, T, H, V], final state."""
    outputs = []
    rows = (value.unbind(1) for value in (q, k, v, a, b, log_decay.exp()))
    for q_t, k_t, v_t, a_t, b_t, decay_t in zip(*rows, strict=True):
        read = _read(state, a_t)
        state = decay_t[..., None] * state + b_t[..., None] * read[..., None, :] + k_t[..., None] * v_t[..., None, :]
        outputs.append(scale * _read(state, q_t))
    return (torch.stack(outputs, 1) if outputs else v.clone()), state.clone()


def _read(state: Tensor, key: Tensor) -> Tensor:
    """state: [B, H, K, V]; key: [B, H, K] → Sᵀ key [B, H, V]."""
    return (state * key[..., None]).sum(-2)
