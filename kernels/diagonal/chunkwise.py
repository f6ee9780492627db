"""Plain PyTorch on any device: decays and inputs are formed a chunk at a time, only the states between chunks are kept.

Inside a chunk the recurrence is one fused multiply-add per step on a buffer that stays in the cache; everything else is done for
all steps of the chunk at once. The backward recomputes a chunk's states from the state before it, so memory is linear in T with a
small constant, and [B, T, D, N] never exists.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 1 << 19  # of a chunk's states: 2 MiB in float32, about a second-level cache
NARROW = 4096  # elements of a step below which a call costs more than its arithmetic


def diagonal_scan(x: Tensor, log_decay: Tensor, sign: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    """x, log_decay, sign: [B, T, ...]; state: [B, ...] → h [B, T, ...], final state."""
    return complex_diagonal_scan(x, log_decay.exp() if sign is None else sign * log_decay.exp(), state)


def complex_diagonal_scan(x: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """x: [B, T, ...]; decay: the same, or 1 where it is shared; state: [B, ...] → h [B, T, ...], final state."""
    h = _DiagonalScan.apply(x.transpose(0, 1), decay.transpose(0, 1), state).transpose(0, 1)
    return h, (h[:, -1] if x.shape[1] else state).clone()


def selective_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """u, delta: [B, T, D]; A: [D, N]; B, C: [B, T, G, N]; state: [B, D, N] → y [B, T, D], final state."""
    return _SelectiveScan.apply(u, delta, A, B, C, state)


def prefix_softmax(
    scores: Tensor, values: Tensor, log_decay: Tensor | None, bonus: Tensor | None, maximum: Tensor, denominator: Tensor, numerator: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scores, log_decay: [B, T, H]; values: [B, T, H, V]; bonus: [H]; states [B, H], [B, H], [B, H, V] → out [B, T, H, V], final states.

    The sums are a diagonal scan relative to the running maximum, whose decays are therefore at most 1. The output does not depend on
    what it is relative to, so that no gradient goes through the maximum there.
    """
    if not scores.shape[1]:
        return values.clone(), maximum.clone(), denominator.clone(), numerator.clone()
    peaks = running_maximum(scores.detach(), log_decay if log_decay is None else log_decay.detach(), maximum.detach())
    before = torch.cat([maximum[:, None], peaks[:, :-1]], 1)
    decay, token = (before - peaks if log_decay is None else before + log_decay - peaks).exp(), (scores - peaks).exp()
    weighted = torch.cat([token[..., None] * values, token[..., None]], -1)  # the denominator is a last column
    start = torch.cat([numerator, denominator[..., None]], -1)
    sums, final = complex_diagonal_scan(weighted, decay[..., None], start)
    final = final * (peaks[:, -1] - (last := _last_maximum(scores, log_decay, maximum, peaks[:, -1]))).exp()[..., None]
    if bonus is not None:
        score = scores + bonus
        level = torch.maximum(before, score).detach()
        token = (score - level).exp()[..., None]
        sums = torch.cat([start[:, None], sums[:, :-1]], 1) * (before - level).exp()[..., None]
        sums = sums + torch.cat([token * values, token], -1)
    below = sums[..., -1:]
    return sums[..., :-1] / torch.where(below == 0, 1, below), last, final[..., -1].clone(), final[..., :-1].clone()


def running_maximum(scores: Tensor, log_decay: Tensor | None, start: Tensor) -> Tensor:
    """m_t = max(m_{t-1} + log_decay_t, score_t) over [B, T, H], in log₂ T passes over all steps."""
    if log_decay is None:
        return torch.maximum(scores.cummax(1).values, start[:, None])
    peaks, decay = torch.cat([start[:, None], scores], 1), torch.cat([torch.zeros_like(start)[:, None], log_decay], 1)
    span = 1  # peaks_t and decay_t cover the steps t - span + 1 … t
    while span < peaks.shape[1]:
        peaks = torch.cat([peaks[:, :span], torch.maximum(peaks[:, span:], peaks[:, :-span] + decay[:, span:])], 1)
        decay = torch.cat([decay[:, :span], decay[:, span:] + decay[:, :-span]], 1)
        span *= 2
    return peaks[:, 1:]


def _last_maximum(scores: Tensor, log_decay: Tensor | None, start: Tensor, value: Tensor) -> Tensor:
    """``value``, the maximum after the last step, with its gradient."""
    candidates = torch.cat([start[:, None], scores], 1)
    if log_decay is not None:
        later = log_decay.flip(1).cumsum(1).flip(1)  # [B, T, H]: decays from a step to the end
        candidates = candidates + torch.cat([later, torch.zeros_like(later[:, :1])], 1)
    highest = candidates.amax(1)
    return value + (highest - highest.detach())


def _run(decay: Tensor, h: Tensor, state: Tensor) -> None:
    """h: [c, ...] holds the inputs and becomes the states: h_t += decay_t h_{t-1}."""
    for decay_t, h_t in zip(decay.unbind(0), h.unbind(0), strict=True):
        h_t.addcmul_(decay_t, state)
        state = h_t


def _run_rows(decay: Tensor, h: Tensor, state: Tensor) -> None:
    """The same as :func:`_run` in about 2 √T calls: √T rows of √T steps advance side by side, then the states between rows, one by one."""
    if not len(h):
        return
    length = math.isqrt(len(h))
    rows = len(h) // length
    part = slice(rows * length)
    h_rows, decay_rows = h[part].unflatten(0, (rows, length)), decay[part].unflatten(0, (rows, length))
    product = decay_rows.clone()  # of the decays from the start of a row: at most 1, and never divided by
    previous, total = h_rows[:, 0], product[:, 0]
    for decay_t, h_t, product_t in zip(decay_rows.unbind(1)[1:], h_rows.unbind(1)[1:], product.unbind(1)[1:], strict=True):
        previous, total = h_t.addcmul_(decay_t, previous), product_t.mul_(total)
    before = [state]
    for last, total_r in zip(previous.unbind(0), total.unbind(0), strict=True):
        before.append(torch.addcmul(last, total_r, before[-1]))
    h_rows.addcmul_(product, torch.stack(before[:-1]).unsqueeze(1))
    _run(decay[rows * length :], h[rows * length :], before[-1])


def _run_back(decay: Tensor, grad: Tensor, carry: Tensor) -> Tensor:
    """grad: [c, ...] holds dL/dh_t without the later steps' part and becomes the whole; ``carry`` is that part for the last step.

    Returns the carry for the step before the chunk.
    """
    steps, decays = grad.unbind(0), decay.unbind(0)
    if not steps:
        return carry
    steps[-1].add_(carry)
    for t in range(len(steps) - 1, 0, -1):
        steps[t - 1].addcmul_(decays[t], steps[t])
    return decays[0] * steps[0]


class _DiagonalScan(torch.autograd.Function):
    """h_t = decay_t ⊙ h_{t-1} + x_t, real or complex, time first; the decay may be shared along axes of size 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, decay: Tensor, state: Tensor) -> Tensor:
        h = x.clone(memory_format=torch.contiguous_format)  # [T, B, ...]
        (_run_rows if state.numel() < NARROW else _run)(decay, h, state)
        ctx.save_for_backward(decay, h, state)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decay, h, state = ctx.saved_tensors
        if not len(h):
            return torch.zeros_like(grad_h), torch.zeros_like(decay), torch.zeros_like(state)
        if state.numel() < NARROW:
            grad, back = grad_h.flip(0), decay[1:].flip(0).conj().resolve_conj()
            _run_rows(back, grad[1:], grad[0])
            grad = grad.flip(0)
        else:
            grad = grad_h.clone(memory_format=torch.contiguous_format)
            _run_back(decay.conj().resolve_conj(), grad, torch.zeros_like(state))
        grad_decay = torch.cat([state[None], h[:-1]]).conj() * grad
        return grad, grad_decay.sum_to_size(decay.shape), decay[0].conj() * grad[0]


class _SelectiveScan(torch.autograd.Function):
    """Works on [T, B, G, N, D/G]: a step is one contiguous slice, and every product has the channels as its long inner loop."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        groups = B.shape[2]
        u, delta = (value.unflatten(2, (groups, -1)).transpose(0, 1).contiguous() for value in (u, delta))  # [T, B, G, D/G]
        B, C = (value.transpose(0, 1).contiguous() for value in (B, C))  # [T, B, G, N]
        A = A.unflatten(0, (groups, -1)).transpose(1, 2).contiguous()  # [G, N, D/G]
        start = state.unflatten(1, (groups, -1)).transpose(2, 3).contiguous()  # [B, G, N, D/G]
        length, step = len(u), _chunk_length(start)
        y, before, work = torch.empty_like(u), [], _work(start, step, length, 2)
        for t in range(0, length, step):
            before.append(start)
            part = slice(t, t + step)
            _, h = _chunk_states(u[part], delta[part], A, B[part], start, work)
            torch.matmul(C[part].unsqueeze(-2), h, out=y[part].unsqueeze(-2))
            start = h[-1].clone()
        ctx.save_for_backward(u, delta, A, B, C, *before)
        return y.transpose(0, 1).flatten(2), start.transpose(2, 3).flatten(1, 2) if before else state.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_final: Tensor) -> tuple[Tensor, ...]:
        u, delta, A, B, C, *before = ctx.saved_tensors
        groups = B.shape[2]
        grad_y = grad_y.unflatten(2, (groups, -1)).transpose(0, 1).contiguous()
        carry = grad_final.unflatten(1, (groups, -1)).transpose(2, 3).contiguous()
        grad_u, grad_delta, grad_B, grad_C = (torch.empty_like(value) for value in (u, delta, B, C))
        grad_A = torch.zeros_like(A)
        step = _chunk_length(carry)
        work = _work(carry, step, len(u), 3)
        for chunk in reversed(range(len(before))):
            part = slice(chunk * step, (chunk + 1) * step)
            u_c, delta_c, grad_y_c = u[part], delta[part], grad_y[part]
            decay, h = _chunk_states(u_c, delta_c, A, B[part], before[chunk], work)
            grad, input_c = work[2][: len(u_c)], delta_c * u_c
            torch.sum(torch.mul(h, grad_y_c.unsqueeze(-2), out=grad), -1, out=grad_C[part])
            torch.mul(grad_y_c.unsqueeze(-2), C[part].unsqueeze(-1), out=grad)  # [c, B, G, N, D/G]
            carry = _run_back(decay, grad, carry)
            decay *= grad
            decay[1:] *= h[:-1]
            decay[0] *= before[chunk]  # now d L / d (Δ A), the exponent
            torch.sum(torch.mul(grad, input_c.unsqueeze(-2), out=h), -1, out=grad_B[part])
            grad_input = torch.matmul(B[part].unsqueeze(-2), grad).squeeze(-2)
            torch.mul(grad_input, delta_c, out=grad_u[part])
            torch.addcmul(torch.mul(decay, A, out=h).sum(-2), grad_input, u_c, out=grad_delta[part])
            grad_A += decay.mul_(delta_c.unsqueeze(-2)).sum((0, 1))
        grad_u, grad_delta = (value.transpose(0, 1).flatten(2) for value in (grad_u, grad_delta))
        grad_A, carry = grad_A.transpose(1, 2).flatten(0, 1), carry.transpose(2, 3).flatten(1, 2)
        return grad_u, grad_delta, grad_A, grad_B.transpose(0, 1), grad_C.transpose(0, 1), carry


def _chunk_length(state: Tensor) -> int:
    return max(8, min(128, CHUNK_ELEMENTS // max(state.numel(), 1)))


def _work(state: Tensor, step: int, length: int, number: int) -> list[Tensor]:
    """Buffers [c, B, G, N, D/G] that all chunks share, so that they stay in the cache."""
    return [state.new_empty(min(step, length), *state.shape) for _ in range(number)]


def _chunk_states(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, start: Tensor, work: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Decays and states of a chunk, both [c, B, G, N, D/G], in the first two buffers."""
    decay, h = (buffer[: len(u)] for buffer in work[:2])
    torch.mul(delta.unsqueeze(-2), A, out=decay).exp_()
    torch.mul((delta * u).unsqueeze(-2), B.unsqueeze(-1), out=h)
    _run(decay, h, start)
    return decay, h
