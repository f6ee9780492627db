"""Rulebooks of 3D sparse convolutions: for each kernel offset, which input voxel feeds which output voxel.

Voxel coordinates are [N, 4] integers (batch, z, y, x); shapes and kernels are given as (z, y, x). A convolution here is torch's
cross-correlation: output voxel o reads, through kernel position k, the input voxel at ``o * stride - padding + k * dilation``; absent
voxels count as zeros.

Sums over offsets are taken by ``sum_rows`` in a fixed order, so that results are reproducible on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise, product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from visionrnn.errors import DataError
from visionrnn.serialization.neighbours import OFFSETS, Neighbours

Triple = tuple[int, int, int]


MAX_PAIRS = 1 << 17
"""Pairs worked on at a time, so that temporary memory is bounded: 32 MB for 64 channels in float32."""


class Span(NamedTuple):
    """Pairs ``start:stop`` of a chunk go through kernel position ``offset``."""

    offset: int
    start: int
    stop: int


class Reduction(NamedTuple):
    """Which of P rows are added to which of R results: result r is the sum of rows ``order[starts[r]:starts[r + 1]]``."""

    order: Tensor  # [P] int64
    starts: Tensor  # [R + 1] int64


def reduction(targets: Tensor, count: int) -> Reduction:
    """The reduction that adds row i to result ``targets[i]``, for targets [P] in 0..count - 1, rows of one result in their order."""
    sizes = torch.zeros(count + 1, dtype=torch.int64, device=targets.device).scatter_add_(0, targets + 1, torch.ones_like(targets))
    return Reduction(targets.argsort(stable=True), sizes.cumsum(0))


def sum_rows(rows: Tensor, plan: Reduction) -> Tensor:
    """[P, C] → [R, C], zeros where a result has no rows; sums in a fixed order, whatever the number of threads."""
    if not len(rows):
        return rows.new_zeros(len(plan.starts) - 1, rows.shape[1])
    return torch.nn.functional.embedding_bag(plan.order, rows, plan.starts, mode="sum", include_last_offset=True)


@dataclass(eq=False)
class PairChunk:
    """Voxel pairs: input row ``inputs[i]`` feeds output row ``outputs[i]``; ``spans`` tells through which kernel position."""

    inputs: Tensor  # [P] int64
    outputs: Tensor  # [P] int64
    spans: tuple[Span, ...]
    num_inputs: int
    num_outputs: int
    reductions: tuple[Callable[[], Reduction], Callable[[], Reduction]] | None = None
    """How to make ``to_outputs`` and ``to_inputs`` where there is a better way than sorting."""

    def inverse(self) -> PairChunk:
        """The same pairs with inputs and outputs exchanged."""
        makers = None if self.reductions is None else (self.reductions[1], self.reductions[0])
        return PairChunk(self.outputs, self.inputs, self.spans, self.num_outputs, self.num_inputs, makers)

    @cached_property
    def to_outputs(self) -> Reduction:
        return self.reductions[0]() if self.reductions else reduction(self.outputs, self.num_outputs)

    @cached_property
    def to_inputs(self) -> Reduction:
        return self.reductions[1]() if self.reductions else reduction(self.inputs, self.num_inputs)


def _chunks(pairs: Iterable[tuple[int, Tensor, Tensor]], num_inputs: int, num_outputs: int) -> tuple[PairChunk, ...]:
    """Gathers (offset, inputs, outputs) into chunks of at most MAX_PAIRS pairs, or one offset's."""
    chunks: list[list[tuple[int, Tensor, Tensor]]] = []
    room = 0
    for pair in pairs:
        size = len(pair[1])
        if size > room:
            chunks.append([])
            room = MAX_PAIRS
        if size:
            chunks[-1].append(pair)
            room -= size
    made = []
    for group in chunks:
        stops = list(accumulate(len(inputs) for _, inputs, _ in group))
        spans = tuple(Span(offset, stop - len(inputs), stop) for (offset, inputs, _), stop in zip(group, stops, strict=True))
        sides = torch.cat([inputs for _, inputs, _ in group]), torch.cat([outputs for _, _, outputs in group])
        made.append(PairChunk(*sides, spans, num_inputs, num_outputs))
    return tuple(made)


@dataclass(eq=False)
class Rulebook:
    """Everything about a sparse convolution that depends on coordinates only.

    ``chunks`` hold the pairs by kernel position; ``identity`` is the position through which every voxel feeds itself (None if there is
    none), not listed in ``chunks``. ``coords`` [M, 4] and ``spatial_shape`` describe the output, ``input_coords`` [N, 4] the input;
    ``settings`` is what the rulebook was built for.
    """

    chunks: tuple[PairChunk, ...]
    identity: int | None
    kernel_size: Triple
    input_coords: Tensor
    coords: Tensor
    spatial_shape: Triple
    settings: tuple

    @cached_property
    def inverse(self) -> Rulebook:
        """The same pairs with inputs and outputs exchanged."""
        chunks = tuple(c.inverse() for c in self.chunks)
        settings = ("inverse", *self.settings)
        return Rulebook(chunks, self.identity, self.kernel_size, self.coords, self.input_coords, self.settings[1], settings)

    @property
    def num_pairs(self) -> int:
        """Multiplications of one voxel with one kernel matrix, the identity's included."""
        return sum(len(chunk.inputs) for chunk in self.chunks) + (0 if self.identity is None else len(self.coords))


def neighbour_rulebook(neighbours: Neighbours, coords: Tensor, spatial_shape: Triple) -> Rulebook:
    """The submanifold rulebook of a 3 × 3 × 3 kernel from neighbours that are known: nothing is searched, sorted or waited for."""
    chunks, start = [], 0
    while start < len(OFFSETS):
        stop, size = start + 1, neighbours.counts[start]
        while stop < len(OFFSETS) and size + neighbours.counts[stop] <= MAX_PAIRS:
            size += neighbours.counts[stop]
            stop += 1
        if size:
            chunks.append(_table_chunk(neighbours, start, stop, size))
        start = stop
    settings = ("submanifold", spatial_shape, (3, 3, 3), (1, 1, 1))
    return Rulebook(tuple(chunks), 13, (3, 3, 3), coords, coords, spatial_shape, settings)


def _table_chunk(neighbours: Neighbours, start: int, stop: int, size: int) -> PairChunk:
    """The chunk of the neighbours at OFFSETS[start:stop], ``size`` pairs."""
    number, device = neighbours.table.shape[1], neighbours.table.device
    inputs = neighbours.table[start:stop]  # [K, N], of every output
    present = inputs >= 0
    pair = present.flatten().cumsum(0).sub_(1).view_as(inputs)
    outputs = torch.arange(number, device=device).expand_as(inputs)
    bounds = [0, *accumulate(neighbours.counts[start:stop])]
    spans = tuple(
        Span((z + 1) * 9 + (y + 1) * 3 + x + 1, *pairs)
        for (x, y, z), pairs in zip(OFFSETS[start:stop], pairwise(bounds), strict=True)
        if pairs[0] < pairs[1]
    )
    places = torch.where(present, pair, size)

    def by_inputs() -> Reduction:
        outputs_of = neighbours.table[len(OFFSETS) - stop : len(OFFSETS) - start].flip(0)  # [K, N], of every input
        return _table_reduction(pair.gather(1, outputs_of.clamp(min=0)), outputs_of >= 0, size)

    return PairChunk(
        inputs=_compact(inputs, places, size),
        outputs=_compact(outputs, places, size),
        spans=spans,
        num_inputs=number,
        num_outputs=number,
        reductions=(lambda: _table_reduction(pair, present, size), by_inputs),
    )


def _table_reduction(pair: Tensor, present: Tensor, size: int) -> Reduction:
    """For every column the numbers of its pairs, where ``present`` [K, N], one after the other."""
    ends = present.sum(0).cumsum(0)
    order = present.t().flatten().cumsum(0).sub_(1).view(present.shape[1], -1).t()
    return Reduction(_compact(pair, torch.where(present, order, size), size), F.pad(ends, (1, 0)))


def _compact(values: Tensor, places: Tensor, size: int) -> Tensor:
    """[size]: the values at their places; what goes to place ``size`` is dropped."""
    return values.new_empty(size + 1).scatter_(0, places.flatten(), values.flatten())[:size]


def triple(value: int | Sequence[int], name: str, minimum: int) -> Triple:
    """Three integers (z, y, x) from one integer or three. Raises ValueError naming ``name``."""
    values = (value,) * 3 if isinstance(value, int) else tuple(int(v) for v in value)
    if len(values) != 3 or min(values) < minimum:
        raise ValueError(f"{name}={value!r}; expected an integer or three (z, y, x), each at least {minimum}")
    return values[0], values[1], values[2]


def check_coords(coords: Tensor) -> None:
    """Raises DataError unless ``coords`` is an int32 or int64 tensor [N, 4]."""
    if coords.ndim != 2 or coords.shape[1] != 4:
        raise DataError(f"voxel coordinates have shape {list(coords.shape)}; expected [N, 4] with the columns (batch, z, y, x)")
    if coords.dtype not in (torch.int32, torch.int64):
        raise DataError(f"voxel coordinates are {coords.dtype}; expected int32 or int64, convert them with .int()")


def _range_fault(coords: Tensor, shape: Triple, batch_size: int | None) -> Tensor:
    """Number of voxels outside the grid or the batch, as a tensor: no host synchronisation."""
    last = coords.new_tensor([torch.iinfo(coords.dtype).max if batch_size is None else batch_size - 1, *(s - 1 for s in shape)])
    return ((coords < 0) | (coords > last)).any(dim=1).sum()


def _raise_faults(coords: Tensor, shape: Triple, batch_size: int | None, outside: int, repeated: int) -> None:
    if repeated and not outside:
        raise DataError(
            f"{repeated} of {len(coords)} voxel coordinates occur more than once; expected each (batch, z, y, x) once, "
            "merge such voxels first"
        )
    if not outside:
        return
    low, high = coords.amin(0).tolist(), coords.amax(0).tolist()
    batches = "any" if batch_size is None else f"0..{batch_size - 1}"
    raise DataError(
        f"{outside} of {len(coords)} voxel coordinates lie outside the grid: (batch, z, y, x) reach from {low} to {high}; "
        f"expected batch {batches} and z, y, x from 0 to {[s - 1 for s in shape]}. "
        "Drop points out of range before making voxels, or correct spatial_shape"
    )


def _keys(coords: Tensor, sizes: Triple) -> Tensor:
    batch, z, y, x = coords.long().unbind(1)
    return ((batch * sizes[0] + z) * sizes[1] + y) * sizes[2] + x


def submanifold_rulebook(
    coords: Tensor,
    spatial_shape: Sequence[int],
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    batch_size: int | None = None,
) -> Rulebook:
    """Rulebook of a submanifold convolution: outputs at the input voxels only, kernel centred, stride 1.

    ``coords``: [N, 4] int32 or int64 (batch, z, y, x), in any order, each voxel once; ``spatial_shape`` (z, y, x); odd kernel sizes.
    Neighbours are found by binary search in sorted keys, one search per kernel row: x-neighbours follow each other in the sorted order.
    Opposite offsets share their pairs with the roles exchanged, so half of the kernel is searched. The host waits only for the numbers
    of pairs, which decide the sizes.

    Raises DataError for malformed coordinates, coordinates outside the grid (or ``batch_size``) and voxels given twice; ValueError for
    an even kernel.
    """
    kernel, shape = triple(kernel_size, "kernel_size", 1), triple(spatial_shape, "spatial_shape", 1)
    spacing = triple(dilation, "dilation", 1)
    if any(k % 2 == 0 for k in kernel):
        raise ValueError(f"kernel_size={kernel}; a submanifold convolution needs odd sizes, so that the kernel has a centre")
    check_coords(coords)
    settings = ("submanifold", shape, kernel, spacing)
    center = (kernel[0] * kernel[1] * kernel[2]) // 2
    reach = [k // 2 * d for k, d in zip(kernel, spacing, strict=True)]
    # Rows, planes and samples are spaced by the kernel's reach, so that a neighbour outside the grid gets a key no voxel has.
    sizes: Triple = (shape[0] + reach[0], shape[1] + reach[1], shape[2] + reach[2])
    keys = _keys(coords, sizes)
    order = None
    if coords.is_cuda or not bool((keys[1:] > keys[:-1]).all()):
        keys, order = keys.sort()
    found, position = _search_half(keys, kernel, spacing, sizes)

    checks = torch.stack([_range_fault(coords, shape, batch_size), (keys[1:] == keys[:-1]).sum()])
    outside, repeated, *counts = torch.cat([checks, found.sum(1)]).tolist()
    _raise_faults(coords, shape, batch_size, outside, repeated)

    hits = found.flatten().nonzero().squeeze(1)
    neighbour, voxel = position.flatten().index_select(0, hits), hits % max(len(keys), 1)
    if order is not None:
        neighbour, voxel = order[neighbour], order[voxel]
    halves = list(enumerate(zip(voxel.split(counts), neighbour.split(counts), strict=True), start=1))
    pairs = [(center - index, near, far) for index, (near, far) in reversed(halves)]
    pairs += [(center + index, far, near) for index, (near, far) in halves]
    return Rulebook(_chunks(pairs, len(coords), len(coords)), center, kernel, coords, coords, shape, settings)


def _search_half(keys: Tensor, kernel: Triple, spacing: Triple, sizes: Triple) -> tuple[Tensor, Tensor]:
    """For the H offsets after the kernel's centre: found [H, N] bool, and position [H, N] of the neighbour in the sorted ``keys``."""
    num = len(keys)
    half = kernel[0] * kernel[1] * kernel[2] // 2
    found = torch.zeros(half, num, dtype=torch.bool, device=keys.device)
    position = torch.zeros(half, num, dtype=torch.int64, device=keys.device)
    padded = torch.cat([keys, keys.new_full((1,), torch.iinfo(torch.int64).max)])
    radius = [k // 2 for k in kernel]
    index = 0
    for dz, dy in product(range(radius[0] + 1), range(-radius[1], radius[1] + 1)):
        if dz == 0 and dy < 0:
            continue
        base = (dz * spacing[0] * sizes[1] + dy * spacing[1]) * sizes[2]
        here: Tensor | None = None
        for dx in range(1 if base == 0 else -radius[2], radius[2] + 1):
            wanted = keys + (base + dx * spacing[2])
            if here is None or spacing[2] > 1:
                here = torch.searchsorted(keys, wanted)
            torch.eq(padded.index_select(0, here), wanted, out=found[index])
            position[index] = here
            here = here + found[index]  # where the neighbour at dx is present, the key after it is the first candidate for dx + 1
            index += 1
    return found, position


def strided_rulebook(
    coords: Tensor,
    spatial_shape: Sequence[int],
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    batch_size: int | None = None,
) -> Rulebook:
    """Rulebook of an ordinary sparse convolution: an output voxel exists wherever the kernel covers at least one input voxel.

    Arguments as ``submanifold_rulebook``; stride, padding and dilation as ``torch.nn.Conv3d``. Output voxels are in ascending
    (batch, z, y, x) order. Raises DataError for malformed or outlying coordinates, voxels given twice, and a grid smaller than the kernel.
    """
    kernel, shape = triple(kernel_size, "kernel_size", 1), triple(spatial_shape, "spatial_shape", 1)
    steps, pads, spacing = triple(stride, "stride", 1), triple(padding, "padding", 0), triple(dilation, "dilation", 1)
    check_coords(coords)
    settings = ("strided", shape, kernel, steps, pads, spacing)
    sizes = [(s + 2 * p - d * (k - 1) - 1) // t + 1 for s, p, d, k, t in zip(shape, pads, spacing, kernel, steps, strict=True)]
    if min(sizes) < 1:
        raise DataError(
            f"spatial_shape {list(shape)} (z, y, x) with padding {list(pads)} is smaller than the kernel {list(kernel)} "
            f"with dilation {list(spacing)}; enlarge the grid or use fewer strided layers"
        )
    out_shape: Triple = (sizes[0], sizes[1], sizes[2])

    columns = coords.long().unbind(1)
    places, inside = [], []
    for axis in range(3):
        taps = torch.arange(kernel[axis], device=coords.device).unsqueeze(1) * spacing[axis]
        start = columns[axis + 1] + pads[axis] - taps  # [k, N]
        place = start.div(steps[axis], rounding_mode="floor")
        places.append(place)
        inside.append((place * steps[axis] == start) & (place >= 0) & (place < out_shape[axis]))
    found = inside[0][:, None, None] & inside[1][:, None] & inside[2]  # [kz, ky, kx, N]
    plane = ((columns[0] * out_shape[0] + places[0]) * out_shape[1])[:, None, None]
    keys = ((plane + places[1][:, None]) * out_shape[2] + places[2]).flatten()

    sorted_keys = _keys(coords, shape).sort().values
    checks = torch.stack([_range_fault(coords, shape, batch_size), (sorted_keys[1:] == sorted_keys[:-1]).sum()])
    outside, repeated, *counts = torch.cat([checks, found.flatten(0, 2).sum(1)]).tolist()
    _raise_faults(coords, shape, batch_size, outside, repeated)

    hits = found.flatten().nonzero().squeeze(1)
    out_keys, outputs = torch.unique(keys[hits], return_inverse=True)
    inputs = hits % max(len(coords), 1)
    pairs = zip(range(len(counts)), inputs.split(counts), outputs.split(counts), strict=True)
    chunks = _chunks(pairs, len(coords), len(out_keys))
    return Rulebook(chunks, None, kernel, coords, _coords_of(out_keys, out_shape).to(coords.dtype), out_shape, settings)


def _coords_of(keys: Tensor, shape: Triple) -> Tensor:
    """The inverse of ``_keys``: [M] → [M, 4]."""
    columns = []
    for size in reversed(shape):
        columns.append(keys % size)
        keys = keys.div(size, rounding_mode="floor")
    return torch.stack([keys, *reversed(columns)], dim=1)
