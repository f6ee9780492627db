"""Triton kernel of all gradients of gated linear attention. Names and tiles as in ``triton_kernels``."""

import triton
import triton.language as tl

from ..triton_rows import kernel, span
from .triton_kernels import scores_across, scores_inside
from .triton_tiles import (
    after,
    ahead_of,
    behind_of,
    between_steps,
    chunk_at,
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
)


@kernel
def gradients(
    q, k, v, log_decay, bonus, kept, grad_kept, grad_o, grad_q, grad_k, grad_v, grad_decay, grad_bonus, scale,
    cu_seqlens, index, T, N, S, direction, own,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, CHUNK: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DECAY: tl.constexpr, EXCLUSIVE: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program per chunk, head and BK keys for the gradients of q, k and decays, or BV values for that of v.

    kept: states before, grad_kept: gradients of the states after each chunk; grad_decay: as log_decay, or with one decay per head
    [tiles of keys, rows, H], parts of a sum; grad_bonus: [slots, H, K], parts of a sum.
    """
    slot, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    sequence, chunk = chunk_at(slot, cu_seqlens, T, N, S, CHUNK)
    first, step, length, inputs, results = span(sequence, cu_seqlens, T, N, S, direction, own)
    start = chunk * CHUNK
    end = tl.minimum(start + CHUNK, length)
    kept += (slot.to(tl.int64) * H + head) * (K * V)
    grad_kept += (slot.to(tl.int64) * H + head) * (K * V)
    if EXCLUSIVE:
        bonus += sequence // S * own * (H * K)
        grad_bonus += (slot.to(tl.int64) * H + head) * K
    if part < tl.cdiv(K, BK):
        if DECAY == 1:
            grad_decay += part * (2 if direction == 2 else 1) * N.to(tl.int64) * H
        _keys(
            q, k, v, log_decay, bonus, kept, grad_kept, grad_o, grad_q, grad_k, grad_decay, grad_bonus, scale, head, part * BK,
            start, end, first, step, index, inputs, results, H, K, V, CHUNK, BT, BK, BV, DECAY, EXCLUSIVE, PARTS, PRECISION,
        )  # fmt: skip
    else:
        _values(
            q, k, log_decay, bonus, grad_kept, grad_o, grad_v, scale, head, (part - tl.cdiv(K, BK)) * BV,
            start, end, first, step, index, inputs, results, H, K, V, CHUNK, BT, BK, BV, DECAY, EXCLUSIVE, PARTS, PRECISION,
        )  # fmt: skip


@triton.jit
def _values(
    q, k, log_decay, bonus, grad_kept, grad_o, grad_v, scale, head, value, start, end, first, step, index, inputs, results,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, CHUNK: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DECAY: tl.constexpr, EXCLUSIVE: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    for begin in range(start, end, BT):
        row, here = rows_at(begin, end, first, step, index, BT)
        total = tl.zeros([BT, BV], tl.float32)
        for key in range(0, K, BK):
            bk = operand(load_tile(k, row + inputs, here, head, key, H, K, BK))
            inner, inside = state_tile(key, value, K, V, BK, BV)
            later = tl.load(grad_kept + inner, mask=inside, other=0.0)
            if DECAY == 2:
                behind = sums(after(BT), load_decay(log_decay, row + inputs, here, head, key, H, K, BK, DECAY), PARTS)
                if CHUNK > BT:
                    rest = total_decay(log_decay, begin + BT, end, end, first, step, index, inputs, head, key, H, K, BT, BK, DECAY)
                    behind += rest[None, :]
                bk = (bk.to(tl.float32) * tl.exp(behind)).to(bk.dtype)
            total = tl.dot(bk, later.to(bk.dtype), total, input_precision=PRECISION)
        if DECAY == 1:
            behind = behind_of(load_decay(log_decay, row + inputs, here, head, 0, H, K, BK, DECAY))
            if CHUNK > BT:
                behind += total_decay(log_decay, begin + BT, end, end, first, step, index, inputs, head, 0, H, K, BT, BK, DECAY)
            total *= tl.exp(behind)[:, None]
        scores = scores_inside(q, k, log_decay, bonus, row + inputs, here, head, H, K, BT, BK, DECAY, EXCLUSIVE, PARTS, PRECISION)
        given = operand(load_tile(grad_o, row + results, here, head, value, H, V, BV))
        total = tl.dot(tl.trans(scores * scale).to(given.dtype), given, total, input_precision=PRECISION)
        if CHUNK > BT:
            for late in range(begin + BT, end, BT):
                scores = scores_across(
                    q, k, log_decay, late, begin, end, first, step, index, inputs, head,
                    H, K, BT, BK, DECAY, EXCLUSIVE, PARTS, PRECISION,
                )  # fmt: skip
                row_o, here_o = rows_at(late, end, first, step, index, BT)
                given = operand(load_tile(grad_o, row_o + results, here_o, head, value, H, V, BV))
                total = tl.dot(tl.trans(scores * scale).to(given.dtype), given, total, input_precision=PRECISION)
        pointers, mask = tile_at(grad_v, row + results, here, head, value, H, V, BV)
        tl.store(pointers, total, mask=mask)


@triton.jit
def _behind(
    log_decay, begin, end, first, step, index, inputs, head, key,
    H: tl.constexpr, K: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, DECAY: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """[BT, 1 or BK]: sums from the step after each of a tile's to the step before ``end``."""
    row, here = rows_at(begin, end, first, step, index, BT)
    g = load_decay(log_decay, row + inputs, here, head, key, H, K, BK, DECAY)
    rest = total_decay(log_decay, begin + BT, end, end, first, step, index, inputs, head, key, H, K, BT, BK, DECAY)
    found = sums(after(BT), g, PARTS) if DECAY == 2 else behind_of(g)[:, None]
    return found + rest[None, :]


@triton.jit
def _ahead(
    log_decay, start, begin, end, first, step, index, inputs, head, key,
    H: tl.constexpr, K: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, DECAY: tl.constexpr, EXCLUSIVE: tl.constexpr,
    PARTS: tl.constexpr,
):  # fmt: skip
    """[BT, 1 or BK]: sums from the step ``start`` to each of the tile's from ``begin`` on."""
    row, here = rows_at(begin, end, first, step, index, BT)
    g = load_decay(log_decay, row + inputs, here, head, key, H, K, BK, DECAY)
    earlier = total_decay(log_decay, start, begin, end, first, step, index, inputs, head, key, H, K, BT, BK, DECAY)
    found = sums(up_to(EXCLUSIVE, BT), g, PARTS) if DECAY == 2 else ahead_of(g, EXCLUSIVE)[:, None]
    return found + earlier[None, :]


@triton.jit
def _from_state(
    x, state, row, here, head, key,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[BT, BK]: a tile of x [N, H, V] times the rows of a state [K, V]."""
    found = tl.zeros([BT, BK], tl.float32)
    for value in range(0, V, BV):
        bx = operand(load_tile(x, row, here, head, value, H, V, BV))
        inner, inside = state_tile(key, value, K, V, BK, BV)
        bs = tl.load(state + inner, mask=inside, other=0.0).to(bx.dtype)
        found = tl.dot(bx, tl.trans(bs), found, input_precision=PRECISION)
    return found


@triton.jit
def _across(kept, grad_kept, key, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):
    """[BK]: product of the state before a chunk with the gradient of the one after it."""
    found = tl.zeros([BK], tl.float32)
    for value in range(0, V, BV):
        inner, inside = state_tile(key, value, K, V, BK, BV)
        found += tl.sum(tl.load(kept + inner, mask=inside, other=0.0) * tl.load(grad_kept + inner, mask=inside, other=0.0), 1)
    return found


@triton.jit
def _entering(
    k, v, log_decay, grad_kept, head, key, start, end, first, step, index, inputs,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DECAY: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[BK]: what all keys of a chunk add to the product of the state after it with its gradient."""
    found = tl.zeros([BK], tl.float32)
    for begin in range(start, end, BT):
        row, here = rows_at(begin, end, first, step, index, BT)
        grad = _from_state(v, grad_kept, row + inputs, here, head, key, H, K, V, BT, BK, BV, PRECISION)
        grad *= tl.exp(_behind(log_decay, begin, end, first, step, index, inputs, head, key, H, K, BT, BK, DECAY, PARTS))
        found += tl.sum(load_tile(k, row + inputs, here, head, key, H, K, BK).to(tl.float32) * grad, 0)
    return found


@triton.jit
def _given(
    v, grad_o, scale, head, late, early, end, first, step, index, inputs, results,
    H: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[BT, BT]: the gradient of the scores of the tile from ``late`` on (rows) with that from ``early`` on."""
    row, here = rows_at(late, end, first, step, index, BT)
    row_v, here_v = rows_at(early, end, first, step, index, BT)
    found = tl.zeros([BT, BT], tl.float32)
    for value in range(0, V, BV):
        go = load_tile(grad_o, row + results, here, head, value, H, V, BV)
        bv = load_tile(v, row_v + inputs, here_v, head, value, H, V, BV)
        found = tl.dot(go, tl.trans(bv), found, input_precision=PRECISION)
    return found * scale


@triton.jit
def _keys(
    q, k, v, log_decay, bonus, kept, grad_kept, grad_o, grad_q, grad_k, grad_decay, grad_bonus, scale, head, key,
    start, end, first, step, index, inputs, results,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, CHUNK: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DECAY: tl.constexpr, EXCLUSIVE: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A decay's gradient is the sum over the pairs of a key before it and a query from it on. Tiles run from the last to the first,
    so that ``passing``, the sum over those pairs that a whole tile stands between, can be carried on."""
    t = tl.arange(0, BT)
    at = key + tl.arange(0, BK)
    tiles = tl.cdiv(end - start, BT)
    gu = tl.zeros([BK], tl.float32)
    passing = tl.zeros([BK], tl.float32)
    if DECAY > 0 and CHUNK > BT:
        passing = _entering(
            k, v, log_decay, grad_kept, head, key, start, end, first, step, index, inputs,
            H, K, V, BT, BK, BV, DECAY, PARTS, PRECISION,
        )  # fmt: skip
    for i in range(0, tiles):
        begin = start + (tiles - 1 - i) * BT
        row, here = rows_at(begin, end, first, step, index, BT)
        # one product after another, though rows are read twice: several at once take more registers than there are
        given = _given(v, grad_o, scale, head, begin, begin, end, first, step, index, inputs, results, H, V, BT, BV, PRECISION)
        itself = tl.sum(tl.where(t[:, None] == t[None, :], given, 0.0), 1)[:, None]
        given = tl.where(t[:, None] > t[None, :], given, 0.0)
        gq = _from_state(grad_o, kept, row + results, here, head, key, H, K, V, BT, BK, BV, PRECISION) * scale
        gk = _from_state(v, grad_kept, row + inputs, here, head, key, H, K, V, BT, BK, BV, PRECISION)
        bq = operand(load_tile(q, row + inputs, here, head, key, H, K, BK))
        bk = operand(load_tile(k, row + inputs, here, head, key, H, K, BK))
        if DECAY > 0:
            if i == 0:
                whole = total_decay(log_decay, start, end, end, first, step, index, inputs, head, key, H, K, BT, BK, DECAY)
                passing += _across(kept, grad_kept, key, K, V, BK, BV) * tl.exp(whole)
            gq *= tl.exp(_ahead(log_decay, start, begin, end, first, step, index, inputs, head, key, H, K, BT, BK, DECAY, EXCLUSIVE, PARTS))
            gk *= tl.exp(_behind(log_decay, begin, end, first, step, index, inputs, head, key, H, K, BT, BK, DECAY, PARTS))
            g = load_decay(log_decay, row + inputs, here, head, key, H, K, BK, DECAY)
        if CHUNK > BT:
            for early in range(start, begin, BT):
                pairs = _given(v, grad_o, scale, head, begin, early, end, first, step, index, inputs, results, H, V, BT, BV, PRECISION)
                row_k, here_k = rows_at(early, end, first, step, index, BT)
                other = operand(load_tile(k, row_k + inputs, here_k, head, key, H, K, BK))
                if DECAY > 0:
                    weight = _behind(log_decay, early, begin, first, step, index, inputs, head, key, H, K, BT, BK, DECAY, PARTS)
                    other = (other.to(tl.float32) * tl.exp(weight)).to(other.dtype)
                found = tl.dot(pairs.to(other.dtype), other, input_precision=PRECISION)
                if DECAY > 0:
                    found *= tl.exp(
                        _ahead(log_decay, begin, begin, end, first, step, index, inputs, head, key, H, K, BT, BK, DECAY, EXCLUSIVE, PARTS)
                    )
                gq += found
            for late in range(begin + BT, end, BT):
                pairs = _given(v, grad_o, scale, head, late, begin, end, first, step, index, inputs, results, H, V, BT, BV, PRECISION)
                row_q, here_q = rows_at(late, end, first, step, index, BT)
                other = operand(load_tile(q, row_q + inputs, here_q, head, key, H, K, BK))
                if DECAY > 0:
                    weight = _ahead(
                        log_decay, late, late, end, first, step, index, inputs, head, key, H, K, BT, BK, DECAY, EXCLUSIVE, PARTS
                    )  # fmt: skip
                    other = (other.to(tl.float32) * tl.exp(weight)).to(other.dtype)
                found = tl.dot(tl.trans(pairs).to(other.dtype), other, input_precision=PRECISION)
                if DECAY > 0:
                    found *= tl.exp(_behind(log_decay, begin, late, first, step, index, inputs, head, key, H, K, BT, BK, DECAY, PARTS))
                gk += found
        if DECAY > 0:
            # of the pairs with keys of earlier tiles, and with queries of later ones
            rows, columns = bq.to(tl.float32) * gq, bk.to(tl.float32) * gk
            if CHUNK > BT:
                passing -= tl.sum(columns, 0)
            if DECAY == 2:
                gg = sums(tl.trans(up_to(EXCLUSIVE, BT)), rows, PARTS) + sums(tl.trans(after(BT)), columns, PARTS) + passing[None, :]
            else:
                seen, kept_on = tl.sum(rows, 1), tl.sum(columns, 1)
                gg = tl.cumsum(seen, 0, reverse=True) + tl.cumsum(kept_on, 0) - kept_on + tl.sum(passing, 0)
                if EXCLUSIVE:
                    gg -= seen
            if CHUNK > BT:
                passing += tl.sum(rows, 0)
        if DECAY == 2:
            level = 0
            while (1 << level) < BT:
                selected, later_rows = to_seam(level, EXCLUSIVE, BT), is_later(level, BT)[:, None]
                weight = tl.exp(sums(selected, g, PARTS))
                met = (tl.where(later_rows, bq, bk).to(tl.float32) * weight).to(bq.dtype)
                pairs = tl.where(is_pair(level, BT), given, 0.0)
                grad = tl.dot((pairs + tl.trans(pairs)).to(met.dtype), met, input_precision=PRECISION)
                gg += sums(tl.trans(selected), met.to(tl.float32) * grad, PARTS)
                grad *= weight
                gq += tl.where(later_rows, grad, 0.0)
                gk += tl.where(later_rows, 0.0, grad)
                level += 1
            pointers, mask = tile_at(grad_decay, row + results, here, head, key, H, K, BK)
            tl.store(pointers, gg, mask=mask)
        else:
            if DECAY == 1:
                given *= between_steps(g, EXCLUSIVE, BT)
                # the pairs that a decay stands between: those of every later query, then of the earlier keys
                pairs = given * tl.dot(bq, tl.trans(bk), input_precision=PRECISION)
                pairs = sums(tl.trans(up_to(EXCLUSIVE, BT)), pairs, PARTS)
                gg += tl.sum(tl.where(t[:, None] > t[None, :], pairs, 0.0), 1)
                tl.store(grad_decay + (row + results) * H + head, gg, mask=here)
            scores = given.to(bq.dtype)
            gq = tl.dot(scores, bk, gq, input_precision=PRECISION)
            gk = tl.dot(tl.trans(scores), bq, gk, input_precision=PRECISION)
        factor_q, factor_k = bk.to(tl.float32), bq.to(tl.float32)
        if EXCLUSIVE:
            gu += tl.sum(itself * factor_q * factor_k, 0)
            weight = tl.load(bonus + head * K + at, mask=at < K, other=0.0)[None, :]
            factor_q *= weight
            factor_k *= weight
        pointers, mask = tile_at(grad_q, row + results, here, head, key, H, K, BK)
        tl.store(pointers, gq + itself * factor_q, mask=mask)
        pointers, mask = tile_at(grad_k, row + results, here, head, key, H, K, BK)
        tl.store(pointers, gk + itself * factor_k, mask=mask)
    if EXCLUSIVE:
        tl.store(grad_bonus + at, gu, mask=at < K)
