"""Calls the C++ mLSTM: the memory by itself as an opaque custom op, and the routines for ops that fuse more around it."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from ..native import call, watch

LENGTH = 64  # steps of a chunk, as in the C++ source
SUMS = 18  # rows of gradients of weights: 12 of blocks, 3 of their biases, gain, shift, skip


def keep_every(keys: int) -> int:
    """Steps between the states kept for the backward: more where states are large, so that they take at most 0.75 numbers per channel."""
    return LENGTH * max(2, -(-keys // 48))


def kept_numbers(rows: Any, sizes: tuple[Any, Any, Any], keep: bool) -> Any:
    """Numbers in the kept states, and two for tracers, to which tensors of none or one are cases of their own."""
    heads, keys, values = sizes
    return 2 + rows // keep_every(keys) * heads * (keys * values + keys + 1) if keep else 0


def forward(
    q: Tensor, k: Tensor, v: Tensor, gates: Tensor, sizes: tuple[int, int, int], cu_seqlens: Tensor, *, scale: float, eps: float,
    exponential: bool = True, divide: bool = True, reverse: bool = False, keep: bool = False, final: bool = True,
    initial: tuple[Tensor | None, ...] | None = None, around: tuple[Tensor | None, ...] | None = None, order: Tensor | None = None,
    norm_eps: float = 0.0,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], Tensor]:  # fmt: skip
    """q, k, v, gates: rows of ``sizes`` heads, keys, values → h as v, the last C, n, m (empty without ``final``), and kept states.

    ``around``: (weight [3, 4, D], bias, gain, shift, skip, z): q, k, v are made from c, c, u, and norm, skip and gate follow.
    """
    heads, keys, values = sizes
    number, every = cu_seqlens.numel() - 1, keep_every(keys)
    y, last = torch.empty_like(v), final_states(q, number, sizes, exponential, final)
    kept = q.new_empty(kept_numbers(len(gates), sizes, keep))
    kept[-2:].zero_()
    call(
        "mlstm_forward", q, k, v, gates, order, *(around or (None,) * 6), *_three(initial), cu_seqlens,
        y, *(value if final and value.numel() else None for value in last), kept if keep else None, scale, eps, norm_eps, number,
        heads, keys, values, *_options(order, every, exponential, divide, reverse),
    )  # fmt: skip
    return y, last, kept


def backward(
    grad: Tensor, last: tuple[Tensor | None, ...], q: Tensor, k: Tensor, v: Tensor, gates: Tensor, kept: Tensor,
    sizes: tuple[int, int, int], cu_seqlens: Tensor, *, scale: float, eps: float, exponential: bool = True, divide: bool = True,
    reverse: bool = False, initial: tuple[Tensor | None, ...] | None = None, around: tuple[Tensor | None, ...] | None = None,
    order: Tensor | None = None, norm_eps: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:  # fmt: skip
    """Gradients of q, k, v, gates and the initial states; with ``around`` those of c, nothing, u, gates, and then of z, the output that
    the forward had, and the sums over each sequence [S, SUMS, D] that are gradients of ``around``."""
    heads, keys, values = sizes
    number, every = cu_seqlens.numel() - 1, keep_every(keys)
    dq, dk, dv, dgates = torch.empty_like(q), torch.empty_like(k) if around is None else None, torch.empty_like(v), torch.empty_like(gates)
    dinitial = () if initial is None else tuple(value.new_empty(value.shape) for value in initial if value is not None)
    extra = () if around is None else (torch.empty_like(v), torch.empty_like(v), v.new_empty(number, SUMS, heads * keys))
    call(
        "mlstm_backward", q, k, v, gates, order, *(around or (None,) * 6), *_three(initial), cu_seqlens, kept,
        grad.contiguous(), *_three(last), dq, dk, dv, dgates, *_three(dinitial or None), *(extra or (None,) * 3), scale, eps, norm_eps,
        number, heads, keys, values, *_options(order, every, exponential, divide, reverse),
    )  # fmt: skip
    return dq, q.new_empty(0) if dk is None else dk, dv, dgates, dinitial, extra


def _three(states: tuple[Tensor | None, ...] | None) -> tuple[Tensor | None, ...]:
    """C, n, m as the library takes them: with sigmoid gates there is no m."""
    found = () if states is None else tuple(None if value is None or not value.numel() else value.contiguous() for value in states)
    return (*found, *(None,) * (3 - len(found)))


def _options(order: Tensor | None, every: int, exponential: bool, divide: bool, reverse: bool) -> tuple[int | bool, ...]:
    return 1 if order is None else len(order), every, exponential, divide, reverse


def final_states(like: Tensor, number: Any, sizes: tuple[Any, Any, Any], exponential: bool, final: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Empty C, n and m (without numbers for sigmoid gates), all without numbers where they are not wanted."""
    heads, keys, values = sizes
    if not final:
        return like.new_empty(0), like.new_empty(0), like.new_empty(0)
    m = like.new_empty(number, heads) if exponential else like.new_empty(0)
    return like.new_empty(number, heads, keys, values), like.new_empty(number, heads, keys), m


def mlstm(
    q: Tensor, k: Tensor, v: Tensor, gates: Tensor, initial: tuple[Tensor, ...] | None, *, scale: float, eps: float, exponential: bool,
    divide: bool, final: bool, cu_seqlens: Tensor, reverse: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:  # fmt: skip
    """q, k [B, T, H, K], v [B, T, H, V], gates [B, T, 2 H], initial states [S, ...] or None → h, final states (empty without ``final``)."""
    given = (q, k, v, gates, *(initial or ()))
    keep = torch.is_grad_enabled() and any(value.requires_grad for value in given)
    C, n, m = (*initial, *(None,) * (3 - len(initial))) if initial else (None, None, None)
    h, *last, _ = _mlstm(q, k, v, gates, C, n, m, cu_seqlens, scale, eps, exponential, divide, reverse, keep, final)
    return h, tuple(last if exponential else last[:2])


def _rows(q: Tensor, k: Tensor, v: Tensor, gates: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], tuple[int, int, int]]:
    heads, keys = q.shape[-2:]
    return (q, k, v, gates.flatten(0, 1)), (heads, keys, v.shape[-1])


@torch.library.custom_op("visionrnn::mlstm", mutates_args=(), device_types="cpu")
def _mlstm(
    q: Tensor, k: Tensor, v: Tensor, gates: Tensor, C: Optional[Tensor], n: Optional[Tensor], m: Optional[Tensor],  # noqa: UP045
    cu_seqlens: Tensor, scale: float, eps: float, exponential: bool, divide: bool, reverse: bool, keep: bool, final: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    rows, sizes = _rows(q, k, v, gates)
    h, last, kept = forward(
        *rows, sizes, cu_seqlens, scale=scale, eps=eps, exponential=exponential, divide=divide, reverse=reverse, keep=keep, final=final,
        initial=None if C is None else (C, n, m),
    )  # fmt: skip
    return h, *last, kept


@_mlstm.register_fake
def _(q, k, v, gates, C, n, m, cu_seqlens, scale, eps, exponential, divide, reverse, keep, final):
    sizes = *q.shape[-2:], v.shape[-1]
    last = final_states(q, cu_seqlens.shape[0] - 1, sizes, exponential, final)
    return v.new_empty(v.shape), *last, q.new_empty(kept_numbers(q.shape[0] * q.shape[1], sizes, keep))


@torch.library.custom_op("visionrnn::mlstm_backward", mutates_args=(), device_types="cpu")
def _mlstm_backward(
    grad: Tensor, last_C: Optional[Tensor], last_n: Optional[Tensor], last_m: Optional[Tensor], q: Tensor, k: Tensor, v: Tensor,  # noqa: UP045
    gates: Tensor, C: Optional[Tensor], n: Optional[Tensor], m: Optional[Tensor], kept: Tensor, cu_seqlens: Tensor, scale: float,  # noqa: UP045
    eps: float, exponential: bool, divide: bool, reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    rows, sizes = _rows(q, k, v, gates)
    dq, dk, dv, dgates, dinitial, _ = backward(
        grad, (last_C, last_n, last_m), *rows, kept, sizes, cu_seqlens, scale=scale, eps=eps, exponential=exponential, divide=divide,
        reverse=reverse, initial=None if C is None else (C, n, m),
    )  # fmt: skip
    dC, dn, dm = (*dinitial, *(q.new_empty(0) for _ in range(3 - len(dinitial))))
    return dq, dk, dv, dgates.view(gates.shape), dC, dn, dm


@_mlstm_backward.register_fake
def _(grad, last_C, last_n, last_m, q, k, v, gates, C, n, m, *_):
    return *(value.new_empty(value.shape) for value in (q, k, v, gates)), *(q.new_empty(0 if x is None else x.shape) for x in (C, n, m))


def _setup(ctx, inputs, output):
    *saved, ctx.scale, ctx.eps, ctx.exponential, ctx.divide, ctx.reverse, _, _ = inputs
    ctx.save_for_backward(*saved[:-1], output[4], saved[-1])
    watch(ctx, output[:4])


def _backward(ctx, grad, *last):
    saved, (shape, dtype, device) = ctx.saved_tensors, ctx.watched[0]
    grad = torch.zeros(shape, dtype=dtype, device=device) if grad is None else grad
    last = states_together(last[:3], ctx.watched[1:])
    options = (ctx.scale, ctx.eps, ctx.exponential, ctx.divide, ctx.reverse)
    dq, dk, dv, dgates, *dinitial = _mlstm_backward(grad, *last, *saved, *options)
    return dq, dk, dv, dgates, *(d if x is not None else None for d, x in zip(dinitial, saved[4:7], strict=True)), *(None,) * 8


def states_together(given: tuple[Tensor | None, ...], watched: list[tuple]) -> tuple[Tensor | None, ...]:
    """Gradients of final states: none of them, or all, zeros where one was not used."""
    if all(value is None for value in given):
        return None, None, None
    pairs = zip(given, watched, strict=True)
    return tuple(torch.zeros(shape, dtype=dtype, device=device) if value is None else value for value, (shape, dtype, device) in pairs)


_mlstm.register_autograd(_backward, setup_context=_setup)
