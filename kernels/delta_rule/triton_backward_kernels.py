"""Backward Triton kernels of the delta rules; names as in ``triton_kernels``, with grad_ before what the loss is differentiated by.

The gradient of r goes back through the triangular system, p = (I - A)⁻ᵀ grad_r, and p is the gradient of its right side, β v + a' S; so
grad_A = p rᵀ. ``states_backward`` goes from the last chunk to the first, the others run over all chunks at once: ``score_gradients``, then
``gradients`` or, with a decay per channel of the keys, those of ``triton_channel_kernels``.
"""

import triton
import triton.language as tl

from ..triton_rows import kernel, span
from .triton_chunks import (
    between,
    chunks_of,
    load_block,
    load_rows,
    load_turned,
    product,
    rolled,
    rows_of,
    slot_rows,
    store_block,
    store_rows,
)  # fmt: skip
from .triton_kernels import vectors


@kernel
def states_backward(
    grad_o, w, queries, ahead, whole, inverse, seen, grad_final, grad_kept, p, grad_state,
    cu_seqlens, index, T, N, S, direction, own,
    STEPS: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, L: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """grad_o: [N, H, V]; grad_final, grad_state: [S, H, K, V]; in chunks grad_kept, of the state after each, [..., K, V], and p
    [..., L, V].

    One program per sequence, head and BLOCK_V columns of the state; BLOCK_K ≥ K.
    """
    sequence, head = tl.program_id(0), tl.program_id(1)
    first, step, length, _, outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
    slot, count = chunks_of(sequence, length, cu_seqlens, T, N, S, L // STEPS)
    key, column, i = tl.arange(0, BLOCK_K), tl.program_id(2) * BLOCK_V + tl.arange(0, BLOCK_V), tl.arange(0, L)
    of_state = sequence.to(tl.int64) * H + head
    carried = load_block(grad_final, of_state, key, column, K, V)
    for back in range(0, count):
        chunk = count - 1 - back
        place = (slot + chunk).to(tl.int64) * H + head
        store_block(grad_kept, place, key, column, carried, K, V)
        row, j, here = rows_of(first, step, length, chunk, index, L, STEPS)
        given = load_rows(grad_o, row + outputs, head, column, here & (j == STEPS - 1), H, V)
        grad_r = product(load_block(ahead, place, i, key, L, K), carried, PRECISION)
        grad_r += product(load_turned(seen, place, i, i, L, L), given, PRECISION)
        if whole is not None:
            carried *= tl.load(whole + place * K + key, mask=key < K, other=0.0)[:, None]
        carried += product(load_turned(queries, place, i, key, L, K), given, PRECISION)
        carried += product(load_turned(w, place, i, key, L, K), grad_r, PRECISION)
        store_block(p, place, i, column, product(load_turned(inverse, place, i, i, L, L), grad_r, PRECISION), L, V)
    store_block(grad_state, of_state, key, column, carried, K, V)


@triton.jit
def near(grad_q, grad_a, place, i, queried, read, targets, like, L: tl.constexpr, PRECISION: tl.constexpr):
    """Gradients [L, columns] of queries, readers and targets whose products the two matrices are.

    Results go nowhere but into gradients, so that for inputs in bfloat16 operands are too.
    """
    kind: tl.constexpr = tl.bfloat16 if like.dtype.element_ty == tl.bfloat16 else tl.float32
    of_q, of_a = load_block(grad_q, place, i, i, L, L).to(kind), load_block(grad_a, place, i, i, L, L).to(kind)
    queried, read, targets = queried.to(kind), read.to(kind), targets.to(kind)
    x_query = tl.dot(of_q, targets, input_precision=PRECISION)
    x_reader = tl.dot(of_a, targets, input_precision=PRECISION)
    y_target = tl.dot(tl.trans(of_q), queried, input_precision=PRECISION) + tl.dot(tl.trans(of_a), read, input_precision=PRECISION)
    return x_query, x_reader, y_target


@kernel
def score_gradients(
    q, v, beta, log_decay, grad_o, added, seen, lower, seen_values, read_values, written, grad_kept, p,
    grad_seen, grad_lower, grad_seen_values, grad_read_values, rates, decays, grad_v,
    cu_seqlens, index, T, N, S, direction, own, scale,
    STEPS: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, L: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """grad_v: [N · STEPS, H, V]; in chunks the gradients of Q, A, Q_v and A_v [..., L, L] (with decays per head: of the products in them),
    and what comes from the values and from decays between rows to grad_beta (rates) and grad_log_decay (decays) [..., L].

    One program per slot and head.
    """
    slot, head = tl.program_id(0), tl.program_id(1)
    row, out_row, j, here, used = slot_rows(slot, cu_seqlens, index, T, N, S, direction, own, L, STEPS)
    if not used:
        return
    place = slot.to(tl.int64) * H + head
    i = tl.arange(0, L)
    same, after = i[:, None] == i[None, :], i[:, None] > i[None, :]
    a_b, q_b = tl.zeros((L, L), tl.float32), tl.zeros((L, L), tl.float32)
    rate_sum = tl.zeros((L,), tl.float32)
    for begin in range(0, rolled(V, N), BLOCK_V):
        column = begin + tl.arange(0, BLOCK_V)
        p_tile, r = load_block(p, place, i, column, L, V), load_turned(written, place, i, column, L, V)
        a_b += product(p_tile, r, PRECISION)
        q_b += product(load_rows(grad_o, out_row, head, column, here & (j == STEPS - 1), H, V), r, PRECISION)
        if beta is not None:
            value = load_rows(v, row * STEPS + j, head, column, here, H, V).to(tl.float32)
            rate = tl.load(beta + (row * STEPS + j) * H + head, mask=here, other=0.0).to(tl.float32)
            rate_sum += tl.sum(p_tile * value, 1)
            store_rows(grad_v, out_row * STEPS + j, head, column, here, rate[:, None] * p_tile, H, V)
    a_b, q_b = tl.where(after, a_b, 0.0), tl.where(after | same, q_b, 0.0)
    if lower is not None:
        inside = a_b * load_block(lower, place, i, i, L, L) + q_b * load_block(seen, place, i, i, L, L)
        upto = tl.where(i[:, None] <= i[None, :], 1.0, 0.0)  # of decay u (row): reads at t ≥ u
        passed = tl.dot(upto, inside, input_precision=PRECISION)
        tl.store(decays + place * L + i, tl.sum(tl.where(after, passed, 0.0), 1))
        g = tl.load(log_decay + row * H + head, mask=here & (j == 0), other=0.0).to(tl.float32)
        _, _, pairs = between(g, L, PRECISION)
        a_b, q_b = a_b * pairs, q_b * pairs
    store_block(grad_lower, place, i, i, a_b, L, L)
    store_block(grad_seen, place, i, i, q_b * scale, L, L)
    if beta is not None:
        tl.store(rates + place * L + i, rate_sum)
    else:  # in loops of their own, for which the sums above need no registers any more
        a_k, q_k = tl.zeros((L, L), tl.float32), tl.zeros((L, L), tl.float32)
        for begin in range(0, rolled(V, N), BLOCK_V):
            column = begin + tl.arange(0, BLOCK_V)
            value = tl.trans(load_rows(v, row, head, column, here, H, V).to(tl.float32))
            a_k += product(load_block(p, place, i, column, L, V), value, PRECISION)
            q_k += product(load_rows(grad_o, out_row, head, column, here, H, V), value, PRECISION)
        store_block(grad_read_values, place, i, i, tl.where(after, a_k, 0.0), L, L)
        store_block(grad_seen_values, place, i, i, tl.where(after | same, q_k * scale, 0.0), L, L)
        for begin in range(0, rolled(V, N), BLOCK_V):
            column = begin + tl.arange(0, BLOCK_V)
            given = load_rows(grad_o, out_row, head, column, here, H, V)
            found = product(load_turned(read_values, place, i, i, L, L), load_block(p, place, i, column, L, V), PRECISION)
            found += product(load_turned(seen_values, place, i, i, L, L), given, PRECISION)
            for start in range(0, rolled(K, N), BLOCK_K):
                key = start + tl.arange(0, BLOCK_K)
                later = load_block(grad_kept, place, key, column, K, V)
                found += product(load_block(added, place, i, key, L, K), later, PRECISION)
            store_rows(grad_v, out_row, head, column, here, found, H, V)


@kernel
def gradients(
    q, k, v, beta, log_decay, grad_o, kept, written, grad_kept, p, grad_seen, grad_lower, rates, decays,
    grad_q, grad_k, grad_beta, grad_log_decay, cu_seqlens, index, T, N, S, direction, own, scale,
    STEPS: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, L: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of all other timed inputs, shaped as they are, with a decay per head or none. One program per slot and head."""
    slot, head = tl.program_id(0), tl.program_id(1)
    row, out_row, j, here, used = slot_rows(slot, cu_seqlens, index, T, N, S, direction, own, L, STEPS)
    if not used:
        return
    place = slot.to(tl.int64) * H + head
    i = tl.arange(0, L)
    rate_sum = tl.load(rates + place * L + i)
    if log_decay is not None:
        g_row = tl.load(log_decay + row * H + head, mask=here & (j == 0), other=0.0).to(tl.float32)
        read_sum, write_sum, end_sum = tl.zeros((L,), tl.float32), tl.zeros((L,), tl.float32), tl.zeros((BLOCK_K,), tl.float32)
        later_g = tl.where(i[:, None] > i[None, :], g_row[:, None], 0.0)
        since_row = tl.exp(tl.sum(tl.where(i[:, None] <= i[None, :], g_row[:, None], 0.0), 0))
        until_row = tl.exp(tl.sum(later_g, 0))
    for begin in range(0, K, BLOCK_K):
        column = begin + tl.arange(0, BLOCK_K)
        query, reader, target, key = vectors(q, k, beta, None, None, row, j, here, head, column, STEPS, H, K)
        near_query, near_reader, near_target = near(grad_seen, grad_lower, place, i, query, reader, target, q, L, PRECISION)
        d_query, d_reader = tl.zeros((L, BLOCK_K), tl.float32), tl.zeros((L, BLOCK_K), tl.float32)
        d_target, ends = tl.zeros((L, BLOCK_K), tl.float32), tl.zeros((BLOCK_K,), tl.float32)
        for start in range(0, rolled(V, N), BLOCK_V):
            over = start + tl.arange(0, BLOCK_V)
            before, later = load_turned(kept, place, column, over, K, V), load_turned(grad_kept, place, column, over, K, V)
            given = load_rows(grad_o, out_row, head, over, here & (j == STEPS - 1), H, V)
            d_query += product(given, before, PRECISION)
            d_reader += product(load_block(p, place, i, over, L, V), before, PRECISION)
            d_target += product(load_block(written, place, i, over, L, V), later, PRECISION)
            ends += tl.sum(before * later, 0)
        d_query *= scale
        if log_decay is not None:
            d_query, d_reader, d_target = d_query * since_row[:, None], d_reader * since_row[:, None], d_target * until_row[:, None]
            read_sum += tl.sum(query * d_query + reader * d_reader, 1)
            write_sum += tl.sum(target * d_target, 1)
            end_sum += ends
        d_reader += near_reader
        rate = tl.load(beta + (row * STEPS + j) * H + head, mask=here, other=0.0).to(tl.float32)
        rate_sum -= tl.sum(key * d_reader, 1)
        store_rows(grad_q, out_row, head, column, here & (j == STEPS - 1), d_query + near_query, H, K)
        store_rows(grad_k, out_row * STEPS + j, head, column, here, d_target + near_target - rate[:, None] * d_reader, H, K)
    tl.store(grad_beta + (out_row * STEPS + j) * H + head, rate_sum, mask=here)
    if log_decay is not None:
        decay_sum = tl.load(decays + place * L + i) + tl.exp(tl.sum(g_row, 0)) * tl.sum(end_sum, 0)
        decay_sum += tl.sum(tl.where(i[:, None] >= i[None, :], read_sum[:, None], write_sum[:, None]), 0)
        tl.store(grad_log_decay + out_row * H + head, decay_sum, mask=here & (j == 0))
