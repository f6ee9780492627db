"""Plain PyTorch on any device: decays and inputs are formed a chunk at a time, only the states between chunks are kept.

Inside a chunk the recurrence is one fused multiply-add per step on a buffer that stays in the cache; everything else is done for
all steps of the chunk at once. The backward recomputes a chunk's states from the state before it, so memory is linear in T with a
small constant, and [B, T, D, N] never exists.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 1 << 19  # of a chunk's states: 2 MiB in float32, about a second-level cache


def diagonal_scan(x: Tensor, log_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """x, log_decay: [B, T, D]; state: [B, D] → h [B, T, D], final state."""
    return _DiagonalScan.apply(x, log_decay, state)


def selective_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """u, delta: [B, T, D]; A: [D, N]; B, C: [B, T, G, N]; state: [B, D, N] → y [B, T, D], final state."""
    return _SelectiveScan.apply(u, delta, A, B, C, state)


def _run(decay: Tensor, h: Tensor, state: Tensor) -> None:
    """h: [c, ...] holds the inputs and becomes the states: h_t += decay_t h_{t-1}."""
    for decay_t, h_t in zip(decay.unbind(0), h.unbind(0), strict=True):
        h_t.addcmul_(decay_t, state)
        state = h_t


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
    @staticmethod
    def forward(ctx: Any, x: Tensor, log_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h = x.transpose(0, 1).clone(memory_format=torch.contiguous_format)  # [T, B, D]
        _run(log_decay.transpose(0, 1).exp(), h, state)
        final = (h[-1] if len(h) else state).clone()
        h = h.transpose(0, 1)
        ctx.save_for_backward(log_decay, h, state)
        return h, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h: Tensor, grad_final: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_decay, h, state = ctx.saved_tensors
        decay = log_decay.transpose(0, 1).exp()
        grad = grad_h.transpose(0, 1).clone(memory_format=torch.contiguous_format)
        grad_state = _run_back(decay, grad, grad_final)
        previous = torch.cat([state[None], h.transpose(0, 1)[:-1]])[: len(grad)]
        return grad.transpose(0, 1), (grad * previous * decay).transpose(0, 1), grad_state


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
