"""Forward Triton kernels of the delta rules, in chunks of L rows (see ``triton_chunks``).

Every rule is one: row i reads a_i from the state, and writes what it read, r_i, along b_i; what row i wrote, row t > i reads through the
decays in between. Delta rules have a = -β k and b = k, read after their token's decay, and write β v too; the generalised one reads before
the decay, and writes v along a column k of its own. So with S the state before a chunk, in the chunk (WY form; Yang et al. 2024)

    r = (I - A)⁻¹ (β v | A_v v)  +  (I - A)⁻¹ a' S  =  u + w S          A = strictly lower a · b, A_v the same of a · k
    o = q' S + Q r (+ Q_v v)        S ← decay ⊙ S + b''ᵀ r (+ k''ᵀ v)   ': decayed since the chunk's start, '': until its end

``prepare`` makes the matrices of all chunks, ``states`` goes from chunk to chunk with products only, ``outputs`` runs over all again.
"""

import triton
import triton.language as tl

from ..triton_rows import kernel, span
from .triton_chunks import (
    between,
    chunks_of,
    halves,
    inverse_of,
    joined,
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


@triton.jit
def vectors(q, k, beta, a, b, row, j, here, head, column, STEPS: tl.constexpr, H: tl.constexpr, K: tl.constexpr):
    """Tiles [L, columns] in float32: query, what reads, along what is written, and the column of the values."""
    query = load_rows(q, row, head, column, here & (j == STEPS - 1), H, K).to(tl.float32)
    key = load_rows(k, row * STEPS + j, head, column, here, H, K).to(tl.float32)
    if a is None:
        rate = tl.load(beta + (row * STEPS + j) * H + head, mask=here, other=0.0).to(tl.float32)
        return query, -rate[:, None] * key, key, key
    else:
        reader = load_rows(a, row, head, column, here, H, K).to(tl.float32)
        return query, reader, load_rows(b, row, head, column, here, H, K).to(tl.float32), key


@triton.jit
def by_levels(queried, read, query, reader, target, g, i, EARLY: tl.constexpr, L: tl.constexpr, PRECISION: tl.constexpr):
    """Adds what queries and readers see of targets through the decays g in between, tiles [L, columns], to the sums [L, L]; EARLY readers
    read before their own token's decay. Also returns the log decays from the chunk's start to each row, its own left out, and to its end.
    """
    since, until = tl.zeros(g.shape, tl.float32), tl.zeros(g.shape, tl.float32)
    m = 1
    while m < L:
        second, across = halves(i, m)
        targets = tl.trans(target * tl.exp(until))
        queried += tl.where(across, product(query * tl.exp(since + g), targets, PRECISION), 0.0)
        read += tl.where(across, product(reader * tl.exp(since if EARLY else since + g), targets, PRECISION), 0.0)
        since, until = joined(g, since, until, i, m, second)
        m *= 2
    return queried + tl.where(i[:, None] == i[None, :], tl.sum(query * target, 1)[:, None], 0.0), read, since, until


@kernel
def prepare(
    q, k, v, beta, a, b, log_decay, w, u, queries, ahead, added, whole, inverse, seen, lower, seen_values, read_values,
    cu_seqlens, index, T, N, S, direction, own, scale,
    STEPS: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, VECTOR: tl.constexpr, L: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """q: [N, H, K]; k, v, beta: [N · STEPS, H, K|V|-]; a, b: [N, H, K] or None; log_decay: None, [N, H] or (VECTOR) [N, H, K].

    In chunks: w, queries, ahead, added (b'' and k'') [..., L, K]; u [..., L, V]; whole, the decay of a chunk, [..., K]; inverse, seen (Q),
    lower (A, with decays per head only), seen_values (Q_v), read_values (A_v) [..., L, L]. One program per slot and head.
    """
    slot, head = tl.program_id(0), tl.program_id(1)
    row, _, j, here, used = slot_rows(slot, cu_seqlens, index, T, N, S, direction, own, L, STEPS)
    if not used:
        return
    place = slot.to(tl.int64) * H + head
    i = tl.arange(0, L)
    a_b, q_b = tl.zeros((L, L), tl.float32), tl.zeros((L, L), tl.float32)
    a_k, q_k = tl.zeros((L, L), tl.float32), tl.zeros((L, L), tl.float32)
    if log_decay is not None and not VECTOR:
        g_row = tl.load(log_decay + row * H + head, mask=here & (j == 0), other=0.0).to(tl.float32)
        since_row, until_row, pairs = between(g_row, L, PRECISION)
    for begin in range(0, K, BLOCK_K):
        column = begin + tl.arange(0, BLOCK_K)
        query, reader, target, key = vectors(q, k, beta, a, b, row, j, here, head, column, STEPS, H, K)
        if VECTOR:
            g = load_rows(log_decay, row, head, column, here & (j == 0), H, K).to(tl.float32)
            q_b, a_b, since, until = by_levels(q_b, a_b, query, reader, target, g, i, a is not None, L, PRECISION)
            if a is not None:  # once more with k for b: four sums at once would need more registers than there are
                q_k, a_k, since, until = by_levels(q_k, a_k, query, reader, key, g, i, True, L, PRECISION)
            total = tl.sum(tl.where((i == 0)[:, None], since + g + until, 0.0), 0)
            tl.store(whole + place * K + column, tl.exp(total), mask=column < K)
            query *= tl.exp(since + g)
            reader *= tl.exp(since + g if a is None else since)
            target *= tl.exp(until)
            key *= tl.exp(until)
        else:
            q_b += product(query, tl.trans(target), PRECISION)
            a_b += product(reader, tl.trans(target), PRECISION)
            if log_decay is not None:
                tl.store(whole + place * K + column, tl.exp(column * 0.0 + tl.sum(g_row, 0)), mask=column < K)
                query, reader, target = query * since_row[:, None], reader * since_row[:, None], target * until_row[:, None]
        store_block(queries, place, i, column, query * scale, L, K)
        store_block(w, place, i, column, reader, L, K)  # until the inverse is there
        store_block(ahead, place, i, column, target, L, K)
        if a is not None:
            store_block(added, place, i, column, key, L, K)
    if log_decay is not None and not VECTOR:
        q_b *= pairs
        a_b *= pairs
    a_b = tl.where(i[:, None] > i[None, :], a_b, 0.0)
    q_b = tl.where(i[:, None] >= i[None, :], q_b * scale, 0.0)
    store_block(seen, place, i, i, q_b, L, L)
    if lower is not None:
        store_block(lower, place, i, i, a_b, L, L)
    if a is not None:
        store_block(seen_values, place, i, i, q_k * scale, L, L)
        store_block(read_values, place, i, i, a_k, L, L)
    solved = inverse_of(a_b, L, PRECISION)
    store_block(inverse, place, i, i, solved, L, L)
    tl.debug_barrier()  # tiles of w were stored by other threads than read them
    for begin in range(0, rolled(K, N), BLOCK_K):
        column = begin + tl.arange(0, BLOCK_K)
        store_block(w, place, i, column, product(solved, load_block(w, place, i, column, L, K), PRECISION), L, K)
    for begin in range(0, rolled(V, N), BLOCK_V):
        column = begin + tl.arange(0, BLOCK_V)
        value = load_rows(v, row * STEPS + j, head, column, here, H, V)
        if a is None:
            rate = tl.load(beta + (row * STEPS + j) * H + head, mask=here, other=0.0).to(tl.float32)
            right = rate[:, None] * value.to(tl.float32)
        else:
            right = product(a_k, value, PRECISION)
        store_block(u, place, i, column, product(solved, right, PRECISION), L, V)


@kernel
def states(
    v, w, u, ahead, added, whole, state, kept, written, final, cu_seqlens, index, T, N, S, direction, own,
    STEPS: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, L: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """state, final: [S, H, K, V]; in chunks kept, the state before each, [..., K, V], and written (r) [..., L, V]; BLOCK_K ≥ K.

    One program per sequence, head and BLOCK_V columns of the state.
    """
    sequence, head = tl.program_id(0), tl.program_id(1)
    first, step, length, inputs, _ = span(sequence, cu_seqlens, T, N, S, direction, own)
    slot, count = chunks_of(sequence, length, cu_seqlens, T, N, S, L // STEPS)
    key, column, i = tl.arange(0, BLOCK_K), tl.program_id(2) * BLOCK_V + tl.arange(0, BLOCK_V), tl.arange(0, L)
    of_state = sequence.to(tl.int64) * H + head
    carried = load_block(state, of_state, key, column, K, V)
    for chunk in range(0, count):
        place = (slot + chunk).to(tl.int64) * H + head
        store_block(kept, place, key, column, carried, K, V)
        r = load_block(u, place, i, column, L, V).to(tl.float32)
        r += product(load_block(w, place, i, key, L, K), carried, PRECISION)
        store_block(written, place, i, column, r, L, V)
        if whole is not None:
            carried *= tl.load(whole + place * K + key, mask=key < K, other=0.0)[:, None]
        carried += product(load_turned(ahead, place, i, key, L, K), r, PRECISION)
        if added is not None:
            row, j, here = rows_of(first, step, length, chunk, index, L, STEPS)
            value = load_rows(v, (row + inputs) * STEPS + j, head, column, here, H, V)
            carried += product(load_turned(added, place, i, key, L, K), value, PRECISION)
    store_block(final, of_state, key, column, carried, K, V)


@kernel
def outputs(
    v, queries, seen, seen_values, kept, written, o, cu_seqlens, index, T, N, S, direction, own,
    STEPS: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, L: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """o: [N, H, V]. One program per slot, head and BLOCK_V columns."""
    slot, head = tl.program_id(0), tl.program_id(1)
    row, out_row, j, here, used = slot_rows(slot, cu_seqlens, index, T, N, S, direction, own, L, STEPS)
    if not used:
        return
    place = slot.to(tl.int64) * H + head
    column, i = tl.program_id(2) * BLOCK_V + tl.arange(0, BLOCK_V), tl.arange(0, L)
    found = product(load_block(seen, place, i, i, L, L), load_block(written, place, i, column, L, V), PRECISION)
    if seen_values is not None:
        value = load_rows(v, row * STEPS + j, head, column, here, H, V)
        found += product(load_block(seen_values, place, i, i, L, L), value, PRECISION)
    for begin in range(0, K, BLOCK_K):
        key = begin + tl.arange(0, BLOCK_K)
        found += product(load_block(queries, place, i, key, L, K), load_block(kept, place, key, column, K, V), PRECISION)
    store_rows(o, out_row, head, column, here & (j == STEPS - 1), found, H, V)
