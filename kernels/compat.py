"""Functions under the names and layouts that researchers have in their code: mamba-ssm's scans and flash-linear-attention's chunk_* calls.

Thin adapters over this package's own functions: they run wherever those do, on a CPU too, and take gradients. Arguments that only
tune a CUDA kernel do not exist here; unknown keywords are refused. Unless said otherwise **states are key × value**, [B, H, K, V], one row
per sequence with ``cu_seqlens`` [S + 1] (B = 1); ``scale`` None means K^-0.5; every function returns (o, state), state None unless
``output_final_state``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .delta_rule import delta_rule, generalized_delta_rule
from .delta_rule.test_time import ttt_linear
from .diagonal import diagonal_scan, selective_scan
from .gated_linear import gated_linear_attention, state_space_dual

Result = tuple[Tensor, Tensor | None]


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    initial_state: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """mamba-ssm's selective scan (Gu & Dao 2023). Channels first: u, delta, z [B, D, L]; A [D, N]; D, delta_bias [D].

    B, C: [B, N, L], [B, G, N, L] with G groups, or [D, N], the same at every step; ``initial_state`` [B, D, N] is an addition of ours.
    Returns [B, D, L], with ``return_last_state`` also the state **[B, D, N]** after the last step.
    """
    B, C = (_time_second(value, u) for value in (B, C))
    gate = None if z is None else z.transpose(1, 2)
    options: dict[str, Any] = dict(delta_bias=delta_bias, delta_softplus=delta_softplus, return_final_state=True)
    y, state = selective_scan(u.transpose(1, 2), delta.transpose(1, 2), A, B, C, D, gate, initial_state, **options)
    return (y.transpose(1, 2), state) if return_last_state else y.transpose(1, 2)


def _time_second(value: Tensor, u: Tensor) -> Tensor:
    """B or C in one of mamba-ssm's layouts → [B, L, G, N]; a constant one has a group per channel."""
    if value.dim() == 2:
        return value.expand(u.shape[0], u.shape[2], *value.shape)
    return value.transpose(1, 2).unsqueeze(2) if value.dim() == 3 else value.permute(0, 3, 1, 2)


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int | None = None,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """mamba-ssm's Mamba-2 scan: x, z [B, T, H, P]; dt [B, T, H]; B, C [B, T, G, N]; states **[B, H, P, N]**.

    ``chunk_size`` is taken for the sake of old calls; the result does not depend on it.
    """
    options: dict[str, Any] = dict(
        dt_bias=dt_bias, dt_softplus=dt_softplus, dt_limits=dt_limit, cu_seqlens=cu_seqlens, return_final_state=True
    )
    y, state = state_space_dual(x, dt, A, B, C, D, z, initial_states, **options)
    return (y, state) if return_final_states else y


def chunk_hgrn(x: Tensor, g: Tensor, initial_state: Tensor | None = None, output_final_state: bool = False) -> Result:
    """h_t = exp(g_t) h_{t-1} + x_t (HGRN; Qin et al. 2023). x, g: [B, T, D]; state [B, D]."""
    out, state = diagonal_scan(x, g, initial_state, return_final_state=True)
    return _result(out, state, output_final_state)


def chunk_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    normalize: bool = True,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """Linear attention without decay; ``normalize`` divides by q · Σ k, as flash-linear-attention does by default."""
    if normalize and initial_state is not None:
        raise ValueError("initial_state: expected None with normalize=True (the sum of the earlier keys is not known), got a tensor")
    o, state = gated_linear_attention(q, k, v, None, initial_state, scale=scale, cu_seqlens=cu_seqlens, return_final_state=True)
    if normalize:
        ones = torch.ones_like(v[..., :1])
        total, _ = gated_linear_attention(q, k, ones, scale=scale, cu_seqlens=cu_seqlens, return_final_state=True)
        o = o / (total + 1e-10)
    return _result(o, state, output_final_state)


def chunk_retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """RetNet's retention (Sun et al. 2023): the decay of head h is 1 - 2^(-5-h)."""
    heads = torch.arange(q.shape[2], device=q.device, dtype=torch.float64)
    decay = torch.log1p(-(2.0 ** (-5 - heads))).to(torch.float64 if q.dtype == torch.float64 else torch.float32)
    return chunk_simple_gla(q, k, v, None, decay, scale, initial_state, output_final_state, cu_seqlens)


def chunk_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """Linear attention with one log decay per head: ``g`` [B, T, H], or ``g_gamma`` [H], the same at every step."""
    if g is not None and g_gamma is not None:
        raise ValueError("g, g_gamma: expected at most one of them, got both")
    decay = g_gamma if g is None else g
    o, state = gated_linear_attention(q, k, v, decay, initial_state, scale=scale, cu_seqlens=cu_seqlens, return_final_state=True)
    return _result(o, state, output_final_state)


def chunk_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """Gated linear attention (Yang et al. 2023) with a log decay per key channel: g [B, T, H, K]."""
    o, state = gated_linear_attention(q, k, v, g, initial_state, scale=scale, cu_seqlens=cu_seqlens, return_final_state=True)
    return _result(o, state, output_final_state)


def chunk_rwkv6(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """RWKV-6 (Peng et al. 2024): log decay w [B, T, H, K], bonus u [H, K]. ``scale`` None means K^-0.5; RWKV itself uses 1."""
    options: dict[str, Any] = dict(bonus=u, scale=scale, cu_seqlens=cu_seqlens, return_final_state=True)
    o, state = gated_linear_attention(r, k, v, w, initial_state, **options)
    return _result(o, state, output_final_state)


def chunk_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """DeltaNet (Yang et al. 2024): beta [B, T, H]."""
    return _delta(q, k, v, beta, None, 1, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, cu_seqlens)


def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """Gated DeltaNet (Yang et al. 2024): log decay g and beta [B, T, H]."""
    return _delta(q, k, v, beta, g, 1, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, cu_seqlens)


def chunk_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """Kimi's delta attention (Kimi Team 2025): log decay g [B, T, H, K], beta [B, T, H]."""
    return _delta(q, k, v, beta, g, 1, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, cu_seqlens)


def chunk_gated_delta_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    num_householder: int,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """DeltaProduct (Siems et al. 2025): k, v, beta have T · num_householder rows, those of one token together; g [B, T, H] or None."""
    return _delta(q, k, v, beta, g, num_householder, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, cu_seqlens)


def chunk_dplr_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    gk: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """S = diag(e^gk) S + b (aᵀ S) + k vᵀ, all [B, T, H, K]: diagonal plus rank one."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    options: dict[str, Any] = dict(scale=scale, cu_seqlens=cu_seqlens, return_final_state=True)
    o, state = generalized_delta_rule(q, k, v, a, b, gk, initial_state, **options)
    return _result(o, state, output_final_state)


def chunk_rwkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float = 1.0,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """RWKV-7 (Peng et al. 2025): :func:`chunk_dplr_delta_rule` with log decay w."""
    return chunk_dplr_delta_rule(r, k, v, a, b, w, scale, initial_state, output_final_state, cu_seqlens)


def chunk_ttt_linear(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    b: Tensor,
    eta: Tensor,
    scale: float | None = None,
    eps: float = 1e-6,
    chunk_size: int = 16,
    initial_state: Tensor | None = None,
    initial_state_bias: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """TTT-Linear (Sun et al. 2024): norm weight w and bias b [H, D], rate eta [B, T, H, 1]; states [B, H, D, D] and [B, H, 1, D].

    Returns (o, state, state of the bias). Where T is no multiple of ``chunk_size`` the last mini-batch is short.
    """
    batch = q.shape[0] if cu_seqlens is None else cu_seqlens.numel() - 1
    heads, width = q.shape[2:]
    kind = torch.float64 if q.dtype == torch.float64 else torch.float32
    weight = q.new_zeros(batch, heads, width, width, dtype=kind) if initial_state is None else initial_state
    bias = q.new_zeros(batch, heads, width, dtype=kind) if initial_state_bias is None else initial_state_bias.squeeze(2)
    q = q * (width**-0.5 if scale is None else scale)
    options: dict[str, Any] = dict(mini_batch_size=chunk_size, eps=eps, form="fla", cu_seqlens=cu_seqlens, return_final_state=True)
    o, (weight, bias) = ttt_linear(q, k, v, eta.squeeze(-1), w, b, (weight, bias), **options)
    return (o, weight, bias.unsqueeze(2)) if output_final_state else (o, None, None)


def _delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor | None,
    steps: int,
    scale: float | None,
    initial_state: Tensor | None,
    output_final_state: bool,
    normalize: bool,
    cu_seqlens: Tensor | None,
) -> Result:
    if normalize:
        q, k = (F.normalize(value, dim=-1) for value in (q, k))
    options: dict[str, Any] = dict(steps=steps, scale=scale, cu_seqlens=cu_seqlens, return_final_state=True)
    o, state = delta_rule(q, k, v, beta, g, initial_state, **options)
    return _result(o, state, output_final_state)


def _result(out: Tensor, state: Tensor, wanted: bool) -> Result:
    return out, state if wanted else None
