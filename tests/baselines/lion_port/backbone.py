"""The backbone: four small U-Nets, each followed by a merge in height, and a closing layer. Modules have the published names."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lion_port.grouping import group_maps, window_order
from lion_port.mamba import MambaBlock
from lion_port.merging import Merging
from lion_port.retnet import RetNetBlock
from lion_port.rwkv import RWKVBlock
from lion_port.ttt import TTTBlock
from lion_port.xlstm import XLSTMBlock

BLOCKS: dict[str, Any] = {"mamba": MambaBlock, "rwkv": RWKVBlock, "retnet": RetNetBlock, "xlstm": XLSTMBlock, "ttt": TTTBlock}
STAGES = tuple(((13, 13, 32 >> i), 4096 >> i) for i in range(4))
Shape = tuple[int, ...]


class Layer(nn.Module):
    """A block over groups in x order, then one in y order."""

    def __init__(self, dim: int, operator: dict, window: Shape, group_size: int, shift: bool, first: int):
        super().__init__()
        self.window, self.group_size, self.shift = window, group_size, shift
        options = {name: value for name, value in operator.items() if name != "type"}
        self.blocks = nn.ModuleList(BLOCKS[operator["type"]](dim, first + i, **options) for i in range(2))

    def forward(self, features: Tensor, coords: Tensor, shape: Shape, batch_size: int) -> Tensor:
        reads, slots = group_maps(coords, batch_size, self.group_size)
        features = features.clone()
        for block, axis in zip(self.blocks, "xy", strict=True):
            order = window_order(coords, shape, self.window, self.shift, axis)
            grouped = features[order][reads].view(-1, self.group_size, features.shape[1])
            features[order] = block(grouped).flatten(0, 1)[slots]
        return features


class PositionEmbedding(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.position_embedding_head = nn.Sequential(nn.Linear(3, dim), nn.BatchNorm1d(dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, features: Tensor, coords: Tensor, shape: Shape) -> Tensor:
        size = features.new_tensor(shape[::-1])
        return self.position_embedding_head((coords[:, [3, 2, 1]].to(features.dtype) - size / 2) / size * 2 * 3.1415)


class UNet(nn.Module):
    def __init__(self, dim: int, operator: dict, window: Shape, group_size: int, first: int):
        super().__init__()
        layers = [Layer(dim, operator, window, group_size, i % 2 == 1, first + 2 * i) for i in range(4)]
        self.encoder, self.decoder = nn.ModuleList(layers[:2]), nn.ModuleList(layers[2:])
        self.pos_emb_list = nn.ModuleList(PositionEmbedding(dim) for _ in range(2))
        self.downsample_list = nn.ModuleList(Merging(dim, (2, 2, 2)) for _ in range(2))
        self.decoder_norm = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))

    def forward(self, features: Tensor, coords: Tensor, shape: Shape, batch_size: int) -> Tensor:
        kept = []
        for layer, position, merge in zip(self.encoder, self.pos_emb_list, self.downsample_list, strict=True):
            features = layer(features + position(features, coords, shape), coords, shape, batch_size)
            coarse = merge(features, coords, shape, batch_size)
            kept.append((features, coords, shape, coarse[3]))
            features, coords, shape = coarse[:3]
        for layer, norm in zip(self.decoder, self.decoder_norm, strict=True):
            low = layer(features, coords, shape, batch_size)
            features, coords, shape, inverse = kept.pop()
            features = norm(features + low[inverse])
        return features


class PortedLION(nn.Module):
    """features [N, C], coords [N, 4] int64 (batch, z, y, x) sample after sample, grid (z, y, x) → features [M, C], coords [M, 4].

    ``operator``: dict(type=one of mamba, rwkv, retnet, xlstm, ttt, and its options); ``stages``: window (x, y, z) and group size of each
    U-Net.
    """

    def __init__(self, dim: int, operator: dict, stages: tuple[tuple[Shape, int], ...] = STAGES, generate_ratio: float = 0.2):
        super().__init__()
        for i, (window, group_size) in enumerate(stages, start=1):
            self.add_module(f"linear_{i}", UNet(dim, operator, window, group_size, 8 * (i - 1)))
            self.add_module(f"dow{i}", Merging(dim, (1, 1, 2), generate_ratio))
        self.linear_out = Layer(dim, operator, (*stages[-1][0][:2], 2), 256, True, 8 * len(stages))
        self.depth = len(stages)

    def forward(self, features: Tensor, coords: Tensor, shape: Shape, batch_size: int) -> tuple[Tensor, Tensor]:
        for i in range(1, self.depth + 1):
            features = self.get_submodule(f"linear_{i}")(features, coords, shape, batch_size)
            features, coords, shape, _ = self.get_submodule(f"dow{i}")(features, coords, shape, batch_size)
        return self.linear_out(features, coords, shape, batch_size), coords
