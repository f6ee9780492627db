"""Triton kernels of the nonlinear family's backward that need no order of steps: before the one over time, and after it."""

import triton
import triton.language as tl

from ..triton_rows import kernel, row_at
from .triton_kernels import bias_of, matrix


@triton.jit
def _sequence_of(position, here, cu_seqlens, T, S):
    """Sequence of each position, its first position and its last."""
    if cu_seqlens is None:
        sequence = position // T
        return sequence, sequence * T, sequence * T + T - 1
    else:
        low = tl.zeros_like(position)
        high = low + S - 1
        while tl.max(high - low, 0) > 0:
            middle = (low + high + 1) // 2
            after = tl.load(cu_seqlens + middle, mask=here, other=0) <= position
            low, high = tl.where(after, middle, low), tl.where(after, high, middle - 1)
        start = tl.load(cu_seqlens + low, mask=here, other=0).to(tl.int64)
        return low, start, tl.load(cu_seqlens + low + 1, mask=here, other=0).to(tl.int64) - 1


@kernel
def nonlinear_rnn_gates(
    x, R, bias, state, y, gates, inner, earlier, cu_seqlens, index, T, N, S, direction, own,
    CELL: tl.constexpr, MATRICES: tl.constexpr, BIASES: tl.constexpr, STATES: tl.constexpr, H: tl.constexpr, D: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """x + R y + bias with the y before each step, as ``nonlinear_rnn_backward`` takes them: gates, inner and earlier.

    Programs: BLOCK_T positions; heads; and in one number directions, biases (a GRU's last has no matrix) and BLOCK_D units.
    """
    tiles: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    gate, turned = tl.program_id(2) // tiles % BIASES, tl.program_id(2) // tiles // BIASES
    unit, head = tl.program_id(2) % tiles * BLOCK_D + tl.arange(0, BLOCK_D), tl.program_id(1)
    position = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    here = position < N
    sequence, start, end = _sequence_of(position, here, cu_seqlens, T, S)
    backward = (direction == 1) | (turned == 1)
    starts = position == tl.where(backward, end, start)
    follows = position != tl.where(backward, end, start)
    outputs = turned.to(tl.int64) * N
    row = row_at(index, position, here)
    before = row_at(index, position + tl.where(backward, 1, -1), here & follows) + outputs
    sequence += turned * S
    kind: tl.constexpr = x.dtype.element_ty
    total = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    for k in range(0, tl.where(gate < MATRICES, D, 0), TILE):
        into = k + tl.arange(0, TILE)
        known = (here & follows)[:, None] & (into < D)[None, :]
        given = (here & starts)[:, None] & (into < D)[None, :]
        value = tl.load(y + (before * H + head)[:, None] * D + into[None, :], mask=known, other=0.0)
        first = tl.load(state + (sequence * (STATES * H) + head)[:, None] * D + into[None, :], mask=given, other=0.0)
        value = tl.where(given, first.to(kind), value)
        r = matrix(R, gate, turned * own, unit[:, None], into[None, :], MATRICES, H, D)
        total = tl.dot(value, tl.trans(r), total, input_precision=PRECISION)
        if tl.program_id(2) % (tiles * BIASES) == 0:
            tl.store(earlier + ((row + outputs) * H + head)[:, None] * D + into[None, :], value, mask=known | given)
    mask = here[:, None] & (unit < D)[None, :]
    if bias is not None:
        total += bias_of(bias, gate, turned * own, unit, BIASES, H, D)[None, :]
    row_x = row + outputs * own
    if CELL == "gru":  # the gates of x are those of the bias but the first
        tl.store(inner + ((row + outputs) * H + head)[:, None] * D + unit[None, :], total, mask=mask & (gate == 0))
        mask, gate = mask & (gate > 0), gate - 1
    total += tl.load(x + ((row_x * MATRICES + gate) * H + head)[:, None] * D + unit[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(gates + (((row + outputs) * MATRICES + gate) * H + head)[:, None] * D + unit[None, :], total, mask=mask)


@kernel
def nonlinear_rnn_matrix_gradient(
    gates, inner, earlier, grad_R, grad_bias, N,
    CELL: tl.constexpr, MATRICES: tl.constexpr, BIASES: tl.constexpr, H: tl.constexpr, D: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Sums over a part of the rows of (gradients of gates) ⊗ (y before the step), and of the former: grad_R [parts, 1 or 2, G, H, D, D],
    grad_bias [parts, 1 or 2, biases, H, D]. N: rows that share a matrix: all, or those of a direction that has its own.

    Programs: parts and tiles of a matrix; heads; directions and biases (a GRU's last has no matrix).
    """
    tiles: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    gate, turned, head = tl.program_id(2) % BIASES, tl.program_id(2) // BIASES, tl.program_id(1)
    part, parts = tl.program_id(0) // (tiles * tiles), tl.num_programs(0) // (tiles * tiles)
    out = tl.program_id(0) // tiles % tiles * BLOCK_D + tl.arange(0, BLOCK_D)
    into = tl.program_id(0) % tiles * BLOCK_D + tl.arange(0, BLOCK_D)
    length = tl.cdiv(tl.cdiv(N, BLOCK_T), parts) * BLOCK_T
    stop = tl.minimum(N, (part + 1) * length)
    s = tl.arange(0, BLOCK_T)
    source, slot, slots = gates, gate, MATRICES
    if CELL == "gru":
        slot = tl.maximum(gate - 1, 0)
        if gate == 0:
            source, slots = inner, 1
    total = tl.zeros([BLOCK_D, BLOCK_D], tl.float32)
    of_bias = tl.zeros([BLOCK_D], tl.float32)
    for begin in range(part * length, stop, BLOCK_T):
        here = (begin + s < stop)[:, None]
        row = turned.to(tl.int64) * N + begin + s
        d = tl.load(source + ((row * slots + slot) * H + head)[:, None] * D + out[None, :], mask=here & (out < D)[None, :], other=0.0)
        value = tl.load(earlier + (row * H + head)[:, None] * D + into[None, :], mask=here & (into < D)[None, :], other=0.0)
        total = tl.dot(tl.trans(d), value, total, input_precision=PRECISION)
        of_bias += tl.sum(d.to(tl.float32), 0)
    place = part * (tl.num_programs(2) // BIASES) + turned
    at = ((place * MATRICES + gate) * H + head).to(tl.int64) * (D * D) + out[:, None] * D + into[None, :]
    tl.store(grad_R + at, total, mask=(out < D)[:, None] & (into < D)[None, :] & (gate < MATRICES))
    if grad_bias is not None:
        first = tl.program_id(0) % tiles == 0
        tl.store(grad_bias + ((place * BIASES + gate) * H + head) * D + out, of_bias, mask=(out < D) & first)
