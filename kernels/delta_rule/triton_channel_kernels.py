"""Backward Triton kernels of delta rules that decay every channel of the keys on its own; names as in ``triton_backward_kernels``.

The gradients of what is read by (queries, readers) and of what is written along (targets, columns of the values) are two kernels: together
their operands would need more registers than there are. Both go through the levels of ``triton_kernels.prepare``, where rows of the second
half of a stretch read what those of the first half wrote; each finds its part of what comes to the decays in between.
"""

import triton
import triton.language as tl

from ..triton_rows import kernel
from .triton_chunks import halves, joined, load_block, load_rows, load_turned, product, rolled, slot_rows, store_block, store_rows
from .triton_kernels import vectors


@triton.jit
def across_of(square, place, i, across, like, L: tl.constexpr):
    """[L, L] of the gradient ``square`` of scores, where ``across``; in bfloat16 for inputs in it: it goes nowhere but into gradients."""
    kind: tl.constexpr = tl.bfloat16 if like.dtype.element_ty == tl.bfloat16 else tl.float32
    return tl.where(across, load_block(square, place, i, i, L, L), 0.0).to(kind)


@kernel
def read_gradients(
    q, k, v, beta, a, b, log_decay, grad_o, kept, p, grad_seen, grad_lower, grad_seen_values, grad_read_values, rates,
    grad_q, grad_beta, grad_a, grad_reader, grad_decay, cu_seqlens, index, T, N, S, direction, own, scale,
    STEPS: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, L: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """grad_q, grad_beta, grad_a, shaped as the inputs are; in chunks [..., L, K] grad_reader (of -β k, where there is no a) and
    grad_decay, the part of grad_log_decay that comes from rows as they read. One program per slot and head.
    """
    slot, head = tl.program_id(0), tl.program_id(1)
    row, out_row, j, here, used = slot_rows(slot, cu_seqlens, index, T, N, S, direction, own, L, STEPS)
    if not used:
        return
    place = slot.to(tl.int64) * H + head
    i = tl.arange(0, L)
    if a is None:
        rate_sum = tl.load(rates + place * L + i)
    for begin in range(0, K, BLOCK_K):
        column = begin + tl.arange(0, BLOCK_K)
        query, reader, target, key = vectors(q, k, beta, a, b, row, j, here, head, column, STEPS, H, K)
        g = load_rows(log_decay, row, head, column, here & (j == 0), H, K).to(tl.float32)
        since, until = tl.zeros((L, BLOCK_K), tl.float32), tl.zeros((L, BLOCK_K), tl.float32)
        grad_query, grad_read = tl.zeros((L, BLOCK_K), tl.float32), tl.zeros((L, BLOCK_K), tl.float32)
        grad_g = tl.zeros((L, BLOCK_K), tl.float32)
        m = 1
        while m < L:
            second, across = halves(i, m)
            of_q, of_a = across_of(grad_seen, place, i, across, q, L), across_of(grad_lower, place, i, across, q, L)
            targets = (target * tl.exp(until)).to(of_q.dtype)
            x_query = tl.dot(of_q, targets, input_precision=PRECISION)
            x_read = tl.dot(of_a, targets, input_precision=PRECISION)
            if a is not None:
                of_q = across_of(grad_seen_values, place, i, across, q, L)
                of_a = across_of(grad_read_values, place, i, across, q, L)
                keys = (key * tl.exp(until)).to(of_q.dtype)
                x_query += tl.dot(of_q, keys, input_precision=PRECISION)
                x_read += tl.dot(of_a, keys, input_precision=PRECISION)
            x_query *= tl.exp(since + g)
            x_read *= tl.exp(since + g if a is None else since)
            grad_query += x_query
            grad_read += x_read
            if a is not None:
                grad_g -= reader * x_read  # a row that reads before its own decay has no part in that decay's gradient
            # decays between the middle and a read at t (column) in the second half: those of rows u ≤ t
            passed = (i[:, None] <= i[None, :]) & ((i[:, None] // m) == (i[None, :] // m))
            grad_g += tl.dot(tl.where(passed, 1.0, 0.0), query * x_query + reader * x_read, input_precision=PRECISION)
            since, until = joined(g, since, until, i, m, second)
            m *= 2
        grad_query += tl.load(grad_seen + place * L * L + i * (L + 1))[:, None] * target
        if a is not None:
            grad_query += tl.load(grad_seen_values + place * L * L + i * (L + 1))[:, None] * key
        d_query, d_read = tl.zeros((L, BLOCK_K), tl.float32), tl.zeros((L, BLOCK_K), tl.float32)
        for start in range(0, rolled(V, N), BLOCK_V):
            over = start + tl.arange(0, BLOCK_V)
            before = load_turned(kept, place, column, over, K, V)
            d_query += product(load_rows(grad_o, out_row, head, over, here & (j == STEPS - 1), H, V), before, PRECISION)
            d_read += product(load_block(p, place, i, over, L, V), before, PRECISION)
        d_query *= scale * tl.exp(since + g)
        d_read *= tl.exp(since + g if a is None else since)
        if a is not None:
            grad_g -= reader * d_read
        grad_g += tl.cumsum(query * d_query + reader * d_read, 0, reverse=True)
        store_block(grad_decay, place, i, column, grad_g, L, K)
        store_rows(grad_q, out_row, head, column, here & (j == STEPS - 1), grad_query + d_query, H, K)
        grad_read += d_read
        if a is None:
            rate_sum -= tl.sum(key * grad_read, 1)
            store_block(grad_reader, place, i, column, grad_read, L, K)
        else:
            store_rows(grad_a, out_row, head, column, here, grad_read, H, K)
    if a is None:
        tl.store(grad_beta + (out_row * STEPS + j) * H + head, rate_sum, mask=here)


@kernel
def write_gradients(
    q, k, v, beta, a, b, log_decay, kept, written, grad_kept, grad_seen, grad_lower, grad_seen_values, grad_read_values,
    grad_reader, grad_decay, grad_k, grad_b, grad_log_decay, cu_seqlens, index, T, N, S, direction, own,
    STEPS: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, L: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """grad_k, grad_b and grad_log_decay, shaped as the inputs are; reads grad_reader and grad_decay. One program per slot and head."""
    slot, head = tl.program_id(0), tl.program_id(1)
    row, out_row, j, here, used = slot_rows(slot, cu_seqlens, index, T, N, S, direction, own, L, STEPS)
    if not used:
        return
    place = slot.to(tl.int64) * H + head
    i = tl.arange(0, L)
    for begin in range(0, K, BLOCK_K):
        column = begin + tl.arange(0, BLOCK_K)
        query, reader, target, key = vectors(q, k, beta, a, b, row, j, here, head, column, STEPS, H, K)
        g = load_rows(log_decay, row, head, column, here & (j == 0), H, K).to(tl.float32)
        since, until = tl.zeros((L, BLOCK_K), tl.float32), tl.zeros((L, BLOCK_K), tl.float32)
        grad_target, grad_key = tl.zeros((L, BLOCK_K), tl.float32), tl.zeros((L, BLOCK_K), tl.float32)
        grad_g = load_block(grad_decay, place, i, column, L, K)
        m = 1
        while m < L:
            second, across = halves(i, m)
            of_q, of_a = across_of(grad_seen, place, i, across, q, L), across_of(grad_lower, place, i, across, q, L)
            queried = (query * tl.exp(since + g)).to(of_q.dtype)
            read = (reader * tl.exp(since + g if a is None else since)).to(of_q.dtype)
            y_target = tl.dot(tl.trans(of_q), queried, input_precision=PRECISION)
            y_target += tl.dot(tl.trans(of_a), read, input_precision=PRECISION)
            y_target *= tl.exp(until)
            grad_target += y_target
            changed = target * y_target
            if a is not None:
                tl.debug_barrier()
                of_q = across_of(grad_seen_values, place, i, across, q, L)
                of_a = across_of(grad_read_values, place, i, across, q, L)
                y_key = tl.dot(tl.trans(of_q), queried, input_precision=PRECISION)
                y_key += tl.dot(tl.trans(of_a), read, input_precision=PRECISION)
                y_key *= tl.exp(until)
                grad_key += y_key
                changed += key * y_key
            # decays between a write at s (column) in the first half and the middle: those of rows u > s
            passed = (i[:, None] > i[None, :]) & ((i[:, None] // m) == (i[None, :] // m))
            grad_g += tl.dot(tl.where(passed, 1.0, 0.0), changed, input_precision=PRECISION)
            since, until = joined(g, since, until, i, m, second)
            m *= 2
        grad_target += tl.load(grad_seen + place * L * L + i * (L + 1))[:, None] * query
        if a is not None:
            grad_key += tl.load(grad_seen_values + place * L * L + i * (L + 1))[:, None] * query
        d_target, d_key = tl.zeros((L, BLOCK_K), tl.float32), tl.zeros((L, BLOCK_K), tl.float32)
        ends = tl.zeros((BLOCK_K,), tl.float32)
        for start in range(0, rolled(V, N), BLOCK_V):
            over = start + tl.arange(0, BLOCK_V)
            later = load_turned(grad_kept, place, column, over, K, V)
            ends += tl.sum(load_turned(kept, place, column, over, K, V) * later, 0)
            d_target += product(load_block(written, place, i, over, L, V), later, PRECISION)
            if a is not None:
                d_key += product(load_rows(v, row, head, over, here, H, V), later, PRECISION)
        d_target *= tl.exp(until)
        d_key *= tl.exp(until)
        writes = target * d_target + key * d_key if a is not None else target * d_target
        total = tl.sum(tl.where((i == 0)[:, None], since + g + until, 0.0), 0)
        grad_g += tl.cumsum(writes, 0) - writes + (tl.exp(total) * ends)[None, :]
        store_rows(grad_log_decay, out_row, head, column, here & (j == 0), grad_g, H, K)
        grad_target += d_target
        if a is None:
            rate = tl.load(beta + (row * STEPS + j) * H + head, mask=here, other=0.0).to(tl.float32)
            grad_target -= rate[:, None] * load_block(grad_reader, place, i, column, L, K)
            store_rows(grad_k, out_row * STEPS + j, head, column, here, grad_target, H, K)
        else:
            store_rows(grad_b, out_row, head, column, here, grad_target, H, K)
            store_rows(grad_k, out_row, head, column, here, grad_key + d_key, H, K)
