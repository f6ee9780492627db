"""Triton kernels of mLSTM, forward, and the running maximum by itself. Rows as in ``triton_rows``, chunks and tiles as in ``triton_tiles``.

With G_t the sum of log f from the first step of a chunk to t, and C_0, n_0, m_0 the state before it:

    N_t = scale · (Σ_{s ≤ t} e^{G_t - G_s + i_s - m_t} (q_t · k_s) v_s + e^{G_t + m_0 - m_t} C_0ᵀ q_t) ,
    p_t likewise with 1 for v_s and n_0 for C_0 ,   h_t = N_t / (max(|p_t|, e^{-m_t}) + eps)

Sigmoid gates are the same with log σ(i) in place of i and 0 in place of m. What belongs to steps and is only scratch lies in order of
positions, [H, steps of all directions], so that it is contiguous whatever the index says.
"""

import triton
import triton.language as tl

from ..triton_rows import kernel, row_at, span
from .triton_tiles import FORGOTTEN, chunk_at, dot_left, first_slot, load_tile, operand, rows_at, split, state_tile, tile_at


@triton.jit
def log_sigmoid(x):
    """-log(1 + e^-x); the series keeps small results, of which many are summed, exact to float32."""
    e = tl.exp(-tl.abs(x))
    series = e * (1.0 - e * (0.5 - e * (0.33333333 - e * 0.25)))
    return tl.minimum(x, 0.0) - tl.where(e < 0.01, series, tl.log(1.0 + e))


@triton.jit
def log_gates(input_gate, forget_gate, at, here, EXPONENTIAL: tl.constexpr):
    """log i and log f of steps; those that are not there add and forget nothing."""
    gate = tl.load(input_gate + at, mask=here, other=0.0).to(tl.float32)
    forget = tl.load(forget_gate + at, mask=here, other=0.0).to(tl.float32)
    if not EXPONENTIAL:
        gate = log_sigmoid(gate)
    return tl.where(here, gate, -float("inf")), tl.where(here, tl.maximum(log_sigmoid(forget), FORGOTTEN), 0.0)


@triton.jit
def steps_at(position, outputs, head, N, direction):
    """Where scratch of a head's steps lies."""
    return head * (tl.where(direction == 2, 2, 1) * N.to(tl.int64)) + outputs + position


@triton.jit
def later_maximum(decay, x, later_decay, later_x):
    return decay + later_decay, tl.maximum(x + later_decay, later_x)


@triton.jit
def at_end(x, BT: tl.constexpr):
    return tl.sum(tl.where(tl.arange(0, BT) == BT - 1, x, 0.0), 0)


@kernel
def mlstm_states(
    k, v, input_gate, forget_gate, C, n, m, states, norms, maxima, coarse, late, early, maximum, last_C, last_n, last_m,
    cu_seqlens, index, T, N, S, direction, own,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, EXPONENTIAL: tl.constexpr, CHUNK: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """k: [N, H, K]; v: [N, H, V]; gates: [N, H]; C, n, m and last ones: [S, H, K, V], [S, H, K], [S, H] → states before each chunk,
    [slots, H, K, V], [slots, H, K], [slots, H], and for each step m, and the sum G of log f since its chunk began in two parts: a coarse
    one, whose differences are exact, and the rest, less m in ``late`` and taken from log i in ``early``.

    One program per sequence, head and tile [BK, BV] of the state, which goes through the steps."""
    sequence, head = tl.program_id(0), tl.program_id(1)
    key, value = tl.program_id(2) // tl.cdiv(V, BV) * BK, tl.program_id(2) % tl.cdiv(V, BV) * BV
    first, step, length, inputs, outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
    at_state = sequence.to(tl.int64) * H + head
    offset, mask = state_tile(key, value, K, V, BK, BV)
    keys = key + tl.arange(0, BK)
    if C is None:
        memory, norm, before = tl.zeros([BK, BV], tl.float32), tl.zeros([BK], tl.float32), 0.0
    else:
        memory = tl.load(C + at_state * K * V + offset, mask=mask, other=0.0).to(tl.float32)
        norm = tl.load(n + at_state * K + keys, mask=keys < K, other=0.0).to(tl.float32)
        before = 0.0
        if EXPONENTIAL:
            before = tl.load(m + at_state).to(tl.float32)
    coarse_sum, rest_sum = 0.0, 0.0
    slot = first_slot(sequence, cu_seqlens, T, N, S, CHUNK)
    for begin in range(0, length, BT):
        if begin % CHUNK == 0:
            at_slot = (slot + begin // CHUNK).to(tl.int64) * H + head
            tl.store(states + at_slot * K * V + offset, memory, mask=mask)
            if value == 0:
                tl.store(norms + at_slot * K + keys, norm, mask=keys < K)
            if EXPONENTIAL:
                tl.store(maxima + at_slot, before, mask=key + value == 0)
            coarse_sum, rest_sum = 0.0, 0.0
        row, here = rows_at(begin, length, first, step, index, BT)
        row += inputs
        gate, log_forget = log_gates(input_gate, forget_gate, row * H + head, here, EXPONENTIAL)
        large, small = split(log_forget)
        large, small = tl.cumsum(large, 0), tl.cumsum(small, 0)
        large_end, small_end = at_end(large, BT), at_end(small, BT)
        now = tl.zeros([BT], tl.float32)
        if EXPONENTIAL:
            decayed, now = tl.associative_scan((log_forget, gate), 0, later_maximum)
            now = tl.maximum(now, decayed + before)
        end = at_end(now, BT)
        if key + value == 0:
            at = steps_at(first + step * (begin + tl.arange(0, BT)), outputs, head, N, direction)
            tl.store(coarse + at, coarse_sum + large, mask=here)
            tl.store(late + at, rest_sum + small - now, mask=here)
            tl.store(early + at, gate - (rest_sum + small), mask=here)
            if EXPONENTIAL:
                tl.store(maximum + at, now, mask=here)
        weight = tl.exp((large_end - large) + (small_end - small) + gate - end)
        kept = tl.exp(large_end + small_end + before - end)
        weighted = load_tile(k, row, here, head, key, H, K, BK).to(tl.float32) * weight[:, None]
        values = load_tile(v, row, here, head, value, H, V, BV)
        memory = tl.dot(tl.trans(weighted.to(values.dtype)), values, memory * kept, input_precision=PRECISION)
        norm = norm * kept + tl.sum(weighted, 0)
        before = end
        coarse_sum, rest_sum = coarse_sum + large_end, rest_sum + small_end
    if last_C is not None:
        tl.store(last_C + at_state * K * V + offset, memory, mask=mask)
        if value == 0:
            tl.store(last_n + at_state * K + keys, norm, mask=keys < K)
        if EXPONENTIAL:
            tl.store(last_m + at_state, before, mask=key + value == 0)


@triton.jit
def load_scalar(x, at, EXISTS: tl.constexpr):
    found = 0.0
    if EXISTS:
        found = tl.load(x + at).to(tl.float32)
    return found


@triton.jit
def load_queries(coarse, late, at, here):
    """G - m of steps, in two parts."""
    return tl.load(coarse + at, mask=here, other=0.0), tl.load(late + at, mask=here, other=0.0)


@triton.jit
def load_keys(coarse, early, at, here):
    """G and log i - G of steps, the coarse part of G by itself; those that are not there add nothing."""
    return tl.load(coarse + at, mask=here, other=0.0), tl.load(early + at, mask=here, other=-float("inf"))


@triton.jit
def weights(large, late, earlier_large, early, t, s, here):
    """[queries, keys]: e^{G_t - G_s + i_s - m_t}, 0 for later keys and for steps that are not there."""
    exponent = (large[:, None] - earlier_large[None, :]) + (late[:, None] + early[None, :])
    return tl.exp(tl.where(here[:, None] & (t[:, None] >= s[None, :]), exponent, -float("inf")))


@triton.jit
def floor_of(maximum, at, here, EXPONENTIAL: tl.constexpr):
    """What |p| of steps is at least taken for."""
    if EXPONENTIAL:
        return tl.exp(-tl.load(maximum + at, mask=here, other=0.0))
    else:
        return tl.full(at.shape, 1.0, tl.float32)


@kernel
def mlstm_output(
    q, k, v, states, norms, maxima, coarse, late, early, maximum, h, projected, scale, eps,
    cu_seqlens, index, T, N, S, direction, own,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, EXPONENTIAL: tl.constexpr, DIVIDE: tl.constexpr, CHUNK: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """→ h [N, H, V] and p [H, N]. One program per tile of BT steps, head and BV values; it goes through the earlier tiles of its chunk."""
    TILES: tl.constexpr = CHUNK // BT
    slot, tile = tl.program_id(0) // TILES, tl.program_id(0) % TILES
    head, value = tl.program_id(1), tl.program_id(2) * BV
    sequence, chunk = chunk_at(slot, cu_seqlens, T, N, S, CHUNK)
    first, step, length, inputs, outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
    begin = chunk * CHUNK + tile * BT
    if begin < length:
        row, here = rows_at(begin, length, first, step, index, BT)
        t = begin + tl.arange(0, BT)
        at = steps_at(first + step * t, outputs, head, N, direction)
        large, behind = load_queries(coarse, late, at, here)
        at_slot = slot.to(tl.int64) * H + head
        memory = tl.zeros([BT, BV], tl.float32)
        p = tl.zeros([BT], tl.float32)
        for key in range(0, K, BK):
            queries = operand(load_tile(q, row + inputs, here, head, key, H, K, BK))
            offset, mask = state_tile(key, value, K, V, BK, BV)
            state = tl.load(states + at_slot * K * V + offset, mask=mask, other=0.0)
            memory = tl.dot(queries, state, memory, input_precision=PRECISION)
            keys = key + tl.arange(0, BK)
            norm = tl.load(norms + at_slot * K + keys, mask=keys < K, other=0.0)
            p += tl.sum(queries.to(tl.float32) * norm[None, :], 1)
        decay = tl.exp(large + (behind + load_scalar(maxima, at_slot, EXPONENTIAL)))
        memory, p = memory * decay[:, None], p * decay
        for earlier in range(chunk * CHUNK, begin + BT, BT):
            other, there = rows_at(earlier, length, first, step, index, BT)
            s = earlier + tl.arange(0, BT)
            at_other = steps_at(first + step * s, outputs, head, N, direction)
            other += inputs
            scores = tl.zeros([BT, BT], tl.float32)
            for key in range(0, K, BK):
                queries = load_tile(q, row + inputs, here, head, key, H, K, BK)
                keys_here = load_tile(k, other, there, head, key, H, K, BK)
                scores = tl.dot(queries, tl.trans(keys_here), scores, input_precision=PRECISION)
            earlier_large, ahead = load_keys(coarse, early, at_other, there)
            scores *= weights(large, behind, earlier_large, ahead, t, s, here)
            p += tl.sum(scores, 1)
            values = operand(load_tile(v, other, there, head, value, H, V, BV))
            memory = dot_left(scores, values, memory, PRECISION)
        p *= scale
        result = memory * scale
        if DIVIDE:
            result = result / (tl.maximum(tl.abs(p), floor_of(maximum, at, here, EXPONENTIAL)) + eps)[:, None]
        pointers, mask = tile_at(h, row + outputs, here, head, value, H, V, BV)
        tl.store(pointers, result, mask=mask)
        if value == 0:
            tl.store(projected + at, p, mask=here)


@kernel
def max_plus_scan_forward(
    x, log_decay, state, m, last, cu_seqlens, index, T, N, S, direction, own, D: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """m_t = max(log_decay_t + m_{t-1}, x_t). x, log_decay, m: [N, D]; state, last: [S, D]. One program per sequence and BD channels."""
    sequence = tl.program_id(0)
    first, step, length, inputs, outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
    channel = tl.program_id(1) * BD + tl.arange(0, BD)
    inside = channel < D
    carried = tl.load(state + sequence.to(tl.int64) * D + channel, mask=inside, other=0.0).to(tl.float32)
    t = tl.arange(0, BT)
    for begin in range(0, length, BT):
        here = begin + t < length
        row = row_at(index, first + step * (begin + t), here)
        mask = here[:, None] & inside[None, :]
        at = (row + inputs)[:, None] * D + channel[None, :]
        value = tl.load(x + at, mask=mask, other=-float("inf")).to(tl.float32)
        decay = tl.load(log_decay + at, mask=mask, other=0.0).to(tl.float32)
        decay, value = tl.associative_scan((decay, value), 0, later_maximum)
        value = tl.maximum(value, decay + carried[None, :])
        tl.store(m + (row + outputs)[:, None] * D + channel[None, :], value, mask=mask)
        carried = tl.sum(tl.where(t[:, None] == BT - 1, value, 0.0), 0)
    tl.store(last + sequence.to(tl.int64) * D + channel, carried, mask=inside)
