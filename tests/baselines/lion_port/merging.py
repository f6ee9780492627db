"""Voxel merging with the 3D descriptor, voxel generation, and the way back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from visionrnn.layers.sparse_conv import SparseConvTensor, SparseSequential, SubMConv3d

DIAGONALS = ((-1, 1), (1, 1), (-1, -1), (1, -1))  # steps along (x, y) of generated voxels


class Merging(nn.Module):
    """Features [N, C] and coords [N, 4] → coarser ones, their grid, and the coarse row of each input row."""

    def __init__(self, dim: int, scale: tuple[int, int, int], generate_ratio: float = 0.0):
        super().__init__()
        self.scale, self.generate_ratio = scale, generate_ratio
        self.sub_conv = SparseSequential(SubMConv3d(dim, dim, 3, bias=False), nn.LayerNorm(dim), nn.GELU())
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, features: Tensor, coords: Tensor, spatial_shape: tuple[int, ...], batch_size: int
    ) -> tuple[Tensor, Tensor, tuple[int, ...], Tensor]:
        features = self.sub_conv(SparseConvTensor(features, coords, spatial_shape, batch_size)).features
        if self.generate_ratio:
            coords = torch.cat([coords, *self.generated(features, coords, spatial_shape, batch_size)])
            features = torch.cat([features, features.new_zeros(len(coords) - len(features), features.shape[1])])
        scale_x, scale_y, scale_z = self.scale
        depth, height, width = -(-spatial_shape[0] // scale_z), -(-spatial_shape[1] // scale_y), -(-spatial_shape[2] // scale_x)
        b, z, y, x = coords[:, 0], coords[:, 1] // scale_z, coords[:, 2] // scale_y, coords[:, 3] // scale_x
        keys, inverse = torch.unique(((b * width + x) * height + y) * depth + z, return_inverse=True)
        merged = features.new_zeros(len(keys), features.shape[1]).index_add_(0, inverse, features)
        column, row = keys // depth % height, keys // (depth * height)
        coarse = torch.stack([row // width, keys % depth, column, row % width], 1)
        return self.norm(merged), coarse, (depth, height, width), inverse

    def generated(self, features: Tensor, coords: Tensor, spatial_shape: tuple[int, ...], batch_size: int) -> list[Tensor]:
        """Diagonal neighbours of each sample's voxels with the highest mean feature."""
        scores = features.mean(1)
        made = []
        for sample in range(batch_size):
            rows = (coords[:, 0] == sample).nonzero().squeeze(1)
            best = rows[scores[rows].topk(int(len(rows) * self.generate_ratio)).indices]
            for step_x, step_y in DIAGONALS:
                new = coords[best].clone()
                new[:, 3] = (new[:, 3] + step_x).clamp(0, spatial_shape[2] - 1)
                new[:, 2] = (new[:, 2] + step_y).clamp(0, spatial_shape[1] - 1)
                made.append(new)
        return made
