"""Merging voxels into coarser ones, generating voxels, expanding back (LION, Liu et al. 2024, sections 3.3 and 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from visionrnn.layers.sparse_conv import SparseConvTensor, SubMConv3d
from visionrnn.serialization import Voxels

DIAGONALS = ((-1, 1), (1, 1), (-1, -1), (1, -1))  # (x, y) steps of generated voxels


class VoxelMerging(nn.Module):
    """3D descriptor (submanifold convolution, LayerNorm, GELU), optional voxel generation, sum per coarse voxel, LayerNorm.

    down_scale: factor along (x, y, z). generate_ratio: share of each sample's voxels, those with the highest mean feature, that
    generate empty voxels at their diagonal neighbours in (x, y); 0 turns generation off. ``generate_step`` is the distance of the
    neighbours, ``generate_number`` how many of the four are made. ``floor_keys`` repeats a defect of the official code on odd
    grids (the last slice is merged into a wrong voxel), for comparison with it only.
    """

    def __init__(
        self,
        dim: int,
        down_scale: tuple[int, int, int],
        generate_ratio: float = 0.0,
        generate_step: int = 1,
        generate_number: int = 4,
        floor_keys: bool = False,
    ):
        super().__init__()
        self.conv = SubMConv3d(dim, dim, 3, bias=False, indice_key="descriptor")
        self.conv_norm = nn.LayerNorm(dim)
        self.norm = nn.LayerNorm(dim)
        self.down_scale, self.floor_keys = tuple(down_scale), floor_keys
        self.generate_ratio, self.generate_step, self.generate_number = generate_ratio, generate_step, generate_number

    def forward(self, voxels: Voxels) -> tuple[Voxels, Tensor]:
        """Voxels → coarser voxels in ascending (batch, x, y, z), and the coarse row [N + generated] of every input row.

        Generated rows follow the input rows, sample after sample, one diagonal after the other, best voxel first.
        """
        features = nn.functional.gelu(self.conv_norm(self._describe(voxels)))
        coords = voxels.coords
        if self.generate_ratio:
            coords = torch.cat([coords, self._generate(voxels, features)])
        scale_x, scale_y, scale_z = self.down_scale
        scale = torch.tensor([1, scale_z, scale_y, scale_x], device=coords.device)
        depth, height, width = voxels.spatial_shape
        shape = -(-depth // scale_z), -(-height // scale_y), -(-width // scale_x)
        key_shape = (depth // scale_z, height // scale_y, width // scale_x) if self.floor_keys else shape
        coarse, inverse, counts = merge_coords(coords.long() // scale, key_shape, voxels.batch_size)
        merged = features.new_zeros(len(coarse), features.shape[1]).index_add(0, inverse[: len(features)], features)
        return Voxels(self.norm(merged), coarse.to(voxels.coords.dtype), shape, counts), inverse

    def _describe(self, voxels: Voxels) -> Tensor:
        rulebooks = voxels.cache.setdefault("sparse_conv", {})
        sparse = SparseConvTensor(voxels.features, voxels.coords.int(), voxels.spatial_shape, voxels.batch_size, rulebooks)
        return self.conv(sparse).features

    @torch.no_grad()
    def _generate(self, voxels: Voxels, features: Tensor) -> Tensor:
        """Coordinates [sum of number · K_i, 4] of generated voxels, K_i = floor(ratio · n_i)."""
        device = features.device
        chosen = torch.tensor([int(count * self.generate_ratio) for count in voxels.counts])
        ranking = features.mean(1).argsort(descending=True, stable=True)
        ranking = ranking[voxels.coords[ranking, 0].argsort(stable=True)]  # best first, sample after sample
        count = torch.tensor(voxels.counts)
        start, block = count.cumsum(0) - count, chosen * self.generate_number
        sample = torch.arange(len(count)).repeat_interleave(block)
        place = torch.arange(len(sample)) - (block.cumsum(0) - block)[sample]
        source = ranking[(start[sample] + place % chosen[sample]).to(device)]
        steps = torch.tensor(DIAGONALS, device=device)[(place // chosen[sample]).to(device)] * self.generate_step
        b, z, y, x = voxels.coords[source].unbind(1)
        x = (x + steps[:, 0]).clamp(0, voxels.spatial_shape[2] - 1)
        y = (y + steps[:, 1]).clamp(0, voxels.spatial_shape[1] - 1)
        return torch.stack([b, z, y, x], 1).to(voxels.coords.dtype)


def merge_coords(coords: Tensor, spatial_shape: tuple[int, int, int], batch_size: int) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Distinct coords [M, 4] in ascending (batch, x, y, z), row of each input in them [N], rows per sample.

    coords: [N, 4] int64 (batch, z, y, x). One host synchronisation: the counts decide the size of what is returned.
    """
    size_z, size_y, size_x = spatial_shape
    b, z, y, x = coords.unbind(1)
    keys, permutation = (((b * size_x + x) * size_y + y) * size_z + z).sort()
    first = torch.ones_like(keys, dtype=torch.bool)
    first[1:] = keys[1:] != keys[:-1]
    rank = first.cumsum(0) - 1
    inverse = torch.empty_like(rank)
    inverse[permutation] = rank
    volume = size_x * size_y * size_z
    per_sample = torch.zeros(batch_size + 1, dtype=torch.long, device=keys.device)
    counts = per_sample.index_add(0, (keys // volume).clamp(max=batch_size), first.long()).tolist()
    keys = keys.new_zeros(sum(counts)).index_put((rank,), keys)
    merged = torch.stack([keys // volume, keys % size_z, keys // size_z % size_y, keys // (size_z * size_y) % size_x], 1)
    return merged, inverse, tuple(counts if counts[-1] else counts[:-1])


def expand(fine: Tensor, coarse: Tensor, inverse: Tensor) -> Tensor:
    """fine [N, C] + the coarse feature [M, C] that each fine voxel went into."""
    return fine + coarse.index_select(0, inverse[: len(fine)])
