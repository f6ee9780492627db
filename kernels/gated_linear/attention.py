"""The recurrence of the family, with no, scalar, vector or complex decay."""

from __future__ import annotations

from torch import Tensor

from ..ordered import Both, ordered
from ..recurrence import Recurrence


def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    bonus: Tensor | None = None,
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
    """S_t = exp(log_decay_t) ⊙ S_{t-1} + k_t v_tᵀ ,   o_t = scale · S_tᵀ q_t.

    q, k: [B, T, H, K]; v: [B, T, H, V]; **states are key × value: [B, H, K, V]** (one row per sequence with cu_seqlens), zero when
    absent. log_decay, finite and ≤ 0 (its real part), is

    * None: no decay (linear attention; Katharopoulos et al. 2020);
    * [H] or [B, T, H]: one decay per head (RetNet, Sun et al. 2023; Mamba-2, Dao & Gu 2024);
    * [B, T, H, K]: one per key channel, the rows of the state (GLA, Yang et al. 2024; HGRN2, Qin et al. 2024);
    * complex [B, T, H, K]: the state is complex and o_t = scale · Re(S_t)ᵀ q_t (GateLoop, Katsch 2023).

    With ``bonus`` [H, K] the output uses the state before the step (RWKV-6, Peng et al. 2024):
    o_t = scale · (S_{t-1} + (bonus ⊙ k_t) v_tᵀ)ᵀ q_t. ``scale`` is K^-0.5 when absent.

    ``reverse`` runs from the last step to the first. ``cu_seqlens`` [S + 1] packs S sequences into B = 1; ``max_seqlen`` bounds their
    length. Returns o [B, T, H, V], and with ``return_final_state`` also the state after the last step. Raises ValueError for wrong
    shapes, dtypes, devices and unknown back ends.

    ``index``, ``direction`` and ``merge`` as in :func:`diagonal_scan`: with inputs of their own, both directions have q, k, v
    [2, B, T, H, ...], log_decay [2, H] or [2, B, T, H, ...] and bonus [2, H, K].
    """
    own = q.dim() == 5
    if log_decay is not None and log_decay.dim() == 1 + own and q.dim() in (4, 5):
        expected = (*q.shape[: int(own)], q.shape[-2])
        if tuple(log_decay.shape) != expected:
            raise ValueError(f"log_decay: expected shape {list(expected)}, got {list(log_decay.shape)}")
        log_decay = (log_decay[:, None, None] if own else log_decay).expand(q.shape[:-1])
    return _attend(
        q, k, v, log_decay, initial_state, bonus=bonus, scale=scale, return_final_state=return_final_state, reverse=reverse,
        cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, index=index, direction=direction, merge=merge, backend=backend,
    )  # fmt: skip


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    bonus: Tensor | None = None,
    scale: float | None = None,
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    index: Tensor | None = None,
    direction: str | Both | None = None,
    merge: str = "sum",
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """:func:`gated_linear_attention` for callers that are ordered themselves; log_decay has a time axis."""
    if q.dim() != 4 or v.dim() != 4:
        name, got = ("q", q) if q.dim() != 4 else ("v", v)
        raise ValueError(f"{name}: expected [B, T, H, {'K' if name == 'q' else 'V'}], got {list(got.shape)}")
    heads, key, value = *q.shape[2:], v.shape[-1]
    rotates = log_decay is not None and log_decay.is_complex()
    if rotates and bonus is not None:
        raise ValueError("bonus: expected None with a complex log_decay")
    function = "complex_gated_linear_attention" if rotates else "gated_linear_attention"
    call = Recurrence(
        "gated_linear", function, "q", q, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, reverse=reverse, backend=backend,
        index=index, direction=direction, widths=(2 * key if rotates else key, value),
    )  # fmt: skip
    call.timed("q", q, (heads, key))
    call.timed("k", k, (heads, key), blank=0)
    call.timed("v", v, (heads, value))
    per_head = log_decay is not None and log_decay.dim() == 3 and not rotates
    call.timed("log_decay", log_decay, (heads,) if per_head else (heads, key), blank=0)
    call.state("state", initial_state, (heads, key, value), complex=rotates)
    scale = key**-0.5 if scale is None else scale
    if not rotates:
        call.constant("bonus", bonus, (heads, key))
    o, final = call.run(scale=scale)
    return (o, final) if return_final_state else o


_attend = ordered("gated_linear", "gated_linear_attention", timed=("q", "k", "v", "log_decay"), rank=4, constants=("bonus",))(attend)
