"""Triton kernels of the selective scan. Rows as in ``triton_rows``; the states of all steps exist in registers only.

Sequences are cut into chunks of CHUNK positions (a backward run visits them, and the steps in them, from the last one on). A program
works on one chunk, or on all chunks of a sequence in turn, and on the channels of one block, BLOCK_T steps at a time. Such a tile
has five axes [BLOCK_T, NO, DO, NI, DI]: state n = no · NI + ni, channel d = do · DI + di. Triton lays the last axes over the lanes and
warps and keeps the first in registers: time always, so that a scan needs no exchange between lanes, and NO and DO as far as they can be,
so that sums over states or channels begin in registers.
"""

import triton
import triton.language as tl

from ..triton_rows import kernel, row_at, span
from .triton_chunks import compose, compose_with_previous, first_slot, place, steps_of

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def softplus(x):
    """max(x, 0) + log(1 + e), e = exp(-|x|); the logarithm as 2 atanh(e / (2 + e)), whose relative error stays small where e does."""
    e = tl.exp(-tl.abs(x))
    s = e / (2.0 + e)
    r = s * s  # at most 1/9
    series = 1.0 + r * (1 / 3 + r * (1 / 5 + r * (1 / 7 + r * (1 / 9 + r * (1 / 11 + r * (1 / 13 + r * (1 / 15)))))))
    return tl.maximum(x, 0.0) + 2.0 * s * series


@triton.jit
def channels(block, D: tl.constexpr, G: tl.constexpr, DO: tl.constexpr, DI: tl.constexpr):
    """Block of channels → its group, the number of the block in the group, channels [DO, DI], which of them exist."""
    blocks: tl.constexpr = (D // G + DO * DI - 1) // (DO * DI)
    group, part = block // blocks, block % blocks
    within = part * DO * DI + tl.arange(0, DO)[:, None] * DI + tl.arange(0, DI)[None, :]
    return group, part, group * (D // G) + within, within < D // G


@triton.jit
def states(channel, inside, STATES: tl.constexpr, NO: tl.constexpr, NI: tl.constexpr):
    """States [NO, NI], which exist, and for [NO, DO, NI, DI]: channel, state, mask."""
    n = tl.arange(0, NO)[:, None] * NI + tl.arange(0, NI)[None, :]
    return n, n < STATES, channel[None, :, None, :], n[:, None, :, None], inside[None, :, None, :] & (n < STATES)[:, None, :, None]


@triton.jit
def values(pointer, rows, here, channel, inside, D: tl.constexpr):
    """[positions, DO, DI]; 0 outside."""
    mask = here[:, None, None] & inside[None]
    return tl.load(pointer + rows[:, None, None] * D + channel[None], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def projections(pointer, rows, here, group, n, exists, G: tl.constexpr, STATES: tl.constexpr):
    """[positions, NO, NI]; 0 outside."""
    at = (rows * G + group)[:, None, None] * STATES + n[None]
    return tl.load(pointer + at, mask=here[:, None, None] & exists[None], other=0.0).to(tl.float32)


@triton.jit
def step_sizes(delta, bias, rows, here, channel, inside, D: tl.constexpr, SOFTPLUS: tl.constexpr):
    """Δ [positions, DO, DI], 0 for steps that are not there."""
    size = values(delta, rows, here, channel, inside, D) + bias[None]
    if SOFTPLUS:
        size = softplus(size)
    return tl.where(here[:, None, None], size, 0.0)


@triton.jit
def over_states(tile):
    """[BLOCK_T, NO, DO, NI, DI] → [BLOCK_T, DO, DI]: a sum."""
    return tl.sum(tl.sum(tile, 1), 2)


@triton.jit
def over_channels(tile):
    """[BLOCK_T, NO, DO, NI, DI] → [BLOCK_T, NO, NI]: a sum."""
    return tl.sum(tl.sum(tile, 2), 3)


@triton.jit
def at_channels(value):
    """[BLOCK_T, DO, DI] → [BLOCK_T, 1, DO, 1, DI]."""
    return value[:, None, :, None, :]


@triton.jit
def at_states(value):
    """[BLOCK_T, NO, NI] → [BLOCK_T, NO, 1, NI, 1]."""
    return value[:, :, None, :, None]


@triton.jit
def constants_of(A, bias, turned, d, n, mask, channel, inside, D: tl.constexpr, STATES: tl.constexpr):
    """A log₂e [NO, DO, NI, DI], bias of Δ [DO, DI] (0 when absent), of a direction."""
    rates = tl.load(A + (turned * D + d) * STATES + n, mask=mask, other=0.0) * LOG2_E
    if bias is None:
        return rates, tl.zeros(channel.shape, tl.float32)
    else:
        return rates, tl.load(bias + turned * D + channel, mask=inside, other=0.0)


@triton.jit
def scanned(u, size, rates, B, before, BLOCK_T: tl.constexpr):
    """The states after each step of a tile; ``before`` [NO, DO, NI, DI] is the state before the first."""
    decay = tl.exp2(at_channels(size) * rates[None])
    x = at_channels(size * u) * at_states(B)
    begins = tl.arange(0, BLOCK_T)[:, None, None, None, None] == 0
    _, h = tl.associative_scan((decay, tl.where(begins, x + decay * before[None], x)), 0, compose)
    return h


@triton.jit
def last(tile, BLOCK_T: tl.constexpr):
    """Of the states in a tile those after its last step; steps beyond the end of a chunk change nothing."""
    return tl.sum(tl.where(tl.arange(0, BLOCK_T)[:, None, None, None, None] == BLOCK_T - 1, tile, 0.0), 0)


@kernel
def selective_scan_forward(
    u, delta, A, B, C, skip, z, bias, state, kept, total, y, final, cu_seqlens, index, T, N, S, direction, own,
    D: tl.constexpr, G: tl.constexpr, STATES: tl.constexpr, SOFTPLUS: tl.constexpr, CHUNKED: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK_T: tl.constexpr, NO: tl.constexpr, DO: tl.constexpr, NI: tl.constexpr, DI: tl.constexpr,
):  # fmt: skip
    """u, delta, z, y: [N, D]; A: [D, STATES]; B, C: [N, G, STATES]; skip, bias: [D]; state, final: [S, D, STATES].

    kept: [slots, STATES, D], the states before each chunk: read where CHUNKED, written elsewhere. With ``total`` [slots, D] it holds what
    chunks make of zeros, as ``selective_scan_chunks`` gives it, and programs go through all earlier chunks to the state before theirs.
    """
    sequence, start, step, length, inputs, outputs, slot, low, high = place(CHUNKED, cu_seqlens, T, N, S, direction, own, CHUNK)
    group, _part, channel, inside = channels(tl.program_id(1), D, G, DO, DI)
    n, exists, d5, n5, mask = states(channel, inside, STATES, NO, NI)
    turned = sequence // S * own
    rates, raise_by = constants_of(A, bias, turned, d5, n5, mask, channel, inside, D, STATES)
    at_state, at_kept = (sequence.to(tl.int64) * D + d5) * STATES + n5, n5 * D + d5
    h = tl.zeros([NO, DO, NI, DI], tl.float32)
    if state is not None and (total is not None or not CHUNKED):
        h += tl.load(state + at_state, mask=mask, other=0.0)
    chunks = tl.cdiv(length, CHUNK)
    if total is not None:
        for j in range(0, tl.where(step < 0, chunks - 1 - low, low)):
            before = (slot + tl.where(step < 0, chunks - 1 - j, j)).to(tl.int64)
            sizes = tl.load(total + before * D + d5, mask=inside[None, :, None, :], other=0.0)
            h = tl.exp2(sizes * rates) * h + tl.load(kept + before * (STATES * D) + at_kept, mask=mask, other=0.0)
    t = tl.arange(0, BLOCK_T)
    for k in range(low, high):
        chunk = k if CHUNKED else tl.where(step < 0, high - 1 - k, k)
        if kept is not None and total is None:
            at_chunk = kept + (slot + chunk).to(tl.int64) * (STATES * D) + at_kept
            if CHUNKED:
                h = tl.load(at_chunk, mask=mask, other=0.0)
            else:
                tl.store(at_chunk, h, mask=mask)
        steps, first = steps_of(chunk, start, step, length, CHUNK)
        for begin in range(0, steps, BLOCK_T):
            here = begin + t < steps
            row = row_at(index, first + step * (begin + t), here)
            value = values(u, row + inputs, here, channel, inside, D)
            size = step_sizes(delta, raise_by, row + inputs, here, channel, inside, D, SOFTPLUS)
            tile = scanned(value, size, rates, projections(B, row + inputs, here, group, n, exists, G, STATES), h, BLOCK_T)
            out = over_states(tile * at_states(projections(C, row + inputs, here, group, n, exists, G, STATES)))
            h = last(tile, BLOCK_T)
            if skip is not None:
                out += tl.load(skip + turned * D + channel, mask=inside, other=0.0)[None] * value
            if z is not None:
                gate = values(z, row + inputs, here, channel, inside, D)
                out *= gate * tl.sigmoid(gate)
            tl.store(y + (row + outputs)[:, None, None] * D + channel[None], out, mask=here[:, None, None] & inside[None])
    if not CHUNKED:
        tl.store(final + at_state, h, mask=mask)
    elif total is not None:
        is_last = low == tl.where(step < 0, 0, tl.maximum(chunks - 1, 0))  # in time; an empty sequence has an empty chunk 0
        tl.store(final + at_state, h, mask=mask & is_last)


@kernel
def selective_scan_chunks(
    u, delta, A, B, z, bias, ends, total, cu_seqlens, index, T, N, S, direction, own,
    D: tl.constexpr, G: tl.constexpr, STATES: tl.constexpr, SOFTPLUS: tl.constexpr, BACK: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK_T: tl.constexpr, NO: tl.constexpr, DO: tl.constexpr, NI: tl.constexpr, DI: tl.constexpr,
):  # fmt: skip
    """ends [slots, STATES, D]: what each chunk alone makes of a state of zeros; total [slots, D]: its Σ Δ, which says how it decays others.

    BACK: of gradients, from the chunk's last step to the state before its first. u is then the gradient of y, B is C, and z the gate.
    """
    sequence, start, step, length, inputs, outputs, slot, low, high = place(True, cu_seqlens, T, N, S, direction, own, CHUNK)
    group, _part, channel, inside = channels(tl.program_id(1), D, G, DO, DI)
    n, exists, d5, n5, mask = states(channel, inside, STATES, NO, NI)
    rates, raise_by = constants_of(A, bias, sequence // S * own, d5, n5, mask, channel, inside, D, STATES)
    t = tl.arange(0, BLOCK_T)
    begins = t[:, None, None, None, None] == 0
    for chunk in range(low, high):
        h = tl.zeros([NO, DO, NI, DI], tl.float32)
        sizes = tl.zeros([DO, DI], tl.float32)
        towards = -step if BACK else step
        steps, first = steps_of(chunk, start, towards, length, CHUNK)
        for begin in range(0, steps, BLOCK_T):
            here = begin + t < steps
            row = row_at(index, first + towards * (begin + t), here)
            size = step_sizes(delta, raise_by, row + inputs, here, channel, inside, D, SOFTPLUS)
            vector = projections(B, row + inputs, here, group, n, exists, G, STATES)
            if BACK:
                value = values(u, row + outputs, here, channel, inside, D)
                if z is not None:
                    gate = values(z, row + inputs, here, channel, inside, D)
                    value *= gate * tl.sigmoid(gate)
                decay = tl.exp2(at_channels(size) * rates[None])
                x = at_channels(value) * at_states(vector)
                x = decay * tl.where(begins, x + h[None], x)
                _product, tile = tl.associative_scan((decay, x), 0, compose)
            else:
                tile = scanned(values(u, row + inputs, here, channel, inside, D), size, rates, vector, h, BLOCK_T)
            h = last(tile, BLOCK_T)
            sizes += tl.sum(size, 0)
        at = (slot + chunk).to(tl.int64)
        tl.store(ends + at * (STATES * D) + n5 * D + d5, h, mask=mask)
        tl.store(total + at * D + channel, sizes, mask=inside)


@kernel
def selective_scan_between(
    A, state, total, kept, final, cu_seqlens, T, N, S, direction, own,
    D: tl.constexpr, STATES: tl.constexpr, BACK: tl.constexpr, CHUNK: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """kept [slots, STATES, D]: from what each chunk makes of zeros to the state before it, in place; state, final: [S, D, STATES].

    One program per sequence and BLOCK numbers of the state, BLOCK_C chunks at a time. BACK: against the order of time, for gradients.
    """
    sequence = tl.program_id(0)
    _first, step, length, _inputs, _outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
    slot, chunks = first_slot(sequence, cu_seqlens, T, N, S, CHUNK), tl.cdiv(length, CHUNK)
    number = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside, channel, n = number < STATES * D, number % D, number // D
    at_state = (sequence.to(tl.int64) * D + channel) * STATES + n
    rates = tl.load(A + (sequence // S * own * D + channel) * STATES + n, mask=inside, other=0.0) * LOG2_E
    carried = tl.zeros([BLOCK], tl.float32)
    if state is not None:
        carried += tl.load(state + at_state, mask=inside, other=0.0)
    k = tl.arange(0, BLOCK_C)
    backward = (step > 0) if BACK else (step < 0)
    for begin in range(0, chunks, BLOCK_C):
        here = begin + k < chunks
        at = (slot + tl.where(backward, chunks - 1 - begin - k, begin + k)).to(tl.int64)
        mask = here[:, None] & inside[None, :]
        sizes = tl.load(total + at[:, None] * D + channel[None, :], mask=mask, other=0.0)
        decay = tl.exp2(sizes * rates[None, :])
        x = tl.load(kept + at[:, None] * (STATES * D) + number[None, :], mask=mask, other=0.0)
        begins = (k == 0)[:, None]
        before = tl.where(begins, carried[None, :], 0.0)
        x = tl.where(begins, x + decay * carried[None, :], x)
        ones = tl.full(x.shape, 1.0, tl.float32)
        _product, after, _factor, before = tl.associative_scan((decay, x, ones, before), 0, compose_with_previous)
        tl.store(kept + at[:, None] * (STATES * D) + number[None, :], before, mask=mask)
        carried = tl.sum(tl.where((k == BLOCK_C - 1)[:, None], after, 0.0), 0)
    tl.store(final + at_state, carried, mask=inside)
