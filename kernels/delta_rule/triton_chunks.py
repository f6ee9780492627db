"""What the Triton kernels of the delta rules share: the rows of a chunk, decays inside it, and its triangular system.

A chunk is L rows, each a step of a token: row i is step i % STEPS of the chunk's token i // STEPS. The decay of a token belongs to its
first row, the query to its last; rows beyond the end of the sequence are zero and do nothing. What the kernels hand to one another lies in
chunks, [slots · directions, H, L, ...], in the order of the scan.
"""

import triton
import triton.language as tl

from ..triton_rows import chunk_of, row_at, span


@triton.jit
def slots_of(cu_seqlens, T, N, S, TOKENS: tl.constexpr):
    """Slots of one direction, as ``Spans.slots`` counts them."""
    if cu_seqlens is None:
        return S * tl.cdiv(T, TOKENS)
    else:
        return N // TOKENS + S


@triton.jit
def chunks_of(sequence, length, cu_seqlens, T, N, S, TOKENS: tl.constexpr):
    """Sequence → slot of its first chunk, and how many chunks there are."""
    one = sequence % S
    begin = sequence // S * slots_of(cu_seqlens, T, N, S, TOKENS)
    if cu_seqlens is None:
        return begin + one * tl.cdiv(T, TOKENS), tl.cdiv(length, TOKENS)
    else:
        return begin + (tl.load(cu_seqlens + one) // TOKENS).to(tl.int32) + one, tl.cdiv(length, TOKENS)


@triton.jit
def rows_of(first, step, length, chunk, index, L: tl.constexpr, STEPS: tl.constexpr):
    """Of the L rows of a chunk: the token's row of memory, which of the token's steps it is, and whether there is one."""
    TOKENS: tl.constexpr = L // STEPS
    i = tl.arange(0, L)
    token = chunk * TOKENS + i // STEPS
    here = (token < length) & (i < TOKENS * STEPS)
    return row_at(index, first + step * token, here), i % STEPS, here


@triton.jit
def slot_rows(slot, cu_seqlens, index, T, N, S, direction, own, L: tl.constexpr, STEPS: tl.constexpr):
    """A slot of any direction → its rows as above, of inputs and of outputs; and whether it holds any chunk."""
    slots = slots_of(cu_seqlens, T, N, S, L // STEPS)
    one, chunk = chunk_of(slot % slots, cu_seqlens, T, S, L // STEPS)
    first, step, length, inputs, outputs = span(one + slot // slots * S, cu_seqlens, T, N, S, direction, own)
    row, j, here = rows_of(first, step, length, chunk, index, L, STEPS)
    return row + inputs, row + outputs, j, here, chunk * (L // STEPS) < length


@triton.jit
def load_rows(values, row, head, column, mask, H: tl.constexpr, WIDTH: tl.constexpr):
    """[L, columns] of values [rows, H, WIDTH]; 0 outside."""
    at = (values + (row * H + head) * WIDTH)[:, None] + column[None, :]
    return tl.load(at, mask=mask[:, None] & (column < WIDTH)[None, :], other=0.0)


@triton.jit
def store_rows(values, row, head, column, mask, found, H: tl.constexpr, WIDTH: tl.constexpr):
    at = (values + (row * H + head) * WIDTH)[:, None] + column[None, :]
    tl.store(at, found, mask=mask[:, None] & (column < WIDTH)[None, :])


@triton.jit
def load_block(values, place, row, column, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """[rows, columns] of matrix ``place`` of values [..., ROWS, WIDTH]; 0 outside."""
    at = (values + place * (ROWS * WIDTH)) + (row[:, None] * WIDTH + column[None, :])  # 64 bits only for the matrix, to spare registers
    return tl.load(at, mask=(row < ROWS)[:, None] & (column < WIDTH)[None, :], other=0.0)


@triton.jit
def load_turned(values, place, row, column, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """The same, transposed: [columns, rows]."""
    at = (values + place * (ROWS * WIDTH)) + (row[None, :] * WIDTH + column[:, None])
    return tl.load(at, mask=(row < ROWS)[None, :] & (column < WIDTH)[:, None], other=0.0)


@triton.jit
def store_block(values, place, row, column, found, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    at = (values + place * (ROWS * WIDTH)) + (row[:, None] * WIDTH + column[None, :])
    tl.store(at, found, mask=(row < ROWS)[:, None] & (column < WIDTH)[None, :])


@triton.jit
def rolled(width, N):
    """``width`` as the end of a loop that stays one: a compiler that sees how few tiles there are unrolls it and loads them all before
    the first product, which takes more registers than there are."""
    return width + tl.minimum(N, 0)


@triton.jit
def product(x, y, PRECISION: tl.constexpr):
    """x · y of float32 and half types, as float32."""
    return tl.dot(x.to(tl.float32), y.to(tl.float32), input_precision=PRECISION)


@triton.jit
def between(g, L: tl.constexpr, PRECISION: tl.constexpr):
    """Log decays g [L] of rows → decay from the chunk's start to each row, from each row to the chunk's end, and [L, L] from row s (column)
    to row t. Sums of the very decays in between: no differences, no positive exponents."""
    i = tl.arange(0, L)
    later = tl.where(i[:, None] > i[None, :], g[:, None], 0.0)  # [u, s]: what decays row s on the way
    upto = tl.where(i[:, None] >= i[None, :], 1.0, 0.0)  # [t, u]
    since = tl.exp(tl.sum(tl.where(i[:, None] <= i[None, :], g[:, None], 0.0), 0))
    return since, tl.exp(tl.sum(later, 0)), tl.exp(tl.dot(upto, later, input_precision=PRECISION))


@triton.jit
def halves(i, m):
    """[L] whether row i is in the second half of its stretch of 2 m rows; [L, L] whether the row is, and the column in the first half."""
    second = (i & m) != 0
    same = (i[:, None] // (2 * m)) == (i[None, :] // (2 * m))
    return second, same & second[:, None] & ~second[None, :]


@triton.jit
def joined(g, since, until, i, m, second):
    """Stretches of m rows → of 2 m: log decays before each row (its own left out), and after it, inside the stretch.

    [L, channels]; every row of a stretch knows the stretch's sum, since + g + until, and reads that of its neighbour.
    """
    other = tl.gather(since + g + until, tl.broadcast_to((i ^ m)[:, None], g.shape), 0)
    return since + tl.where(second[:, None], other, 0.0), until + tl.where(second[:, None], 0.0, other)


@triton.jit
def inverse_of(lower, L: tl.constexpr, PRECISION: tl.constexpr):
    """(I - lower)⁻¹ of a strictly lower triangle [L, L]: blocks of 16 row by row, all at once, then pairs of blocks by products."""
    COUNT: tl.constexpr = L // 16
    n, r, i = tl.arange(0, COUNT), tl.arange(0, 16), tl.arange(0, L)
    diagonal = (n[:, None] == n[None, :])[:, None, :, None]
    x = tl.sum(tl.where(diagonal, tl.reshape(lower, (COUNT, 16, COUNT, 16)), 0.0), 2)  # [block, row, column]
    for step in range(2, 16):
        this = (r == step)[None, :, None]
        row = tl.sum(tl.where(this, x, 0.0), 1)
        x = tl.where(this, (row + tl.sum(row[:, :, None] * x, 1))[:, None, :], x)
    inverse = tl.reshape(tl.where(diagonal, x[:, :, None, :], 0.0), (L, L)) + tl.where(i[:, None] == i[None, :], 1.0, 0.0)
    m = 16
    while m < L:
        _, across = halves(i, m)
        corner = tl.dot(tl.where(across, lower, 0.0), inverse, input_precision=PRECISION)
        inverse += tl.dot(inverse, corner, input_precision=PRECISION)
        m *= 2
    return inverse
