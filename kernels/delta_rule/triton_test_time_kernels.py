"""Triton kernels of TTT-Linear in its dual form, forward. The inner model learns mini-batch by mini-batch, a program per sequence and
head; what it answers to queries is computed afterwards, a program per chunk and head:

    z = K W + b of each mini-batch, with W, b as it begins;  G: the gradients at z;  W ← W - Kᵀ diag(end) G
    u = Q W + b - (coefficients ∘ (Q Kᵀ + 1)) G of each chunk, with W, b as it begins

q, k, v, o, gradient: [N, H, D]; z, u: the same in float32, None where no backward follows; rate: [N, H]; kept_weight, kept_bias: W, b at
the beginning of each chunk.
W lies in registers where one tile BK x BD of it is the whole; otherwise it is worked on in memory, tile by tile.
"""

import triton
import triton.language as tl

from ..triton_rows import chunk_of, kernel, row_at, span
from .triton_test_time_tiles import coefficients, dot_whole, first_slot, inner_gradient, load_rows, matrix, normal, rates, store_rows


@triton.jit
def copy(source, target, column, D: tl.constexpr, BD: tl.constexpr, BK: tl.constexpr):
    """A matrix [D, D], tile by tile; both may be read afterwards."""
    for begin in range(0, BD, BK):
        at, mask = matrix(begin + tl.arange(0, BK), column, D)
        tl.store(target + at, tl.load(source + at, mask=mask, other=0.0), mask=mask)
    tl.debug_barrier()


@kernel
def ttt_states(
    k, v, rate, norm_weight, norm_bias, token_scale, weight, bias, gradient, z, kept_weight, kept_bias, final_weight, final_bias,
    cu_seqlens, index, T, N, S, direction, own, eps,
    H: tl.constexpr, D: tl.constexpr, M: tl.constexpr, L: tl.constexpr, LATE: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BD: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Grid: sequences × heads."""
    sequence, head = tl.program_id(0), tl.program_id(1)
    first, step, length, inputs, outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
    apart = sequence // S * own
    slot = first_slot(sequence, cu_seqlens, T, N, S, L)
    column = tl.arange(0, BD)
    inside = column < D
    scale = tl.load(norm_weight + (apart * H + head) * D + column, mask=inside, other=0.0)
    shift = tl.load(norm_bias + (apart * H + head) * D + column, mask=inside, other=0.0)
    at_state = sequence.to(tl.int64) * H + head
    weight += at_state * D * D
    final_weight += at_state * D * D
    b = tl.load(bias + at_state * D + column, mask=inside, other=0.0)
    whole, whole_mask = matrix(tl.arange(0, BK), column, D)
    if BK == BD:
        w = tl.load(weight + whole, mask=whole_mask, other=0.0)
    else:
        copy(weight, final_weight, column, D, BD, BK)
    r = tl.arange(0, BM)
    for begin in range(0, length, M):
        if begin % L == 0:
            at_kept = (slot + begin // L) * H + head
            tl.store(kept_bias + at_kept * D + column, b, mask=inside)
            if BK == BD:
                tl.store(kept_weight + at_kept * D * D + whole, w, mask=whole_mask)
            else:
                copy(final_weight, kept_weight + at_kept * D * D, column, D, BD, BK)
        t = begin + r
        here = (r < M) & (t < length)
        row = row_at(index, first + step * t, here)
        keys = load_rows(k, row + inputs, here, head, column, H, D)
        target = load_rows(v, row + inputs, here, head, column, H, D).to(tl.float32) - keys.to(tl.float32)
        if BK == BD:
            at_keys = dot_whole(keys, w, PRECISION) + b[None, :]
        else:
            at_keys = tl.zeros([BM, BD], tl.float32) + b[None, :]
            for tile in range(0, BD, BK):
                at, mask = matrix(tile + tl.arange(0, BK), column, D)
                part = load_rows(k, row + inputs, here, head, tile + tl.arange(0, BK), H, D)
                old = tl.load(final_weight + at, mask=mask, other=0.0)
                at_keys += dot_whole(part, old, PRECISION)
        if z is not None:
            store_rows(z, at_keys, row + outputs, here, head, column, H, D)
        found, _, _, _ = inner_gradient(at_keys, target, scale, shift, here, inside, eps, D)
        store_rows(gradient, found, row + outputs, here, head, column, H, D)
        _, _, end, _, _, _, _ = rates(rate, token_scale + apart * M, index, first, step, length, inputs, t, here, head, H, M, LATE)
        found *= end[:, None]
        b -= tl.sum(found, 0)
        if BK == BD:
            w -= tl.dot(tl.trans(keys), found.to(keys.dtype), input_precision=PRECISION)
        else:
            tl.debug_barrier()
            for tile in range(0, BD, BK):
                at, mask = matrix(tile + tl.arange(0, BK), column, D)
                part = load_rows(k, row + inputs, here, head, tile + tl.arange(0, BK), H, D)
                old = tl.load(final_weight + at, mask=mask, other=0.0)
                new = old - tl.dot(tl.trans(part), found.to(part.dtype), input_precision=PRECISION)
                tl.store(final_weight + at, new, mask=mask)
            tl.debug_barrier()
    tl.store(final_bias + at_state * D + column, b, mask=inside)
    if BK == BD:
        tl.store(final_weight + whole, w, mask=whole_mask)


@kernel
def ttt_outputs(
    q, k, rate, norm_weight, norm_bias, token_scale, gradient, kept_weight, kept_bias, o, u,
    cu_seqlens, index, T, N, S, direction, own, eps,
    H: tl.constexpr, D: tl.constexpr, M: tl.constexpr, L: tl.constexpr, LATE: tl.constexpr, PRECISION: tl.constexpr,
    BL: tl.constexpr, BD: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Grid: slots of both directions × heads."""
    slot, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    slots = tl.num_programs(0) // tl.where(direction == 2, 2, 1)
    turned = tl.program_id(0) // slots
    sequence, chunk = chunk_of(tl.program_id(0) % slots, cu_seqlens, T, S, L)
    first, step, length, inputs, outputs = span(sequence + turned * S, cu_seqlens, T, N, S, direction, own)
    if chunk * L >= length:
        return
    apart = turned * own
    column = tl.arange(0, BD)
    inside = column < D
    scale = tl.load(norm_weight + (apart * H + head) * D + column, mask=inside, other=0.0)
    shift = tl.load(norm_bias + (apart * H + head) * D + column, mask=inside, other=0.0)
    r = tl.arange(0, BL)
    t = chunk * L + r
    here = (r < L) & (t < length)
    row = row_at(index, first + step * t, here)
    scores, answers = tl.full([BL, BL], 1.0, tl.float32), tl.zeros([BL, BD], tl.float32)
    for tile in range(0, BD, BK):
        part = tile + tl.arange(0, BK)
        queries = load_rows(q, row + inputs, here, head, part, H, D)
        keys = load_rows(k, row + inputs, here, head, part, H, D)
        at, mask = matrix(part, column, D)
        w = tl.load(kept_weight + (slot * H + head) * D * D + at, mask=mask, other=0.0)
        scores += tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
        answers += dot_whole(queries, w, PRECISION)
    key, query, end, _, _, _, _ = rates(rate, token_scale + apart * M, index, first, step, length, inputs, t, here, head, H, M, LATE)
    scores *= coefficients(key, query, end, r, M)
    found = load_rows(gradient, row + outputs, here, head, column, H, D)
    answers -= tl.dot(scores.to(found.dtype), found, input_precision=PRECISION)
    answers += tl.load(kept_bias + (slot * H + head) * D + column, mask=inside, other=0.0)[None, :]
    if u is not None:
        store_rows(u, answers, row + outputs, here, head, column, H, D)
    normed, _ = normal(answers, here, inside, eps, D)
    out = normed * scale[None, :] + shift[None, :]
    out += answers if LATE else load_rows(q, row + inputs, here, head, column, H, D).to(tl.float32)
    store_rows(o, out, row + outputs, here, head, column, H, D)
