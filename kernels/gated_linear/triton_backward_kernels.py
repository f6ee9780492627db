"""Triton kernel of all gradients of gated linear attention. Names and tiles as in ``triton_kernels``."""

import triton
import triton.language as tl

from ..triton_rows import kernel, span
from .triton_kernels import scores_inside
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
    rows_at,
    state_tile,
    sums,
    tile_of,
    to_seam,
    up_to,
)  # fmt: skip


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
    at_state = (slot.to(tl.int64) * H + head) * (K * V)
    if chunk * CHUNK >= length:
        if EXCLUSIVE and part < tl.cdiv(K, BK):
            at = part * BK + tl.arange(0, BK)
            tl.store(grad_bonus + (slot.to(tl.int64) * H + head) * K + at, tl.zeros([BK], tl.float32), mask=at < K)
        return
    row, here = rows_at(chunk * CHUNK, length, first, step, index, BT)
    if EXCLUSIVE:
        bonus += sequence // S * own * (H * K)
    if part < tl.cdiv(K, BK):
        rows = (2 if direction == 2 else 1) * N.to(tl.int64)
        _keys(
            q, k, v, log_decay, bonus, kept + at_state, grad_kept + at_state, grad_o, grad_q, grad_k,
            grad_decay + part * rows * H if DECAY == 1 else grad_decay, grad_bonus, scale, slot, head, part * BK, row, here, inputs,
            results, H, K, V, BT, BK, BV, DECAY, EXCLUSIVE, PARTS, PRECISION,
        )  # fmt: skip
    else:
        _values(
            q, k, log_decay, bonus, grad_kept + at_state, grad_o, grad_v, scale, head, (part - tl.cdiv(K, BK)) * BV, row, here,
            inputs, results, H, K, V, BT, BK, BV, DECAY, EXCLUSIVE, PARTS, PRECISION,
        )  # fmt: skip


@triton.jit
def _values(
    q, k, log_decay, bonus, grad_kept, grad_o, grad_v, scale, head, value, row, here, inputs, results,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DECAY: tl.constexpr, EXCLUSIVE: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    total = tl.zeros([BT, BV], tl.float32)
    for key in range(0, K, BK):
        bk = load_tile(k, row + inputs, here, head, key, H, K, BK)
        inner, inside = state_tile(key, value, K, V, BK, BV)
        later = tl.load(grad_kept + inner, mask=inside, other=0.0)
        if DECAY == 2:
            g = load_decay(log_decay, row + inputs, here, head, key, H, K, BK, DECAY)
            bk = (bk.to(tl.float32) * tl.exp(sums(after(BT), g, PARTS))).to(bk.dtype)
        total = tl.dot(bk, later.to(bk.dtype), total, input_precision=PRECISION)
    if DECAY == 1:
        g = load_decay(log_decay, row + inputs, here, head, 0, H, K, BK, DECAY)
        total *= tl.exp(behind_of(g))[:, None]
    scores = scores_inside(q, k, log_decay, bonus, row + inputs, here, head, H, K, BT, BK, DECAY, EXCLUSIVE, PARTS, PRECISION) * scale
    given = load_tile(grad_o, row + results, here, head, value, H, V, BV)
    total = tl.dot(tl.trans(scores).to(given.dtype), given, total, input_precision=PRECISION)
    offset, mask = tile_of(row + results, here, head, value, H, V, BV)
    tl.store(grad_v + offset, total, mask=mask)


@triton.jit
def _keys(
    q, k, v, log_decay, bonus, kept, grad_kept, grad_o, grad_q, grad_k, grad_decay, grad_bonus, scale, slot, head, key, row, here,
    inputs, results, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DECAY: tl.constexpr, EXCLUSIVE: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    t = tl.arange(0, BT)
    gq, gk = tl.zeros([BT, BK], tl.float32), tl.zeros([BT, BK], tl.float32)
    given = tl.zeros([BT, BT], tl.float32)  # gradient of the scores
    across = tl.zeros([BK], tl.float32)  # what goes from the state before the chunk to the one after it
    for value in range(0, V, BV):
        go = load_tile(grad_o, row + results, here, head, value, H, V, BV)
        bv = load_tile(v, row + inputs, here, head, value, H, V, BV)
        inner, inside = state_tile(key, value, K, V, BK, BV)
        before = tl.load(kept + inner, mask=inside, other=0.0)
        later = tl.load(grad_kept + inner, mask=inside, other=0.0)
        if DECAY > 0:
            across += tl.sum(before * later, 1)
        given = tl.dot(go, tl.trans(bv), given, input_precision=PRECISION)
        gq = tl.dot(go, tl.trans(before.to(go.dtype)), gq, input_precision=PRECISION)
        gk = tl.dot(bv, tl.trans(later.to(bv.dtype)), gk, input_precision=PRECISION)
    given *= scale
    gq *= scale
    bq = load_tile(q, row + inputs, here, head, key, H, K, BK)
    bk = load_tile(k, row + inputs, here, head, key, H, K, BK)
    itself = tl.sum(tl.where(t[:, None] == t[None, :], given, 0.0), 1)[:, None]
    given = tl.where(t[:, None] > t[None, :], given, 0.0)
    if DECAY > 0:
        g = load_decay(log_decay, row + inputs, here, head, key, H, K, BK, DECAY)
    if DECAY == 2:
        gq *= tl.exp(sums(up_to(EXCLUSIVE, BT), g, PARTS))
        gk *= tl.exp(sums(after(BT), g, PARTS))
        gg = sums(tl.trans(up_to(EXCLUSIVE, BT)), bq.to(tl.float32) * gq, PARTS)
        gg += sums(tl.trans(after(BT)), bk.to(tl.float32) * gk, PARTS)
        gg += (across * tl.exp(tl.sum(g, 0)))[None, :]
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
        offset, mask = tile_of(row + results, here, head, key, H, K, BK)
        tl.store(grad_decay + offset, gg, mask=mask)
    else:
        if DECAY == 1:
            gq *= tl.exp(ahead_of(g, EXCLUSIVE))[:, None]
            gk *= tl.exp(behind_of(g))[:, None]
            seen, kept_on = tl.sum(bq.to(tl.float32) * gq, 1), tl.sum(bk.to(tl.float32) * gk, 1)
            given *= between_steps(g, EXCLUSIVE, BT)
        scores = given.to(bq.dtype)
        inner_q = tl.dot(scores, bk, input_precision=PRECISION)
        inner_k = tl.dot(tl.trans(scores), bq, input_precision=PRECISION)
        gq += inner_q
        gk += inner_k
        if DECAY == 1:
            # the pairs that a decay stands between: those of every later query, then of the earlier keys
            pairs = given * tl.dot(bq, tl.trans(bk), input_precision=PRECISION)
            pairs = sums(tl.trans(up_to(EXCLUSIVE, BT)), pairs, PARTS)
            gg = tl.sum(tl.where(t[:, None] > t[None, :], pairs, 0.0), 1) + tl.cumsum(seen, 0, reverse=True)
            if EXCLUSIVE:
                gg -= seen
            gg += tl.cumsum(kept_on, 0) - kept_on + tl.sum(across, 0) * tl.exp(tl.sum(g, 0))
            tl.store(grad_decay + (row + results) * H + head, gg, mask=here)
    factor_q, factor_k = bk.to(tl.float32), bq.to(tl.float32)
    if EXCLUSIVE:
        at = key + tl.arange(0, BK)
        own_weight = tl.load(bonus + head * K + at, mask=at < K, other=0.0)[None, :]
        gu = tl.sum(itself * factor_q * factor_k, 0)
        tl.store(grad_bonus + (slot.to(tl.int64) * H + head) * K + at, gu, mask=at < K)
        factor_q *= own_weight
        factor_k *= own_weight
    gq += itself * factor_q
    gk += itself * factor_k
    offset, mask = tile_of(row + results, here, head, key, H, K, BK)
    tl.store(grad_q + offset, gq, mask=mask)
    tl.store(grad_k + offset, gk, mask=mask)
