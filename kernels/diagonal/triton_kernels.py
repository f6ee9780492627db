"""Triton kernels of the diagonal scan. Rows as in ``triton_rows``, chunks as in ``triton_chunks``.

The backward forms the states again, from those that the forward keeps before each chunk: they are float32, whatever type h is stored in.
"""

import triton
import triton.language as tl

from ..triton_rows import kernel, row_at, span
from .triton_chunks import compose, compose_with_previous, first_slot, place, steps_of


@triton.jit
def load_decay(log_decay, sign, at, mask):
    """1 outside the mask."""
    decay = tl.exp(tl.load(log_decay + at, mask=mask, other=0.0).to(tl.float32))
    if sign is not None:
        decay *= tl.load(sign + at, mask=mask, other=1.0).to(tl.float32)
    return decay


@triton.jit
def one_row(tile, number, ROWS: tl.constexpr):
    """tile[number]"""
    return tl.sum(tl.where(tl.arange(0, ROWS)[:, None] == number, tile, 0.0), 0)


@kernel
def diagonal_scan_forward(
    x, log_decay, sign, state, kept, h, final, cu_seqlens, index, T, N, S, direction, own,
    D: tl.constexpr, CHUNKED: tl.constexpr, CHUNK: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """x, log_decay, sign, h: [N, D]; state, final: [S, D]; kept: [slots, D], states before chunks, read where CHUNKED, else written."""
    sequence, start, step, length, inputs, outputs, slot, low, high = place(CHUNKED, cu_seqlens, T, N, S, direction, own, CHUNK)
    channel = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = channel < D
    at_state = sequence.to(tl.int64) * D + channel
    carried = tl.load(state + at_state, mask=inside, other=0.0)
    t = tl.arange(0, BLOCK_T)
    for k in range(low, high):
        chunk = k if CHUNKED else tl.where(step < 0, high - 1 - k, k)
        at_chunk = (slot + chunk).to(tl.int64) * D + channel
        if CHUNKED:
            carried = tl.load(kept + at_chunk, mask=inside, other=0.0)
        elif kept is not None:
            tl.store(kept + at_chunk, carried, mask=inside)
        steps, first = steps_of(chunk, start, step, length, CHUNK)
        for begin in range(0, steps, BLOCK_T):
            here = begin + t < steps
            mask = here[:, None] & inside[None, :]
            row = row_at(index, first + step * (begin + t), here)
            at = (row + inputs)[:, None] * D + channel[None, :]
            decay = load_decay(log_decay, sign, at, mask)
            value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
            value = tl.where((t == 0)[:, None], value + decay * carried[None, :], value)
            _product, value = tl.associative_scan((decay, value), 0, compose)
            tl.store(h + (row + outputs)[:, None] * D + channel[None, :], value, mask=mask)
            carried = one_row(value, BLOCK_T - 1, BLOCK_T)  # steps beyond the end neither decay nor add
    if not CHUNKED:
        tl.store(final + at_state, carried, mask=inside)


@kernel
def diagonal_scan_chunks(
    x, log_decay, sign, ends, products, cu_seqlens, index, T, N, S, direction, own,
    D: tl.constexpr, BACK: tl.constexpr, CHUNK: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """ends, products [slots, D]: what each chunk alone makes of zeros, and the product of its decays.

    BACK: of gradients, where x is that of h: from the chunk's last step to the state before its first.
    """
    _sequence, start, step, length, inputs, outputs, slot, low, high = place(True, cu_seqlens, T, N, S, direction, own, CHUNK)
    channel = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = channel < D
    t = tl.arange(0, BLOCK_T)
    towards = -step if BACK else step
    for chunk in range(low, high):
        carried, decays = tl.zeros([BLOCK_D], tl.float32), tl.full([BLOCK_D], 1.0, tl.float32)
        steps, first = steps_of(chunk, start, towards, length, CHUNK)
        for begin in range(0, steps, BLOCK_T):
            here = begin + t < steps
            mask = here[:, None] & inside[None, :]
            row = row_at(index, first + towards * (begin + t), here)
            decay = load_decay(log_decay, sign, (row + inputs)[:, None] * D + channel[None, :], mask)
            value = tl.load(x + (row + (outputs if BACK else inputs))[:, None] * D + channel[None, :], mask=mask, other=0.0).to(tl.float32)
            if BACK:
                value *= decay
            tile, value = tl.associative_scan((decay, value), 0, compose)
            over_tile = one_row(tile, BLOCK_T - 1, BLOCK_T)
            carried = one_row(value, BLOCK_T - 1, BLOCK_T) + over_tile * carried
            decays *= over_tile
        at = (slot + chunk).to(tl.int64) * D + channel
        tl.store(ends + at, carried, mask=inside)
        tl.store(products + at, decays, mask=inside)


@kernel
def diagonal_scan_between(
    state, products, kept, final, cu_seqlens, T, N, S, direction, own,
    D: tl.constexpr, BACK: tl.constexpr, CHUNK: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """kept [slots, D]: from what each chunk makes of zeros to the state before it, in place. BACK: against the order of time."""
    sequence = tl.program_id(0)
    _first, step, length, _inputs, _outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
    slot, chunks = first_slot(sequence, cu_seqlens, T, N, S, CHUNK), tl.cdiv(length, CHUNK)
    channel = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = channel < D
    at_state = sequence.to(tl.int64) * D + channel
    carried = tl.load(state + at_state, mask=inside, other=0.0)
    k = tl.arange(0, BLOCK_C)
    begins = (k == 0)[:, None]
    backward = (step > 0) if BACK else (step < 0)
    for begin in range(0, chunks, BLOCK_C):
        mask = (begin + k < chunks)[:, None] & inside[None, :]
        at = (slot + tl.where(backward, chunks - 1 - begin - k, begin + k)).to(tl.int64)[:, None] * D + channel[None, :]
        decay = tl.load(products + at, mask=mask, other=1.0)
        value = tl.load(kept + at, mask=mask, other=0.0)
        value = tl.where(begins, value + decay * carried[None, :], value)
        ones, before = tl.full(value.shape, 1.0, tl.float32), tl.where(begins, carried[None, :], 0.0)
        _product, value, _factor, before = tl.associative_scan((decay, value, ones, before), 0, compose_with_previous)
        tl.store(kept + at, before, mask=mask)
        carried = one_row(value, BLOCK_C - 1, BLOCK_C)
    tl.store(final + at_state, carried, mask=inside)


@kernel
def diagonal_scan_backward(
    x, log_decay, sign, kept, ahead, grad_h, grad_final, grad_x, grad_log_decay, grad_state, cu_seqlens, index, T, N, S, direction, own,
    D: tl.constexpr, CHUNKED: tl.constexpr, CHUNK: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """g_t = grad_h_t + a_{t+1} g_{t+1} is the gradient of x_t. ahead [slots, D]: where CHUNKED, what comes from the steps after chunks.

    A chunk's states are formed twice: from tile to tile, keeping those between tiles, then tile by tile from the last one on.
    """
    TILES: tl.constexpr = CHUNK // BLOCK_T
    sequence, start, step, length, inputs, outputs, slot, low, high = place(CHUNKED, cu_seqlens, T, N, S, direction, own, CHUNK)
    channel = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = channel < D
    at_state = sequence.to(tl.int64) * D + channel
    carried = tl.load(grad_final + at_state, mask=inside, other=0.0)
    t, between = tl.arange(0, BLOCK_T), tl.arange(0, TILES)[:, None]
    begins = (t == 0)[:, None]
    for k in range(low, high):
        chunk = k if CHUNKED else tl.where(step < 0, k, high - 1 - k)
        at_chunk = (slot + chunk).to(tl.int64) * D + channel
        if CHUNKED:
            carried = tl.load(ahead + at_chunk, mask=inside, other=0.0)
        state = tl.load(kept + at_chunk, mask=inside, other=0.0)
        steps, first = steps_of(chunk, start, step, length, CHUNK)
        tiles = tl.cdiv(steps, BLOCK_T)
        before = tl.zeros([TILES, BLOCK_D], tl.float32)  # the states before each tile
        for i in range(0, tiles):
            before = tl.where(between == i, state[None, :], before)
            here = i * BLOCK_T + t < steps
            mask = here[:, None] & inside[None, :]
            at = (row_at(index, first + step * (i * BLOCK_T + t), here) + inputs)[:, None] * D + channel[None, :]
            decay = load_decay(log_decay, sign, at, mask)
            value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
            value = tl.where(begins, value + decay * state[None, :], value)
            _product, value = tl.associative_scan((decay, value), 0, compose)
            state = one_row(value, BLOCK_T - 1, BLOCK_T)
        for back in range(0, tiles):
            i = tiles - 1 - back
            s = i * BLOCK_T + t
            here = s < steps
            mask = here[:, None] & inside[None, :]
            row = row_at(index, first + step * s, here)
            at, at_out = (row + inputs)[:, None] * D + channel[None, :], (row + outputs)[:, None] * D + channel[None, :]
            decay = load_decay(log_decay, sign, at, mask)
            value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
            decayed = tl.where(begins, decay * one_row(before, i, TILES)[None, :], 0.0)
            # decayed becomes a_t h_{t-1}
            _product, value, _factor, decayed = tl.associative_scan((decay, value + decayed, decay, decayed), 0, compose_with_previous)
            later = s + 1 < steps
            row = row_at(index, first + step * (s + 1), later) + inputs
            next_decay = load_decay(log_decay, sign, row[:, None] * D + channel[None, :], later[:, None] & inside[None, :])
            grad = tl.load(grad_h + at_out, mask=mask, other=0.0).to(tl.float32)
            grad = tl.where((t == BLOCK_T - 1)[:, None], grad + next_decay * carried[None, :], grad)
            _product, grad = tl.associative_scan((next_decay, grad), 0, compose, reverse=True)
            tl.store(grad_x + at_out, grad, mask=mask)
            tl.store(grad_log_decay + at_out, grad * decayed, mask=mask)
            carried = one_row(grad, 0, BLOCK_T)
            if i == 0:
                carried *= one_row(decay, 0, BLOCK_T)
    if not CHUNKED:
        tl.store(grad_state + at_state, carried, mask=inside)
