"""What all Triton kernels share: which rows of memory the steps of a sequence are.

Tensors are rows [N, ...] of contiguous numbers (batch and time flattened). A sequence is a stretch of positions; it runs forward or
backward; position p is row p, or row ``index[p]``. With ``direction`` 2 every sequence runs both ways: sequences S … 2 S - 1 are the
backward ones, and write their outputs, and gradients, N rows further on; inputs are N rows further on only where each direction has its
``own``.
"""

import inspect

import triton
import triton.language as tl

# Arguments that no kernel is compiled for: another length, batch or direction is the same kernel.
RUN_TIME = ("T", "N", "S", "direction", "own")


def kernel(function):
    """``triton.jit`` without specialisation on lengths and numbers of sequences."""
    names = [name for name in inspect.signature(function).parameters if name in RUN_TIME]
    return triton.jit(function, do_not_specialize=names)


@triton.jit
def span(sequence, cu_seqlens, T, N, S, direction, own):
    """Sequence 0 … S - 1 (2 S - 1 with direction 2) → position of its first step, ±1 from step to step, number of steps,
    row of its direction's inputs, and of its direction's outputs; positions and rows are int64."""
    turned = sequence // S
    row = turned.to(tl.int64) * N
    if cu_seqlens is None:
        start = (sequence % S).to(tl.int64) * T
        length = T
    else:
        start = tl.load(cu_seqlens + sequence % S).to(tl.int64)
        length = (tl.load(cu_seqlens + sequence % S + 1) - start).to(tl.int32)
    backward = (direction == 1) | (turned == 1)
    first = tl.where(backward, start + length - 1, start)
    return first, tl.where(backward, -1, 1), length, row * own, row


@triton.jit
def row_at(index, position, mask):
    """Row of memory, int64, of each position; positions outside ``mask`` may be anything."""
    if index is None:
        return position
    else:
        return tl.load(index + position, mask=mask, other=0).to(tl.int64)


@triton.jit
def chunk_of(slot, cu_seqlens, T, S, CHUNK: tl.constexpr):
    """Slot 0 … :func:`visionrnn.kernels.spans.Spans.slots` - 1 → sequence (of one direction) and the number of the chunk in it.

    Sequence s of packed ones has the slots from cu_seqlens[s] // CHUNK + s on: at least as many as it has chunks, so that nothing has to be
    counted before the launch; a chunk may lie beyond the end of its sequence, and is empty then.
    """
    if cu_seqlens is None:
        chunks = tl.cdiv(T, CHUNK)
        return slot // chunks, slot % chunks
    else:
        low = slot * 0
        high = low + S - 1
        while low < high:
            middle = (low + high + 1) // 2
            after = (tl.load(cu_seqlens + middle) // CHUNK).to(tl.int32) + middle <= slot
            low = tl.where(after, middle, low)
            high = tl.where(after, high, middle - 1)
        return low, slot - (tl.load(cu_seqlens + low) // CHUNK).to(tl.int32) - low
