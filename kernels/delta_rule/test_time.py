"""Test-time regression: the state is a small model that takes a gradient step on every token (TTT-Linear, TTT-MLP, Titans)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..recurrence import Recurrence

BLANK = float("-inf")  # learning rate of steps beyond the end of a sequence: the state passes them as it is
FORMS = {"paper": "ttt_linear", "fla": "ttt_linear_fla"}  # → name of the back-end function


def ttt_linear(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    learning_rate: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    initial_state: tuple[Tensor, Tensor],
    *,
    token_scale: Tensor | None = None,
    mini_batch_size: int = 16,
    eps: float = 1e-6,
    form: str = "paper",
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]]:
    """TTT-Linear (Sun et al. 2024): a linear map W, b learns, while the sequence passes, to predict v - k from k.

    A sequence is cut into mini-batches from its own first step on; the last one may be short. Inside one, with W, b as it begins, c_i
    the token scale of position i, and LN over D with ``norm_weight``, ``norm_bias`` and ``eps``:

        g_j = ∂/∂z ½ |LN(z) - (v_j - k_j)|²  at z = Wᵀ k_j + b
        W_i = W - c_i Σ_{j≤i} rate_j k_j g_jᵀ ,   b_i = b - c_i Σ_{j≤i} rate_j g_j ,   o_i = q_i + LN(W_iᵀ q_i + b_i)

    W_i, b_i of its last position begin the next mini-batch. Gradients flow through the inner step.
    ``form="fla"`` is the variant of the library flash-linear-attention: W_i = W - c_i rate_i Σ_{j≤i} k_j g_jᵀ (the rate of the
    query's step), b_i likewise, and o_i = z_i + LN(z_i) with z_i = W_iᵀ q_i + b_i.

    q, k, v: [B, T, H, D]; learning_rate: [B, T, H], finite, base rate, gate and 1/D included; norm_weight, norm_bias: [H, D];
    token_scale: [mini_batch_size], negative counts as zero, when absent 1, 1/2, 1/3, … (all 1 in fla's form).
    State, key × value: (W [B, H, D, D], b [B, H, D]), one row per sequence with cu_seqlens; W_ij takes key channel i to value channel j.
    Carried over a split, results are those of the whole when the split is a multiple of ``mini_batch_size``.
    ``reverse`` runs from the last step to the first; ``cu_seqlens`` [S + 1] packs S sequences into B = 1, ``max_seqlen`` bounds their
    length. Returns o [B, T, H, D], with ``return_final_state`` also the state. Raises ValueError for wrong shapes, dtypes, devices,
    forms and back ends.
    """
    if form not in FORMS:
        raise ValueError(f"form={form!r}; expected one of {sorted(FORMS)}")
    weight, bias = _states(initial_state, 2)
    heads, width = _sizes(q)
    how: dict[str, Any] = {"cu_seqlens": cu_seqlens, "max_seqlen": max_seqlen, "reverse": reverse, "backend": backend}
    if token_scale is None and form == "fla":
        token_scale = q.new_ones(max(mini_batch_size, 0))
    call = _mini_batched(FORMS[form], q, k, v, learning_rate, norm_weight, norm_bias, token_scale, mini_batch_size, how)
    call.state("weight", weight, (heads, width, width))
    call.state("bias", bias, (heads, width))
    o, weight, bias = call.run(mini_batch_size=mini_batch_size, eps=eps)
    return (o, (weight, bias)) if return_final_state else o


def _mini_batched(
    function: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    learning_rate: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    token_scale: Tensor | None,
    mini_batch_size: int,
    how: dict[str, Any],
) -> Recurrence:
    """What TTT-Linear and TTT-MLP share: everything but their states."""
    if mini_batch_size < 1:
        raise ValueError(f"mini_batch_size={mini_batch_size}; expected at least 1")
    call = Recurrence("delta_rule", function, "q", q, **how)
    heads, width = _sizes(q)
    for name, value in (("q", q), ("k", k), ("v", v)):
        call.timed(name, value, (heads, width))
    call.timed("learning_rate", learning_rate, (heads,), blank=BLANK)
    call.constant("norm_weight", norm_weight, (heads, width))
    call.constant("norm_bias", norm_bias, (heads, width))
    if token_scale is None:
        token_scale = 1 / torch.arange(1, mini_batch_size + 1, dtype=call.dtype, device=q.device)
    call.constant("token_scale", token_scale.clamp(min=0), (mini_batch_size,))
    return call


def _states(states: tuple[Tensor, ...], number: int) -> tuple[Tensor, ...]:
    if not isinstance(states, (tuple, list)) or len(states) != number:
        raise ValueError(
            f"initial_state: expected {number} tensors, got {len(states) if isinstance(states, (tuple, list)) else type(states)}"
        )
    return tuple(states)


def _sizes(q: Tensor) -> tuple[int, int]:
    """H, D."""
    if q.dim() != 4:
        raise ValueError(f"q: expected [B, T, H, D], got {list(q.shape)}")
    return q.shape[2], q.shape[3]
