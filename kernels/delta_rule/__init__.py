"""Delta rules, S = (I − β k kᵀ) S + β k vᵀ: with decays, with several steps per token, in general form (diagonal plus rank one)."""

from __future__ import annotations

from torch import Tensor

from ..ordered import ordered
from ..recurrence import Recurrence


@ordered("delta_rule", "delta_rule", timed=("q", "k", "v", "beta", "log_decay"), rank=4)
def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    steps: int = 1,
    scale: float | None = None,
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    index: Tensor | None = None,
    direction: str | None = None,
    merge: str = "sum",
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """DeltaNet, Gated DeltaNet, Kimi's delta attention and DeltaProduct. Per head, for every token t:

        S ← diag(exp(log_decay_t)) S                               once, before the steps
        S ← S + β_{t,j} k_{t,j} (v_{t,j} − Sᵀ k_{t,j})ᵀ            for each of the token's ``steps`` rows j, in order
        o_t = scale · Sᵀ q_t

    q: [B, T, H, K]; k: [B, T·steps, H, K]; v: [B, T·steps, H, V]; beta: [B, T·steps, H]: row t·steps + j is step j of token t.
    log_decay ≤ 0: None, [B, T, H], or [B, T, H, K] for a decay of its own per key channel. States are **key × value**: initial_state
    [B, H, K, V] (or [S, H, K, V] with cu_seqlens), zero when absent. ``scale`` None means K^-0.5. With keys of length one, β in [0, 1]
    erases and β up to 2 reflects: negative eigenvalues. ``reverse`` turns the tokens round, not the steps inside a token; ``cu_seqlens``
    and ``index`` count tokens and, like ``direction``, ``merge`` and the rest, are as in :func:`visionrnn.kernels.diagonal_scan`.
    Returns o [B, T, H, V], and with ``return_final_state`` also the state after the last token [B, H, K, V].
    Raises ValueError for wrong shapes, dtypes, devices and unknown back ends.

    Sources: Yang et al. 2024 (parallel DeltaNet); Yang et al. 2024 (Gated Delta Networks); Kimi Team 2025 (Kimi Linear); Grazzi et al. 2024
    (negative eigenvalues); Siems et al. 2025 (DeltaProduct).
    """
    if q.dim() != 4:
        raise ValueError(f"q: expected [B, T, H, K], got {list(q.shape)}")
    if steps < 1:
        raise ValueError(f"steps: expected 1 or more per token, got {steps}")
    batch, length, heads, key = q.shape
    call = Recurrence(
        "delta_rule", "delta_rule", "q", q, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, reverse=reverse, backend=backend,
        index=index, direction=direction, widths=(key, v.shape[-1]), steps=steps,
    )  # fmt: skip

    def by_token(name: str, value: Tensor, shape: tuple[int, ...], blank: float | None = None) -> None:
        call.checked(name, value, (batch, length * steps, *shape))
        call.timed(name, value.unflatten(1, (length, steps)), (steps, *shape), blank)

    call.timed("q", q, (heads, key))
    by_token("k", k, (heads, key))
    by_token("v", v, (heads, v.shape[-1]))
    by_token("beta", beta, (heads,), blank=0)
    call.timed("log_decay", log_decay, (heads,) if log_decay is None or log_decay.dim() == 3 else (heads, key), blank=0)
    call.state("state", initial_state, (heads, key, v.shape[-1]))
    out, final = call.run(scale=key**-0.5 if scale is None else float(scale))
    return (out, final) if return_final_state else out


@ordered("delta_rule", "generalized_delta_rule", timed=("q", "k", "v", "a", "b", "log_decay"), rank=4)
def generalized_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    log_decay: Tensor,
    initial_state: Tensor | None = None,
    *,
    scale: float = 1.0,
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    index: Tensor | None = None,
    direction: str | None = None,
    merge: str = "sum",
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """RWKV-7: the transition is a diagonal plus a matrix of rank one. Per head:

        S_t = diag(exp(log_decay_t)) S_{t-1} + b_t (a_tᵀ S_{t-1}) + k_t v_tᵀ ,     o_t = scale · S_tᵀ q_t

    a_t reads the old state, before the decay. RWKV-7 has a = −κ̂, b = κ̂ ⊙ rate with |κ̂| = 1.
    q, k, a, b, log_decay: [B, T, H, K], log_decay ≤ 0; v: [B, T, H, V]; states are **key × value** [B, H, K, V] (or [S, H, K, V] with
    cu_seqlens). Other arguments, results and errors as in :func:`delta_rule`, but ``scale`` is 1.
    Source: Peng et al. 2025 (RWKV-7 "Goose").
    """
    if q.dim() != 4:
        raise ValueError(f"q: expected [B, T, H, K], got {list(q.shape)}")
    heads, key = q.shape[2:]
    call = Recurrence(
        "delta_rule", "generalized_delta_rule", "q", q, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, reverse=reverse, backend=backend,
        index=index, direction=direction, widths=(key, v.shape[-1]),
    )  # fmt: skip
    call.timed("q", q, (heads, key))
    call.timed("k", k, (heads, key), blank=0)
    call.timed("v", v, (heads, v.shape[-1]))
    call.timed("a", a, (heads, key))
    call.timed("b", b, (heads, key), blank=0)
    call.timed("log_decay", log_decay, (heads, key), blank=0)
    call.state("state", initial_state, (heads, key, v.shape[-1]))
    out, final = call.run(scale=float(scale))
    return (out, final) if return_final_state else out
