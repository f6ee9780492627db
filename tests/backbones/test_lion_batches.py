"""A frame's result does not depend on what else is in the batch, nor on the order of its points."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor

from visionrnn.backbones import LION
from visionrnn.backbones.lion import Stage
from visionrnn.datasets.voxelize import DynamicVFE
from visionrnn.layers.voxel_merge import VoxelMerging
from visionrnn.registry import BLOCKS
from visionrnn.serialization import Voxels

LAYOUT = (0.0, -8.0, -2.0, 16.0, 8.0, 2.0), (0.4, 0.4, 0.25)  # 40 × 40 × 16 voxels
STAGES = [Stage((7, 7, 16), 128), Stage((7, 7, 8), 64)]
BOUNDS = {torch.float64: 1e-10, torch.float32: 1e-5}


def cloud(seed: int, number: int = 700) -> Tensor:
    """Points on the ground and on a few boxes; every eleventh lies outside the range."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(number, 4, generator=generator) * torch.tensor([16.0, 16.0, 0.5, 1.0]) + torch.tensor([0.0, -8.0, -1.8, 0.0])
    points[: number // 3, :3] = torch.rand(number // 3, 3, generator=generator) * 2 + torch.tensor([6.0 + seed, -3.0 + seed, -1.8])
    points[::11, 0] += 20
    return points


CLOUDS = {"a": cloud(0), "b": cloud(1, 900), "empty": torch.zeros(0, 4), "outside": cloud(2, 30) + 100}


class Traced:
    """Encoder and backbone, and what they chose on the way: coordinates, orders and generating voxels of every sample."""

    def __init__(self, dtype: torch.dtype, operator: str = "mamba", padding: str = "exact"):
        torch.manual_seed(0)
        self.encoder = DynamicVFE(4, [16, 16], *LAYOUT).to(dtype).eval()
        self.model = LION(16, operator, STAGES, out_group_size=32, padding=padding).to(dtype).eval()
        self.dtype, self.seen = dtype, []
        for module in self.model.modules():
            if isinstance(module, VoxelMerging):
                module.register_forward_hook(lambda module, inputs, output: self.seen.append((inputs[0], *output)))

    @torch.no_grad()
    def __call__(self, clouds: list[Tensor]) -> tuple[list[Tensor], list[list[list]]]:
        """Features of each sample, and each sample's choices."""
        self.seen.clear()
        batch = torch.arange(len(clouds)).repeat_interleave(torch.tensor([len(points) for points in clouds]))
        voxels = self.encoder.voxels(torch.cat(clouds).to(self.dtype), batch, len(clouds), self.model.first_plan)
        out = self.model(voxels)
        choices: list[list[list]] = [[] for _ in clouds]
        for given, coarse, inverse in self.seen:
            for sample, chosen in enumerate(choices):
                chosen += [rows.tolist() for rows in self._choices(sample, given, coarse, inverse)]
        return list(out.features.split(out.counts)), choices

    @staticmethod
    def _choices(sample: int, given: Voxels, coarse: Voxels, inverse: Tensor) -> list[Tensor]:
        """Relative to the sample's first row: coordinates, where rows were merged to (which tells what was generated), orders."""
        choices = []
        for voxels in (given, coarse):
            start, stop = sum(voxels.counts[:sample]), sum(voxels.counts[: sample + 1])
            orders = [voxels.cache[key][0] for key in voxels.cache if key[0] == "traversal"]
            choices += [voxels.coords[start:stop, 1:], *(order[start:stop] - start for pair in orders for order in pair)]
        return [*choices, inverse[(inverse >= start) & (inverse < stop)] - start]


def deviation(value: Tensor, expected: Tensor) -> float:
    assert value.shape == expected.shape
    return float((value - expected).abs().max() / expected.abs().max()) if len(expected) else 0.0


@pytest.mark.parametrize("dtype", BOUNDS, ids=["float64", "float32"])
@pytest.mark.parametrize("operator, padding", [*((name, "exact") for name in BLOCKS), ("mamba", "duplicate")])
def test_alone_and_in_any_batch(dtype, operator, padding):
    traced = Traced(dtype, operator, padding)
    alone = {name: traced([points]) for name, points in CLOUDS.items()}
    assert len(alone["a"][0][0]) > 300 and not len(alone["empty"][0][0]) and not len(alone["outside"][0][0])
    for names in [*permutations(["a", "b", "empty"]), ["b", "outside", "a", "a"]]:
        features, choices = traced([CLOUDS[name] for name in names])
        for name, found, chosen in zip(names, features, choices, strict=True):
            assert chosen == alone[name][1][0], (names, name)
            assert deviation(found, alone[name][0][0]) <= BOUNDS[dtype], (names, name)


@pytest.mark.parametrize("dtype", BOUNDS, ids=["float64", "float32"])
def test_order_of_points_does_not_matter(dtype):
    traced, points = Traced(dtype), CLOUDS["a"]
    (expected,), choices = traced([points])
    for seed in range(3):
        shuffled = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))]
        (found,), chosen = traced([shuffled])
        assert chosen == choices
        assert deviation(found, expected) <= BOUNDS[dtype]
