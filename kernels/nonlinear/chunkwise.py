"""Plain PyTorch on any device: one batched product with R per step, all else for a chunk of steps at a time; chunks only save memory.

Kept for the backward are x, y and the other states; the gates of a chunk are formed again, by one product for all its steps. The
gradient of R is one product per chunk as well. Memory is linear in T. Inside, everything lies [T, H, S, ...].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .chunkwise_cells import STEPS

CHUNK_ELEMENTS = 1 << 19  # of a chunk's gates: 2 MiB in float32, about a second-level cache


def nonlinear_rnn(
    x: Tensor, R: Tensor, bias: Tensor | None, valid: Tensor | None, state: Tensor, *, cell: str, normalizer_floor: bool
) -> tuple[Tensor, Tensor]:
    """x: [B, T, G, H, D]; R: [G, H, D_out, D_in]; bias: [G, H, D]; valid: [B, T], 0 or 1; state: [B, states, H, D].

    Returns y [B, T, H, D], final state [B, states, H, D].
    """
    return _NonlinearRNN.apply(x, R, bias, valid, state, "slstm_floor" if cell == "slstm" and normalizer_floor else cell)


class _NonlinearRNN(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, R: Tensor, bias: Tensor | None, valid: Tensor | None, state: Tensor, cell: str
    ) -> tuple[Tensor, Tensor]:
        step, matrix = STEPS[cell], _matrix(R)
        after = x.new_empty(x.shape[1], state.shape[1], *state.transpose(0, 2).shape[:1], x.shape[0], x.shape[-1])  # [T, states, H, S, D]
        now = state.permute(1, 2, 0, 3).contiguous()  # [states, H, S, D]
        masks = None if valid is None else _time_first_mask(valid)
        length = _chunk_length(x)
        for t0 in range(0, x.shape[1], length):
            gates, x_n = _inputs(x[:, t0 : t0 + length], bias)
            for k, gates_t in enumerate(gates.unbind(0)):
                gates_t.flatten(2).baddbmm_(now[0], matrix)
                new = step.ahead(gates_t, None if x_n is None else x_n[k], *now.unbind(0))
                to = after[t0 + k]
                torch.stack(new, out=to)
                if masks is not None:
                    to.copy_(torch.where(masks[t0 + k] > 0, to, now))
                now = to
        ctx.save_for_backward(x, R, bias, valid, state, after)
        ctx.cell = cell
        return after[:, 0].permute(2, 0, 1, 3).contiguous(), now.permute(2, 0, 1, 3).clone(memory_format=torch.contiguous_format)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_final: Tensor) -> tuple[Tensor | None, ...]:
        x, R, bias, valid, state, after = ctx.saved_tensors
        step, matrix = STEPS[ctx.cell], _matrix(R)
        back = matrix.transpose(1, 2).contiguous()  # [H, G·D_out, D_in]
        masks = None if valid is None else _time_first_mask(valid)
        grad_x, grad_matrix = torch.empty_like(x), torch.zeros_like(matrix)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        dy, *carry = (value.contiguous() for value in grad_final.permute(1, 2, 0, 3).unbind(0))
        before = torch.cat([state.permute(1, 2, 0, 3)[None], after[:-1]]) if len(after) else after
        length = _chunk_length(x)
        for t0 in reversed(range(0, x.shape[1], length)):
            part = slice(t0, t0 + length)
            y0 = before[part, 0].transpose(0, 1).flatten(1, 2)  # [H, C·S, D]
            gates, x_n = _inputs(x[:, part], bias)
            gates += torch.bmm(y0, matrix).view(R.shape[1], -1, x.shape[0], *gates.shape[3:]).transpose(0, 1)
            factors = step.factors(gates, x_n, before[part].unbind(1), after[part].unbind(1))
            if masks is not None:
                step.mask(factors, masks[part])
            steps = [
                dict(zip(factors, values, strict=True)) for values in zip(*(value.unbind(0) for value in factors.values()), strict=True)
            ]
            grads = grad_y[:, part].permute(1, 2, 0, 3).clone(memory_format=torch.contiguous_format)  # [C, H, S, D]
            for at, dy_t, d_gates in zip(reversed(steps), reversed(grads.unbind(0)), reversed(gates.unbind(0)), strict=True):
                dy_t += dy
                carry = step.back(at, dy_t, carry, d_gates)
                dy = torch.bmm(d_gates.flatten(2), back)
                if "direct" in at:
                    dy.addcmul_(at["direct"], dy_t)
            grad_matrix += torch.bmm(y0.transpose(1, 2), gates.flatten(3).transpose(0, 1).flatten(1, 2))
            d_n = grads.mul_(factors["x_n"]) if x_n is not None else None
            _input_gradients(gates, d_n, grad_x[:, part], grad_bias)
        grad_R = grad_matrix.unflatten(2, (R.shape[0], -1)).permute(2, 0, 3, 1)
        return grad_x, grad_R, grad_bias, None, torch.stack([dy, *carry], 0).permute(2, 0, 1, 3), None


def _matrix(R: Tensor) -> Tensor:
    """[G, H, D_out, D_in] → [H, D_in, G·D_out]."""
    return R.permute(1, 3, 0, 2).flatten(2).contiguous()


def _time_first_mask(valid: Tensor) -> Tensor:
    """[S, T] → [T, 1, S, 1]."""
    return valid.T[:, None, :, None]


def _chunk_length(x: Tensor) -> int:
    return max(8, min(128, CHUNK_ELEMENTS // max(x[:, :1].numel(), 1)))


def _inputs(x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """x [S, C, G, H, D] → what R y is added to, [C, H, S, G, D], and for the GRU the candidate's own input [C, H, S, D]."""
    gates = x.permute(1, 3, 0, 2, 4).clone(memory_format=torch.contiguous_format)
    if x.shape[2] != 3:
        return (gates if bias is None else gates.add_(bias.transpose(0, 1).unsqueeze(1))), None
    x_n = gates[:, :, :, 2]
    gates = torch.cat([torch.zeros_like(gates[:, :, :, :1]), gates[:, :, :, :2]], 3)
    if bias is None:
        return gates, x_n.contiguous()
    return gates.add_(bias[:3].transpose(0, 1).unsqueeze(1)), x_n + bias[3].unsqueeze(1)


def _input_gradients(d_gates: Tensor, d_n: Tensor | None, grad_x: Tensor, grad_bias: Tensor | None) -> None:
    """Writes the gradient of a chunk of x [S, C, G, H, D] and adds to that of the bias."""
    d_x = d_gates if d_n is None else torch.cat([d_gates[:, :, :, 1:], d_n.unsqueeze(3)], 3)
    grad_x.copy_(d_x.permute(2, 0, 3, 1, 4))
    if grad_bias is not None:
        grad_bias[: d_gates.shape[3]] += d_gates.sum((0, 2)).transpose(0, 1)
        if d_n is not None:
            grad_bias[3] += d_n.sum((0, 2))
