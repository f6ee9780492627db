"""LION (Liu et al. 2024): linear RNNs over large groups of voxels, in four small U-Nets that halve the height in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from visionrnn.backbones.blocks import Place, build_block
from visionrnn.layers.linear import Linear
from visionrnn.layers.norm import RowBatchNorm
from visionrnn.layers.voxel_merge import VoxelMerging, expand
from visionrnn.registry import BACKBONES, SERIALIZERS
from visionrnn.serialization import Plan, Route, Traversal, Voxels, take
from visionrnn.serialization.constants import constant
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
    descriptor: bool = True
    checkpointing: bool = False

    def __post_init__(self):
        if self.padding not in PADDINGS:
            raise ValueError(f"padding={self.padding!r}; expected one of {PADDINGS}")
        if self.serializer not in SERIALIZERS:
            raise ValueError(f"serializer={self.serializer!r}; expected one of {list(SERIALIZERS)}")


class LIONLayer(nn.Module):
    """One block over the groups of each of two orders (x, then y), the second on what the first has made of the voxels."""

    def __init__(self, dim: int, stage: Stage, shift: bool, scan: Scan, first: int = 0):
        super().__init__()
        self.stage, self.scan = stage, scan
        self.traversal = Traversal(scan.serializer, stage.window, shift)
        places = (Place(first + i, scan.blocks) for i in range(2))
        self.blocks = nn.ModuleList(build_block(scan.operator, dim, place, scan.drop_path) for place in places)

    def forward(self, voxels: Voxels) -> Voxels:
        route = voxels.route(self.traversal, self.stage.group_size, self.scan.padding)
        if self.scan.checkpointing and self.training and torch.is_grad_enabled():
            return voxels.with_features(checkpoint(self._run, voxels.features, route, use_reentrant=False))
        return voxels.with_features(self._run(voxels.features, route))

    def _run(self, features: Tensor, route: Route) -> Tensor:
        groups, steps = route.groups, route.steps()
        orders = route.orders()
        if orders is not None and all(scans_rows(block, features) for block in self.blocks):
            tokens = features.unsqueeze(0)
            for block, order in zip(self.blocks, orders, strict=True):
                tokens = block(tokens, groups.cu_seqlens, groups.max_seqlen, order)
            return tokens.squeeze(0)
        for block, step in zip(self.blocks, steps[:2], strict=True):
            tokens = block(groups.cut(take(features, *step)), groups.cu_seqlens, groups.max_seqlen)
            features = tokens.flatten(0, 1)
        return take(features, *steps[2])


def scans_rows(block: Any, features: Tensor) -> bool:
    """Whether a block reads rows through an index; other people's blocks need not know of it."""
    return hasattr(block, "scans_rows") and block.scans_rows(features)


class PositionEmbedding(nn.Module):
    """Linear → BatchNorm → ReLU → Linear on voxel places scaled to [-π, π), as x, y, z; π is 3.1415, as released weights expect."""

    def __init__(self, dim: int):
        super().__init__()
        self.mlp = nn.Sequential(Linear(3, dim), RowBatchNorm(dim), nn.ReLU(), Linear(dim, dim))

    def forward(self, voxels: Voxels) -> Tensor:
        """[N, C]."""
        dtype = torch.promote_types(voxels.features.dtype, torch.float32)  # half types do not know numbers like 257 or 2049
        size = constant(voxels.spatial_shape[::-1], dtype, voxels.coords.device)
        place = voxels.coords[:, 1:].flip(1).to(dtype)
        return self.mlp(((place - size / 2) / size * 2 * 3.1415).to(voxels.features.dtype))


class LIONStage(nn.Module):
    """U-Net of three resolutions at one window and group size: two layers down, two layers up. Voxels → the same voxels."""

    def __init__(self, dim: int, stage: Stage, scan: Scan, first: int = 0):
        super().__init__()
        shifts = (False, stage.shift)
        self.encoder = nn.ModuleList(LIONLayer(dim, stage, shift, scan, first + 2 * i) for i, shift in enumerate(shifts))
        self.position = nn.ModuleList(PositionEmbedding(dim) for _ in shifts)
        self.merging = nn.ModuleList(VoxelMerging(dim, (2, 2, 2), descriptor=scan.descriptor) for _ in shifts)
        self.decoder = nn.ModuleList(LIONLayer(dim, stage, shift, scan, first + 4 + 2 * i) for i, shift in enumerate(shifts))
        self.decoder_norm = nn.ModuleList(nn.LayerNorm(dim) for _ in shifts)
        levels = [(*self.encoder[:1],), (self.encoder[1], self.decoder[1]), (self.decoder[0],)]
        self.plans = tuple(plan_of(layers, scan.descriptor and level < 2) for level, layers in enumerate(levels))

    def forward(self, voxels: Voxels) -> Voxels:
        kept = []
        for i, (layer, position, merging) in enumerate(zip(self.encoder, self.position, self.merging, strict=True)):
            voxels = layer(voxels.with_features(voxels.features + position(voxels)))
            coarse, inverse = merging(voxels, self.plans[i + 1])
            kept.append((voxels, inverse))
            voxels = coarse
        for layer, norm in zip(self.decoder, self.decoder_norm, strict=True):
            coarse = layer(voxels)
            fine, inverse = kept.pop()
            voxels = fine.with_features(norm(expand(fine.features, coarse.features, inverse)))
        return voxels


def plan_of(layers: Iterable[nn.Module], neighbours: bool) -> Plan:
    """What layers ask of the voxels they scan, and whether a descriptor will be computed of them."""
    return Plan(tuple(dict.fromkeys(layer.traversal for layer in layers if isinstance(layer, LIONLayer))), neighbours)


@BACKBONES.register("lion")
class LION(nn.Module):
    """Voxels → voxels of the same x, y resolution and 1/16 of the height.

    dim: width C of all layers. operator: config of one of LION's blocks or of any registered operator, which is made bidirectional, e.g.
    ``dict(type="mamba", d_state=16)``. stages: one U-Net each, with :class:`Stage` or its arguments as a dict; after each the height
    halves and, with ``generate_ratio`` > 0, that share of the voxels generates four neighbours. descriptor: whether merging convolves
    first. serializer: how voxels are ordered ("window", "scene", "z_order", "hilbert"). padding: "exact" (tail groups are shorter) or
    "duplicate" (filled with copies, as the official code does: for its weights). checkpointing: in training, layers are computed again
    in the backward pass, instead of keeping what is inside them.

    From points, with a voxel encoder that was given :attr:`first_plan`, a pass makes one sort and one host synchronisation for each of
    its sets of coordinates (13 with four stages: the voxels, two coarser levels of each stage, the end of each stage).
    """

    def __init__(
        self,
        dim: int,
        operator: Mapping | str,
        stages: Sequence[Stage | Mapping] = OFFICIAL_STAGES,
        out_group_size: int = 256,
        drop_path: float = 0.0,
        generate_ratio: float = 0.2,
        descriptor: bool = True,
        serializer: str = "window",
        padding: str = "exact",
        checkpointing: bool = False,
    ):
        super().__init__()
        self.dim = dim
        config = {"type": operator} if isinstance(operator, str) else dict(operator)
        self.generate_ratio = generate_ratio
        parsed = [parse_stage(stage) for stage in stages]
        if not parsed:
            raise ValueError("stages: expected at least one, got none")
        blocks = 8 * len(parsed) + 2 + self.further_blocks
        self.scan = scan = Scan(config, serializer, padding, drop_path, blocks, descriptor, checkpointing)
        built = [LIONStage(dim, stage, scan, 8 * i) for i, stage in enumerate(parsed)]
        self.plans = tuple(stage.plans[0] for stage in built)
        self.stages = nn.ModuleList(built)
        self.merges = nn.ModuleList(VoxelMerging(dim, (1, 1, 2), generate_ratio, descriptor=descriptor) for _ in parsed)
        last = Stage((*parsed[-1].window[:2], 2), out_group_size, parsed[-1].shift)
        self.out_layer = LIONLayer(dim, last, last.shift, scan, 8 * len(parsed))

    further_blocks = 0
    """Blocks that a subclass adds after the closing layer."""

    @property
    def first_plan(self) -> Plan:
        """What this backbone will ask of the voxels it is given; an encoder that knows it prepares it along with the voxels."""
        return self.plans[0]

    @property
    def out_plan(self) -> Plan:
        """What the closing layer asks of the last voxels."""
        return plan_of([self.out_layer], False)

    def forward_intermediates(self, voxels: Voxels) -> tuple[Voxels, list[Voxels]]:
        """The result and the voxels after each merge (the last of them before the closing layer)."""
        intermediates: list[Voxels] = []
        return self.run(voxels, intermediates.append), intermediates

    def forward(self, voxels: Voxels) -> Voxels:
        return self.run(voxels)

    def run(self, voxels: Voxels, keep: Callable[[Voxels], None] | None = None) -> Voxels:
        """The result; ``keep`` gets the voxels after each merge. What nobody keeps is freed on the way, with all that is cached for it."""
        voxels.prepare(self.first_plan)
        plans = (*self.plans[1:], self.out_plan)
        for stage, merge, plan in zip(self.stages, self.merges, plans, strict=True):
            voxels, _ = merge(stage(voxels), plan)
            if keep is not None:
                keep(voxels)
        return self.out_layer(voxels)


def parse_stage(stage: Stage | Mapping) -> Stage:
    return stage if isinstance(stage, Stage) else Stage(**stage)
