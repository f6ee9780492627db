"""Triton kernels of the complex diagonal scan, whose numbers are pairs (real, imaginary) of float32. Chunks as in ``triton_chunks``."""

import triton
import triton.language as tl

from ..triton_rows import kernel, row_at, span
from .triton_chunks import first_slot, place, steps_of
from .triton_kernels import one_row


@triton.jit
def load_pair(pointer, at, mask, other):
    """``other`` is real."""
    return tl.load(pointer + 2 * at, mask=mask, other=other), tl.load(pointer + 2 * at + 1, mask=mask, other=0.0)


@triton.jit
def store_pair(pointer, at, real, imaginary, mask):
    tl.store(pointer + 2 * at, real, mask=mask)
    tl.store(pointer + 2 * at + 1, imaginary, mask=mask)


@triton.jit
def product(a, a_i, b, b_i):
    return a * b - a_i * b_i, a * b_i + a_i * b


@triton.jit
def compose_pairs(decay, decay_i, x, x_i, later, later_i, later_x, later_xi):
    both, both_i = product(later, later_i, decay, decay_i)
    carried, carried_i = product(later, later_i, x, x_i)
    return both, both_i, carried + later_x, carried_i + later_xi


@triton.jit
def scanned(decay, decay_i, x, x_i, carried, carried_i, begins):
    """h_t = decay_t h_{t-1} + x_t down a tile, from ``carried`` on."""
    first, first_i = product(decay, decay_i, carried[None, :], carried_i[None, :])
    x, x_i = tl.where(begins, x + first, x), tl.where(begins, x_i + first_i, x_i)
    _decay, _decay_i, x, x_i = tl.associative_scan((decay, decay_i, x, x_i), 0, compose_pairs)
    return x, x_i


@kernel
def complex_diagonal_scan_forward(
    x, decay, state, kept, h, final, cu_seqlens, index, T, N, S, direction, own,
    D: tl.constexpr, CHUNKED: tl.constexpr, CHUNK: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """x, decay, h: [N, D, 2]; state, final: [S, D, 2]; kept: [slots, D, 2], the states before chunks, where CHUNKED."""
    sequence, start, step, length, inputs, outputs, slot, low, high = place(CHUNKED, cu_seqlens, T, N, S, direction, own, CHUNK)
    channel = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = channel < D
    at_state = sequence.to(tl.int64) * D + channel
    last, last_i = load_pair(state, at_state, inside, 0.0)
    t = tl.arange(0, BLOCK_T)
    for k in range(low, high):
        chunk = k if CHUNKED else tl.where(step < 0, high - 1 - k, k)
        if CHUNKED:
            last, last_i = load_pair(kept, (slot + chunk).to(tl.int64) * D + channel, inside, 0.0)
        steps, first = steps_of(chunk, start, step, length, CHUNK)
        for begin in range(0, steps, BLOCK_T):
            here = begin + t < steps
            mask = here[:, None] & inside[None, :]
            row = row_at(index, first + step * (begin + t), here)
            at = (row + inputs)[:, None] * D + channel[None, :]
            a, a_i = load_pair(decay, at, mask, 1.0)
            value, value_i = load_pair(x, at, mask, 0.0)
            value, value_i = scanned(a, a_i, value, value_i, last, last_i, (t == 0)[:, None])
            store_pair(h, (row + outputs)[:, None] * D + channel[None, :], value, value_i, mask)
            last, last_i = one_row(value, BLOCK_T - 1, BLOCK_T), one_row(value_i, BLOCK_T - 1, BLOCK_T)
    if not CHUNKED:
        store_pair(final, at_state, last, last_i, inside)


@kernel
def complex_diagonal_scan_chunks(
    x, decay, ends, products, cu_seqlens, index, T, N, S, direction, own,
    D: tl.constexpr, BACK: tl.constexpr, CHUNK: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """As ``diagonal_scan_chunks``; gradients are decayed by the conjugates. ends, products: [slots, D, 2]."""
    _sequence, start, step, length, inputs, outputs, slot, low, high = place(True, cu_seqlens, T, N, S, direction, own, CHUNK)
    channel = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = channel < D
    t = tl.arange(0, BLOCK_T)
    towards = -step if BACK else step
    for chunk in range(low, high):
        last, last_i = tl.zeros([BLOCK_D], tl.float32), tl.zeros([BLOCK_D], tl.float32)
        all_a, all_ai = tl.full([BLOCK_D], 1.0, tl.float32), tl.zeros([BLOCK_D], tl.float32)
        steps, first = steps_of(chunk, start, towards, length, CHUNK)
        for begin in range(0, steps, BLOCK_T):
            here = begin + t < steps
            mask = here[:, None] & inside[None, :]
            row = row_at(index, first + towards * (begin + t), here)
            a, a_i = load_pair(decay, (row + inputs)[:, None] * D + channel[None, :], mask, 1.0)
            value, value_i = load_pair(x, (row + (outputs if BACK else inputs))[:, None] * D + channel[None, :], mask, 0.0)
            if BACK:
                a_i = -a_i
                value, value_i = product(a, a_i, value, value_i)
            a, a_i, value, value_i = tl.associative_scan((a, a_i, value, value_i), 0, compose_pairs)
            over, over_i = one_row(a, BLOCK_T - 1, BLOCK_T), one_row(a_i, BLOCK_T - 1, BLOCK_T)
            last, last_i = product(over, over_i, last, last_i)
            last, last_i = last + one_row(value, BLOCK_T - 1, BLOCK_T), last_i + one_row(value_i, BLOCK_T - 1, BLOCK_T)
            all_a, all_ai = product(over, over_i, all_a, all_ai)
        at = (slot + chunk).to(tl.int64) * D + channel
        store_pair(ends, at, last, last_i, inside)
        store_pair(products, at, all_a, all_ai, inside)


@kernel
def complex_diagonal_scan_between(
    state, products, kept, final, cu_seqlens, T, N, S, direction, own,
    D: tl.constexpr, BACK: tl.constexpr, CHUNK: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """kept [slots, D, 2]: from what each chunk makes of zeros to the state before it, in place. BACK: against the order of time."""
    sequence = tl.program_id(0)
    _first, step, length, _inputs, _outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
    slot, chunks = first_slot(sequence, cu_seqlens, T, N, S, CHUNK), tl.cdiv(length, CHUNK)
    channel = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = channel < D
    at_state = sequence.to(tl.int64) * D + channel
    last, last_i = load_pair(state, at_state, inside, 0.0)
    k = tl.arange(0, BLOCK_C)[:, None]
    backward = (step > 0) if BACK else (step < 0)
    for begin in range(0, chunks, BLOCK_C):
        mask = (begin + k < chunks) & inside[None, :]
        at = (slot + tl.where(backward, chunks - 1 - begin - k, begin + k)).to(tl.int64) * D + channel[None, :]
        a, a_i = load_pair(products, at, mask, 1.0)
        value, value_i = load_pair(kept, at, mask, 0.0)
        for j in tl.static_range(BLOCK_C):  # a row of the tile becomes the state before its chunk
            x, x_i = one_row(value, j, BLOCK_C), one_row(value_i, j, BLOCK_C)
            value, value_i = tl.where(k == j, last[None, :], value), tl.where(k == j, last_i[None, :], value_i)
            last, last_i = product(one_row(a, j, BLOCK_C), one_row(a_i, j, BLOCK_C), last, last_i)
            last, last_i = last + x, last_i + x_i
        store_pair(kept, at, value, value_i, mask)
    store_pair(final, at_state, last, last_i, inside)


@kernel
def complex_diagonal_scan_backward(
    decay, state, h, ahead, grad_h, grad_final, grad_x, grad_decay, grad_state, cu_seqlens, index, T, N, S, direction, own,
    D: tl.constexpr, CHUNKED: tl.constexpr, CHUNK: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """g_t = grad_h_t + conj(a_{t+1}) g_{t+1} is the gradient of x_t, that of a_t is g_t conj(h_{t-1}); chunks run from their last step on.

    ahead [slots, D, 2]: where CHUNKED, what comes from the steps after chunks.
    """
    sequence, start, step, length, inputs, outputs, slot, low, high = place(CHUNKED, cu_seqlens, T, N, S, direction, own, CHUNK)
    channel = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = channel < D
    at_state = sequence.to(tl.int64) * D + channel
    last, last_i = load_pair(grad_final, at_state, inside, 0.0)
    start_h, start_hi = load_pair(state, at_state, inside, 0.0)
    s = tl.arange(0, BLOCK_T)
    for k in range(low, high):
        chunk = k if CHUNKED else tl.where(step < 0, k, high - 1 - k)
        if CHUNKED:
            last, last_i = load_pair(ahead, (slot + chunk).to(tl.int64) * D + channel, inside, 0.0)
        steps, first = steps_of(chunk, start, -step, length, CHUNK)
        for begin in range(0, steps, BLOCK_T):
            here = begin + s < steps
            mask = here[:, None] & inside[None, :]
            position = first - step * (begin + s)
            row = row_at(index, position, here)
            at, at_out = (row + inputs)[:, None] * D + channel[None, :], (row + outputs)[:, None] * D + channel[None, :]
            later = here & (begin + s > 0)  # the chunk's last step takes what comes in as it is
            next_row = row_at(index, position + step, later) + inputs
            a, a_i = load_pair(decay, next_row[:, None] * D + channel[None, :], later[:, None] & inside[None, :], 1.0)
            grad, grad_i = load_pair(grad_h, at_out, mask, 0.0)
            grad, grad_i = scanned(a, -a_i, grad, grad_i, last, last_i, (s == 0)[:, None])
            store_pair(grad_x, at_out, grad, grad_i, mask)
            earlier = position - step
            known = here & (earlier >= start) & (earlier < start + length)
            at = (row_at(index, earlier, known) + outputs)[:, None] * D + channel[None, :]
            before, before_i = load_pair(h, at, known[:, None] & inside[None, :], 0.0)
            before, before_i = tl.where(known[:, None], before, start_h[None, :]), tl.where(known[:, None], before_i, start_hi[None, :])
            before, before_i = product(grad, grad_i, before, -before_i)
            store_pair(grad_decay, at_out, before, before_i, mask)
            last, last_i = one_row(grad, BLOCK_T - 1, BLOCK_T), one_row(grad_i, BLOCK_T - 1, BLOCK_T)
        # steps beyond the chunk's first one have left its gradient as it was; its own decay is still to come
        row = row_at(index, first - step * (steps - 1), steps > 0) + inputs
        a, a_i = load_pair(decay, row * D + channel, inside & (steps > 0), 1.0)
        last, last_i = product(a, -a_i, last, last_i)
    if not CHUNKED:
        store_pair(grad_state, at_state, last, last_i, inside)
