"""The backward of the selective scan. Layout and helpers as in ``triton_selective_kernels``."""

import triton
import triton.language as tl

from ..triton_rows import kernel, row_at
from .triton_chunks import compose_with_previous, place, steps_of
from .triton_selective_kernels import (
    at_channels,
    at_states,
    channels,
    constants_of,
    last,
    over_channels,
    over_states,
    projections,
    scanned,
    states,
    step_sizes,
    values,
)

LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def one_step(tile, step, BLOCK_T: tl.constexpr):
    """tile[step]; free of cost, since time lies in registers and ``step`` is known to the compiler."""
    return tl.sum(tl.where(tl.arange(0, BLOCK_T)[:, None, None, None, None] == step, tile, 0.0), 0)


@kernel
def selective_scan_backward(
    u, delta, A, B, C, skip, z, bias, kept, ahead, grad_y, grad_final, grad_u, grad_delta, grad_z, grad_B, grad_C, parts, grad_state,
    cu_seqlens, index, T, N, S, direction, own,
    D: tl.constexpr, G: tl.constexpr, STATES: tl.constexpr, SOFTPLUS: tl.constexpr, CHUNKED: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK_T: tl.constexpr, NO: tl.constexpr, DO: tl.constexpr, NI: tl.constexpr, DI: tl.constexpr,
):  # fmt: skip
    """kept, ahead: [slots, STATES, D], states before chunks, and where CHUNKED gradients of those after them.

    grad_B, grad_C: [blocks, N, G, STATES], a part per block of a group's channels; parts: [programs, STATES + 2, D], the gradients of A,
    skip and bias from each program on the first axis of the grid. Other gradients are shaped as their values.
    A chunk's states are formed twice: from tile to tile, keeping those between tiles, then tile by tile from the last one on.
    """
    TILES: tl.constexpr = CHUNK // BLOCK_T
    sequence, start, step, length, inputs, outputs, slot, low, high = place(CHUNKED, cu_seqlens, T, N, S, direction, own, CHUNK)
    group, part, channel, inside = channels(tl.program_id(1), D, G, DO, DI)
    n, exists, d5, n5, mask = states(channel, inside, STATES, NO, NI)
    turned = sequence // S * own
    rates, raise_by = constants_of(A, bias, turned, d5, n5, mask, channel, inside, D, STATES)
    at_state, at_kept = (sequence.to(tl.int64) * D + d5) * STATES + n5, n5 * D + d5
    rows_out = tl.where((direction == 2), 2, 1).to(tl.int64) * N  # rows of outputs and gradients
    t, between = tl.arange(0, BLOCK_T), tl.arange(0, TILES)[:, None, None, None, None]
    carried = tl.zeros([NO, DO, NI, DI], tl.float32)  # the gradient of the state after the steps still to come
    if not CHUNKED:
        carried += tl.load(grad_final + at_state, mask=mask, other=0.0)
    grad_A = tl.zeros([NO, DO, NI, DI], tl.float32)
    grad_skip, grad_bias = tl.zeros([DO, DI], tl.float32), tl.zeros([DO, DI], tl.float32)
    for k in range(low, high):
        chunk = k if CHUNKED else tl.where(step < 0, k, high - 1 - k)
        at_chunk = (slot + chunk).to(tl.int64) * (STATES * D) + at_kept
        if CHUNKED:
            carried = tl.load(ahead + at_chunk, mask=mask, other=0.0)
        h = tl.load(kept + at_chunk, mask=mask, other=0.0)
        steps, first = steps_of(chunk, start, step, length, CHUNK)
        tiles = tl.cdiv(steps, BLOCK_T)
        before = tl.zeros([TILES, NO, DO, NI, DI], tl.float32)  # the states before each tile
        for i in range(0, tiles):
            before = tl.where(between == i, h[None], before)
            here = i * BLOCK_T + t < steps
            row = row_at(index, first + step * (i * BLOCK_T + t), here) + inputs
            size = step_sizes(delta, raise_by, row, here, channel, inside, D, SOFTPLUS)
            value, vector = values(u, row, here, channel, inside, D), projections(B, row, here, group, n, exists, G, STATES)
            h = last(scanned(value, size, rates, vector, h, BLOCK_T), BLOCK_T)
        for back in range(0, tiles):
            i = tiles - 1 - back
            here = i * BLOCK_T + t < steps
            row = row_at(index, first + step * (i * BLOCK_T + t), here)
            row_in, row_out = row + inputs, row + outputs
            out_mask = here[:, None, None] & inside[None]
            at_out = row_out[:, None, None] * D + channel[None]
            size = step_sizes(delta, raise_by, row_in, here, channel, inside, D, SOFTPLUS)
            value = values(u, row_in, here, channel, inside, D)
            vector = projections(B, row_in, here, group, n, exists, G, STATES)
            query = projections(C, row_in, here, group, n, exists, G, STATES)
            decay = tl.exp2(at_channels(size) * rates[None])
            begins = t[:, None, None, None, None] == 0
            decayed = tl.where(begins, decay * tl.sum(tl.where(between == i, before, 0.0), 0)[None], 0.0)
            x = at_channels(size * value) * at_states(vector) + decayed
            # h: states after the steps; decayed: a_t h_{t-1}
            _product, tile, _factor, decayed = tl.associative_scan((decay, x, decay, decayed), 0, compose_with_previous)

            given = values(grad_y, row_out, here, channel, inside, D)
            if z is not None:
                gate = values(z, row_in, here, channel, inside, D)
                open_by = tl.sigmoid(gate)
                ungated = over_states(tile * at_states(query))
                if skip is not None:
                    ungated += tl.load(skip + turned * D + channel, mask=inside, other=0.0)[None] * value
                grad_gate = given * ungated * open_by * (1.0 + gate * (1.0 - open_by))
                tl.store(grad_z + at_out, grad_gate, mask=out_mask)
                given *= gate * open_by
            grad_query = over_channels(tile * at_channels(given))
            grad = at_channels(given) * at_states(query)
            for j in tl.static_range(BLOCK_T):
                now = one_step(grad, BLOCK_T - 1 - j, BLOCK_T) + carried
                grad = tl.where(t[:, None, None, None, None] == BLOCK_T - 1 - j, now[None], grad)
                carried = one_step(decay, BLOCK_T - 1 - j, BLOCK_T) * now

            decayed *= grad  # the gradient of the exponent Δ A
            grad_input = over_states(grad * at_states(vector))  # of Δ u
            grad_size = value * grad_input + over_states(decayed * rates[None]) * LN_2
            grad_A += tl.sum(decayed * at_channels(size), 0)
            grad_vector = over_channels(grad * at_channels(size * value))
            grad_value = size * grad_input
            if skip is not None:
                grad_value += tl.load(skip + turned * D + channel, mask=inside, other=0.0)[None] * given
                grad_skip += tl.sum(given * value, 0)
            if SOFTPLUS:
                grad_size *= tl.sigmoid(values(delta, row_in, here, channel, inside, D) + raise_by[None])
            if bias is not None:
                grad_bias += tl.sum(tl.where(here[:, None, None], grad_size, 0.0), 0)
            tl.store(grad_u + at_out, grad_value, mask=out_mask)
            tl.store(grad_delta + at_out, grad_size, mask=out_mask)
            at_group = ((part * rows_out + row_out) * G + group)[:, None, None] * STATES + n[None]
            tl.store(grad_B + at_group, grad_vector, mask=here[:, None, None] & exists[None])
            tl.store(grad_C + at_group, grad_query, mask=here[:, None, None] & exists[None])
    at_part = parts + tl.program_id(0).to(tl.int64) * ((STATES + 2) * D)
    tl.store(at_part + at_kept, grad_A, mask=mask)
    if skip is not None:
        tl.store(at_part + STATES * D + channel, grad_skip, mask=inside)
    if bias is not None:
        tl.store(at_part + (STATES + 1) * D + channel, grad_bias, mask=inside)
    if not CHUNKED:
        tl.store(grad_state + at_state, carried, mask=mask)
