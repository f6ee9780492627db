"""Triton kernels of the short causal convolution. Rows as in ``triton_rows``; u, out: [N, C]; weight: [TAPS, C], one of each direction
where APART; state [S, TAPS - 1, C] stands for the steps before the first one, so that steps count from 1 - TAPS on.

A program has BLOCK_T steps of a sequence and BLOCK_C channels. What neighbouring steps share is read again: it lies in the cache.
"""

import triton
import triton.language as tl

from ..triton_rows import chunk_of, kernel, row_at, span


@triton.jit
def _tile(
    cu_seqlens, T, S, direction, TAPS: tl.constexpr, C: tl.constexpr, APART: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Sequence, the first of the program's steps, its channels, where its direction's constants begin, [TAPS, C] and [C]."""
    slots = tl.num_programs(0) // tl.where(direction == 2, 2, 1)
    turned = tl.program_id(0) // slots
    sequence, chunk = chunk_of(tl.program_id(0) % slots, cu_seqlens, T, S, BLOCK_T)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    return sequence + turned * S, chunk * BLOCK_T, channel, turned * APART * TAPS * C, turned * APART * C


@triton.jit
def _steps(
    u, state, index, sequence, first, step, length, inputs, s, early, channel, inside, TAPS: tl.constexpr, C: tl.constexpr
):  # fmt: skip
    """[steps, channels] of u at steps ``s``, 0 beyond the end. ``early``: some of them may be before the first."""
    here = (s >= 0) & (s < length)
    row = row_at(index, first + step * s, here) + inputs
    value = tl.load(u + row[:, None] * C + channel[None, :], mask=here[:, None] & inside[None, :], other=0.0).to(tl.float32)
    if early:
        row = sequence.to(tl.int64) * (TAPS - 1) + TAPS - 1 + s
        before = ((s < 0) & (s >= 1 - TAPS))[:, None] & inside[None, :]
        value += tl.load(state + row[:, None] * C + channel[None, :], mask=before, other=0.0)
    return value


@triton.jit
def _filtered(
    u, weight, bias, state, index, sequence, first, step, length, inputs, s, early, channel, inside, TAPS: tl.constexpr, C: tl.constexpr
):  # fmt: skip
    """[steps, channels]: taps and bias at steps ``s``."""
    out = tl.zeros([s.shape[0], channel.shape[0]], tl.float32)
    for j in range(TAPS):
        value = _steps(u, state, index, sequence, first, step, length, inputs, s - j, early, channel, inside, TAPS, C)
        out += value * tl.load(weight + j * C + channel, mask=inside, other=0.0)[None, :]
    if bias is not None:
        out += tl.load(bias + channel, mask=inside, other=0.0)[None, :]
    return out


@kernel
def causal_conv_forward(
    u, weight, bias, state, out, final, cu_seqlens, index, T, N, S, direction, own,
    TAPS: tl.constexpr, C: tl.constexpr, SILU: tl.constexpr, APART: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Grid: slots of both directions × blocks of channels."""
    sequence, begin, channel, at_weight, at_bias = _tile(cu_seqlens, T, S, direction, TAPS, C, APART, BLOCK_T, BLOCK_C)
    first, step, length, inputs, outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
    inside = channel < C
    weight += at_weight
    if bias is not None:
        bias += at_bias
    s = begin + tl.arange(0, BLOCK_T)
    value = _filtered(u, weight, bias, state, index, sequence, first, step, length, inputs, s, begin < TAPS, channel, inside, TAPS, C)
    if SILU:
        value *= tl.sigmoid(value)
    here = s < length
    row = row_at(index, first + step * s, here) + outputs
    tl.store(out + row[:, None] * C + channel[None, :], value, mask=here[:, None] & inside[None, :])
    if begin == 0:
        for before in range(0, TAPS - 1, BLOCK_T):
            r = before + tl.arange(0, BLOCK_T)  # rows of the state
            last = _steps(u, state, index, sequence, first, step, length, inputs, r + length + 1 - TAPS, True, channel, inside, TAPS, C)
            row = sequence.to(tl.int64) * (TAPS - 1) + r
            tl.store(final + row[:, None] * C + channel[None, :], last, mask=(r < TAPS - 1)[:, None] & inside[None, :])


@triton.jit
def _slope(
    u, weight, bias, state, grad_out, index, sequence, first, step, length, inputs, outputs, s, early, channel, inside,
    TAPS: tl.constexpr, C: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """[steps, channels]: the gradient of taps and bias at steps ``s``, 0 outside the sequence."""
    here = (s >= 0) & (s < length)
    row = row_at(index, first + step * s, here) + outputs
    grad = tl.load(grad_out + row[:, None] * C + channel[None, :], mask=here[:, None] & inside[None, :], other=0.0).to(tl.float32)
    if SILU:
        value = _filtered(u, weight, bias, state, index, sequence, first, step, length, inputs, s, early, channel, inside, TAPS, C)
        gate = tl.sigmoid(value)
        grad *= gate + value * gate * (1 - gate)
    return grad


@triton.jit
def _input_gradient(
    grad, u, weight, bias, state, grad_out, grad_final, index, sequence, first, step, length, inputs, outputs, s, early, channel, inside,
    TAPS: tl.constexpr, C: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """[steps, channels]: the gradient of u, or of the state, at steps ``s``; ``grad``: :func:`_slope` there."""
    found = grad * tl.load(weight + channel, mask=inside, other=0.0)[None, :]
    for j in range(1, TAPS):
        later = _slope(
            u, weight, bias, state, grad_out, index, sequence, first, step, length, inputs, outputs, s + j, early, channel, inside,
            TAPS, C, SILU,
        )  # fmt: skip
        found += later * tl.load(weight + j * C + channel, mask=inside, other=0.0)[None, :]
    r = s - length + TAPS - 1  # its row in the final state, if any
    row = sequence.to(tl.int64) * (TAPS - 1) + r
    kept = ((r >= 0) & (r < TAPS - 1))[:, None] & inside[None, :]
    return found + tl.load(grad_final + row[:, None] * C + channel[None, :], mask=kept, other=0.0)


@kernel
def causal_conv_backward(
    u, weight, bias, state, grad_out, grad_final, grad_u, sums, grad_state, cu_seqlens, index, T, N, S, direction, own,
    TAPS: tl.constexpr, C: tl.constexpr, SILU: tl.constexpr, APART: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """As forward. sums: [programs of axis 0, TAPS + 1, C], what a program's steps add to the gradients of taps and bias."""
    sequence, begin, channel, at_weight, at_bias = _tile(cu_seqlens, T, S, direction, TAPS, C, APART, BLOCK_T, BLOCK_C)
    first, step, length, inputs, outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
    inside = channel < C
    weight += at_weight
    if bias is not None:
        bias += at_bias
    early = begin < TAPS
    s = begin + tl.arange(0, BLOCK_T)
    grad = _slope(
        u, weight, bias, state, grad_out, index, sequence, first, step, length, inputs, outputs, s, early, channel, inside, TAPS, C, SILU
    )  # fmt: skip
    sums += tl.program_id(0).to(tl.int64) * (TAPS + 1) * C
    for j in range(TAPS):
        value = _steps(u, state, index, sequence, first, step, length, inputs, s - j, early, channel, inside, TAPS, C)
        tl.store(sums + j * C + channel, tl.sum(grad * value, 0), mask=inside)
    tl.store(sums + TAPS * C + channel, tl.sum(grad, 0), mask=inside)
    found = _input_gradient(
        grad, u, weight, bias, state, grad_out, grad_final, index, sequence, first, step, length, inputs, outputs, s, early, channel,
        inside, TAPS, C, SILU,
    )  # fmt: skip
    here = s < length
    row = row_at(index, first + step * s, here) + outputs
    tl.store(grad_u + row[:, None] * C + channel[None, :], found, mask=here[:, None] & inside[None, :])
    if begin == 0:
        for before in range(0, TAPS - 1, BLOCK_T):
            r = before + tl.arange(0, BLOCK_T)
            s = r + 1 - TAPS
            found = _input_gradient(
                tl.zeros_like(grad), u, weight, bias, state, grad_out, grad_final, index, sequence, first, step, length, inputs, outputs, s,
                True, channel, inside, TAPS, C, SILU,
            )  # fmt: skip
            row = sequence.to(tl.int64) * (TAPS - 1) + r
            tl.store(grad_state + row[:, None] * C + channel[None, :], found, mask=(r < TAPS - 1)[:, None] & inside[None, :])
