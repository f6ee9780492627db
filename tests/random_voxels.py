"""Voxels at random places, for tests."""

import torch

from visionrnn.serialization import Voxels


def random_voxels(counts, shape=(8, 24, 20), channels=4, seed=0) -> Voxels:
    generator = torch.Generator().manual_seed(seed)
    volume = shape[0] * shape[1] * shape[2]
    rows = []
    for sample, count in enumerate(counts):
        cell = torch.randperm(volume, generator=generator)[:count]
        place = torch.stack([cell // (shape[1] * shape[2]), cell // shape[2] % shape[1], cell % shape[2]], 1)
        rows.append(torch.cat([torch.full((count, 1), sample), place], 1))
    coords = torch.cat(rows).int()
    features = torch.randn(len(coords), channels, generator=generator)
    return Voxels.from_coords(features, coords, shape, len(counts))
