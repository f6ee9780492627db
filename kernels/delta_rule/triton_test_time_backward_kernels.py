"""Triton kernels of TTT-Linear, backward, in the notation of the forward: from the last mini-batch to the first a program per sequence and
head finds the gradients of what the inner model answers, to queries (of u) and to keys (of z), and of W, b at the end of each chunk;
from these everything else follows chunk by chunk.
"""

import triton
import triton.language as tl

from ..triton_rows import chunk_of, kernel, row_at, span
from .triton_test_time_kernels import copy
from .triton_test_time_tiles import across, coefficients, first_slot, inner_gradient, load_rows, matrix, normal, rates, store_rows


@triton.jit
def answer_gradient(u, grad_o, row, here, head, column, scale, eps, H: tl.constexpr, D: tl.constexpr, LATE: tl.constexpr):
    """Gradient of u [rows, columns]; that of the output, and the normalised u."""
    answers = load_rows(u, row, here, head, column, H, D)
    given = load_rows(grad_o, row, here, head, column, H, D).to(tl.float32)
    inside = column < D
    normed, factor = normal(answers, here, inside, eps, D)
    grad = factor[:, None] * across(given * scale[None, :], normed, inside, D)
    if LATE:
        grad += given
    return grad, given, normed


@kernel
def ttt_backward_states(
    q, k, v, rate, norm_weight, norm_bias, token_scale, z, u, grad_o, grad_weight, grad_bias, grad_v, grad_u, grad_z, kept_weight,
    kept_bias, grad_norm_weight, grad_norm_bias, grad_first_weight, grad_first_bias, cu_seqlens, index, T, N, S, direction, own, eps, width,
    H: tl.constexpr, D: tl.constexpr, M: tl.constexpr, L: tl.constexpr, LATE: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BD: tl.constexpr, BK: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    """Grid: sequences × heads. grad_weight, grad_bias: of the final state; kept_*: the same at the end of each chunk;
    grad_norm_*: [sequences, H, D].

    ``width`` is D, unknown to the compiler: loops that it unrolls would keep the addresses of all their tiles in registers.
    """
    sequence, head = tl.program_id(0), tl.program_id(1)
    first, step, length, inputs, outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
    apart = sequence // S * own
    slot = first_slot(sequence, cu_seqlens, T, N, S, L)
    column = tl.arange(0, BD)
    inside = column < D
    scale = tl.load(norm_weight + (apart * H + head) * D + column, mask=inside, other=0.0)
    shift = tl.load(norm_bias + (apart * H + head) * D + column, mask=inside, other=0.0)
    at_state = sequence.to(tl.int64) * H + head
    grad_weight += at_state * D * D
    grad_first_weight += at_state * D * D
    b = tl.load(grad_bias + at_state * D + column, mask=inside, other=0.0)
    whole, whole_mask = matrix(tl.arange(0, BK), column, D)
    if BK == BD:
        w = tl.load(grad_weight + whole, mask=whole_mask, other=0.0)
    else:
        copy(grad_weight, grad_first_weight, column, D, BD, BK)
    to_scale, to_shift = tl.zeros([BD], tl.float32), tl.zeros([BD], tl.float32)
    r = tl.arange(0, BM)
    low = q.dtype.element_ty
    for done in range(0, length, M):
        begin = (length - 1) // M * M - done
        if (begin + M) % L == 0 or done == 0:
            at_kept = (slot + begin // L) * H + head
            tl.store(kept_bias + at_kept * D + column, b, mask=inside)
            if BK == BD:
                tl.store(kept_weight + at_kept * D * D + whole, w, mask=whole_mask)
            else:
                copy(grad_first_weight, kept_weight + at_kept * D * D, column, D, BD, BK)
        t = begin + r
        here = (r < M) & (t < length)
        row = row_at(index, first + step * t, here)
        keys = load_rows(k, row + inputs, here, head, column, H, D)
        to_gradient = tl.zeros([BM, BD], tl.float32) + b[None, :]
        if BK == BD:
            to_gradient += tl.dot(keys, w.to(low), input_precision=PRECISION)
        else:
            for tile in range(0, width, BK):
                at, mask = matrix(tile + tl.arange(0, BK), column, D)
                part = load_rows(k, row + inputs, here, head, tile + tl.arange(0, BK), H, D)
                old = tl.load(grad_first_weight + at, mask=mask, other=0.0)
                to_gradient += tl.dot(part, old.to(low), input_precision=PRECISION)
        tl.debug_barrier()  # here and below: loads that are moved ahead of it would take registers
        key, query, end, _, _, _, _ = rates(rate, token_scale + apart * M, index, first, step, length, inputs, t, here, head, H, M, LATE)
        to_answers, given, normed = answer_gradient(u, grad_o, row + outputs, here, head, column, scale, eps, H, D, LATE)
        to_scale += tl.sum(given * normed, 0)
        to_shift += tl.sum(given, 0)
        scores = tl.full([BM, BM], 1.0, tl.float32)  # [keys, queries]
        tl.debug_barrier()
        for tile in range(0, width, BS):
            part = load_rows(k, row + inputs, here, head, tile + tl.arange(0, BS), H, D)
            of_queries = load_rows(q, row + inputs, here, head, tile + tl.arange(0, BS), H, D)
            scores += tl.dot(part, tl.trans(of_queries), input_precision=PRECISION)
        scores = tl.where(r[:, None] <= r[None, :], scores * key[:, None] * query[None, :], 0.0)
        to_gradient = -end[:, None] * to_gradient - tl.dot(scores, to_answers, input_precision=PRECISION)
        tl.debug_barrier()
        # Through the inner gradient: normal(z) and its factor depend on z, and so does the slope at them.
        at_keys = load_rows(z, row + outputs, here, head, column, H, D)
        target = load_rows(v, row + inputs, here, head, column, H, D).to(tl.float32) - keys.to(tl.float32)
        gradient, miss, normed, factor = inner_gradient(at_keys, target, scale, shift, here, inside, eps, D)
        slope = miss * scale[None, :]
        inner = factor[:, None] * to_gradient
        along = tl.sum(inner * normed, 1) * (1.0 / D)
        to_slope = across(inner, normed, inside, D)
        to_normed = to_slope * (scale * scale)[None, :] - inner * (tl.sum(slope * normed, 1) * (1.0 / D))[:, None] - slope * along[:, None]
        stretch = tl.sum(to_gradient * gradient, 1) * (1.0 / D)
        to_keys = factor[:, None] * (across(to_normed, normed, inside, D) - normed * stretch[:, None])
        to_scale += tl.sum(to_slope * (miss + normed * scale[None, :]), 0)
        to_shift += tl.sum(to_slope * scale[None, :], 0)
        store_rows(grad_v, -to_slope * scale[None, :], row + outputs, here, head, column, H, D)
        store_rows(grad_u, to_answers, row + outputs, here, head, column, H, D)
        store_rows(grad_z, to_keys, row + outputs, here, head, column, H, D)
        b += tl.sum(to_answers + to_keys, 0)
        if BK == BD:
            queries = load_rows(q, row + inputs, here, head, column, H, D)
            w += tl.dot(tl.trans(queries), to_answers.to(low), input_precision=PRECISION)
            tl.debug_barrier()
            w += tl.dot(tl.trans(keys), to_keys.to(low), input_precision=PRECISION)
        else:
            tl.debug_barrier()
            for tile in range(0, width, BK):
                at, mask = matrix(tile + tl.arange(0, BK), column, D)
                part = load_rows(k, row + inputs, here, head, tile + tl.arange(0, BK), H, D)
                of_queries = load_rows(q, row + inputs, here, head, tile + tl.arange(0, BK), H, D)
                new = tl.load(grad_first_weight + at, mask=mask, other=0.0)
                new += tl.dot(tl.trans(of_queries), to_answers.to(low), input_precision=PRECISION)
                new += tl.dot(tl.trans(part), to_keys.to(low), input_precision=PRECISION)
                tl.store(grad_first_weight + at, new, mask=mask)
            tl.debug_barrier()
    tl.store(grad_first_bias + at_state * D + column, b, mask=inside)
    if BK == BD:
        tl.store(grad_first_weight + whole, w, mask=whole_mask)
    tl.store(grad_norm_weight + at_state * D + column, to_scale, mask=inside)
    tl.store(grad_norm_bias + at_state * D + column, to_shift, mask=inside)


@triton.jit
def products(
    left, right, left_row, right_row, here, head, width, H: tl.constexpr, D: tl.constexpr, BL: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """[BL, BL]: products of rows of two tensors."""
    found = tl.zeros([BL, BL], tl.float32)
    for tile in range(0, width, BK):
        a = load_rows(left, left_row, here, head, tile + tl.arange(0, BK), H, D)
        b = load_rows(right, right_row, here, head, tile + tl.arange(0, BK), H, D)
        found += tl.dot(a, tl.trans(b), input_precision=PRECISION)
    return found


@triton.jit
def through(
    rows, weight, row, here, head, part, width, H: tl.constexpr, D: tl.constexpr, BL: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """[BL, BK]: rows times a transposed matrix, of which ``part`` are the rows."""
    found = tl.zeros([BL, BK], tl.float32)
    for tile in range(0, width, BK):
        column = tile + tl.arange(0, BK)
        at, mask = matrix(part, column, D)
        a = load_rows(rows, row, here, head, column, H, D)
        found += tl.dot(a, tl.trans(tl.load(weight + at, mask=mask, other=0.0).to(a.dtype)), input_precision=PRECISION)
    return found


@kernel
def ttt_backward_inputs(
    q, k, rate, token_scale, gradient, grad_o, grad_u, grad_z, grad_v, kept_weight, kept_grad_weight, kept_grad_bias,
    grad_q, grad_k, grad_rate, grad_scale, cu_seqlens, index, T, N, S, direction, own, width,
    H: tl.constexpr, D: tl.constexpr, M: tl.constexpr, L: tl.constexpr, LATE: tl.constexpr, PRECISION: tl.constexpr,
    BL: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Grid: slots of both directions × heads. grad_scale: [slots of both directions, H, M]. ``width``: D, as above."""
    at_slot, head = tl.program_id(0).to(tl.int64) * H + tl.program_id(1), tl.program_id(1)
    slots = tl.num_programs(0) // tl.where(direction == 2, 2, 1)
    turned = tl.program_id(0) // slots
    sequence, chunk = chunk_of(tl.program_id(0) % slots, cu_seqlens, T, S, L)
    first, step, length, inputs, outputs = span(sequence + turned * S, cu_seqlens, T, N, S, direction, own)
    m = tl.arange(0, BM)
    if chunk * L >= length:
        tl.store(grad_scale + at_slot * M + m, tl.zeros([BM], tl.float32), mask=m < M)
        return
    kept_weight += at_slot * D * D
    kept_grad_weight += at_slot * D * D
    r = tl.arange(0, BL)
    t = chunk * L + r
    here = (r < L) & (t < length)
    row = row_at(index, first + step * t, here)
    row_in, row_out = row + inputs, row + outputs
    low = q.dtype.element_ty
    token_scale += turned * own * M
    key, query, end, rate_here, scale_here, last_rate, last_scale = rates(
        rate, token_scale, index, first, step, length, inputs, t, here, head, H, M, LATE
    )
    i, j = r[:, None] // M, r[None, :] // M
    # To the coefficients of keys for keys, and for queries, but for the sign; and from these to the scores.
    by_keys = tl.where(j < i, products(grad_z, gradient, row_out, row_out, here, head, width, H, D, BL, BK, PRECISION), 0.0)
    tl.debug_barrier()  # here and below: loads that are moved ahead of it would take registers
    to_end = tl.sum(by_keys * (1.0 + products(k, k, row_in, row_in, here, head, width, H, D, BL, BK, PRECISION)), 0)
    by_keys *= end[None, :]
    by_keys = (by_keys + tl.trans(by_keys)).to(low)
    tl.debug_barrier()
    by_queries = products(grad_u, gradient, row_out, row_out, here, head, width, H, D, BL, BK, PRECISION)
    scores = by_queries * (1.0 + products(q, k, row_in, row_in, here, head, width, H, D, BL, BK, PRECISION))
    same = (i == j) & (r[None, :] <= r[:, None])
    to_query = -tl.sum(tl.where(same, scores * key[None, :], 0.0), 1)
    to_key = -tl.sum(tl.where(same, scores * query[:, None], 0.0), 0)
    to_end += tl.sum(tl.where(j < i, scores, 0.0), 0)
    by_queries = (by_queries * coefficients(key, query, end, r, M)).to(low)
    for tile in range(0, width, BK):
        part = tile + tl.arange(0, BK)
        keys = load_rows(k, row_in, here, head, part, H, D)
        grad = through(grad_u, kept_weight, row_out, here, head, part, width, H, D, BL, BK, PRECISION)
        grad -= tl.dot(by_queries, keys, input_precision=PRECISION)
        if not LATE:
            grad += load_rows(grad_o, row_out, here, head, part, H, D).to(tl.float32)
        store_rows(grad_q, grad, row_out, here, head, part, H, D)
        tl.debug_barrier()
        grad = through(grad_z, kept_weight, row_out, here, head, part, width, H, D, BL, BK, PRECISION)
        grad -= tl.dot(by_keys, keys, input_precision=PRECISION)
        grad -= tl.dot(tl.trans(by_queries), load_rows(q, row_in, here, head, part, H, D), input_precision=PRECISION)
        tl.debug_barrier()
        through_end = through(gradient, kept_grad_weight, row_out, here, head, part, width, H, D, BL, BK, PRECISION)
        to_end += tl.sum(through_end * keys.to(tl.float32), 1)
        grad -= end[:, None] * through_end + load_rows(grad_v, row_out, here, head, part, H, D).to(tl.float32)
        store_rows(grad_k, grad, row_out, here, head, part, H, D)
        to_bias = tl.load(kept_grad_bias + at_slot * D + part, mask=part < D, other=0.0)
        to_end += tl.sum(load_rows(gradient, row_out, here, head, part, H, D).to(tl.float32) * to_bias[None, :], 1)
    to_end = tl.where(here, -to_end, 0.0)
    last = here & ((t % M == M - 1) | (t == length - 1))
    if LATE:
        to_end = tl.sum(tl.where(i == j, to_end[None, :], 0.0), 1)  # of all steps of the mini-batch: they end with the same coefficient
        grad_here = scale_here * to_query + tl.where(last, last_scale * to_end, 0.0)
        to_scale = rate_here * to_query + tl.where(last, last_rate * to_end, 0.0)
    else:
        grad_here = to_key + last_scale * to_end
        to_end = tl.sum(tl.where(i == j, (rate_here * to_end)[None, :], 0.0), 1)
        to_scale = to_query + tl.where(last, to_end, 0.0)
    tl.store(grad_rate + row_out * H + head, grad_here, mask=here)
    to_scale = tl.where(here, to_scale, 0.0)
    found = tl.sum(tl.where((r % M)[:, None] == m[None, :], to_scale[:, None], 0.0), 0)
    tl.store(grad_scale + at_slot * M + m, found, mask=m < M)
