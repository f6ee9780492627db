"""Tiles of steps, and the decays between them, for the Triton kernels of the gated linear family.

All weights are exponentials of sums of log decays, never of positive ones. A sum over just the steps between two others is wanted to full
precision, also behind steps that forget everything; so no large sums are subtracted in float32.
"""

import triton
import triton.language as tl

from ..triton_rows import chunk_of, row_at

# exp of less is 0, and sums of it stay in the range where the coarse parts below are exact
FORGOTTEN = tl.constexpr(-1000.0)


@triton.jit
def slots_of(cu_seqlens, T, N, S, CHUNK: tl.constexpr):
    """Places for chunks of one direction."""
    if cu_seqlens is None:
        return S * tl.cdiv(T, CHUNK)
    else:
        return N // CHUNK + S


@triton.jit
def chunk_at(slot, cu_seqlens, T, N, S, CHUNK: tl.constexpr):
    """Slot among those of all directions → sequence among those of all directions, number of the chunk in it."""
    slots = slots_of(cu_seqlens, T, N, S, CHUNK)
    sequence, chunk = chunk_of(slot % slots, cu_seqlens, T, S, CHUNK)
    return sequence + slot // slots * S, chunk


@triton.jit
def first_slot(sequence, cu_seqlens, T, N, S, CHUNK: tl.constexpr):
    """The slot of a sequence's first chunk."""
    turned = sequence // S * slots_of(cu_seqlens, T, N, S, CHUNK)
    if cu_seqlens is None:
        return turned + sequence % S * tl.cdiv(T, CHUNK)
    else:
        return turned + (tl.load(cu_seqlens + sequence % S) // CHUNK).to(tl.int32) + sequence % S


@triton.jit
def rows_at(begin, length, first, step, index, BT: tl.constexpr):
    """Rows of the steps begin … begin + BT - 1 of a sequence, and which of them there are."""
    t = begin + tl.arange(0, BT)
    here = t < length
    return row_at(index, first + step * t, here), here


@triton.jit
def tile_at(x, row, here, head, column, H: tl.constexpr, W: tl.constexpr, BW: tl.constexpr):
    """Pointers and mask [BT, BW] of columns ``column`` … of rows [N, H, W]."""
    at = column + tl.arange(0, BW)
    pointers = x + (row[:, None] * H + head) * W + at[None, :]
    if W % BW == 0:
        return pointers, here[:, None] & (at >= 0)[None, :]
    else:
        return pointers, here[:, None] & (at < W)[None, :]


@triton.jit
def load_tile(x, row, here, head, column, H: tl.constexpr, W: tl.constexpr, BW: tl.constexpr):
    pointers, mask = tile_at(x, row, here, head, column, H, W, BW)
    return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def operand(x):
    """For products with states, gradients and scores: float16 has too small a range for them, and is taken for float32."""
    if x.dtype == tl.float16:
        return x.to(tl.float32)
    else:
        return x


@triton.jit
def dot_left(wide, narrow, found, PRECISION: tl.constexpr):
    """found + wide @ narrow; ``wide`` is float32, and in two parts where ``narrow`` is bfloat16, which one would round."""
    part = wide.to(narrow.dtype)
    found = tl.dot(part, narrow, found, input_precision=PRECISION)
    if narrow.dtype == tl.bfloat16:
        found = tl.dot((wide - part.to(tl.float32)).to(narrow.dtype), narrow, found, input_precision=PRECISION)
    return found


@triton.jit
def state_tile(key, value, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):
    """Offsets and mask [BK, BV] in a state [K, V]."""
    rows, columns = key + tl.arange(0, BK), value + tl.arange(0, BV)
    return rows[:, None] * V + columns[None, :], (rows < K)[:, None] & (columns < V)[None, :]


@triton.jit
def load_decay(log_decay, row, here, head, column, H: tl.constexpr, K: tl.constexpr, BK: tl.constexpr, DECAY: tl.constexpr):
    """[BT] with one decay per head, [BT, BK] with one per key; nothing decays outside the sequence."""
    if DECAY == 1:
        return tl.maximum(tl.load(log_decay + row * H + head, mask=here, other=0.0).to(tl.float32), FORGOTTEN)
    else:
        return tl.maximum(load_tile(log_decay, row, here, head, column, H, K, BK).to(tl.float32), FORGOTTEN)


@triton.jit
def total_decay(
    log_decay, begin, end, length, first, step, index, inputs, head, key,
    H: tl.constexpr, K: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, DECAY: tl.constexpr,
):  # fmt: skip
    """Sum over the tiles that begin at the steps begin, begin + BT … before end: [1] with one decay per head, [BK] with one per key."""
    total = tl.zeros([BK if DECAY == 2 else 1], tl.float32)
    for at in range(begin, end, BT):
        row, here = rows_at(at, length, first, step, index, BT)
        total += tl.sum(load_decay(log_decay, row + inputs, here, head, key, H, K, BK, DECAY), 0)
    return total


@triton.jit
def split(g):
    """A coarse part, whose sums are exact, and a small rest, whose sums are small: differences of sums of both lose nothing."""
    coarse = tl.floor(g * 64.0 + 0.5) * (1.0 / 64.0)
    return coarse, g - coarse


@triton.jit
def ahead_of(g, EXCLUSIVE: tl.constexpr):
    """[BT]: sums from the tile's first step to each one, without its own where ``EXCLUSIVE``."""
    coarse, rest = split(g)
    if EXCLUSIVE:
        return (tl.cumsum(coarse, 0) - coarse) + (tl.cumsum(rest, 0) - rest)
    else:
        return tl.cumsum(coarse, 0) + tl.cumsum(rest, 0)


@triton.jit
def behind_of(g):
    """[BT]: sums from the step after each one to the tile's last."""
    coarse, rest = split(g)
    return (tl.sum(coarse, 0) - tl.cumsum(coarse, 0)) + (tl.sum(rest, 0) - tl.cumsum(rest, 0))


@triton.jit
def between_steps(g, EXCLUSIVE: tl.constexpr, BT: tl.constexpr):
    """[BT, BT]: weight of an earlier step (columns) in a later one (rows), 0 elsewhere and for the step itself."""
    coarse, rest = split(g)
    c, r = tl.cumsum(coarse, 0), tl.cumsum(rest, 0)
    if EXCLUSIVE:
        c_seen, r_seen = c - coarse, r - rest
    else:
        c_seen, r_seen = c, r
    t = tl.arange(0, BT)
    between = (c_seen[:, None] - c[None, :]) + (r_seen[:, None] - r[None, :])
    return tl.exp(tl.where(t[:, None] > t[None, :], between, -float("inf")))


@triton.jit
def sums(selected, g, PARTS: tl.constexpr):
    """selected [M, BT], of zeros and ones, in bfloat16, times g [BT, BK]: by tensor cores, g in one to three parts of eight bits."""
    part = g.to(tl.bfloat16)
    found = tl.dot(selected, part)
    if PARTS > 1:
        rest = g - part.to(tl.float32)
        part = rest.to(tl.bfloat16)
        found = tl.dot(selected, part, found)
        if PARTS > 2:
            found = tl.dot(selected, (rest - part.to(tl.float32)).to(tl.bfloat16), found)
    return found


@triton.jit
def up_to(EXCLUSIVE: tl.constexpr, BT: tl.constexpr):
    """For :func:`sums` from a tile's first step to each one."""
    t = tl.arange(0, BT)
    if EXCLUSIVE:
        return (t[None, :] < t[:, None]).to(tl.bfloat16)
    else:
        return (t[None, :] <= t[:, None]).to(tl.bfloat16)


@triton.jit
def after(BT: tl.constexpr):
    """For :func:`sums` from the step after each one to the tile's last."""
    t = tl.arange(0, BT)
    return (t[None, :] > t[:, None]).to(tl.bfloat16)


@triton.jit
def is_later(level, BT: tl.constexpr):
    """[BT]: steps in the second one of each pair of neighbouring blocks of 2^level steps."""
    return ((tl.arange(0, BT) >> level) & 1) == 1


@triton.jit
def to_seam(level, EXCLUSIVE: tl.constexpr, BT: tl.constexpr):
    """For :func:`sums` between each step and the seam of its pair of blocks: the later block's steps count back to it, with their own
    decay (unless ``EXCLUSIVE``), the earlier one's count on to it, without their own."""
    t = tl.arange(0, BT)
    row, column = t[:, None], t[None, :]
    back = column < row if EXCLUSIVE else column <= row
    same = (row >> level) == (column >> level)
    later = ((row >> level) & 1) == 1
    return (same & ((later & back) | ((later == 0) & (column > row)))).to(tl.bfloat16)


@triton.jit
def is_pair(level, BT: tl.constexpr):
    """[BT, BT]: rows in the later, columns in the earlier block of a pair."""
    t = tl.arange(0, BT)
    row, column = t[:, None] >> level, t[None, :] >> level
    return (row == column + 1) & ((row & 1) == 1)
