"""Diagonal recurrences: h_t = a_t ⊙ h_{t-1} + x_t, Mamba's selective scan with its projections in and out, and prefix softmax."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..activations import softplus
from ..ordered import Both, ordered
from ..recurrence import Recurrence

NO_MAXIMUM = -1e38  # the maximum of no scores; finite, so that differences are
BLANK_SCORE = -2e38  # a score that adds nothing even then


@ordered("diagonal", "diagonal_scan", timed=("x", "log_decay", "sign"), rank=3)
def diagonal_scan(
    x: Tensor,
    log_decay: Tensor,
    initial_state: Tensor | None = None,
    *,
    sign: Tensor | None = None,
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    index: Tensor | None = None,
    direction: str | None = None,
    merge: str = "sum",
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """h_t = sign_t ⊙ exp(log_decay_t) ⊙ h_{t-1} + x_t, for all t.

    x: [B, T, ...], any axes behind the time; log_decay: the same shape, or [...] where it is the same at all times, with a real
    part ≤ 0. ``sign``: ±1 in any shape that broadcasts to x's, for negative decays; it has no gradient. initial_state: [B, ...]
    (or [S, ...] with cu_seqlens), zero when absent.
    If x or log_decay is complex, everything is, the output and the state too; ``sign`` is for real ones (a complex decay turns by its
    imaginary part).

    ``reverse`` runs from the last step to the first. ``cu_seqlens`` [S + 1] packs S sequences into B = 1; ``max_seqlen`` bounds
    their length and spares a GPU a synchronisation. Returns h, shaped as x, and with ``return_final_state`` also the state after the
    last step [B, ...]. Raises ValueError for wrong shapes, dtypes, devices and unknown back ends.

    ``index`` [B · T], a permutation: step p reads row ``index[p]`` of the flattened inputs and writes there. ``direction``: "forward",
    "reverse", or "both": two scans, of the same x [B, T, D] or, for inputs [2, B, T, D], of one for each; states are [2, B, ...], and
    outputs added, or with ``merge`` "stack" returned as [2, B, T, D], the forward one first.
    """
    is_complex = x.is_complex() or log_decay.is_complex() or (initial_state is not None and initial_state.is_complex())
    if is_complex:
        x, initial_state = _to_complex("x", x), None if initial_state is None else _to_complex("initial_state", initial_state)
    name = "complex_diagonal_scan" if is_complex else "diagonal_scan"
    call = Recurrence(
        "diagonal", name, "x", x, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, reverse=reverse, backend=backend,
        index=index, direction=direction,
    )  # fmt: skip
    shape, whole = tuple(x.shape[2:]), tuple(x.shape)
    constant = (
        log_decay.dim() == len(shape) and tuple(log_decay.shape) == shape
    )  # the axes first: comparing sizes ties a traced batch to them
    log_decay = call.checked("log_decay", log_decay, shape if constant else whole)
    call.timed("x", x, shape, blank=0)
    call.state("state", initial_state, shape, complex=is_complex)
    if is_complex:
        if sign is not None:
            raise ValueError("sign: expected None with complex values; add iπ to log_decay instead")
        call.timed("decay", _complex_exp(log_decay).expand(whole), shape, blank=1)
    else:
        call.timed("log_decay", log_decay.expand(whole), shape, blank=0)
        call.timed("sign", None if sign is None else _signs(call, sign, whole), shape, blank=1)
    h, final = call.run()
    return (h, final) if return_final_state else h


def _to_complex(name: str, value: Tensor) -> Tensor:
    """A real value in the complex type of at least its precision."""
    if value.is_complex():
        return value
    if not value.is_floating_point():
        raise ValueError(f"{name}: expected floating point, got {value.dtype}")
    return value.to(torch.complex128 if value.dtype == torch.float64 else torch.complex64)


def _complex_exp(value: Tensor) -> Tensor:
    """exp in the complex type, by real functions, which torch computes several times as fast as its complex one."""
    if not value.is_complex():
        return _to_complex("log_decay", value.exp())
    size, angle = value.real.exp(), value.imag
    return torch.complex(size * angle.cos(), size * angle.sin())


def _signs(call: Recurrence, sign: Tensor, shape: tuple[int, ...]) -> Tensor:
    checked = call.checked("sign", sign.detach(), tuple(sign.shape))
    try:
        return checked.expand(shape)
    except RuntimeError as cause:
        raise ValueError(f"sign: expected a shape that broadcasts to {list(shape)}, got {list(sign.shape)}") from cause


@ordered("diagonal", "selective_scan", timed=("u", "delta", "B", "C", "z"), rank=3, constants=("A", "D", "delta_bias"))
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    index: Tensor | None = None,
    direction: str | None = None,
    merge: str = "sum",
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Mamba's selective state-space scan (S6; Gu & Dao 2023, algorithm 2).

        Δ_t = softplus(delta_t + delta_bias)            (softplus only with delta_softplus)
        h_t = exp(Δ_t A) ⊙ h_{t-1} + (Δ_t ⊙ u_t) B_tᵀ ,   y_t = (h_t C_t + D ⊙ u_t) ⊙ SiLU(z_t)

    u, delta, z: [B, T, D]; A: [D, N], negative; B, C: [B, T, N], or [B, T, G, N] where G groups share the channels evenly;
    D, delta_bias: [D]; initial_state: [B, D, N] (or [S, D, N] with cu_seqlens). Other arguments as in :func:`diagonal_scan`; with two
    directions of inputs [2, B, T, ...] each has its own A, D and delta_bias too, [2, ...].
    Returns y [B, T, D], and with ``return_final_state`` also the state after the last step [B, D, N]. Raises ValueError for wrong shapes,
    dtypes, devices and unknown back ends.
    """
    channels = u.shape[-1]
    two = isinstance(direction, Both) and direction.own
    if A.dim() != 2 + two or A.shape[-2] != channels:
        raise ValueError(f"A: expected [{channels}, N], got {list(A.shape)}")
    states = A.shape[-1]
    B, C = (value.unsqueeze(2) if value.dim() == 3 else value for value in (B, C))
    groups = B.shape[2] if B.dim() == 4 else 1
    if channels % groups:
        raise ValueError(f"B, C: {groups} groups do not divide {channels} channels evenly")
    call = Recurrence(
        "diagonal", "selective_scan", "u", u, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, reverse=reverse, backend=backend,
        index=index, direction=direction, widths=(states,),
    )  # fmt: skip
    call.timed("u", u, (channels,))
    call.constant("A", A, (channels, states))
    call.timed("B", B, (groups, states))
    call.timed("C", C, (groups, states))
    if call.backend != "triton" or initial_state is not None:
        call.state("state", initial_state, (channels, states))
    if call.backend == "triton":  # its kernels do all of it
        initial: dict[str, Any] = {} if initial_state is not None else {"state": None}  # which no launch has to fill
        call.timed("delta", delta, (channels,))
        call.timed("z", z, (channels,))
        call.constant("D", D, (channels,))
        call.constant("delta_bias", delta_bias, (channels,))
        y, final = call.run(delta_softplus=delta_softplus, **initial)
        return (y, final) if return_final_state else y
    D, z = call.checked("D", D, (channels,)), call.checked("z", z, tuple(u.shape))
    delta, delta_bias = call.checked("delta", delta, tuple(u.shape)), call.checked("delta_bias", delta_bias, (channels,))
    delta = delta if delta_bias is None else delta + delta_bias
    call.timed("delta", softplus(delta) if delta_softplus else delta, (channels,), blank=0)
    y, final = call.run()
    y = y if D is None else torch.addcmul(y, D, u)
    y = y if z is None else y * F.silu(z)
    return (y.to(u.dtype), final) if return_final_state else y.to(u.dtype)


@ordered("diagonal", "prefix_softmax", timed=("values", "scores"), rank=4, constants=("log_decay", "bonus"), fused=False)
def prefix_softmax(
    scores: Tensor,
    values: Tensor,
    log_decay: Tensor | None = None,
    bonus: Tensor | None = None,
    initial_state: tuple[Tensor, Tensor, Tensor] | None = None,
    *,
    return_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    index: Tensor | None = None,
    direction: str | None = None,
    merge: str = "sum",
    backend: str = "auto",
) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Softmax attention of one fixed query to all tokens so far, as a recurrence (Aaren; Feng et al. 2024), with RWKV-4's decay and bonus.

        o_t = Σ_{i ≤ t} w_{ti} values_i / Σ_{i ≤ t} w_{ti} ,   w_{ti} = exp((t - i) log_decay + scores_i)

    With ``bonus`` the current token weighs exp(bonus + scores_t) and the earlier ones decay one step less, exp((t - 1 - i) log_decay +
    scores_i): this is RWKV-4's wkv (Peng et al. 2023) with a head per channel and V = 1.

    scores: [B, T, H]; values: [B, T, H, V]; log_decay (≤ 0), bonus: [H] or None. initial_state: (maximum [B, H], denominator [B, H],
    numerator [B, H, V]), both sums divided by exp(maximum); one row per sequence with cu_seqlens; no tokens when absent (maximum -1e38).
    Other arguments as in :func:`diagonal_scan`. Returns o [B, T, H, V], and with ``return_final_state`` also the state after the last
    step, laid out like the initial one.
    """
    call = Recurrence(
        "diagonal", "prefix_softmax", "values", values, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, reverse=reverse, backend=backend
    )
    if values.dim() != 4:
        raise ValueError(f"values: expected [B, T, H, V], got {list(values.shape)}")
    heads, width = values.shape[2:]
    log_decay = call.checked("log_decay", log_decay, (heads,))
    maximum, denominator, numerator = initial_state if initial_state is not None else (None, None, None)
    call.timed("scores", scores, (heads,), blank=BLANK_SCORE)
    call.timed("values", values, (heads, width))
    call.timed("log_decay", None if log_decay is None else log_decay.expand(*values.shape[:2], heads), (heads,), blank=0)
    call.constant("bonus", bonus, (heads,))
    call.state("maximum", maximum, (heads,), default=NO_MAXIMUM)
    call.state("denominator", denominator, (heads,))
    call.state("numerator", numerator, (heads, width))
    out, maximum, denominator, numerator = call.run()
    return (out, (maximum, denominator, numerator)) if return_final_state else out
