"""Triton kernels of Mamba's mixer around its scans. Rows as in ``triton_rows``; uz: [N, 2 D], u before z."""

import triton
import triton.language as tl

from ..triton_rows import chunk_of, kernel, row_at, span


@triton.jit
def _softplus(x):
    """log(1 + e^x), with a small relative error where it is small too: log(1 + a) is a · log(b) / (b - 1), b the rounded 1 + a."""
    a = tl.exp(-tl.abs(x))
    b = 1.0 + a
    tiny = b == 1.0
    return tl.maximum(x, 0.0) + tl.where(tiny, a, tl.log(b) * (a / tl.where(tiny, 1.0, b - 1.0)))


@triton.jit
def _weight(weight, row, column, rows: tl.constexpr, columns: tl.constexpr):
    """The transpose of a weight [rows, columns] at row[None, :], column[:, None]; 0 outside."""
    mask = (row < rows)[None, :] & (column < columns)[:, None]
    return tl.load(weight + row[None, :] * columns + column[:, None], mask=mask, other=0.0)


@triton.jit
def _convolved(uz, weight, bias, index, first, step, length, s, channel, D: tl.constexpr, TAPS: tl.constexpr):
    """[steps, channels]: SiLU of the causal convolution of u at steps ``s``."""
    inside = channel < D
    out = tl.zeros([s.shape[0], channel.shape[0]], tl.float32)
    for j in range(TAPS):
        here = (s >= j) & (s - j < length)
        row = row_at(index, first + step * (s - j), here)
        u = tl.load(uz + row[:, None] * (2 * D) + channel[None, :], mask=here[:, None] & inside[None, :], other=0.0)
        out += u.to(tl.float32) * tl.load(weight + channel * TAPS + TAPS - 1 - j, mask=inside, other=0.0)[None, :]
    if bias is not None:
        out += tl.load(bias + channel, mask=inside, other=0.0)[None, :]
    return out * tl.sigmoid(out)


@triton.jit
def _direction(
    uz, conv_weight, conv_bias, weight, step_weight, step_bias, A_log, D_skip, c, delta, B, C, A, skip, index,
    first, step, length, s, outputs, turned, slot,
    D: tl.constexpr, TAPS: tl.constexpr, RANK: tl.constexpr, STATES: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    kind = uz.dtype.element_ty
    rank, state = tl.arange(0, BLOCK_R), tl.arange(0, BLOCK_S)
    low = tl.zeros([s.shape[0], BLOCK_R], tl.float32)
    to_B, to_C = tl.zeros([s.shape[0], BLOCK_S], tl.float32), tl.zeros([s.shape[0], BLOCK_S], tl.float32)
    row = (first + step * s + outputs)[:, None]
    here = (s < length)[:, None]
    for begin in range(0, D, BLOCK_D):
        channel = begin + tl.arange(0, BLOCK_D)
        value = _convolved(uz, conv_weight, conv_bias, index, first, step, length, s, channel, D, TAPS).to(kind)
        tl.store(c + row * D + channel[None, :], value, mask=here & (channel < D)[None, :])
        low = tl.dot(value, _weight(weight, rank, channel, RANK, D).to(kind), low, input_precision=PRECISION)
        of_B = _weight(weight + RANK * D, state, channel, STATES, D).to(kind)
        to_B = tl.dot(value, of_B, to_B, input_precision=PRECISION)
        of_C = _weight(weight + (RANK + STATES) * D, state, channel, STATES, D).to(kind)
        to_C = tl.dot(value, of_C, to_C, input_precision=PRECISION)
    tl.store(B + row * STATES + state[None, :], to_B, mask=here & (state < STATES)[None, :])
    tl.store(C + row * STATES + state[None, :], to_C, mask=here & (state < STATES)[None, :])
    low = low.to(kind)
    for begin in range(0, D, BLOCK_D):
        channel = begin + tl.arange(0, BLOCK_D)
        inside = channel < D
        value = tl.dot(low, _weight(step_weight, channel, rank, D, RANK).to(kind), input_precision=PRECISION)
        value += tl.load(step_bias + channel, mask=inside, other=0.0)[None, :]
        tl.store(delta + row * D + channel[None, :], _softplus(value), mask=here & inside[None, :])
        if slot == 0:  # of each direction one program does the same for the constants
            at = channel[:, None] * STATES + state[None, :]
            mask = inside[:, None] & (state < STATES)[None, :]
            tl.store(A + turned * D * STATES + at, -tl.exp(tl.load(A_log + at, mask=mask, other=0.0).to(tl.float32)), mask=mask)
            tl.store(skip + turned * D + channel, tl.load(D_skip + channel, mask=inside, other=0.0), mask=inside)


@kernel
def mixer_inputs(
    uz, conv_weight_ahead, conv_bias_ahead, weight_ahead, step_weight_ahead, step_bias_ahead, A_log_ahead, D_ahead,
    conv_weight_back, conv_bias_back, weight_back, step_weight_back, step_bias_back, A_log_back, D_back,
    c, delta, B, C, A, skip, cu_seqlens, index, T, N, S, direction, own,
    D: tl.constexpr, TAPS: tl.constexpr, RANK: tl.constexpr, STATES: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: slots of both directions. c, delta: [2, N, D]; B, C: [2, N, STATES]; A: [2, D, STATES]; skip: [2, D]; weights as the op's."""
    slots = tl.num_programs(0) // 2
    turned = tl.program_id(0) // slots
    slot = tl.program_id(0) % slots
    sequence, chunk = chunk_of(slot, cu_seqlens, T, S, BLOCK_T)
    first, step, length, _, outputs = span(sequence + turned * S, cu_seqlens, T, N, S, direction, own)
    s = chunk * BLOCK_T + tl.arange(0, BLOCK_T)
    if turned == 0:
        _direction(
            uz, conv_weight_ahead, conv_bias_ahead, weight_ahead, step_weight_ahead, step_bias_ahead, A_log_ahead, D_ahead,
            c, delta, B, C, A, skip, index, first, step, length, s, outputs, turned, slot,
            D, TAPS, RANK, STATES, BLOCK_D, BLOCK_R, BLOCK_S, PRECISION,
        )  # fmt: skip
    else:
        _direction(
            uz, conv_weight_back, conv_bias_back, weight_back, step_weight_back, step_bias_back, A_log_back, D_back,
            c, delta, B, C, A, skip, index, first, step, length, s, outputs, turned, slot,
            D, TAPS, RANK, STATES, BLOCK_D, BLOCK_R, BLOCK_S, PRECISION,
        )  # fmt: skip


@kernel
def mixer_output(
    y, uz, weight, gain, shift, x, out, index, N,
    C: tl.constexpr, D: tl.constexpr, DIRECTIONS: tl.constexpr, EPS: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y: [DIRECTIONS, N, D]; weight: [C, D]; gain, shift: [C]; x, out: [N, C]. One program per BLOCK_T positions."""
    position = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    here = position < N
    row = row_at(index, position, here)
    kind = uz.dtype.element_ty
    column = tl.arange(0, BLOCK_C)
    branch = tl.zeros([BLOCK_T, BLOCK_C], tl.float32)
    for begin in range(0, D, BLOCK_D):
        channel = begin + tl.arange(0, BLOCK_D)
        mask = here[:, None] & (channel < D)[None, :]
        total = tl.load(y + position[:, None] * D + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        for turned in tl.static_range(1, DIRECTIONS):
            at = (position + turned * N)[:, None] * D + channel[None, :]
            total += tl.load(y + at, mask=mask, other=0.0).to(tl.float32)
        z = tl.load(uz + row[:, None] * (2 * D) + D + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        total *= z * tl.sigmoid(z)
        branch = tl.dot(total.to(kind), _weight(weight, column, channel, C, D).to(kind), branch, input_precision=PRECISION)
    inside = column < C
    mask = here[:, None] & inside[None, :]
    if gain is not None:
        mean = tl.sum(branch, 1) / C
        branch = tl.where(inside[None, :], branch - mean[:, None], 0.0)
        branch *= (1.0 / tl.sqrt(tl.sum(branch * branch, 1) / C + EPS))[:, None]
        branch = branch * tl.load(gain + column, mask=inside, other=0.0)[None, :] + tl.load(shift + column, mask=inside, other=0.0)[None, :]
    at = row[:, None] * C + column[None, :]
    tl.store(out + at, tl.load(x + at, mask=mask, other=0.0).to(tl.float32) + branch, mask=mask)
