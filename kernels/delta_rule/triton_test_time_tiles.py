"""What the Triton kernels of TTT-Linear share. Rows as in ``triton_rows``, with H heads of D channels; a mini-batch has M steps, and a
chunk, a whole number of mini-batches, L steps."""

import triton
import triton.language as tl

from ..triton_rows import row_at


@triton.jit
def first_slot(sequence, cu_seqlens, T, N, S, L: tl.constexpr):
    """Where the chunks of a sequence begin among those of all, int64: the inverse of ``chunk_of``, behind those of direction 0."""
    if cu_seqlens is None:
        chunks = tl.cdiv(T, L)
        return sequence.to(tl.int64) * chunks
    else:
        turned = sequence // S
        before = (tl.load(cu_seqlens + sequence % S) // L).to(tl.int64) + sequence % S
        return before + turned.to(tl.int64) * (N // L + S)


@triton.jit
def load_rows(pointer, row, here, head, column, H: tl.constexpr, D: tl.constexpr):
    """[rows, columns] of one head, 0 outside; columns below D only."""
    at = (row * H + head)[:, None] * D + column[None, :]
    return tl.load(pointer + at, mask=here[:, None] & (column < D)[None, :], other=0.0)


@triton.jit
def store_rows(pointer, value, row, here, head, column, H: tl.constexpr, D: tl.constexpr):
    at = (row * H + head)[:, None] * D + column[None, :]
    tl.store(pointer + at, value, mask=here[:, None] & (column < D)[None, :])


@triton.jit
def matrix(row, column, D: tl.constexpr):
    """Offsets and mask of a tile of a matrix [D, D]."""
    return row[:, None] * D + column[None, :], (row < D)[:, None] & (column < D)[None, :]


@triton.jit
def rates(rate, token_scale, index, first, step, length, inputs, t, here, head, H: tl.constexpr, M: tl.constexpr, LATE: tl.constexpr):
    """[steps] each, 0 outside ``here``: how the gradient at a step counts as a key's, what a query multiplies it with, and how it counts
    in the model at the end of its mini-batch; then the step's own rate and scale, and those of the last step of its mini-batch."""
    position = t % M
    last = tl.minimum(t - position + M, length) - 1
    row = row_at(index, first + step * t, here) + inputs
    rate_here = tl.load(rate + row * H + head, mask=here, other=0.0).to(tl.float32)
    scale = tl.load(token_scale + position, mask=here, other=0.0)
    last_scale = tl.load(token_scale + last % M, mask=here, other=0.0)
    row = row_at(index, first + step * last, here) + inputs
    last_rate = tl.load(rate + row * H + head, mask=here, other=0.0).to(tl.float32)
    if LATE:
        key, query, end = here.to(tl.float32), scale * rate_here, last_scale * last_rate
    else:
        key, query, end = rate_here, scale, last_scale * rate_here
    return key, query, end, rate_here, scale, last_rate, last_scale


@triton.jit
def normal(z, here, inside, eps, D: tl.constexpr):
    """z [rows, columns] with mean 0 and variance 1 in each row, and the factor that did it; 0 outside."""
    centred = tl.where(inside[None, :], z - (tl.sum(z, 1) * (1.0 / D))[:, None], 0.0)
    factor = tl.where(here, tl.rsqrt(tl.sum(centred * centred, 1) * (1.0 / D) + eps), 0.0)
    return centred * factor[:, None], factor


@triton.jit
def across(value, normed, inside, D: tl.constexpr):
    """What of ``value`` neither shifts nor stretches rows: the derivative of :func:`normal` but for its factor."""
    mean, along = tl.sum(value, 1) * (1.0 / D), tl.sum(value * normed, 1) * (1.0 / D)
    return tl.where(inside[None, :], value - mean[:, None] - normed * along[:, None], 0.0)


@triton.jit
def inner_gradient(z, target, scale, shift, here, inside, eps, D: tl.constexpr):
    """∂/∂z ½ |LN(z) - target|², LN(z) - target, and :func:`normal` of z."""
    normed, factor = normal(z, here, inside, eps, D)
    miss = normed * scale[None, :] + shift[None, :] - target
    return factor[:, None] * across(miss * scale[None, :], normed, inside, D), miss, normed, factor


@triton.jit
def coefficients(key, query, end, r, M: tl.constexpr):
    """[queries, keys] of rows r of a chunk: what multiplies q · k + 1, for keys of the same mini-batch and of those before."""
    i, j = r[:, None] // M, r[None, :] // M
    same = (i == j) & (r[None, :] <= r[:, None])
    return tl.where(same, query[:, None] * key[None, :], 0.0) + tl.where(j < i, end[None, :], 0.0)


@triton.jit
def dot_whole(low, value, PRECISION: tl.constexpr):
    """low @ value, a float32 matrix that is too precise for the type of ``low``: in two parts, which keep 16 bits or more."""
    high = value.to(low.dtype)
    found = tl.dot(low, high, input_precision=PRECISION)
    if low.dtype != tl.float32:
        found += tl.dot(low, (value - high.to(tl.float32)).to(low.dtype), input_precision=PRECISION)
    return found
