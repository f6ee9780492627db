"""Merging voxels into coarser ones, generating voxels, expanding back (LION, Liu et al. 2024, sections 3.3 and 3.4)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from visionrnn.layers.sparse_conv import SubMConv3d, sparse_convolution
from visionrnn.layers.sparse_rulebook import Rulebook, neighbour_rulebook
from visionrnn.serialization import Plan, Voxels, merge_coords
from visionrnn.serialization.constants import constant
from visionrnn.serialization.groups import ranks, to_device
from visionrnn.serialization.plan import NOTHING

DIAGONALS = ((-1, 1), (1, 1), (-1, -1), (1, -1))  # (x, y) steps of generated voxels


class VoxelMerging(nn.Module):
    """3D descriptor (submanifold convolution, LayerNorm, GELU), optional voxel generation, sum per coarse voxel, LayerNorm.

    down_scale: factor along (x, y, z). generate_ratio: share of each sample's voxels, those with the highest mean feature, that
    generate empty voxels at their diagonal neighbours in (x, y); 0 turns generation off. ``generate_step`` is the distance of the
    neighbours, ``generate_number`` how many of the four are made. Without ``descriptor`` features are summed as they are.
    """

    floor_keys = False
    """Repeats a defect of the official code on odd grids (the last slice is merged into a wrong voxel), for comparison with it only."""

    def __init__(
        self,
        dim: int,
        down_scale: tuple[int, int, int],
        generate_ratio: float = 0.0,
        generate_step: int = 1,
        generate_number: int = 4,
        descriptor: bool = True,
    ):
        super().__init__()
        self.descriptor = descriptor
        if descriptor:
            self.conv = SubMConv3d(dim, dim, 3, bias=False)
            self.conv_norm = nn.LayerNorm(dim)
        self.norm = nn.LayerNorm(dim)
        self.down_scale = tuple(down_scale)
        self.generate_ratio, self.generate_step, self.generate_number = generate_ratio, generate_step, generate_number

    def forward(self, voxels: Voxels, plan: Plan = NOTHING) -> tuple[Voxels, Tensor]:
        """Voxels → coarser voxels in ascending (batch, x, y, z), and the coarse row [N + generated] of every input row.

        Generated rows follow the input rows, sample after sample, one diagonal after the other, best voxel first. ``plan``: what the
        coarse voxels will be asked for.
        """
        features = self.describe(voxels) if self.descriptor else voxels.features
        coords = voxels.coords
        if self.generate_ratio:
            coords = torch.cat([coords, self._generate(voxels, features)])
        scale_x, scale_y, scale_z = self.down_scale
        depth, height, width = voxels.spatial_shape
        shape = -(-depth // scale_z), -(-height // scale_y), -(-width // scale_x)
        batch_size = voxels.batch_size
        coords = coords.div(constant((1, scale_z, scale_y, scale_x), coords.dtype, coords.device), rounding_mode="floor")
        if self.floor_keys:
            coords = _wrapped(coords, (depth // scale_z, height // scale_y, width // scale_x))
            batch_size += 1
        merged = merge_coords(coords, shape, batch_size, plan)
        total = features.new_zeros(len(merged.coords), features.shape[1]).index_add_(0, merged.inverse[: len(features)], features)
        return Voxels.from_merged(self.norm(total), merged, shape), merged.inverse

    def describe(self, voxels: Voxels) -> Tensor:
        """[N, C]: the descriptor of all voxels."""
        convolved = sparse_convolution(voxels.features, self.conv.weight, None, rulebook_of(voxels))
        return nn.functional.gelu(self.conv_norm(convolved))

    @torch.no_grad()
    def _generate(self, voxels: Voxels, features: Tensor) -> Tensor:
        """Coordinates [sum of number · K_i, 4] of generated voxels, K_i = floor(ratio · n_i)."""
        chosen = np.array([int(count * self.generate_ratio) for count in voxels.counts])
        longest, device = int(chosen.max(initial=0)), features.device
        sample, place = ranks(chosen * self.generate_number)
        step, place = place // chosen[sample], place % chosen[sample]
        best = best_rows(features.mean(1), voxels, longest).flatten()
        source = voxels.coords.index_select(0, best.index_select(0, to_device(sample * longest + place, device)))
        steps = constant(DIAGONALS, source.dtype, device).index_select(0, to_device(step, device)) * self.generate_step
        batch, z, y, x = source.unbind(1)
        x = (x + steps[:, 0]).clamp_(0, voxels.spatial_shape[2] - 1)
        y = (y + steps[:, 1]).clamp_(0, voxels.spatial_shape[1] - 1)
        return torch.stack([batch, z, y, x], 1)


def best_rows(scores: Tensor, voxels: Voxels, number: int) -> Tensor:
    """[B, number]: the rows with the highest scores [N] of each sample, best first, earlier rows first among equals.

    What is beyond a sample's number of voxels is meaningless. Scores are compared in float32. Score and row are one integer, so that the
    choice never depends on how ties are broken, nor on what else is in the batch.
    """
    bits = (scores.float() + 0.0).view(torch.int32)  # + 0.0: no negative zero
    rising = (bits ^ (bits >> 31 & 0x7FFFFFFF)).long()  # an integer in the order of the score
    rows = torch.arange(len(scores), device=scores.device)
    keys = rising << 32 | (0xFFFFFFFF - rows)
    if voxels.batch_size > 1:
        longest = max(voxels.counts)
        shift = np.arange(voxels.batch_size) * longest - (np.cumsum(voxels.counts) - voxels.counts)
        place = rows + to_device(shift, keys.device).index_select(0, voxels.coords[:, 0])
        lowest = torch.iinfo(torch.int64).min
        keys = keys.new_full((voxels.batch_size * longest,), lowest).scatter_(0, place, keys)
    best = keys.view(voxels.batch_size, -1).topk(number, dim=1).values
    return 0xFFFFFFFF - (best & 0xFFFFFFFF)


def rulebook_of(voxels: Voxels) -> Rulebook:
    """The rulebook of 3 × 3 × 3 submanifold convolutions over these voxels, made once."""
    if "rulebook" not in voxels.cache:
        voxels.cache["rulebook"] = neighbour_rulebook(voxels.neighbours(), voxels.coords, voxels.spatial_shape)
    return voxels.cache["rulebook"]


def _wrapped(coords: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Coordinates as the official code reads them back from keys with too small a stride, ``shape`` (z, y, x)."""
    size_z, size_y, size_x = shape
    batch, z, y, x = coords.unbind(1)
    keys = ((batch * size_x + x) * size_y + y) * size_z + z
    volume = size_x * size_y * size_z
    return torch.stack([keys // volume, keys % size_z, keys // size_z % size_y, keys // (size_z * size_y) % size_x], 1)


def expand(fine: Tensor, coarse: Tensor, inverse: Tensor) -> Tensor:
    """fine [N, C] + the coarse feature [M, C] that each fine voxel went into."""
    return coarse.index_select(0, inverse[: len(fine)]).add_(fine)
