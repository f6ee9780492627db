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
    q, k, v, rate, norm_weight, norm_bias, token_scale, z, u, grad_o, grad_weight, grad_bias, grad_v, grad_z, kept_weight, kept_bias,
    grad_norm_weight, grad_norm_bias, grad_first_weight, grad_first_bias, cu_seqlens, index, T, N, S, direction, own, eps,
    H: tl.constexpr, D: tl.constexpr, M: tl.constexpr, L: tl.constexpr, LATE: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BD: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Grid: sequences × heads. grad_weight, grad_bias: of the final state; kept_*: the same at the end of each chunk;
    grad_norm_*: [sequences, H, D]."""
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
        key, query, end, _, _, _, _ = rates(rate, token_scale + apart * M, index, first, step, length, inputs, t, here, head, H, M, LATE)
        grad_u, given, normed = answer_gradient(u, grad_o, row + outputs, here, head, column, scale, eps, H, D, LATE)
        to_scale += tl.sum(given * normed, 0)
        to_shift += tl.sum(given, 0)
        keys = load_rows(k, row + inputs, here, head, column, H, D)
        if BK == BD:
            queries = load_rows(q, row + inputs, here, head, column, H, D)
            scores = tl.dot(keys, tl.trans(queries), input_precision=PRECISION) + 1.0  # [keys, queries]
            to_gradient = tl.dot(keys, w.to(low), input_precision=PRECISION) + b[None, :]
        else:
            scores, to_gradient = tl.full([BM, BM], 1.0, tl.float32), tl.zeros([BM, BD], tl.float32) + b[None, :]
            for tile in range(0, BD, BK):
                at, mask = matrix(tile + tl.arange(0, BK), column, D)
                part = load_rows(k, row + inputs, here, head, tile + tl.arange(0, BK), H, D)
                of_queries = load_rows(q, row + inputs, here, head, tile + tl.arange(0, BK), H, D)
                old = tl.load(grad_first_weight + at, mask=mask, other=0.0)
                scores += tl.dot(part, tl.trans(of_queries), input_precision=PRECISION)
                to_gradient += tl.dot(part, old.to(low), input_precision=PRECISION)
        scores = tl.where(r[:, None] <= r[None, :], scores * key[:, None] * query[None, :], 0.0)
        to_gradient = -end[:, None] * to_gradient - tl.dot(scores.to(low), grad_u.to(low), input_precision=PRECISION)
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
        store_rows(grad_z, to_keys, row + outputs, here, head, column, H, D)
        b += tl.sum(grad_u + to_keys, 0)
        if BK == BD:
            w += tl.dot(tl.trans(queries), grad_u.to(low), input_precision=PRECISION)
            w += tl.dot(tl.trans(keys), to_keys.to(low), input_precision=PRECISION)
        else:
            tl.debug_barrier()
            for tile in range(0, BD, BK):
                at, mask = matrix(tile + tl.arange(0, BK), column, D)
                part = load_rows(k, row + inputs, here, head, tile + tl.arange(0, BK), H, D)
                of_queries = load_rows(q, row + inputs, here, head, tile + tl.arange(0, BK), H, D)
                new = tl.load(grad_first_weight + at, mask=mask, other=0.0)
                new += tl.dot(tl.trans(of_queries), grad_u.to(low), input_precision=PRECISION)
                new += tl.dot(tl.trans(part), to_keys.to(low), input_precision=PRECISION)
                tl.store(grad_first_weight + at, new, mask=mask)
            tl.debug_barrier()
    tl.store(grad_first_bias + at_state * D + column, b, mask=inside)
    if BK == BD:
        tl.store(grad_first_weight + whole, w, mask=whole_mask)
    tl.store(grad_norm_weight + at_state * D + column, to_scale, mask=inside)
    tl.store(grad_norm_bias + at_state * D + column, to_shift, mask=inside)


@kernel
def ttt_backward_inputs(
    q, k, v, rate, norm_weight, norm_bias, token_scale, z, u, kept_weight, grad_o, grad_z, grad_v, kept_grad_weight, kept_grad_bias,
    grad_q, grad_k, grad_rate, grad_scale, cu_seqlens, index, T, N, S, direction, own, eps,
    H: tl.constexpr, D: tl.constexpr, M: tl.constexpr, L: tl.constexpr, LATE: tl.constexpr, PRECISION: tl.constexpr,
    BL: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Grid: slots of both directions × heads. grad_scale: [slots of both directions, H, M]."""
    slot, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    slots = tl.num_programs(0) // tl.where(direction == 2, 2, 1)
    turned = tl.program_id(0) // slots
    sequence, chunk = chunk_of(tl.program_id(0) % slots, cu_seqlens, T, S, L)
    first, step, length, inputs, outputs = span(sequence + turned * S, cu_seqlens, T, N, S, direction, own)
    m = tl.arange(0, BM)
    if chunk * L >= length:
        tl.store(grad_scale + (slot * H + head) * M + m, tl.zeros([BM], tl.float32), mask=m < M)
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
    low = q.dtype.element_ty
    target = load_rows(v, row + inputs, here, head, column, H, D).to(tl.float32)
    target -= load_rows(k, row + inputs, here, head, column, H, D).to(tl.float32)
    at_keys = load_rows(z, row + outputs, here, head, column, H, D)
    gradient, _, _, _ = inner_gradient(at_keys, target, scale, shift, here, inside, eps, D)
    to_end = tl.load(kept_grad_bias + (slot * H + head) * D + column, mask=inside, other=0.0)
    end_sum = tl.sum(gradient * to_end[None, :], 1)  # what the gradient at each step adds to the end of its chunk
    grad_u, _, _ = answer_gradient(u, grad_o, row + outputs, here, head, column, scale, eps, H, D, LATE)
    to_answers, gradient = grad_u.to(low), gradient.to(low)
    to_keys = load_rows(grad_z, row + outputs, here, head, column, H, D).to(low)
    by_queries = tl.dot(to_answers, tl.trans(gradient), input_precision=PRECISION)  # of the coefficients ∘ scores, but for the sign
    by_keys = tl.dot(to_keys, tl.trans(gradient), input_precision=PRECISION)
    scores, key_scores = tl.full([BL, BL], 1.0, tl.float32), tl.full([BL, BL], 1.0, tl.float32)
    for tile in range(0, BD, BK):
        part = tile + tl.arange(0, BK)
        queries = load_rows(q, row + inputs, here, head, part, H, D)
        keys = load_rows(k, row + inputs, here, head, part, H, D)
        scores += tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
        key_scores += tl.dot(keys, tl.trans(keys), input_precision=PRECISION)
    key, query, end, rate_here, scale_here, last_rate, last_scale = rates(
        rate, token_scale + apart * M, index, first, step, length, inputs, t, here, head, H, M, LATE
    )
    i, j = r[:, None] // M, r[None, :] // M
    same = (i == j) & (r[None, :] <= r[:, None])
    scores *= by_queries
    to_query = -tl.sum(tl.where(same, scores * key[None, :], 0.0), 1)
    to_key = -tl.sum(tl.where(same, scores * query[:, None], 0.0), 0)
    end_sum += tl.sum(tl.where(j < i, scores + key_scores * by_keys, 0.0), 0)
    by_queries *= coefficients(key, query, end, r, M)
    by_keys *= tl.where(j < i, end[None, :], 0.0)
    by_queries, by_keys = by_queries.to(low), (by_keys + tl.trans(by_keys)).to(low)
    for tile in range(0, BD, BK):
        part = tile + tl.arange(0, BK)
        at, mask = matrix(part, column, D)
        queries = load_rows(q, row + inputs, here, head, part, H, D)
        keys = load_rows(k, row + inputs, here, head, part, H, D)
        w = tl.load(kept_weight + (slot * H + head) * D * D + at, mask=mask, other=0.0).to(low)
        grad = tl.dot(to_answers, tl.trans(w), input_precision=PRECISION) - tl.dot(by_queries, keys, input_precision=PRECISION)
        if not LATE:
            grad += load_rows(grad_o, row + outputs, here, head, part, H, D).to(tl.float32)
        store_rows(grad_q, grad, row + outputs, here, head, part, H, D)
        grad = tl.dot(to_keys, tl.trans(w), input_precision=PRECISION) - tl.dot(by_keys, keys, input_precision=PRECISION)
        grad -= tl.dot(tl.trans(by_queries), queries, input_precision=PRECISION)
        w = tl.load(kept_grad_weight + (slot * H + head) * D * D + at, mask=mask, other=0.0).to(low)
        through_end = tl.dot(gradient, tl.trans(w), input_precision=PRECISION)
        end_sum += tl.sum(through_end * keys.to(tl.float32), 1)
        grad -= end[:, None] * through_end + load_rows(grad_v, row + outputs, here, head, part, H, D).to(tl.float32)
        store_rows(grad_k, grad, row + outputs, here, head, part, H, D)
    to_end = tl.where(here, -end_sum, 0.0)
    last = here & ((t % M == M - 1) | (t == length - 1))
    if LATE:
        to_end = tl.sum(tl.where(i == j, to_end[None, :], 0.0), 1)  # of all steps of the mini-batch: they end with the same coefficient
        grad = scale_here * to_query + tl.where(last, last_scale * to_end, 0.0)
        to_scale = rate_here * to_query + tl.where(last, last_rate * to_end, 0.0)
    else:
        grad = to_key + last_scale * to_end
        to_end = tl.sum(tl.where(i == j, (rate_here * to_end)[None, :], 0.0), 1)
        to_scale = to_query + tl.where(last, to_end, 0.0)
    tl.store(grad_rate + (row + outputs) * H + head, grad, mask=here)
    to_scale = tl.where(here, to_scale, 0.0)
    found = tl.sum(tl.where((r % M)[:, None] == m[None, :], to_scale[:, None], 0.0), 0)
    tl.store(grad_scale + (slot * H + head) * M + m, found, mask=m < M)
