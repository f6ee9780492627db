"""One layer of TransFusion's decoder in which a query sees nothing but the cells of the map round it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionrnn.layers.linear import linear


def window_bias(cells: Tensor, shape: tuple[int, int], radius: int, wrap_borders: bool, dtype: torch.dtype = torch.float32) -> Tensor:
    """What to add to attention scores so that only cells near the query count: 0 within ``radius`` cells in x and in y, −∞ elsewhere.

    cells: int [B, P, 2], the queries' own cells (x, y), on the map; shape: the map's (Y, X). Returns [B, P, Y · X], cell = y · X + x.

    With ``wrap_borders`` a window that leaves the map in y goes on at the opposite border, one cell further in x, as it happens when
    neighbours are added to the index x · Y + y: the published head does so, hence its released weights expect it. (On maps narrower
    in y than the window it would see some cells twice; here they count once.)
    """
    own = cells.unbind(-1)
    y_axis, x_axis = (torch.arange(length, device=cells.device) for length in shape)

    def window(shift: int) -> Tensor:
        x = x_axis - own[0][..., None] - shift
        y = y_axis - own[1][..., None] + shift * shape[0]
        along_x, along_y = (torch.zeros(d.shape, dtype=dtype, device=d.device).masked_fill(d.abs() > radius, -torch.inf) for d in (x, y))
        return along_y[..., :, None] + along_x[..., None, :]

    bias = window(0)
    if wrap_borders:
        for shift in (-1, 1):
            bias = torch.maximum(bias, window(shift))
    return bias.flatten(-2)


class PositionEmbedding(nn.Module):
    """Positions in cells [..., 2] (x, y) → vectors [..., C]: linear, BatchNorm over all positions, ReLU, linear."""

    def __init__(self, channels: int):
        super().__init__()
        self.position_embedding_head = nn.Sequential(
            nn.Conv1d(2, channels, 1), nn.BatchNorm1d(channels), nn.ReLU(inplace=True), nn.Conv1d(channels, channels, 1)
        )

    def forward(self, positions: Tensor) -> Tensor:
        flat = positions.flatten(0, -2).t()[None]  # [1, 2, N]
        return self.position_embedding_head(flat)[0].t().unflatten(0, positions.shape[:-1])


class DecoderLayer(nn.Module):
    """Post-norm decoder layer (Bai et al. 2022) whose cross-attention sees (2 · ``radius`` + 1)² cells round each query.

    Queries do not see each other: self-attention of a single token is its value, projected, so its queries and keys have parameters (as
    the released weights have them) but no influence. Keys and values of the cross-attention are projected once per cell of the map, not
    once per query and cell, and the attention runs on the whole map with :func:`window_bias`: PyTorch's fused attention never stores a
    score, whereas gathering 1681 cells of 128 channels for 200 queries stores 344 MB per sample.

    In training, BatchNorm of the cells' positions takes its statistics over the map, each cell once, and so does not depend on where
    queries happen to lie.
    """

    def __init__(self, channels: int = 128, num_heads: int = 8, ffn_channels: int = 256, radius: int = 20, wrap_borders: bool = False):
        super().__init__()
        self.num_heads, self.radius, self.wrap_borders = num_heads, radius, wrap_borders
        self.self_attn = nn.MultiheadAttention(channels, num_heads)
        self.multihead_attn = nn.MultiheadAttention(channels, num_heads)
        self.linear1, self.linear2 = nn.Linear(channels, ffn_channels), nn.Linear(ffn_channels, channels)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.self_posembed, self.cross_posembed = PositionEmbedding(channels), PositionEmbedding(channels)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, queries: Tensor, cells: Tensor, tokens: Tensor, shape: tuple[int, int]) -> Tensor:
        """queries [B, P, C] at ``cells`` int [B, P, 2] (x, y) of the map ``tokens`` [B, Y · X, C], shape (Y, X) → queries [B, P, C]."""
        position = self.self_posembed(cells.to(queries.dtype) + 0.5)
        queries = self.norm1(queries + self._alone(queries + position))
        queries = self.norm2(queries + self._around(queries + position, cells, tokens, shape))
        return self.norm3(queries + self.linear2(self.linear1(queries).relu()))

    def _alone(self, queries: Tensor) -> Tensor:
        width = queries.shape[-1]
        value = F.linear(queries, self.self_attn.in_proj_weight[2 * width :], self.self_attn.in_proj_bias[2 * width :])
        return self.self_attn.out_proj(value)

    def _around(self, queries: Tensor, cells: Tensor, tokens: Tensor, shape: tuple[int, int]) -> Tensor:
        width = queries.shape[-1]
        weight, bias = self.multihead_attn.in_proj_weight, self.multihead_attn.in_proj_bias
        y, x = (torch.arange(length, device=tokens.device, dtype=tokens.dtype) + 0.5 for length in shape)
        positions = torch.stack([x.repeat(shape[0]), y.repeat_interleave(shape[1])], -1)  # [Y · X, 2]
        of_position = linear(self.cross_posembed(positions), weight[width:], bias[width:])  # the same for all samples
        both = linear(tokens, weight[width:]) + of_position  # [B, Y · X, 2 C]
        asked = F.linear(queries, weight[:width], bias[:width])
        query, key, value = (self._heads(part) for part in (asked, *both.chunk(2, -1)))
        bias_map = window_bias(cells, shape, self.radius, self.wrap_borders, query.dtype)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=bias_map[:, None])
        return self.multihead_attn.out_proj(seen.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, H, N, C / H]
