"""LightNet: a running softmax over the keys of a sequence, per key channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..diagonal import diagonal_scan
from ..ordered import ordered
from ..recurrence import Recurrence
from .attention import gated_linear_attention
from .max_plus import running_maximum

NO_KEY = -1e4  # log-weight of a state that has seen no key: below every key, yet finite


@ordered("gated_linear", "gated_linear_attention", timed=("q", "k", "v"), rank=4, fused=False)
def lightnet(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    initial_state: tuple[Tensor, Tensor] | None = None,
    *,
    scale: float | None = None,
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    index: Tensor | None = None,
    direction: str | None = None,
    merge: str = "sum",
    backend: str = "auto",
) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]]:
    """LightNet (You Only Scan Once; Qin et al. 2024): additive decay from the keys alone.

        z_t = log(e^{z_{t-1}} + e^{k_t}) ,   S_t = diag(e^{z_{t-1} - z_t}) S_{t-1} + e^{k_t - z_t} v_tᵀ ,   o_t = scale · S_tᵀ q_t

    so that row c of S_t is the mean of the values so far, weighted by e^{k_{s,c}}. q, k: [B, T, H, K]; v: [B, T, H, V]; **states are
    key × value:** ``initial_state`` is (S [B, H, K, V], z [B, H, K]), nothing seen when absent. ``scale`` is K^-0.5 when absent. Other
    arguments as in :func:`gated_linear_attention`. Returns o [B, T, H, V], and with ``return_final_state`` also the final (S, z).
    """
    options: dict[str, Any] = dict(cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, reverse=reverse, backend=backend)
    call = Recurrence("gated_linear", "gated_linear_attention", "q", q, **options, widths=(q.shape[-1], v.shape[-1]))
    if q.dim() != 4 or v.dim() != 4:
        raise ValueError(f"q, v: expected [B, T, H, K] and [B, T, H, V], got {list(q.shape)} and {list(v.shape)}")
    heads, key = q.shape[2:]
    q, k, kind = call.checked("q", q, tuple(q.shape)), call.checked("k", k, tuple(q.shape)), q.dtype
    v = call.checked("v", v, (*q.shape[:3], v.shape[-1]))
    if initial_state is None:
        S, weight = q.new_zeros(call.sequences, heads, key, v.shape[-1]), q.new_zeros(call.sequences, heads * key)
        z = torch.full_like(weight, NO_KEY)
    else:
        if not isinstance(initial_state, (tuple, list)) or len(initial_state) != 2:
            raise ValueError(f"initial_state: expected a tuple (S, z), got {type(initial_state).__name__}")
        S = call.checked("initial_state S", initial_state[0], (call.sequences, heads, key, v.shape[-1]))
        z = call.checked("initial_state z", initial_state[1], (call.sequences, heads, key)).flatten(1)
        weight = torch.ones_like(z)
    # The sums are kept relative to e^m, m the largest key so far, and divided by the weights' own sum on the query's side.
    m, before, last = running_maximum(k.flatten(2), torch.zeros_like(k.flatten(2)), z, options)
    log_decay, k = before - m, (k.flatten(2) - m).exp()
    weights, weight = diagonal_scan(k, log_decay, weight, return_final_state=True, **options)
    q = q / weights.clamp(min=0.5).unflatten(2, (heads, key))  # at least one where anything was seen
    k, log_decay = k.unflatten(2, (heads, key)), log_decay.unflatten(2, (heads, key))
    o, S = gated_linear_attention(q, k, v, log_decay, S, scale=scale, return_final_state=True, **options)
    weight = weight.clamp(min=0.5).unflatten(1, (heads, key))
    final = (S / weight[..., None], last.unflatten(1, (heads, key)) + weight.log())
    return (o.to(kind), final) if return_final_state else o.to(kind)
