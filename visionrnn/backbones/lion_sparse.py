"""LION for long ranges (Argoverse 2): the height goes entirely, and the map stays sparse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from visionrnn.backbones.lion import LION, OFFICIAL_STAGES, LIONLayer, Stage, parse_stage, plan_of
from visionrnn.layers.voxel_merge import VoxelMerging
from visionrnn.registry import BACKBONES
from visionrnn.serialization import Plan, Voxels

OFFICIAL_BEV_STAGES = (Stage((25, 25, 1), 512), Stage((37, 37, 1), 1024), Stage((51, 51, 1), 2048))


@BACKBONES.register("lion_sparse")
class SparseLION(LION):
    """:class:`LION`, then one more merge, generation included, to a single voxel over the height, and a layer for each of ``bev_stages``.

    Voxels → voxels of the same x, y resolution, ``spatial_shape`` (1, Y, X). Raises ValueError for voxels whose height all merges
    together do not bring to one (four stages: at most 32).
    """

    def __init__(
        self,
        dim: int,
        operator: Mapping | str,
        stages: Sequence[Stage | Mapping] = OFFICIAL_STAGES,
        bev_stages: Sequence[Stage | Mapping] = OFFICIAL_BEV_STAGES,
        **options: Any,
    ):
        parsed = [parse_stage(stage) for stage in bev_stages]
        self.further_blocks = 2 * len(parsed)
        super().__init__(dim, operator, stages, **options)
        first, descriptor = 8 * len(self.stages) + 2, self.scan.descriptor
        self.merge_out = VoxelMerging(dim, (1, 1, 2), self.generate_ratio, descriptor=descriptor)
        self.bev_layers = nn.ModuleList(LIONLayer(dim, stage, stage.shift, self.scan, first + 2 * i) for i, stage in enumerate(parsed))

    @property
    def out_plan(self) -> Plan:
        """What the closing layer and the last descriptor ask of the last voxels that have a height."""
        return plan_of([self.out_layer], self.scan.descriptor)

    def run(self, voxels: Voxels, keep: Callable[[Voxels], None] | None = None) -> Voxels:
        limit = 2 << len(self.stages)
        if voxels.spatial_shape[0] > limit:
            raise ValueError(f"voxels: height {voxels.spatial_shape[0]}; expected at most {limit} for {len(self.stages)} stages")
        voxels, _ = self.merge_out(super().run(voxels, keep), plan_of(self.bev_layers, False))
        for layer in self.bev_layers:
            voxels = layer(voxels)
        return voxels
