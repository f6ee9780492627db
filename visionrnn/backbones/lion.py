"""LION (Liu et al. 2024): linear RNNs over large groups of voxels, in four small U-Nets that halve the height in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visionrnn.backbones.blocks import Place, build_block
from visionrnn.layers.norm import RowBatchNorm
from visionrnn.layers.voxel_merge import VoxelMerging, expand
from visionrnn.registry import BACKBONES
from visionrnn.serialization import Voxels
from visionrnn.serialization.groups import PADDINGS


@dataclass(frozen=True)
class Stage:
    """window: voxels along (x, y, z); group_size: voxels an operator scans at once; shift: windows moved by half their size."""

    window: tuple[int, int, int]
    group_size: int
    shift: bool = True

    def __post_init__(self):
        object.__setattr__(self, "window", tuple(self.window))
        if len(self.window) != 3 or min(self.window) < 1 or self.group_size < 1:
            raise ValueError(f"expected window (x, y, z) and group_size of at least 1, got {self.window} and {self.group_size}")


OFFICIAL_STAGES = tuple(Stage((13, 13, 32 >> i), 4096 >> i) for i in range(4))


@dataclass(frozen=True)
class Scan:
    """How voxels become sequences and what scans them; shared by all layers of a backbone."""

    operator: Mapping
    serializer: str = "window"
    padding: str = "exact"
    drop_path: float = 0.0
    blocks: int = 34

    def __post_init__(self):
        if self.padding not in PADDINGS:
            raise ValueError(f"padding={self.padding!r}; expected one of {PADDINGS}")


class LIONLayer(nn.Module):
    """One block over the groups of each order (x, then y), each writing back to the voxels."""

    def __init__(self, dim: int, stage: Stage, shift: bool, scan: Scan, first: int = 0):
        super().__init__()
        self.stage, self.shift, self.scan = stage, shift, scan
        places = (Place(first + i, scan.blocks) for i in range(2))
        self.blocks = nn.ModuleList(build_block(scan.operator, dim, place, scan.drop_path) for place in places)

    def forward(self, voxels: Voxels) -> Voxels:
        features = voxels.features
        groups = voxels.groups(self.stage.group_size, self.scan.padding)
        orders = voxels.orders(self.scan.serializer, self.stage.window, self.shift)
        for block, order in zip(self.blocks, orders, strict=True):
            grouped = block(groups.gather(features.index_select(0, order)), groups.cu_seqlens, groups.max_seqlen)
            features = torch.empty_like(features).index_copy(0, order, groups.scatter(grouped))
        return voxels.with_features(features)


class PositionEmbedding(nn.Module):
    """Linear → BatchNorm → ReLU → Linear on voxel places scaled to [-π, π), as x, y, z; π is 3.1415, as released weights expect."""

    def __init__(self, dim: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(3, dim), RowBatchNorm(dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, voxels: Voxels) -> Tensor:
        """[N, C]."""
        size = torch.tensor(voxels.spatial_shape[::-1], device=voxels.coords.device, dtype=voxels.features.dtype)
        place = voxels.coords[:, [3, 2, 1]].to(size.dtype)
        return self.mlp((place - size / 2) / size * 2 * 3.1415)


class LIONStage(nn.Module):
    """U-Net of three resolutions at one window and group size: two layers down, two layers up. Voxels → the same voxels."""

    def __init__(self, dim: int, stage: Stage, scan: Scan, first: int = 0, floor_keys: bool = False):
        super().__init__()
        shifts = (False, stage.shift)
        self.encoder = nn.ModuleList(LIONLayer(dim, stage, shift, scan, first + 2 * i) for i, shift in enumerate(shifts))
        self.position = nn.ModuleList(PositionEmbedding(dim) for _ in shifts)
        self.merging = nn.ModuleList(VoxelMerging(dim, (2, 2, 2), floor_keys=floor_keys) for _ in shifts)
        self.decoder = nn.ModuleList(LIONLayer(dim, stage, shift, scan, first + 4 + 2 * i) for i, shift in enumerate(shifts))
        self.decoder_norm = nn.ModuleList(nn.LayerNorm(dim) for _ in shifts)

    def forward(self, voxels: Voxels) -> Voxels:
        kept = []
        for layer, position, merging in zip(self.encoder, self.position, self.merging, strict=True):
            voxels = layer(voxels.with_features(voxels.features + position(voxels)))
            coarse, inverse = merging(voxels)
            kept.append((voxels, inverse))
            voxels = coarse
        for layer, norm in zip(self.decoder, self.decoder_norm, strict=True):
            coarse = layer(voxels)
            fine, inverse = kept.pop()
            voxels = fine.with_features(norm(expand(fine.features, coarse.features, inverse)))
        return voxels


@BACKBONES.register("lion")
class LION(nn.Module):
    """Voxels → voxels of the same x, y resolution and 1/16 of the height.

    dim: width C of all layers. operator: config of a registered operator, e.g. ``dict(type="mamba", d_state=16)``; it is made
    bidirectional. stages: one U-Net each, with :class:`Stage` or its arguments as a dict; after each the height halves and, with
    ``generate_ratio`` > 0, that share of the voxels generates four neighbours. padding: "exact" (tail groups are shorter) or
    "duplicate" (filled with copies, as the official code does: for its weights). ``official_odd_grids`` repeats the official
    defect on grids that do not halve evenly, for comparison with it only.
    """

    def __init__(
        self,
        dim: int,
        operator: Mapping | str,
        stages: Sequence[Stage | Mapping] = OFFICIAL_STAGES,
        out_group_size: int = 256,
        drop_path: float = 0.0,
        generate_ratio: float = 0.2,
        serializer: str = "window",
        padding: str = "exact",
        official_odd_grids: bool = False,
    ):
        super().__init__()
        self.dim = dim
        config = {"type": operator} if isinstance(operator, str) else dict(operator)
        scan = Scan(config, serializer, padding, drop_path, blocks=8 * len(stages) + 2)
        parsed = [stage if isinstance(stage, Stage) else Stage(**stage) for stage in stages]
        self.stages = nn.ModuleList(LIONStage(dim, stage, scan, 8 * i, official_odd_grids) for i, stage in enumerate(parsed))
        self.merges = nn.ModuleList(VoxelMerging(dim, (1, 1, 2), generate_ratio, floor_keys=official_odd_grids) for _ in parsed)
        last = Stage((*parsed[-1].window[:2], 2), out_group_size, parsed[-1].shift)
        self.out_layer = LIONLayer(dim, last, last.shift, scan, 8 * len(parsed))

    def forward_intermediates(self, voxels: Voxels) -> tuple[Voxels, list[Voxels]]:
        """The result and the voxels after each merge (the last of them before the closing layer)."""
        intermediates = []
        for stage, merge in zip(self.stages, self.merges, strict=True):
            voxels, _ = merge(stage(voxels))
            intermediates.append(voxels)
        return self.out_layer(voxels), intermediates

    def forward(self, voxels: Voxels) -> Voxels:
        return self.forward_intermediates(voxels)[0]
