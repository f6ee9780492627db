"""Triton kernels of mLSTM, backward. Names and layouts as in ``triton_mlstm_kernels``.

C, n and p are scaled by e^{-m}, which cancels in h but beside eps: so maxima count as constants here, and the gradient that is theirs,
of eps and of the final states, is a recurrence of its own (``pull``), through the steps at which a maximum is the decayed one before it.

The gradient of log f at step u is the sum of all products, of a query with an earlier key or state, whose decay has that step in it:
inside a chunk Σ_{t ≥ u} of what queries got, less Σ_{s ≥ u} of what keys got from queries of the chunk, and Σ_{s < u} of what keys got from
the state's gradient at the chunk's end, and what the state before the chunk got from it. No large sums cancel across chunks.
"""

import triton
import triton.language as tl

from ..triton_rows import kernel, row_at, span
from .triton_mlstm_kernels import floor_of, load_keys, load_queries, load_scalar, log_gates, steps_at, weights
from .triton_tiles import chunk_at, dot_left, first_slot, load_tile, operand, rows_at, state_tile, tile_at


@triton.jit
def chained(kept, pull, other_kept, other_pull):
    return kept * other_kept, other_kept * pull + other_pull


@triton.jit
def load_factors(inverse, grad_projected, at, here, DIVIDE: tl.constexpr):
    """1 / (max(|p|, e^{-m}) + eps) and the gradient of p."""
    if DIVIDE:
        return tl.load(inverse + at, mask=here, other=0.0), tl.load(grad_projected + at, mask=here, other=0.0)
    else:
        return tl.full(at.shape, 1.0, tl.float32), tl.zeros(at.shape, tl.float32)


@kernel
def mlstm_backward_states(
    q, h, grad_h, input_gate, forget_gate, C, n, last_C, last_n, states, norms, maxima, coarse, late, maximum, projected,
    grad_last_C, grad_last_n, grad_last_m, grad_states, grad_norms, grad_projected, inverse, pull, tails, grad_C, grad_n, grad_m,
    scale, eps, cu_seqlens, index, T, N, S, direction, own,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, EXPONENTIAL: tl.constexpr, DIVIDE: tl.constexpr, CHUNK: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """→ the gradients of C and n at each chunk's end, of p [H, N], ``inverse`` and ``pull`` [H, N], and those of the initial states.

    ``tails`` [tiles, slots, H]: what the state before a chunk gets from the gradient at its end. ``grad_m``: [tiles, S, H], to be summed.
    One program per sequence, head and tile of the state, from the last step to the first; the first tile's one does what is of steps."""
    sequence, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    key, value = part // tl.cdiv(V, BV) * BK, part % tl.cdiv(V, BV) * BV
    first, step, length, inputs, outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
    at_state = sequence.to(tl.int64) * H + head
    offset, mask = state_tile(key, value, K, V, BK, BV)
    keys = key + tl.arange(0, BK)
    grad_memory, grad_norm, incoming = tl.zeros([BK, BV], tl.float32), tl.zeros([BK], tl.float32), 0.0
    if grad_last_C is not None:
        grad_memory = tl.load(grad_last_C + at_state * K * V + offset, mask=mask, other=0.0).to(tl.float32)
        grad_norm = tl.load(grad_last_n + at_state * K + keys, mask=keys < K, other=0.0).to(tl.float32)
        if EXPONENTIAL and part == 0:
            incoming = _last_maximum(last_C, last_n, grad_last_C, grad_last_n, grad_last_m, at_state, K, V, BK, BV)
    slot = first_slot(sequence, cu_seqlens, T, N, S, CHUNK)
    slots = slots_behind(cu_seqlens, T, N, S, direction, CHUNK)
    tiles = tl.cdiv(length, BT)
    for i in range(0, tiles):
        begin = (tiles - 1 - i) * BT
        within = begin % CHUNK > 0
        at_slot = (slot + begin // CHUNK).to(tl.int64) * H + head
        at_end = steps_at(first + step * (tl.minimum(begin + BT, length) - 1), outputs, head, N, direction)
        large_end, end = tl.load(coarse + at_end), tl.load(late + at_end)
        start = load_scalar(maxima, at_slot, EXPONENTIAL)
        if (i == 0) | ((begin + BT) % CHUNK == 0):
            tl.store(grad_states + at_slot * K * V + offset, grad_memory, mask=mask)
            state = tl.load(states + at_slot * K * V + offset, mask=mask, other=0.0).to(tl.float32)
            tail = tl.sum(state * grad_memory)
            if value == 0:
                tl.store(grad_norms + at_slot * K + keys, grad_norm, mask=keys < K)
                tail += tl.sum(tl.load(norms + at_slot * K + keys, mask=keys < K, other=0.0) * grad_norm)
            tl.store(tails + part * (slots.to(tl.int64) * H) + at_slot, tail * tl.exp(large_end + (end + start)))
        at_before = steps_at(first + step * (begin - 1), outputs, head, N, direction)
        large_before = tl.load(coarse + at_before, mask=within, other=0.0)
        before = tl.where(within, tl.load(late + at_before, mask=within, other=0.0), -start)
        row, here = rows_at(begin, length, first, step, index, BT)
        at = steps_at(first + step * (begin + tl.arange(0, BT)), outputs, head, N, direction)
        large, behind = load_queries(coarse, late, at, here)
        weight = scale * tl.exp(tl.where(here, (large - large_before) + (behind - before), -float("inf")))
        kept = tl.exp((large_end - large_before) + (end - before))
        p = tl.load(projected + at, mask=here, other=1.0)
        floor = floor_of(maximum, at, here, EXPONENTIAL)
        divided = tl.full([BT], 1.0, tl.float32)
        if DIVIDE:
            divided = 1.0 / (tl.maximum(tl.abs(p), floor) + eps)
        queries = load_tile(q, row + inputs, here, head, key, H, K, BK).to(tl.float32)
        grads = operand(load_tile(grad_h, row + outputs, here, head, value, H, V, BV))
        weighted = queries * (weight * divided)[:, None]
        grad_memory = dot_left(tl.trans(weighted), grads, grad_memory * kept, PRECISION)
        if DIVIDE:
            if value == 0:
                given = tl.zeros([BT], tl.float32)
                for column in range(0, V, BV):
                    out = load_tile(h, row + outputs, here, head, column, H, V, BV).to(tl.float32)
                    given += tl.sum(out * load_tile(grad_h, row + outputs, here, head, column, H, V, BV).to(tl.float32), 1)
                of_divisor = -given * divided
                of_p = tl.where(tl.abs(p) > floor, tl.where(p > 0, of_divisor, -of_divisor), 0.0)
                grad_norm = grad_norm * kept + tl.sum(queries * (weight * of_p)[:, None], 0)
                if key == 0:
                    tl.store(grad_projected + at, of_p, mask=here)
                    tl.store(inverse + at, divided, mask=here)
                    if EXPONENTIAL:
                        before = tl.where(within, tl.load(maximum + at_before, mask=within, other=0.0), start)
                        incoming = _pulled(
                            input_gate, forget_gate, maximum, pull, eps * of_divisor, before, at, here, incoming, begin, first, step,
                            length, inputs, index, head, H, BT,
                        )  # fmt: skip
        else:
            grad_norm *= kept
    if grad_C is not None:
        tl.store(grad_C + at_state * K * V + offset, grad_memory, mask=mask)
        if value == 0:
            tl.store(grad_n + at_state * K + keys, grad_norm, mask=keys < K)
        if EXPONENTIAL:
            got = incoming + tl.sum(tl.load(C + at_state * K * V + offset, mask=mask, other=0.0).to(tl.float32) * grad_memory)
            if value == 0:
                got += tl.sum(tl.load(n + at_state * K + keys, mask=keys < K, other=0.0).to(tl.float32) * grad_norm)
            tl.store(grad_m + part * (tl.num_programs(0).to(tl.int64) * H) + at_state, got)


@triton.jit
def slots_behind(cu_seqlens, T, N, S, direction, CHUNK: tl.constexpr):
    """Slots of all directions."""
    slots = S * tl.cdiv(T, CHUNK)
    if cu_seqlens is not None:
        slots = N // CHUNK + S
    return tl.where(direction == 2, 2, 1) * slots


@triton.jit
def _last_maximum(
    last_C, last_n, grad_last_C, grad_last_n, grad_last_m, at_state, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr
):
    """Gradient of the last maximum, which also scales the last C and n."""
    found = tl.load(grad_last_m + at_state).to(tl.float32)
    for key in range(0, K, BK):
        keys = key + tl.arange(0, BK)
        norm = tl.load(last_n + at_state * K + keys, mask=keys < K, other=0.0)
        found -= tl.sum(norm * tl.load(grad_last_n + at_state * K + keys, mask=keys < K, other=0.0).to(tl.float32))
        for value in range(0, V, BV):
            offset, mask = state_tile(key, value, K, V, BK, BV)
            memory = tl.load(last_C + at_state * K * V + offset, mask=mask, other=0.0)
            found -= tl.sum(memory * tl.load(grad_last_C + at_state * K * V + offset, mask=mask, other=0.0).to(tl.float32))
    return found


@triton.jit
def _pulled(
    input_gate, forget_gate, maximum, pull, of_m, before, at, here, incoming, begin, first, step, length, inputs, index, head,
    H: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """Stores the whole gradient of each m of a tile; returns what goes on to the m before it."""
    row, there = rows_at(begin + 1, tl.minimum(begin + BT, length), first, step, index, BT)
    gate, log_forget = log_gates(input_gate, forget_gate, (row + inputs) * H + head, there, True)
    now = tl.load(maximum + at, mask=here, other=0.0)
    kept = tl.where(log_forget + now >= gate, 1.0, 0.0)  # whether the next maximum is this one, decayed; 1 for a tile's last step
    kept, found = tl.associative_scan((kept, tl.where(here, of_m, 0.0)), 0, chained, reverse=True)
    found += kept * incoming
    tl.store(pull + at, found, mask=here)
    row = row_at(index, first + step * begin, begin < length) + inputs
    gate, log_forget = log_gates(input_gate, forget_gate, row * H + head, begin < length, True)
    total = tl.sum(tl.where(tl.arange(0, BT) == 0, found, 0.0), 0)
    return tl.where(log_forget + before >= gate, total, 0.0)


@kernel
def mlstm_backward_inputs(
    q, k, v, grad_h, states, norms, maxima, coarse, late, early, grad_states, grad_norms, grad_projected, inverse,
    grad_q, grad_k, grad_v, flows, scale, cu_seqlens, index, T, N, S, direction, own,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, EXPONENTIAL: tl.constexpr, DIVIDE: tl.constexpr, CHUNK: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """→ grad_q, grad_k, grad_v, and for each tile of keys ``flows`` [tiles, 3, H, N]: q · grad_q, k · grad_k by queries of the chunk, and
    k · grad_k by the state's gradient. One program per tile of steps, head, and tile of grad_q's, grad_k's or grad_v's columns."""
    TILES: tl.constexpr = CHUNK // BT
    KEY_TILES: tl.constexpr = (K + BK - 1) // BK
    slot, tile = tl.program_id(0) // TILES, tl.program_id(0) % TILES
    head, part = tl.program_id(1), tl.program_id(2)
    sequence, chunk = chunk_at(slot, cu_seqlens, T, N, S, CHUNK)
    first, step, length, inputs, outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
    begin = chunk * CHUNK + tile * BT
    stop = tl.minimum((chunk + 1) * CHUNK, length)
    at_slot = slot.to(tl.int64) * H + head
    if begin < length:
        if part < KEY_TILES:
            start = load_scalar(maxima, at_slot, EXPONENTIAL)
            _queries(
                q, k, v, grad_h, states, norms, coarse, late, early, grad_projected, inverse, grad_q, flows, scale, start, index,
                N, direction, at_slot, part * BK, chunk * CHUNK, begin, first, step, length, inputs, outputs, head,
                H, K, V, DIVIDE, BT, BK, BV, PRECISION,
            )  # fmt: skip
        else:
            row, here = rows_at(begin, length, first, step, index, BT)
            t = begin + tl.arange(0, BT)
            large, ahead = load_keys(coarse, early, steps_at(first + step * t, outputs, head, N, direction), here)
            at_end = steps_at(first + step * (stop - 1), outputs, head, N, direction)
            to_end = tl.exp((tl.load(coarse + at_end) - large) + (tl.load(late + at_end) + ahead))
            if part < 2 * KEY_TILES:
                _keys(
                    q, k, v, grad_h, coarse, late, grad_states, grad_norms, grad_projected, inverse, grad_k, flows, scale, index, N,
                    direction, row, here, t, large, ahead, to_end, at_slot, (part - KEY_TILES) * BK, begin, stop, first, step, length,
                    inputs, outputs, head, H, K, V, DIVIDE, BT, BK, BV, PRECISION,
                )  # fmt: skip
            else:
                _values(
                    q, k, grad_h, coarse, late, grad_states, grad_projected, inverse, grad_v, scale, index, N, direction, row, here, t,
                    large, ahead, to_end, at_slot, (part - 2 * KEY_TILES) * BV, begin, stop, first, step, length, inputs, outputs,
                    head, H, K, V, DIVIDE, BT, BK, BV, PRECISION,
                )  # fmt: skip


@triton.jit
def flow_at(column, position, outputs, head, N, direction, WHICH: tl.constexpr, H: tl.constexpr, BK: tl.constexpr):
    size = H * tl.where(direction == 2, 2, 1) * N.to(tl.int64)
    return (column // BK * 3 + WHICH) * size + steps_at(position, outputs, head, N, direction)


@triton.jit
def _queries(
    q, k, v, grad_h, states, norms, coarse, late, early, grad_projected, inverse, grad_q, flows, scale, start, index,
    N, direction, at_slot, key, chunk_begin, begin, first, step, length, inputs, outputs, head,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, DIVIDE: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row, here = rows_at(begin, length, first, step, index, BT)
    t = begin + tl.arange(0, BT)
    at = steps_at(first + step * t, outputs, head, N, direction)
    large, behind = load_queries(coarse, late, at, here)
    divided, of_p = load_factors(inverse, grad_projected, at, here, DIVIDE)
    found = tl.zeros([BT, BK], tl.float32)
    for value in range(0, V, BV):
        grads = operand(load_tile(grad_h, row + outputs, here, head, value, H, V, BV))
        offset, mask = state_tile(key, value, K, V, BK, BV)
        state = tl.load(states + at_slot * K * V + offset, mask=mask, other=0.0).to(grads.dtype)
        found = tl.dot(grads, tl.trans(state), found, input_precision=PRECISION)
    keys = key + tl.arange(0, BK)
    norm = tl.load(norms + at_slot * K + keys, mask=keys < K, other=0.0)
    decay = tl.exp(tl.where(here, large + (behind + start), -float("inf")))
    found = (found * divided[:, None] + of_p[:, None] * norm[None, :]) * decay[:, None]
    for other in range(chunk_begin, begin + BT, BT):
        other_row, there = rows_at(other, length, first, step, index, BT)
        other_row += inputs
        s = other + tl.arange(0, BT)
        scores = tl.zeros([BT, BT], tl.float32)
        for value in range(0, V, BV):
            grads = operand(load_tile(grad_h, row + outputs, here, head, value, H, V, BV))
            values = operand(load_tile(v, other_row, there, head, value, H, V, BV))
            scores = tl.dot(grads, tl.trans(values), scores, input_precision=PRECISION)
        other_at = steps_at(first + step * s, outputs, head, N, direction)
        other_large, ahead = load_keys(coarse, early, other_at, there)
        scores = (scores * divided[:, None] + of_p[:, None]) * weights(large, behind, other_large, ahead, t, s, here)
        other_keys = operand(load_tile(k, other_row, there, head, key, H, K, BK))
        found = dot_left(scores, other_keys, found, PRECISION)
    found *= scale
    pointers, mask = tile_at(grad_q, row + outputs, here, head, key, H, K, BK)
    tl.store(pointers, found, mask=mask)
    queries = load_tile(q, row + inputs, here, head, key, H, K, BK).to(tl.float32)
    tl.store(flows + flow_at(key, first + step * t, outputs, head, N, direction, 0, H, BK), tl.sum(queries * found, 1), mask=here)


@triton.jit
def _keys(
    q, k, v, grad_h, coarse, late, grad_states, grad_norms, grad_projected, inverse, grad_k, flows, scale, index, N,
    direction, row, here, t, large, ahead, to_end, at_slot, key, begin, stop, first, step, length, inputs, outputs, head,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, DIVIDE: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    found = tl.zeros([BT, BK], tl.float32)
    for value in range(0, V, BV):
        values = operand(load_tile(v, row + inputs, here, head, value, H, V, BV))
        offset, mask = state_tile(key, value, K, V, BK, BV)
        grad_state = tl.load(grad_states + at_slot * K * V + offset, mask=mask, other=0.0).to(values.dtype)
        found = tl.dot(values, tl.trans(grad_state), found, input_precision=PRECISION)
    keys = key + tl.arange(0, BK)
    grad_norm = tl.load(grad_norms + at_slot * K + keys, mask=keys < K, other=0.0)
    found = (found + grad_norm[None, :]) * to_end[:, None]
    of_state = tl.sum(load_tile(k, row + inputs, here, head, key, H, K, BK).to(tl.float32) * found, 1)
    tl.store(flows + flow_at(key, first + step * t, outputs, head, N, direction, 2, H, BK), of_state, mask=here)
    for other in range(begin, stop, BT):
        other_row, there = rows_at(other, length, first, step, index, BT)
        s = other + tl.arange(0, BT)
        scores = tl.zeros([BT, BT], tl.float32)
        for value in range(0, V, BV):
            grads = operand(load_tile(grad_h, other_row + outputs, there, head, value, H, V, BV))
            values = operand(load_tile(v, row + inputs, here, head, value, H, V, BV))
            scores = tl.dot(grads, tl.trans(values), scores, input_precision=PRECISION)
        at = steps_at(first + step * s, outputs, head, N, direction)
        other_large, behind = load_queries(coarse, late, at, there)
        divided, of_p = load_factors(inverse, grad_projected, at, there, DIVIDE)
        scores = (scores * divided[:, None] + of_p[:, None]) * (scale * weights(other_large, behind, large, ahead, s, t, there))
        queries = operand(load_tile(q, other_row + inputs, there, head, key, H, K, BK))
        found = dot_left(tl.trans(scores), queries, found, PRECISION)
    pointers, mask = tile_at(grad_k, row + outputs, here, head, key, H, K, BK)
    tl.store(pointers, found, mask=mask)
    of_queries = tl.sum(load_tile(k, row + inputs, here, head, key, H, K, BK).to(tl.float32) * found, 1) - of_state
    tl.store(flows + flow_at(key, first + step * t, outputs, head, N, direction, 1, H, BK), of_queries, mask=here)


@triton.jit
def _values(
    q, k, grad_h, coarse, late, grad_states, grad_projected, inverse, grad_v, scale, index, N, direction, row, here, t, large,
    ahead, to_end, at_slot, value, begin, stop, first, step, length, inputs, outputs, head,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, DIVIDE: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    found = tl.zeros([BT, BV], tl.float32)
    for key in range(0, K, BK):
        own_keys = operand(load_tile(k, row + inputs, here, head, key, H, K, BK))
        offset, mask = state_tile(key, value, K, V, BK, BV)
        grad_state = tl.load(grad_states + at_slot * K * V + offset, mask=mask, other=0.0).to(own_keys.dtype)
        found = tl.dot(own_keys, grad_state, found, input_precision=PRECISION)
    found *= to_end[:, None]
    for other in range(begin, stop, BT):
        other_row, there = rows_at(other, length, first, step, index, BT)
        s = other + tl.arange(0, BT)
        scores = tl.zeros([BT, BT], tl.float32)
        for key in range(0, K, BK):
            own_keys = operand(load_tile(k, row + inputs, here, head, key, H, K, BK))
            queries = operand(load_tile(q, other_row + inputs, there, head, key, H, K, BK))
            scores = tl.dot(queries, tl.trans(own_keys), scores, input_precision=PRECISION)
        at = steps_at(first + step * s, outputs, head, N, direction)
        other_large, behind = load_queries(coarse, late, at, there)
        divided, _ = load_factors(inverse, grad_projected, at, there, DIVIDE)
        scores *= weights(other_large, behind, large, ahead, s, t, there) * (scale * divided)[:, None]
        grads = operand(load_tile(grad_h, other_row + outputs, there, head, value, H, V, BV))
        found = tl.dot(tl.trans(scores.to(grads.dtype)), grads, found, input_precision=PRECISION)
    pointers, mask = tile_at(grad_v, row + outputs, here, head, value, H, V, BV)
    tl.store(pointers, found, mask=mask)


@kernel
def mlstm_backward_gates(
    input_gate, forget_gate, maxima, maximum, pull, flows, tails, grad_input_gate, grad_forget_gate, cu_seqlens, index, T, N, S, direction,
    own, H: tl.constexpr, EXPONENTIAL: tl.constexpr, CHUNK: tl.constexpr, KEY_TILES: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """→ gradients of the gates [N, H], before their activations. One program per chunk and head."""
    slot, head = tl.program_id(0), tl.program_id(1)
    sequence, chunk = chunk_at(slot, cu_seqlens, T, N, S, CHUNK)
    first, step, length, inputs, outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
    begin = chunk * CHUNK
    if begin < length:
        row, here = rows_at(begin, length, first, step, index, CHUNK)
        t = begin + tl.arange(0, CHUNK)
        at = steps_at(first + step * t, outputs, head, N, direction)
        size = H * tl.where(direction == 2, 2, 1) * N.to(tl.int64)
        of_queries, of_keys, of_state = tl.zeros([CHUNK], tl.float32), tl.zeros([CHUNK], tl.float32), tl.zeros([CHUNK], tl.float32)
        for tile in tl.static_range(0, KEY_TILES):
            flow = flows + 3 * tile * size + at
            of_queries += tl.load(flow, mask=here, other=0.0)
            of_keys += tl.load(flow + size, mask=here, other=0.0)
            of_state += tl.load(flow + 2 * size, mask=here, other=0.0)
        at_slot = slot.to(tl.int64) * H + head
        tail = 0.0
        for tile in tl.static_range(0, TILES):
            tail += tl.load(tails + tile * (tl.num_programs(0).to(tl.int64) * H) + at_slot)
        of_gate = of_keys + of_state
        of_forget = tl.cumsum(of_queries - of_keys, 0, reverse=True) + (tl.cumsum(of_state, 0) - of_state) + tail
        at_gates = (row + inputs) * H + head
        if EXPONENTIAL:
            gate, log_forget = log_gates(input_gate, forget_gate, at_gates, here, True)
            before = tl.load(maximum + at - step, mask=here & (t > begin), other=0.0)
            before = tl.where(t > begin, before, tl.load(maxima + at_slot))
            pulled = tl.load(pull + at, mask=here, other=0.0)
            kept = log_forget + before >= gate
            of_gate += tl.where(kept, 0.0, pulled)
            of_forget += tl.where(kept, pulled, 0.0)
        else:
            of_gate *= tl.sigmoid(-tl.load(input_gate + at_gates, mask=here, other=0.0).to(tl.float32))
        of_forget *= tl.sigmoid(-tl.load(forget_gate + at_gates, mask=here, other=0.0).to(tl.float32))
        at_outputs = (row + outputs) * H + head
        tl.store(grad_input_gate + at_outputs, of_gate, mask=here)
        tl.store(grad_forget_gate + at_outputs, of_forget, mask=here)
