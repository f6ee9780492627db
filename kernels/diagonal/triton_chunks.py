"""How the diagonal kernels share out sequences: by chunks that run side by side, or by whole sequences, whose chunks run in turn."""

import triton
import triton.language as tl

from ..triton_rows import chunk_of, span


@triton.jit
def compose(decay, x, later_decay, later_x):
    return decay * later_decay, later_decay * x + later_x


@triton.jit
def compose_with_previous(decay, x, factor, previous, later_decay, later_x, later_factor, later_previous):
    """As :func:`compose`; last comes ``factor`` times the state before each step, if ``previous`` is that at the first step, else 0."""
    return decay * later_decay, later_decay * x + later_x, later_factor * decay, later_factor * x + later_previous


@triton.jit
def first_slot(sequence, cu_seqlens, T, N, S, CHUNK: tl.constexpr):
    """Slot of the first chunk of a sequence; the backward run's slots stand behind all others."""
    if cu_seqlens is None:
        return sequence * tl.cdiv(T, CHUNK)
    else:
        begin = (tl.load(cu_seqlens + sequence % S) // CHUNK).to(tl.int32) + sequence % S
        return begin + sequence // S * (N // CHUNK + S)


@triton.jit
def place(CHUNKED: tl.constexpr, cu_seqlens, T, N, S, direction, own, CHUNK: tl.constexpr):
    """What the first axis of the grid says, one chunk or all of a sequence: sequence, its first position, ±1, its length, rows before its
    direction's inputs and outputs, its first slot, and the range of its chunks to do (in the order of time where that is all).

    A chunk is CHUNK positions, counted from the sequence's first position also where it runs backward.
    """
    number = tl.program_id(0)
    if CHUNKED:
        slots = tl.num_programs(0) // tl.where(direction == 2, 2, 1)
        found, chunk = chunk_of(number % slots, cu_seqlens, T, S, CHUNK)
        sequence = found + number // slots * S
        first, step, length, inputs, outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
        begin, low, high = number - chunk, chunk, tl.minimum(chunk + 1, tl.cdiv(length, CHUNK))
    else:
        sequence = number
        first, step, length, inputs, outputs = span(sequence, cu_seqlens, T, N, S, direction, own)
        begin, low, high = first_slot(sequence, cu_seqlens, T, N, S, CHUNK), 0, tl.cdiv(length, CHUNK)
    start = tl.where(step < 0, first - length + 1, first)
    return sequence, start, step, length, inputs, outputs, begin, low, high


@triton.jit
def steps_of(chunk, start, step, length, CHUNK: tl.constexpr):
    """Number of the chunk's steps, position of the first one in the order of ``step``."""
    steps = tl.minimum(length - chunk * CHUNK, CHUNK)
    return steps, start + chunk * CHUNK + tl.where(step < 0, steps - 1, 0)
