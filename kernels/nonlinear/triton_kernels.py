"""Triton kernels of the nonlinear family that run over time. Rows as in ``triton_rows``; in a row the heads, of D units each.

A program runs BLOCK_S sequences of one head together, so that a step's products with R are products of matrices: units are the rows of
these, sequences the columns. Tensor cores want 16 or 64 rows but only 8 columns, and sequences are few.

R is read once and stays in registers or shared memory where TILE is BLOCK_D, the whole width. Where it does not fit, every step
reads it again from the second-level cache, TILE columns at a time; the other factor, which all threads have computed together, then
goes through memory, behind a barrier.
"""

import triton
import triton.language as tl

from ..triton_rows import kernel, row_at, span
from .triton_cells import ahead, back


@triton.jit
def _sequences(cu_seqlens, T, N, S, direction, own, BLOCK_S: tl.constexpr):
    """The program's sequences, all of one direction: which, whether they exist, and what ``span`` says; the direction's number if own."""
    tiles = tl.cdiv(S, BLOCK_S)
    turned = tl.program_id(0) // tiles
    number = (tl.program_id(0) % tiles) * BLOCK_S + tl.arange(0, BLOCK_S)
    sequence = turned * S + tl.minimum(number, S - 1)
    first, step, length, inputs, outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
    return sequence.to(tl.int64), number < S, first, step, tl.where(number < S, length, 0), inputs, outputs, turned * own


@triton.jit
def _at(row, place, WIDTH: tl.constexpr):
    """Where in rows of WIDTH numbers, [units, rows]; ``place``: where in a row the first part of the program's head is, [units, 1]."""
    return row[None, :] * WIDTH + place


@triton.jit
def _load(values, at, mask, COUNT: tl.constexpr, APART: tl.constexpr):
    """COUNT numbers APART from each other; what is beyond, up to four, is the first again."""
    v0 = tl.load(values + at, mask=mask, other=0.0)
    v1, v2, v3 = v0, v0, v0
    if COUNT > 1:
        v1 = tl.load(values + APART + at, mask=mask, other=0.0)
    if COUNT > 2:
        v2 = tl.load(values + 2 * APART + at, mask=mask, other=0.0)
    if COUNT > 3:
        v3 = tl.load(values + 3 * APART + at, mask=mask, other=0.0)
    return v0, v1, v2, v3


@triton.jit
def _store(values, at, mask, v0, v1, v2, v3, COUNT: tl.constexpr, APART: tl.constexpr):
    tl.store(values + at, v0, mask=mask)
    if COUNT > 1:
        tl.store(values + APART + at, v1, mask=mask)
    if COUNT > 2:
        tl.store(values + 2 * APART + at, v2, mask=mask)
    if COUNT > 3:
        tl.store(values + 3 * APART + at, v3, mask=mask)


@triton.jit
def matrix(R, gate, turned, out, into, COUNT: tl.constexpr, H: tl.constexpr, D: tl.constexpr):
    """Values of R [COUNT, H, D_out, D_in], of each direction where it has its own; 0 outside. ``out`` and ``into`` broadcast."""
    at = ((turned * COUNT + gate) * H + tl.program_id(1)).to(tl.int64) * (D * D) + out * D + into
    return tl.load(R + at, mask=(out < D) & (into < D), other=0.0)


@triton.jit
def bias_of(bias, gate, turned, unit, COUNT: tl.constexpr, H: tl.constexpr, D: tl.constexpr):
    """[units] of a bias [COUNT, H, D], of each direction where it has its own."""
    return tl.load(bias + ((turned * COUNT + gate) * H + tl.program_id(1)) * D + unit, mask=unit < D, other=0.0).to(tl.float32)


@triton.jit
def _inputs(x, row, place, mask, CELL: tl.constexpr, MATRICES: tl.constexpr, H: tl.constexpr, D: tl.constexpr):
    """x, or gates, of a step in the order of the gates of R; GRU: the candidate's last, and in the place of the first something."""
    g0, g1, g2, g3 = _load(x, _at(row, place, MATRICES * H * D), mask, MATRICES, H * D)
    if CELL == "gru":
        return g0, g0, g1, g2
    else:
        return g0, g1, g2, g3


@triton.jit
def _added(x0, x1, x2, x3, g0, g1, g2, g3, CELL: tl.constexpr):
    if CELL != "gru":
        g0 += x0.to(tl.float32)
    return g0, g1 + x1.to(tl.float32), g2 + x2.to(tl.float32), g3 + x3.to(tl.float32)


@kernel
def nonlinear_rnn_forward(
    x, R, bias, state, y, before, final, exchange, cu_seqlens, index, T, N, S, direction, own,
    CELL: tl.constexpr, MATRICES: tl.constexpr, BIASES: tl.constexpr, STATES: tl.constexpr, H: tl.constexpr, D: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr, PREFETCH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """x: [N, G, H, D]; y: [N, H, D]; before: the states beside y before each step, [N, STATES - 1, H, D], or None.

    exchange: y between two steps where R is streamed, [2, sequences, H, D] in the type of x; a half for every other step, so that one
    barrier a step is enough.
    """
    sequence, exists, first, step, length, inputs, outputs, turned = _sequences(cu_seqlens, T, N, S, direction, own, BLOCK_S)
    unit = tl.arange(0, BLOCK_D)
    place, exist = (tl.program_id(1) * D + unit)[:, None], (unit < D)[:, None]
    inside = exist & exists[None, :]
    kind: tl.constexpr = x.dtype.element_ty
    half = (S * (tl.num_programs(0) // tl.cdiv(S, BLOCK_S))).to(tl.int64) * (H * D)
    zero = tl.zeros([BLOCK_D, BLOCK_S], tl.float32)
    now, c, n, m = _load(state, _at(sequence, place, STATES * H * D), inside, STATES, H * D)
    b0, b1, b2, b3 = 0.0, 0.0, 0.0, 0.0
    if bias is not None:
        b0 = bias_of(bias, 0, turned, unit, BIASES, H, D)[:, None]
        if BIASES > 1:
            b1 = bias_of(bias, 1, turned, unit, BIASES, H, D)[:, None]
            b2 = bias_of(bias, 2, turned, unit, BIASES, H, D)[:, None]
            b3 = bias_of(bias, 3, turned, unit, BIASES, H, D)[:, None]
    if TILE == BLOCK_D:
        r0 = matrix(R, 0, turned, unit[:, None], unit[None, :], MATRICES, H, D).to(kind)
        if MATRICES > 1:
            r1 = matrix(R, 1, turned, unit[:, None], unit[None, :], MATRICES, H, D).to(kind)
            r2 = matrix(R, 2, turned, unit[:, None], unit[None, :], MATRICES, H, D).to(kind)
        if MATRICES > 3:
            r3 = matrix(R, 3, turned, unit[:, None], unit[None, :], MATRICES, H, D).to(kind)
    else:
        tl.store(exchange + _at(sequence, place, H * D), now, mask=inside)
    row = row_at(index, first, length > 0)
    if PREFETCH:
        x0, x1, x2, x3 = _inputs(x, row + inputs, place, exist & (length > 0)[None, :], CELL, MATRICES, H, D)
    for t in range(0, tl.max(length, 0)):
        here = (t < length)[None, :]
        mask = exist & here
        g0, g1, g2, g3 = zero + b0, zero + b1, zero + b2, zero + b3
        this = row
        row = row_at(index, first + step * (t + 1), t + 1 < length)
        if PREFETCH:
            g0, g1, g2, g3 = _added(x0, x1, x2, x3, g0, g1, g2, g3, CELL)
            after = exist & (t + 1 < length)[None, :]
            x0, x1, x2, x3 = _inputs(x, row + inputs, place, after, CELL, MATRICES, H, D)
        if TILE == BLOCK_D:
            operand = now.to(kind)
            g0 = tl.dot(r0, operand, g0, input_precision=PRECISION)
            if MATRICES > 1:
                g1 = tl.dot(r1, operand, g1, input_precision=PRECISION)
                g2 = tl.dot(r2, operand, g2, input_precision=PRECISION)
            if MATRICES > 3:
                g3 = tl.dot(r3, operand, g3, input_precision=PRECISION)
        else:
            tl.debug_barrier()
            for k in range(0, D, TILE):
                into = k + tl.arange(0, TILE)
                at = _at(sequence, (tl.program_id(1) * D + into)[:, None], H * D)
                operand = tl.load(exchange + (t % 2) * half + at, mask=(into < D)[:, None] & exists[None, :], other=0.0)
                g0 = tl.dot(matrix(R, 0, turned, unit[:, None], into[None, :], MATRICES, H, D), operand, g0, input_precision=PRECISION)
                if MATRICES > 1:
                    r1 = matrix(R, 1, turned, unit[:, None], into[None, :], MATRICES, H, D)
                    r2 = matrix(R, 2, turned, unit[:, None], into[None, :], MATRICES, H, D)
                    g1 = tl.dot(r1, operand, g1, input_precision=PRECISION)
                    g2 = tl.dot(r2, operand, g2, input_precision=PRECISION)
                if MATRICES > 3:
                    r3 = matrix(R, 3, turned, unit[:, None], into[None, :], MATRICES, H, D)
                    g3 = tl.dot(r3, operand, g3, input_precision=PRECISION)
        if not PREFETCH:
            x0, x1, x2, x3 = _inputs(x, this + inputs, place, mask, CELL, MATRICES, H, D)
            g0, g1, g2, g3 = _added(x0, x1, x2, x3, g0, g1, g2, g3, CELL)
        if before is not None:
            _store(before, _at(this + outputs, place, (STATES - 1) * H * D), mask, c, n, m, m, STATES - 1, H * D)
        new, new_c, new_n, new_m = ahead(CELL, g0, g1, g2, g3, now, c, n, m)
        now, c, n, m = tl.where(here, new, now), tl.where(here, new_c, c), tl.where(here, new_n, n), tl.where(here, new_m, m)
        tl.store(y + _at(this + outputs, place, H * D), now, mask=mask)
        if TILE != BLOCK_D:
            tl.store(exchange + ((t + 1) % 2) * half + _at(sequence, place, H * D), now, mask=inside)
    _store(final, _at(sequence, place, STATES * H * D), inside, now, c, n, m, STATES, H * D)


@triton.jit
def _kept(
    gates, inner, earlier, before, grad_y, row, place, mask,
    CELL: tl.constexpr, MATRICES: tl.constexpr, STATES: tl.constexpr, H: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """What the backward reads of a step: gates, states before it, and the gradient of y; what a cell lacks is another's."""
    at = _at(row, place, H * D)
    dy = tl.load(grad_y + at, mask=mask, other=0.0)
    y, c, n, m = dy, dy, dy, dy
    g0, g1, g2, g3 = _inputs(gates, row, place, mask, CELL, MATRICES, H, D)
    if CELL == "gru":
        g0, y = tl.load(inner + at, mask=mask, other=0.0), tl.load(earlier + at, mask=mask, other=0.0)
    if STATES > 1:
        c, n, m, _ = _load(before, _at(row, place, (STATES - 1) * H * D), mask, STATES - 1, H * D)
    return g0, g1, g2, g3, y, c, n, m, dy


@kernel
def nonlinear_rnn_backward(
    R, gates, inner, earlier, before, grad_y, grad_final, grad_state, cu_seqlens, index, T, N, S, direction, own,
    CELL: tl.constexpr, MATRICES: tl.constexpr, STATES: tl.constexpr, H: tl.constexpr, D: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr, TILE: tl.constexpr, PREFETCH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From the last step to the first. gates [N, G, H, D], and inner [N, H, D] for the GRU's recurrent part of the candidate, hold the
    gates before their functions, and afterwards their gradients; earlier: y before each step, [N, H, D], for the GRU."""
    sequence, exists, first, step, length, _, outputs, turned = _sequences(cu_seqlens, T, N, S, direction, own, BLOCK_S)
    unit = tl.arange(0, BLOCK_D)
    place, exist = (tl.program_id(1) * D + unit)[:, None], (unit < D)[:, None]
    inside = exist & exists[None, :]
    kind: tl.constexpr = gates.dtype.element_ty
    tiles: tl.constexpr = (D + TILE - 1) // TILE
    dy, dc, dn, dm = _load(grad_final, _at(sequence, place, STATES * H * D), inside, STATES, H * D)
    if TILE == BLOCK_D:  # transposed: units of y are rows
        r0 = matrix(R, 0, turned, unit[None, :], unit[:, None], MATRICES, H, D).to(kind)
        if MATRICES > 1:
            r1 = matrix(R, 1, turned, unit[None, :], unit[:, None], MATRICES, H, D).to(kind)
            r2 = matrix(R, 2, turned, unit[None, :], unit[:, None], MATRICES, H, D).to(kind)
        if MATRICES > 3:
            r3 = matrix(R, 3, turned, unit[None, :], unit[:, None], MATRICES, H, D).to(kind)
    last = tl.max(length, 0) - 1
    row = row_at(index, first + step * last, last < length) + outputs
    if PREFETCH:
        mask = exist & ((last >= 0) & (last < length))[None, :]
        x0, x1, x2, x3, y, c, n, m, given = _kept(gates, inner, earlier, before, grad_y, row, place, mask, CELL, MATRICES, STATES, H, D)
    for i in range(0, last + 1):
        t = last - i
        here = (t < length)[None, :]
        mask = exist & here
        if not PREFETCH:
            x0, x1, x2, x3, y, c, n, m, given = _kept(gates, inner, earlier, before, grad_y, row, place, mask, CELL, MATRICES, STATES, H, D)
        d0, d1, d2, d3, new_dy, new_dc, new_dn, new_dm = back(
            CELL, x0.to(tl.float32), x1.to(tl.float32), x2.to(tl.float32), x3.to(tl.float32),
            y.to(tl.float32), c.to(tl.float32), n.to(tl.float32), m.to(tl.float32), dy + given.to(tl.float32), dc, dn, dm,
        )  # fmt: skip
        dc, dn, dm = tl.where(here, new_dc, dc), tl.where(here, new_dn, dn), tl.where(here, new_dm, dm)
        out = row
        row = row_at(index, first + step * (t - 1), (t >= 1) & (t - 1 < length)) + outputs
        if PREFETCH:  # on their way while this step's product is computed
            there = exist & ((t >= 1) & (t - 1 < length))[None, :]
            x0, x1, x2, x3, y, c, n, m, given = _kept(
                gates, inner, earlier, before, grad_y, row, place, there, CELL, MATRICES, STATES, H, D
            )
        if CELL == "gru":
            tl.store(inner + _at(out, place, H * D), d0, mask=mask)
            _store(gates, _at(out, place, 3 * H * D), mask, d1, d2, d3, d3, 3, H * D)
        else:
            _store(gates, _at(out, place, MATRICES * H * D), mask, d0, d1, d2, d3, MATRICES, H * D)
        if TILE == BLOCK_D:
            new_dy = tl.dot(r0, d0.to(kind), new_dy, input_precision=PRECISION)
            if MATRICES > 1:
                new_dy = tl.dot(r1, d1.to(kind), new_dy, input_precision=PRECISION)
                new_dy = tl.dot(r2, d2.to(kind), new_dy, input_precision=PRECISION)
            if MATRICES > 3:
                new_dy = tl.dot(r3, d3.to(kind), new_dy, input_precision=PRECISION)
            # only now: Triton 3.8 cannot compile for Blackwell a product that is added to what ``where`` has chosen
            dy = tl.where(here, new_dy, dy)
        else:
            dy = tl.where(here, new_dy, dy)  # steps beyond the end add 0
            tl.debug_barrier()
            for tile in range(0, MATRICES * tiles):
                gate, of = tile // tiles, tile % tiles * TILE + tl.arange(0, TILE)
                source, slot, slots = gates, gate, MATRICES
                if CELL == "gru":
                    slot = tl.maximum(gate - 1, 0)
                    if gate == 0:
                        source, slots = inner, 1
                at = (((out * slots + slot) * H + tl.program_id(1)) * D)[None, :] + of[:, None]
                operand = tl.load(source + at, mask=(of < D)[:, None] & here, other=0.0)
                r = matrix(R, gate, turned, of[None, :], unit[:, None], MATRICES, H, D)
                dy = tl.dot(r, operand, dy, input_precision=PRECISION)
    _store(grad_state, _at(sequence, place, STATES * H * D), inside, dy, dc, dn, dm, STATES, H * D)
