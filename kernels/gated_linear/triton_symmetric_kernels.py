"""Triton kernels of LION's retention. Rows as in ``triton_rows``, chunks and tiles as in ``triton_tiles``.

A chunk's outputs are the state before it, decayed, and the products of its steps with all of its steps, weighed by e^{g |t - s|}: one pass
over its tiles, whichever side of them a step is on. CHUNK is any number of steps; its last tile may be shorter.
"""

import triton
import triton.language as tl

from ..triton_rows import kernel, span
from .triton_tiles import chunk_at, first_slot, load_tile, operand, rows_at, state_tile, tile_at


@triton.jit
def decay_of(log_decay, sequence, head, S, own, H: tl.constexpr):
    """The head's g, that of the sequence's direction where each has its own."""
    return tl.load(log_decay + sequence // S * own * H + head).to(tl.float32)


@triton.jit
def between(t, s, length, g):
    """[queries, keys] of one chunk: e^{g |t - s|}; 0 for keys that are not there."""
    distance = tl.abs(t[:, None] - s[None, :]).to(tl.float32)
    return tl.exp(tl.where((s < length)[None, :], g * distance, -float("inf")))


@kernel
def symmetric_states(
    k, v, log_decay, states, cu_seqlens, index, T, N, S, direction, own,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, CHUNK: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """k: [N, H, K]; v: [N, H, V]; log_decay: [H] → the state before each chunk, [slots, H, K, V].

    One program per sequence, head and tile [BK, BV] of the state."""
    sequence, head = tl.program_id(0), tl.program_id(1)
    key, value = tl.program_id(2) // tl.cdiv(V, BV) * BK, tl.program_id(2) % tl.cdiv(V, BV) * BV
    first, step, length, inputs, _ = span(sequence, cu_seqlens, T, N, S, direction, own)
    g = decay_of(log_decay, sequence, head, S, own, H)
    offset, mask = state_tile(key, value, K, V, BK, BV)
    memory = tl.zeros([BK, BV], tl.float32)
    slot = first_slot(sequence, cu_seqlens, T, N, S, CHUNK)
    for chunk in range(0, tl.cdiv(length, CHUNK)):
        tl.store(states + ((slot + chunk).to(tl.int64) * H + head) * K * V + offset, memory, mask=mask)
        stop = tl.minimum((chunk + 1) * CHUNK, length)
        for begin in range(chunk * CHUNK, stop, BT):
            row, here = rows_at(begin, stop, first, step, index, BT)
            end = tl.minimum(begin + BT, stop)
            to_end = (end - 1 - begin - tl.arange(0, BT)).to(tl.float32)
            weight = tl.exp(tl.where(here, g * to_end, -float("inf")))
            weighted = load_tile(k, row + inputs, here, head, key, H, K, BK).to(tl.float32) * weight[:, None]
            values = load_tile(v, row + inputs, here, head, value, H, V, BV)
            memory *= tl.exp(g * (end - begin).to(tl.float32))
            memory = tl.dot(tl.trans(weighted.to(values.dtype)), values, memory, input_precision=PRECISION)


@kernel
def symmetric_output(
    q, k, v, log_decay, states, o, scale, cu_seqlens, index, T, N, S, direction, own,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, CHUNK: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """→ o [N, H, V]. One program per tile of BT steps, head and BV values."""
    TILES: tl.constexpr = (CHUNK + BT - 1) // BT
    slot, tile = tl.program_id(0) // TILES, tl.program_id(0) % TILES
    head, value = tl.program_id(1), tl.program_id(2) * BV
    sequence, chunk = chunk_at(slot, cu_seqlens, T, N, S, CHUNK)
    first, step, length, inputs, outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
    begin = chunk * CHUNK + tile * BT
    stop = tl.minimum((chunk + 1) * CHUNK, length)
    if begin < stop:
        g = decay_of(log_decay, sequence, head, S, own, H)
        row, here = rows_at(begin, stop, first, step, index, BT)
        t = begin + tl.arange(0, BT)
        found = tl.zeros([BT, BV], tl.float32)
        for key in range(0, K, BK):
            queries = operand(load_tile(q, row + inputs, here, head, key, H, K, BK))
            offset, mask = state_tile(key, value, K, V, BK, BV)
            state = tl.load(states + (slot.to(tl.int64) * H + head) * K * V + offset, mask=mask, other=0.0)
            found = tl.dot(queries, state, found, input_precision=PRECISION)
        found *= tl.exp(g * (t + 1 - chunk * CHUNK).to(tl.float32))[:, None]
        for other in range(chunk * CHUNK, stop, BT):
            other_row, there = rows_at(other, stop, first, step, index, BT)
            scores = tl.zeros([BT, BT], tl.float32)
            for key in range(0, K, BK):
                queries = load_tile(q, row + inputs, here, head, key, H, K, BK)
                keys = load_tile(k, other_row + inputs, there, head, key, H, K, BK)
                scores = tl.dot(queries, tl.trans(keys), scores, input_precision=PRECISION)
            scores *= between(t, other + tl.arange(0, BT), stop, g)
            values = operand(load_tile(v, other_row + inputs, there, head, value, H, V, BV))
            found = tl.dot(scores.to(values.dtype), values, found, input_precision=PRECISION)
        pointers, mask = tile_at(o, row + outputs, here, head, value, H, V, BV)
        tl.store(pointers, found * scale, mask=mask)


@kernel
def symmetric_backward_states(
    q, grad_o, log_decay, states, grad_states, grad_decay, scale, cu_seqlens, index, T, N, S, direction, own,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, CHUNK: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """→ the gradient of the state at each chunk's end [slots, H, K, V], and ``grad_decay`` [tiles, S, H] by what a whole chunk decays.

    One program per sequence, head and tile of the state, from the last step to the first."""
    sequence, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    key, value = part // tl.cdiv(V, BV) * BK, part % tl.cdiv(V, BV) * BV
    first, step, length, inputs, outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
    g = decay_of(log_decay, sequence, head, S, own, H)
    offset, mask = state_tile(key, value, K, V, BK, BV)
    found, of_decay = tl.zeros([BK, BV], tl.float32), 0.0
    slot = first_slot(sequence, cu_seqlens, T, N, S, CHUNK)
    chunks = tl.cdiv(length, CHUNK)
    for i in range(0, chunks):
        chunk = chunks - 1 - i
        at_state = ((slot + chunk).to(tl.int64) * H + head) * K * V + offset
        tl.store(grad_states + at_state, found, mask=mask)
        stop = tl.minimum((chunk + 1) * CHUNK, length)
        steps = (stop - chunk * CHUNK).to(tl.float32)
        decay = tl.exp(g * steps)
        if grad_decay is not None:
            state = tl.load(states + at_state, mask=mask, other=0.0).to(tl.float32)
            of_decay += steps * decay * tl.sum(state * found)
        found *= decay
        for begin in range(chunk * CHUNK, stop, BT):
            row, here = rows_at(begin, stop, first, step, index, BT)
            since = (begin + tl.arange(0, BT) + 1 - chunk * CHUNK).to(tl.float32)
            queries = load_tile(q, row + inputs, here, head, key, H, K, BK).to(tl.float32) * (scale * tl.exp(g * since))[:, None]
            grads = operand(load_tile(grad_o, row + outputs, here, head, value, H, V, BV))
            found = tl.dot(tl.trans(queries.to(grads.dtype)), grads, found, input_precision=PRECISION)
    if grad_decay is not None:
        tl.store(grad_decay + (part * tl.num_programs(0) + sequence).to(tl.int64) * H + head, of_decay)


@kernel
def symmetric_backward_inputs(
    q, k, v, grad_o, log_decay, states, grad_states, grad_q, grad_k, grad_v, grad_decay, scale, cu_seqlens, index, T, N, S, direction, own,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, CHUNK: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """→ grad_q, grad_k, grad_v, and ``grad_decay`` [2 · tiles of keys, tiles of steps, H] by all else that decays.

    One program per tile of steps, head, and tile of grad_q's, grad_k's or grad_v's columns."""
    TILES: tl.constexpr = (CHUNK + BT - 1) // BT
    KEY_TILES: tl.constexpr = (K + BK - 1) // BK
    slot, tile = tl.program_id(0) // TILES, tl.program_id(0) % TILES
    head, part = tl.program_id(1), tl.program_id(2)
    sequence, chunk = chunk_at(slot, cu_seqlens, T, N, S, CHUNK)
    first, step, length, inputs, outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
    start, begin = chunk * CHUNK, chunk * CHUNK + tile * BT
    stop = tl.minimum((chunk + 1) * CHUNK, length)
    of_decay = 0.0
    if begin < stop:
        g = decay_of(log_decay, sequence, head, S, own, H)
        row, here = rows_at(begin, stop, first, step, index, BT)
        at_slot = slot.to(tl.int64) * H + head
        if part < KEY_TILES:
            since = (begin + tl.arange(0, BT) + 1 - start).to(tl.float32)
            of_decay = _queries_or_keys(
                q, grad_o, k, v, grad_q, states, row + inputs, row + outputs, row + outputs, inputs, inputs, here, since, g, scale,
                scale, index, first, step, start, begin, stop, at_slot, head, part * BK, H, K, V, BT, BK, BV, PRECISION,
                grad_decay is not None,
            )  # fmt: skip
        elif part < 2 * KEY_TILES:
            until = (stop - 1 - begin - tl.arange(0, BT)).to(tl.float32)
            of_decay = _queries_or_keys(
                k, v, q, grad_o, grad_k, grad_states, row + inputs, row + inputs, row + outputs, inputs, outputs, here, until, g, scale,
                1.0, index, first, step, start, begin, stop, at_slot, head, (part - KEY_TILES) * BK, H, K, V, BT, BK, BV, PRECISION, False,
            )  # fmt: skip
        else:
            _values(
                q, k, grad_o, grad_states, grad_v, row, here, g, scale, index, first, step, start, begin, stop, at_slot, head,
                (part - 2 * KEY_TILES) * BV, inputs, outputs, H, K, V, BT, BK, BV, PRECISION,
            )  # fmt: skip
    if grad_decay is not None:
        at = (part * tl.num_programs(0) + tl.program_id(0)).to(tl.int64) * H + head
        tl.store(grad_decay + at, of_decay, mask=part < 2 * KEY_TILES)


@triton.jit
def _queries_or_keys(
    x, y, other_x, other_y, grad, states, row_x, row_y, row_grad, other_inputs_x, other_inputs_y, here, steps, g, scale, state_scale,
    index, first, step, start, begin, stop, at_slot, head, key,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
    SCORES: tl.constexpr,
):  # fmt: skip
    """Gradient of x, q or k, from Σ_ts e^{g |t - s|} (x_t · other_x_s) (y_t · other_y_s): y is grad_o and other_y v, or the other way.

    ``steps``: over how many the state decays. Returns the gradient of g, that of pairs of steps only with ``SCORES``."""
    found = tl.zeros([BT, BK], tl.float32)
    for value in range(0, V, BV):
        own_y = operand(load_tile(y, row_y, here, head, value, H, V, BV))
        offset, mask = state_tile(key, value, K, V, BK, BV)
        state = tl.load(states + at_slot * K * V + offset, mask=mask, other=0.0).to(own_y.dtype)
        found = tl.dot(own_y, tl.trans(state), found, input_precision=PRECISION)
    found *= tl.exp(tl.where(here, g * steps, -float("inf")))[:, None] * state_scale
    own_x = operand(load_tile(x, row_x, here, head, key, H, K, BK))
    of_decay = tl.sum(tl.sum(own_x.to(tl.float32) * found, 1) * steps)
    t = begin + tl.arange(0, BT)
    of_pairs = tl.zeros([BT], tl.float32)
    for other in range(start, stop, BT):
        row, there = rows_at(other, stop, first, step, index, BT)
        scores = tl.zeros([BT, BT], tl.float32)
        for value in range(0, V, BV):
            own_y = operand(load_tile(y, row_y, here, head, value, H, V, BV))
            their_y = operand(load_tile(other_y, row + other_inputs_y, there, head, value, H, V, BV))
            scores = tl.dot(own_y, tl.trans(their_y), scores, input_precision=PRECISION)
        s = other + tl.arange(0, BT)
        scores *= between(t, s, stop, g) * scale
        their_x = operand(load_tile(other_x, row + other_inputs_x, there, head, key, H, K, BK))
        if SCORES:
            products = tl.dot(own_x, tl.trans(their_x), input_precision=PRECISION)
            of_pairs += tl.sum(products * scores * tl.abs(t[:, None] - s[None, :]).to(tl.float32), 1)
        found = tl.dot(scores.to(their_x.dtype), their_x, found, input_precision=PRECISION)
    pointers, mask = tile_at(grad, row_grad, here, head, key, H, K, BK)
    tl.store(pointers, found, mask=mask)
    return of_decay + tl.sum(of_pairs)


@triton.jit
def _values(
    q, k, grad_o, grad_states, grad_v, row, here, g, scale, index, first, step, start, begin, stop, at_slot, head, value, inputs, outputs,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    found = tl.zeros([BT, BV], tl.float32)
    for key in range(0, K, BK):
        keys = operand(load_tile(k, row + inputs, here, head, key, H, K, BK))
        offset, mask = state_tile(key, value, K, V, BK, BV)
        state = tl.load(grad_states + at_slot * K * V + offset, mask=mask, other=0.0).to(keys.dtype)
        found = tl.dot(keys, state, found, input_precision=PRECISION)
    t = begin + tl.arange(0, BT)
    found *= tl.exp(tl.where(here, g * (stop - 1 - t).to(tl.float32), -float("inf")))[:, None]
    for other in range(start, stop, BT):
        other_row, there = rows_at(other, stop, first, step, index, BT)
        scores = tl.zeros([BT, BT], tl.float32)
        for key in range(0, K, BK):
            keys = operand(load_tile(k, row + inputs, here, head, key, H, K, BK))
            queries = operand(load_tile(q, other_row + inputs, there, head, key, H, K, BK))
            scores = tl.dot(keys, tl.trans(queries), scores, input_precision=PRECISION)
        scores *= between(t, other + tl.arange(0, BT), stop, g) * scale
        grads = operand(load_tile(grad_o, other_row + outputs, there, head, value, H, V, BV))
        found = tl.dot(scores.to(grads.dtype), grads, found, input_precision=PRECISION)
    pointers, mask = tile_at(grad_v, row + outputs, here, head, value, H, V, BV)
    tl.store(pointers, found, mask=mask)
