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
from .triton_mlstm_kernels import floor_of, load_scalar, load_steps, log_gates, steps_at, weights
from .triton_tiles import chunk_at, first_slot, load_tile, rows_at, state_tile, tile_of


@triton.jit
def operand(x):
    """float16 has too small a range for gradients that are divided by small normalisers."""
    if x.dtype == tl.float16:
        return x.to(tl.float32)
    else:
        return x


@triton.jit
def chained(kept, pull, other_kept, other_pull):
    return kept * other_kept, other_kept * pull + other_pull


@triton.jit
def divisor_of(projected, now, at, here, eps, EXPONENTIAL: tl.constexpr, DIVIDE: tl.constexpr):
    """p, and 1 / (max(|p|, e^{-m}) + eps), of steps."""
    p = tl.load(projected + at, mask=here, other=1.0)
    inverse = tl.full(p.shape, 1.0, tl.float32)
    if DIVIDE:
        inverse = 1.0 / (tl.maximum(tl.abs(p), floor_of(p, now, EXPONENTIAL)) + eps)
    return p, inverse


@kernel
def mlstm_backward_states(
    q, h, grad_h, input_gate, forget_gate, C, n, last_C, last_n, states, norms, maxima, coarse, rest, maximum, projected,
    grad_last_C, grad_last_n, grad_last_m, grad_states, grad_norms, grad_projected, pull, tails, grad_C, grad_n, grad_m, scale, eps,
    cu_seqlens, index, T, N, S, direction, own,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, EXPONENTIAL: tl.constexpr, DIVIDE: tl.constexpr, CHUNK: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """→ the gradients of C and n at each chunk's end, of p [H, N], ``pull`` [H, N], and those of the initial states.

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
        large_end, small_end, end = tl.load(coarse + at_end), tl.load(rest + at_end), load_scalar(maximum, at_end, EXPONENTIAL)
        if (i == 0) | ((begin + BT) % CHUNK == 0):
            start = load_scalar(maxima, at_slot, EXPONENTIAL)
            tl.store(grad_states + at_slot * K * V + offset, grad_memory, mask=mask)
            state = tl.load(states + at_slot * K * V + offset, mask=mask, other=0.0).to(tl.float32)
            tail = tl.sum(state * grad_memory)
            if value == 0:
                tl.store(grad_norms + at_slot * K + keys, grad_norm, mask=keys < K)
                tail += tl.sum(tl.load(norms + at_slot * K + keys, mask=keys < K, other=0.0) * grad_norm)
            tl.store(tails + part * (slots.to(tl.int64) * H) + at_slot, tail * tl.exp(large_end + small_end + start - end))
        at_before = steps_at(first + step * (begin - 1), outputs, head, N, direction)
        large_before, small_before = tl.load(coarse + at_before, mask=within, other=0.0), tl.load(rest + at_before, mask=within, other=0.0)
        before = 0.0
        if EXPONENTIAL:
            before = tl.load(maximum + at_before, mask=within, other=0.0)
            before = tl.where(within, before, tl.load(maxima + at_slot))
        row, here = rows_at(begin, length, first, step, index, BT)
        at = steps_at(first + step * (begin + tl.arange(0, BT)), outputs, head, N, direction)
        large, small, now = load_steps(coarse, rest, maximum, at, here, EXPONENTIAL)
        p, inverse = divisor_of(projected, now, at, here, eps, EXPONENTIAL, DIVIDE)
        exponent = (large - large_before) + (small - small_before) + (before - now)
        weight = scale * tl.exp(tl.where(here, exponent, -float("inf")))
        kept = tl.exp((large_end - large_before) + (small_end - small_before) + (before - end))
        queries = load_tile(q, row + inputs, here, head, key, H, K, BK).to(tl.float32)
        grads = operand(load_tile(grad_h, row + outputs, here, head, value, H, V, BV))
        weighted = (queries * (weight * inverse)[:, None]).to(grads.dtype)
        grad_memory = tl.dot(tl.trans(weighted), grads, grad_memory * kept, input_precision=PRECISION)
        if DIVIDE:
            if value == 0:
                given = tl.zeros([BT], tl.float32)
                for column in tl.static_range(0, V, BV):
                    out = load_tile(h, row + outputs, here, head, column, H, V, BV).to(tl.float32)
                    given += tl.sum(out * load_tile(grad_h, row + outputs, here, head, column, H, V, BV).to(tl.float32), 1)
                of_divisor = -given * inverse
                of_p = tl.where(tl.abs(p) > floor_of(p, now, EXPONENTIAL), tl.where(p > 0, of_divisor, -of_divisor), 0.0)
                grad_norm = grad_norm * kept + tl.sum(queries * (weight * of_p)[:, None], 0)
                if key == 0:
                    tl.store(grad_projected + at, of_p, mask=here)
                    if EXPONENTIAL:
                        incoming = _pulled(
                            input_gate, forget_gate, pull, eps * of_divisor, now, before, at, here, incoming,
                            begin, first, step, length, inputs, index, head, H, BT,
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
    input_gate, forget_gate, pull, of_m, now, before, at, here, incoming, begin, first, step, length, inputs, index, head,
    H: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """Stores the whole gradient of each m of a tile; returns what goes on to the m before it."""
    row, there = rows_at(begin + 1, tl.minimum(begin + BT, length), first, step, index, BT)
    gate, log_forget = log_gates(input_gate, forget_gate, (row + inputs) * H + head, there, True)
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
    q, k, v, grad_h, input_gate, forget_gate, states, norms, maxima, coarse, rest, maximum, projected, grad_states, grad_norms,
    grad_projected, grad_q, grad_k, grad_v, flows, scale, eps, cu_seqlens, index, T, N, S, direction, own,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, EXPONENTIAL: tl.constexpr, DIVIDE: tl.constexpr, CHUNK: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """→ grad_q, grad_k, grad_v, and for each tile of keys ``flows`` [tiles, 3, H, N]: q · grad_q, k · grad_k by queries of the chunk, and
    k · grad_k by the state's gradient. One program per tile of steps, head, and BK keys of grad_q and grad_k or BV values of grad_v."""
    TILES: tl.constexpr = CHUNK // BT
    slot, tile = tl.program_id(0) // TILES, tl.program_id(0) % TILES
    head, part = tl.program_id(1), tl.program_id(2)
    sequence, chunk = chunk_at(slot, cu_seqlens, T, N, S, CHUNK)
    first, step, length, inputs, outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
    begin = chunk * CHUNK + tile * BT
    stop = tl.minimum((chunk + 1) * CHUNK, length)
    if begin < length:
        row, here = rows_at(begin, length, first, step, index, BT)
        t = begin + tl.arange(0, BT)
        at = steps_at(first + step * t, outputs, head, N, direction)
        large, small, now = load_steps(coarse, rest, maximum, at, here, EXPONENTIAL)
        gate, _ = log_gates(input_gate, forget_gate, (row + inputs) * H + head, here, EXPONENTIAL)
        at_slot = slot.to(tl.int64) * H + head
        at_end = steps_at(first + step * (stop - 1), outputs, head, N, direction)
        large_end, small_end, end = tl.load(coarse + at_end), tl.load(rest + at_end), load_scalar(maximum, at_end, EXPONENTIAL)
        to_end = tl.exp((large_end - large) + (small_end - small) + gate - end)
        if part < tl.cdiv(K, BK):
            start = load_scalar(maxima, at_slot, EXPONENTIAL)
            from_start = tl.where(here, scale * tl.exp(large + small + start - now), 0.0)
            at_flow = part * (3 * H * tl.where(direction == 2, 2, 1) * N.to(tl.int64)) + at
            _queries_and_keys(
                q, k, v, grad_h, input_gate, forget_gate, states, norms, coarse, rest, maximum, projected, grad_states, grad_norms,
                grad_projected, grad_q, grad_k, flows, scale, eps, index, N, direction, row, here, t, at, large, small, now, gate,
                from_start, to_end, at_slot, at_flow, part * BK, chunk * CHUNK, begin, stop, first, step, length, inputs, outputs, head,
                H, K, V, EXPONENTIAL, DIVIDE, BT, BK, BV, PRECISION,
            )  # fmt: skip
        else:
            _values(
                q, k, grad_h, coarse, rest, maximum, projected, grad_states, grad_v, scale, eps, index, N, direction, row, here, t, large,
                small, gate, to_end, at_slot, (part - tl.cdiv(K, BK)) * BV, begin, stop, first, step, length, inputs, outputs, head,
                H, K, V, EXPONENTIAL, DIVIDE, BT, BK, BV, PRECISION,
            )  # fmt: skip


@triton.jit
def _queries_and_keys(
    q, k, v, grad_h, input_gate, forget_gate, states, norms, coarse, rest, maximum, projected, grad_states, grad_norms,
    grad_projected, grad_q, grad_k, flows, scale, eps, index, N, direction, row, here, t, at, large, small, now, gate,
    from_start, to_end, at_slot, at_flow, key, start, begin, stop, first, step, length, inputs, outputs, head,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, EXPONENTIAL: tl.constexpr, DIVIDE: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    keys = key + tl.arange(0, BK)
    _, inverse = divisor_of(projected, now, at, here, eps, EXPONENTIAL, DIVIDE)
    of_p = tl.zeros([BT], tl.float32)
    if DIVIDE:
        of_p = tl.load(grad_projected + at, mask=here, other=0.0)
    # By the state before the chunk, and the gradient of the one behind it; the tile with itself
    found_q, found_k = tl.zeros([BT, BK], tl.float32), tl.zeros([BT, BK], tl.float32)
    scores = tl.zeros([BT, BT], tl.float32)
    for value in tl.static_range(0, V, BV):
        grads = operand(load_tile(grad_h, row + outputs, here, head, value, H, V, BV))
        values = operand(load_tile(v, row + inputs, here, head, value, H, V, BV))
        offset, mask = state_tile(key, value, K, V, BK, BV)
        state = tl.load(states + at_slot * K * V + offset, mask=mask, other=0.0).to(grads.dtype)
        grad_state = tl.load(grad_states + at_slot * K * V + offset, mask=mask, other=0.0).to(grads.dtype)
        found_q = tl.dot(grads, tl.trans(state), found_q, input_precision=PRECISION)
        found_k = tl.dot(values, tl.trans(grad_state), found_k, input_precision=PRECISION)
        scores = tl.dot(grads, tl.trans(values), scores, input_precision=PRECISION)
    norm = tl.load(norms + at_slot * K + keys, mask=keys < K, other=0.0)
    grad_norm = tl.load(grad_norms + at_slot * K + keys, mask=keys < K, other=0.0)
    found_q = (found_q * inverse[:, None] + of_p[:, None] * norm[None, :]) * from_start[:, None]
    found_k = (found_k + grad_norm[None, :]) * to_end[:, None]
    queries = operand(load_tile(q, row + inputs, here, head, key, H, K, BK))
    own_keys = operand(load_tile(k, row + inputs, here, head, key, H, K, BK))
    of_state = tl.sum(own_keys.to(tl.float32) * found_k, 1)
    weight = scale * weights(large, small, now, large, small, gate, t, t, here, False)
    scores = ((scores * inverse[:, None] + of_p[:, None]) * weight).to(queries.dtype)
    found_q = tl.dot(scores, own_keys, found_q, input_precision=PRECISION)
    found_k = tl.dot(tl.trans(scores), queries, found_k, input_precision=PRECISION)
    for other in range(start, begin, BT):  # earlier keys
        other_row, there = rows_at(other, length, first, step, index, BT)
        other_row += inputs
        other_at = steps_at(first + step * (other + tl.arange(0, BT)), outputs, head, N, direction)
        other_large, other_small, _ = load_steps(coarse, rest, maximum, other_at, there, False)
        other_gate, _ = log_gates(input_gate, forget_gate, other_row * H + head, there, EXPONENTIAL)
        scores = tl.zeros([BT, BT], tl.float32)
        for value in tl.static_range(0, V, BV):
            grads = operand(load_tile(grad_h, row + outputs, here, head, value, H, V, BV))
            values = operand(load_tile(v, other_row, there, head, value, H, V, BV))
            scores = tl.dot(grads, tl.trans(values), scores, input_precision=PRECISION)
        weight = scale * weights(large, small, now, other_large, other_small, other_gate, t, t, here, True)
        scores = ((scores * inverse[:, None] + of_p[:, None]) * weight).to(queries.dtype)
        other_keys = operand(load_tile(k, other_row, there, head, key, H, K, BK))
        found_q = tl.dot(scores, other_keys, found_q, input_precision=PRECISION)
    for other in range(begin + BT, stop, BT):  # later queries
        other_row, there = rows_at(other, length, first, step, index, BT)
        other_at = steps_at(first + step * (other + tl.arange(0, BT)), outputs, head, N, direction)
        other_large, other_small, other_now = load_steps(coarse, rest, maximum, other_at, there, EXPONENTIAL)
        _, other_inverse = divisor_of(projected, other_now, other_at, there, eps, EXPONENTIAL, DIVIDE)
        other_p = tl.zeros([BT], tl.float32)
        if DIVIDE:
            other_p = tl.load(grad_projected + other_at, mask=there, other=0.0)
        scores = tl.zeros([BT, BT], tl.float32)
        for value in tl.static_range(0, V, BV):
            grads = operand(load_tile(grad_h, other_row + outputs, there, head, value, H, V, BV))
            values = operand(load_tile(v, row + inputs, here, head, value, H, V, BV))
            scores = tl.dot(grads, tl.trans(values), scores, input_precision=PRECISION)
        weight = scale * weights(other_large, other_small, other_now, large, small, gate, t, t, there, True)
        scores = ((scores * other_inverse[:, None] + other_p[:, None]) * weight).to(queries.dtype)
        other_queries = operand(load_tile(q, other_row + inputs, there, head, key, H, K, BK))
        found_k = tl.dot(tl.trans(scores), other_queries, found_k, input_precision=PRECISION)
    offset, mask = tile_of(row + outputs, here, head, key, H, K, BK)
    tl.store(grad_q + offset, found_q, mask=mask)
    tl.store(grad_k + offset, found_k, mask=mask)
    size = H * tl.where(direction == 2, 2, 1) * N.to(tl.int64)
    tl.store(flows + at_flow, tl.sum(queries.to(tl.float32) * found_q, 1), mask=here)
    tl.store(flows + at_flow + size, tl.sum(own_keys.to(tl.float32) * found_k, 1) - of_state, mask=here)
    tl.store(flows + at_flow + 2 * size, of_state, mask=here)


@triton.jit
def _values(
    q, k, grad_h, coarse, rest, maximum, projected, grad_states, grad_v, scale, eps, index, N, direction, row, here, t, large,
    small, gate, to_end, at_slot, value, begin, stop, first, step, length, inputs, outputs, head,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, EXPONENTIAL: tl.constexpr, DIVIDE: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    found = tl.zeros([BT, BV], tl.float32)
    for key in tl.static_range(0, K, BK):
        own_keys = operand(load_tile(k, row + inputs, here, head, key, H, K, BK))
        offset, mask = state_tile(key, value, K, V, BK, BV)
        grad_state = tl.load(grad_states + at_slot * K * V + offset, mask=mask, other=0.0).to(own_keys.dtype)
        found = tl.dot(own_keys, grad_state, found, input_precision=PRECISION)
    found *= to_end[:, None]
    for other in range(begin, stop, BT):
        other_row, there = rows_at(other, length, first, step, index, BT)
        s = other + tl.arange(0, BT)
        other_at = steps_at(first + step * s, outputs, head, N, direction)
        other_large, other_small, other_now = load_steps(coarse, rest, maximum, other_at, there, EXPONENTIAL)
        _, inverse = divisor_of(projected, other_now, other_at, there, eps, EXPONENTIAL, DIVIDE)
        scores = tl.zeros([BT, BT], tl.float32)
        for key in tl.static_range(0, K, BK):
            own_keys = operand(load_tile(k, row + inputs, here, head, key, H, K, BK))
            queries = operand(load_tile(q, other_row + inputs, there, head, key, H, K, BK))
            scores = tl.dot(queries, tl.trans(own_keys), scores, input_precision=PRECISION)
        scores *= weights(other_large, other_small, other_now, large, small, gate, s, t, there, False) * (scale * inverse)[:, None]
        grads = operand(load_tile(grad_h, other_row + outputs, there, head, value, H, V, BV))
        found = tl.dot(tl.trans(scores.to(grads.dtype)), grads, found, input_precision=PRECISION)
    offset, mask = tile_of(row + outputs, here, head, value, H, V, BV)
    tl.store(grad_v + offset, found, mask=mask)


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
