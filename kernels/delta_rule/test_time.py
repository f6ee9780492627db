"""Test-time regression: the state is a small model that takes a gradient step on every token (TTT-Linear, TTT-MLP, Titans)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ordered import Both, ordered
from ..recurrence import Recurrence

BLANK = float("-inf")  # learning rate of steps beyond the end of a sequence: the state passes them as it is
FORMS = {"paper": "ttt_linear", "fla": "ttt_linear_fla"}  # → name of the back-end function


@ordered(
    "delta_rule", "ttt_linear", timed=("q", "k", "v", "learning_rate"), rank=4, constants=("norm_weight", "norm_bias", "token_scale")
)  # fmt: skip
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
    index: Tensor | None = None,
    direction: str | None = None,
    merge: str = "sum",
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

    ``index`` [B · T], a permutation: step p reads row ``index[p]`` of the flattened inputs and writes there. ``direction``: "forward",
    "reverse", or "both": two scans, of the same inputs, or of one for each [2, B, T, H, D] with norms [2, H, D] and token scales
    [2, mini_batch_size]; states are [2, B, ...], and outputs added, or with ``merge`` "stack" returned as [2, B, T, H, D], the forward
    one first.
    """
    if form not in FORMS:
        raise ValueError(f"form={form!r}; expected one of {sorted(FORMS)}")
    weight, bias = _states(initial_state, 2)
    heads, width = _sizes(q)
    how: dict[str, Any] = {"cu_seqlens": cu_seqlens, "max_seqlen": max_seqlen, "reverse": reverse, "backend": backend}
    how |= {"index": index, "direction": direction, "widths": (width,)}
    if token_scale is None and form == "fla":
        token_scale = q.new_ones(max(mini_batch_size, 0))
        token_scale = token_scale.expand(2, -1) if isinstance(direction, Both) and direction.own else token_scale
    call = _mini_batched(FORMS[form], q, k, v, learning_rate, norm_weight, norm_bias, token_scale, mini_batch_size, how)
    call.state("weight", weight, (heads, width, width))
    call.state("bias", bias, (heads, width))
    o, weight, bias = call.run(mini_batch_size=mini_batch_size, eps=eps)
    return (o, (weight, bias)) if return_final_state else o


def ttt_mlp(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    learning_rate: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    initial_state: tuple[Tensor, Tensor, Tensor, Tensor],
    *,
    token_scale: Tensor | None = None,
    mini_batch_size: int = 16,
    eps: float = 1e-6,
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """TTT-MLP (Sun et al. 2024): :func:`ttt_linear` with two layers learning, z = W2ᵀ GELU(W1ᵀ k + b1) + b2, GELU by its tanh form.

    All four take the steps of their gradients ∂/∂(W1, b1, W2, b2) ½ |LN(z_j) - (v_j - k_j)|² at the values of the mini-batch's
    beginning, scaled and summed as there; o_i = q_i + LN(z) with z of q_i and the stepped values.
    State, key × value: (W1 [B, H, D, F], b1 [B, H, F], W2 [B, H, F, D], b2 [B, H, D]), any hidden width F (4 D in the paper).
    Everything else as in :func:`ttt_linear`.
    """
    weight_in, bias_in, weight_out, bias_out = _states(initial_state, 4)
    heads, width = _sizes(q)
    hidden = weight_in.shape[-1]
    how: dict[str, Any] = {"cu_seqlens": cu_seqlens, "max_seqlen": max_seqlen, "reverse": reverse, "backend": backend}
    call = _mini_batched("ttt_mlp", q, k, v, learning_rate, norm_weight, norm_bias, token_scale, mini_batch_size, how)
    call.state("weight_in", weight_in, (heads, width, hidden))
    call.state("bias_in", bias_in, (heads, hidden))
    call.state("weight_out", weight_out, (heads, hidden, width))
    call.state("bias_out", bias_out, (heads, width))
    o, weight_in, bias_in, weight_out, bias_out = call.run(mini_batch_size=mini_batch_size, eps=eps)
    return (o, (weight_in, bias_in, weight_out, bias_out)) if return_final_state else o


def titans_linear(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    theta: Tensor,
    eta: Tensor,
    alpha: Tensor,
    initial_state: tuple[Tensor, Tensor] | None = None,
    *,
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]]:
    """Titans' long-term memory, linear (Behrouz et al. 2024): gradient descent on |Mᵀ k - v|² with momentum and forgetting.

        e_t = M_{t-1}ᵀ k_t - v_t ,   S_t = η_t S_{t-1} - 2 θ_t k_t e_tᵀ ,   M_t = (1 - α_t) M_{t-1} + S_t ,   o_t = M_tᵀ q_t

    q, k: [B, T, H, K]; v: [B, T, H, V]; theta (step), eta (momentum), alpha (forgetting): [B, T, H], finite.
    State, key × value: (M [B, H, K, V], S [B, H, K, V]), one row per sequence with cu_seqlens, zero when absent.
    Other arguments as in :func:`ttt_linear`. Returns o [B, T, H, V], with ``return_final_state`` also the state.
    """
    if v.dim() != 4:
        raise ValueError(f"v: expected [B, T, H, V], got {list(v.shape)}")
    heads, width = _sizes(q)
    memory, momentum = (None, None) if initial_state is None else _states(initial_state, 2)
    call = Recurrence("delta_rule", "titans_linear", "q", q, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, reverse=reverse, backend=backend)
    call.timed("q", q, (heads, width))
    call.timed("k", k, (heads, width))
    call.timed("v", v, (heads, v.shape[3]))
    call.timed("theta", theta, (heads,), blank=BLANK)
    call.timed("eta", eta, (heads,), blank=1)
    call.timed("alpha", alpha, (heads,), blank=0)
    call.state("memory", memory, (heads, width, v.shape[3]))
    call.state("momentum", momentum, (heads, width, v.shape[3]))
    o, memory, momentum = call.run()
    return (o, (memory, momentum)) if return_final_state else o


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
        token_scale = token_scale.expand(2, -1) if call.own else token_scale
    call.constant("token_scale", token_scale.clamp(min=0), (mini_batch_size,))
    return call


def _states(states: tuple[Tensor, ...], number: int) -> tuple[Tensor, ...]:
    if not isinstance(states, (tuple, list)) or len(states) != number:
        raise ValueError(f"initial_state: expected a tuple of {number} tensors, got {type(states).__name__}")
    return tuple(states)


def _sizes(q: Tensor) -> tuple[int, int]:
    """H, D."""
    if q.dim() != 4:
        raise ValueError(f"q: expected [B, T, H, D], got {list(q.shape)}")
    return q.shape[2], q.shape[3]
