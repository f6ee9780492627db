"""Triton kernels of gated linear attention: states between chunks, and outputs. Rows as in ``triton_rows``.

H heads, K keys, V values, all compiled in, as are the tile sizes: BT steps, BK keys, BV values; a chunk is CHUNK steps, a multiple of BT.
DECAY: 0 none, 1 one per head, 2 one per key. EXCLUSIVE: outputs see the state before their step, and the step itself by ``bonus``.
PARTS: of a log decay in sums by tensor cores; PRECISION: of products of float32. States are [slots, H, K, V], one per chunk.
"""

import triton
import triton.language as tl

from ..triton_rows import kernel, span
from .triton_tiles import (
    after,
    ahead_of,
    behind_of,
    between_steps,
    chunk_at,
    dot_left,
    first_slot,
    is_later,
    is_pair,
    load_decay,
    load_tile,
    operand,
    rows_at,
    state_tile,
    sums,
    tile_at,
    to_seam,
    total_decay,
    up_to,
)  # fmt: skip


@kernel
def states(
    x, y, log_decay, state, kept, final, scale, cu_seqlens, index, T, N, S, direction, own,
    BACKWARD: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, CHUNK: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, DECAY: tl.constexpr, EXCLUSIVE: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """kept: the state before each chunk, from x = k [N, H, K] and y = v [N, H, V]; state, final: [S, H, K, V].

    BACKWARD: the gradient of the state after each chunk, from x = q and y = grad_o; state: of the final, final: of the initial state.
    One program per sequence, head and tile of the state, which stays in registers.
    """
    sequence, head, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    key, value = tile // tl.cdiv(V, BV) * BK, tile % tl.cdiv(V, BV) * BV
    first, step, length, inputs, outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
    slot = first_slot(sequence, cu_seqlens, T, N, S, CHUNK)
    inner, inside = state_tile(key, value, K, V, BK, BV)
    at_state = (sequence.to(tl.int64) * H + head) * (K * V)
    carried = tl.load(state + at_state + inner, mask=inside, other=0.0)
    tiles = tl.cdiv(length, BT)
    for i in range(0, tiles):
        n = i
        if BACKWARD:
            n = tiles - 1 - i
            edge = (i == 0) | ((n + 1) * BT % CHUNK == 0)
        else:
            edge = n * BT % CHUNK == 0
        if edge:
            tl.store(kept + ((slot + n * BT // CHUNK).to(tl.int64) * H + head) * (K * V) + inner, carried, mask=inside)
        row, here = rows_at(n * BT, length, first, step, index, BT)
        bx = load_tile(x, row + inputs, here, head, key, H, K, BK)
        by = load_tile(y, row + (outputs if BACKWARD else inputs), here, head, value, H, V, BV)
        if DECAY > 0:
            g = load_decay(log_decay, row + inputs, here, head, key, H, K, BK, DECAY)
            carried *= tl.exp(tl.sum(g, 0))[:, None] if DECAY == 2 else tl.exp(tl.sum(g, 0))
            if BACKWARD:
                weight = sums(up_to(EXCLUSIVE, BT), g, PARTS) if DECAY == 2 else ahead_of(g, EXCLUSIVE)[:, None]
            else:
                weight = sums(after(BT), g, PARTS) if DECAY == 2 else behind_of(g)[:, None]
            update = dot_left(tl.trans(bx.to(tl.float32) * tl.exp(weight)), by, tl.zeros([BK, BV], tl.float32), PRECISION)
        else:
            update = tl.dot(tl.trans(bx), by, input_precision=PRECISION)
        carried += update * scale if BACKWARD else update
    tl.store(final + at_state + inner, carried, mask=inside)


@triton.jit
def scores_inside(
    q, k, log_decay, bonus, row, here, head,
    H: tl.constexpr, K: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, DECAY: tl.constexpr, EXCLUSIVE: tl.constexpr,
    PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[BT, BT]: weighted products of a tile's queries (rows) with its keys, not scaled.

    Vector decay: blocks of 1, 2, 4 … steps are joined in pairs; the later one's queries meet the earlier one's keys at the seam, each
    decayed on its way there. As a step is either query or key, both are rows of one matrix.
    """
    t = tl.arange(0, BT)
    found = tl.zeros([BT, BT], tl.float32)
    itself = tl.zeros([BT], tl.float32)
    for key in range(0, K, BK):
        bq = load_tile(q, row, here, head, key, H, K, BK)
        bk = load_tile(k, row, here, head, key, H, K, BK)
        if DECAY == 2:
            g = load_decay(log_decay, row, here, head, key, H, K, BK, DECAY)
            level = 0
            while (1 << level) < BT:
                weight = tl.exp(sums(to_seam(level, EXCLUSIVE, BT), g, PARTS))
                met = (tl.where(is_later(level, BT)[:, None], bq, bk).to(tl.float32) * weight).to(bq.dtype)
                found += tl.where(is_pair(level, BT), tl.dot(met, tl.trans(met), input_precision=PRECISION), 0.0)
                level += 1
        else:
            found = tl.dot(bq, tl.trans(bk), found, input_precision=PRECISION)
        if DECAY == 2 or EXCLUSIVE:
            product = bq.to(tl.float32) * bk.to(tl.float32)
            if EXCLUSIVE:
                at = key + tl.arange(0, BK)
                product *= tl.load(bonus + head * K + at, mask=at < K, other=0.0)[None, :]
            itself += tl.sum(product, 1)
    if DECAY == 1:
        diagonal = found
        g = load_decay(log_decay, row, here, head, 0, H, K, BK, DECAY)
        found *= between_steps(g, EXCLUSIVE, BT)
        if not EXCLUSIVE:
            found = tl.where(t[:, None] == t[None, :], diagonal, found)
    if DECAY == 2 or EXCLUSIVE:
        found = tl.where(t[:, None] == t[None, :], itself[:, None], found)
    return tl.where(t[:, None] >= t[None, :], found, 0.0)


@triton.jit
def scores_across(
    q, k, log_decay, late, early, length, first, step, index, inputs, head,
    H: tl.constexpr, K: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, DECAY: tl.constexpr, EXCLUSIVE: tl.constexpr,
    PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[BT, BT]: as :func:`scores_inside`, of the queries of the tile from step ``late`` on with the keys of that from ``early`` on."""
    row, here = rows_at(late, length, first, step, index, BT)
    row_k, here_k = rows_at(early, length, first, step, index, BT)
    row += inputs
    row_k += inputs
    found = tl.zeros([BT, BT], tl.float32)
    for key in range(0, K, BK):
        bq = load_tile(q, row, here, head, key, H, K, BK)
        bk = load_tile(k, row_k, here_k, head, key, H, K, BK)
        if DECAY == 2:
            ahead = sums(up_to(EXCLUSIVE, BT), load_decay(log_decay, row, here, head, key, H, K, BK, DECAY), PARTS)
            behind = sums(after(BT), load_decay(log_decay, row_k, here_k, head, key, H, K, BK, DECAY), PARTS)
            between = total_decay(log_decay, early + BT, late, length, first, step, index, inputs, head, key, H, K, BT, BK, DECAY)
            bq = (bq.to(tl.float32) * tl.exp(ahead)).to(bq.dtype)
            bk = (bk.to(tl.float32) * tl.exp(behind + between[None, :])).to(bk.dtype)
        found = tl.dot(bq, tl.trans(bk), found, input_precision=PRECISION)
    if DECAY == 1:
        ahead = ahead_of(load_decay(log_decay, row, here, head, 0, H, K, BK, DECAY), EXCLUSIVE)
        behind = behind_of(load_decay(log_decay, row_k, here_k, head, 0, H, K, BK, DECAY))
        behind += total_decay(log_decay, early + BT, late, length, first, step, index, inputs, head, 0, H, K, BT, BK, DECAY)
        found *= tl.exp(ahead)[:, None] * tl.exp(behind)[None, :]
    return found


@kernel
def outputs(
    q, k, v, log_decay, bonus, kept, o, scale, cu_seqlens, index, T, N, S, direction, own,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, CHUNK: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DECAY: tl.constexpr, EXCLUSIVE: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """q, k: [N, H, K]; v, o: [N, H, V]; log_decay: [N, H] or [N, H, K]; bonus: [H, K].

    One program per tile of steps, head and BV values.
    """
    slot, head, value = tl.program_id(0) // (CHUNK // BT), tl.program_id(1), tl.program_id(2) * BV
    sequence, chunk = chunk_at(slot, cu_seqlens, T, N, S, CHUNK)
    first, step, length, inputs, results = span(sequence, cu_seqlens, T, N, S, direction, own)
    start = chunk * CHUNK
    begin = start + tl.program_id(0) % (CHUNK // BT) * BT
    if begin >= length:
        return
    row, here = rows_at(begin, length, first, step, index, BT)
    kept += (slot.to(tl.int64) * H + head) * (K * V)
    total = tl.zeros([BT, BV], tl.float32)
    for key in range(0, K, BK):
        bq = operand(load_tile(q, row + inputs, here, head, key, H, K, BK))
        inner, inside = state_tile(key, value, K, V, BK, BV)
        before = tl.load(kept + inner, mask=inside, other=0.0)
        if DECAY == 2:
            g = load_decay(log_decay, row + inputs, here, head, key, H, K, BK, DECAY)
            ahead = sums(up_to(EXCLUSIVE, BT), g, PARTS)
            if CHUNK > BT:
                ahead += total_decay(log_decay, start, begin, length, first, step, index, inputs, head, key, H, K, BT, BK, DECAY)[None, :]
            bq = (bq.to(tl.float32) * tl.exp(ahead)).to(bq.dtype)
        total = tl.dot(bq, before.to(bq.dtype), total, input_precision=PRECISION)
    if DECAY == 1:
        ahead = ahead_of(load_decay(log_decay, row + inputs, here, head, 0, H, K, BK, DECAY), EXCLUSIVE)
        if CHUNK > BT:
            ahead += total_decay(log_decay, start, begin, length, first, step, index, inputs, head, 0, H, K, BT, BK, DECAY)
        total *= tl.exp(ahead)[:, None]
    if EXCLUSIVE:
        bonus += sequence // S * own * (H * K)
    scores = scores_inside(q, k, log_decay, bonus, row + inputs, here, head, H, K, BT, BK, DECAY, EXCLUSIVE, PARTS, PRECISION)
    bv = operand(load_tile(v, row + inputs, here, head, value, H, V, BV))
    total = tl.dot(scores.to(bv.dtype), bv, total, input_precision=PRECISION)
    if CHUNK > BT:
        for early in range(start, begin, BT):
            scores = scores_across(
                q, k, log_decay, begin, early, length, first, step, index, inputs, head,
                H, K, BT, BK, DECAY, EXCLUSIVE, PARTS, PRECISION,
            )  # fmt: skip
            row_v, here_v = rows_at(early, length, first, step, index, BT)
            bv = operand(load_tile(v, row_v + inputs, here_v, head, value, H, V, BV))
            total = tl.dot(scores.to(bv.dtype), bv, total, input_precision=PRECISION)
    pointers, mask = tile_at(o, row + results, here, head, value, H, V, BV)
    tl.store(pointers, total * scale, mask=mask)
