"""Triton kernels of the diagonal family. Rows as in ``triton_rows``."""

import triton
import triton.language as tl

from ..triton_rows import kernel, row_at, span


@triton.jit
def _compose(decay, x, later_decay, later_x):
    return decay * later_decay, later_decay * x + later_x


@triton.jit
def _decay(log_decay, sign, index, position, here, inputs, channel, inside, D: tl.constexpr):
    """[positions, channels]; 1 outside the mask."""
    at = (row_at(index, position, here) + inputs)[:, None] * D + channel[None, :]
    mask = here[:, None] & inside[None, :]
    decay = tl.exp(tl.load(log_decay + at, mask=mask, other=0.0).to(tl.float32))
    if sign is not None:
        decay *= tl.load(sign + at, mask=mask, other=1.0).to(tl.float32)
    return decay


@kernel
def diagonal_scan_forward(
    x, log_decay, sign, state, h, final, cu_seqlens, index, T, N, S, direction, own,
    D: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """x, log_decay, sign, h: [N, D]; state, final: [S, D]. One program per sequence and BLOCK_D channels."""
    sequence = tl.program_id(0)
    first, step, length, inputs, outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
    channel = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = channel < D
    carried = tl.load(state + sequence.to(tl.int64) * D + channel, mask=inside, other=0.0).to(tl.float32)
    t = tl.arange(0, BLOCK_T)
    for begin in range(0, length, BLOCK_T):
        here = begin + t < length
        position = first + step * (begin + t)
        row = row_at(index, position, here)
        mask = here[:, None] & inside[None, :]
        decay = _decay(log_decay, sign, index, position, here, inputs, channel, inside, D)
        value = tl.load(x + (row + inputs)[:, None] * D + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        decay, value = tl.associative_scan((decay, value), 0, _compose)
        value += decay * carried[None, :]
        tl.store(h + (row + outputs)[:, None] * D + channel[None, :], value, mask=mask)
        carried = tl.sum(tl.where(t[:, None] == BLOCK_T - 1, value, 0.0), 0)  # steps beyond the end neither decay nor add
    tl.store(final + sequence.to(tl.int64) * D + channel, carried, mask=inside)


@kernel
def diagonal_scan_backward(
    log_decay, sign, state, h, grad_h, grad_final, grad_x, grad_log_decay, grad_state, cu_seqlens, index, T, N, S, direction, own,
    D: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """As forward, from the last step to the first: g_t = grad_h_t + a_{t+1} g_{t+1} is the gradient of x_t."""
    sequence = tl.program_id(0)
    first, step, length, inputs, outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
    channel = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = channel < D
    at_state = sequence.to(tl.int64) * D + channel
    carried = tl.load(grad_final + at_state, mask=inside, other=0.0).to(tl.float32)  # what comes in from the steps after the tile
    before = tl.load(state + at_state, mask=inside, other=0.0).to(tl.float32)
    s = tl.arange(0, BLOCK_T)
    for begin in range(0, length, BLOCK_T):
        t = length - 1 - begin - s  # the tile's steps, the last one first
        here = t >= 0
        mask = here[:, None] & inside[None, :]
        row = row_at(index, first + step * t, here)
        out = (row + outputs)[:, None] * D + channel[None, :]
        next_decay = _decay(log_decay, sign, index, first + step * (t + 1), here & (t + 1 < length), inputs, channel, inside, D)
        given = tl.load(grad_h + out, mask=mask, other=0.0).to(tl.float32)
        product, grad = tl.associative_scan((next_decay, given), 0, _compose)
        grad += product * carried[None, :]
        tl.store(grad_x + out, grad, mask=mask)
        earlier = (row_at(index, first + step * (t - 1), t >= 1) + outputs)[:, None] * D + channel[None, :]
        state_before = tl.load(h + earlier, mask=mask & (t >= 1)[:, None], other=0.0).to(tl.float32)
        state_before = tl.where((t == 0)[:, None], before[None, :], state_before)
        decay = _decay(log_decay, sign, index, first + step * t, here, inputs, channel, inside, D)
        tl.store(grad_log_decay + out, grad * decay * state_before, mask=mask)
        carried = tl.sum(tl.where(s[:, None] == BLOCK_T - 1, grad, 0.0), 0)
    decay = _decay(log_decay, sign, index, first + step * s, (s == 0) & (length > 0), inputs, channel, inside, D)
    tl.store(grad_state + at_state, carried * tl.sum(tl.where(s[:, None] == 0, decay, 0.0), 0), mask=inside)
