"""Vision-LSTM (Alkin et al. 2024), first and second version: image classifiers of mLSTM layers that read the patches back and forth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from visionrnn.backbones.patch_sequence import PatchSequence
from visionrnn.kernels import causal_conv
from visionrnn.layers.drop_path import DropPath
from visionrnn.layers.grid_conv import GridConv
from visionrnn.layers.norm import GroupedNorm, OffsetLayerNorm
from visionrnn.layers.patch_embed import PatchEmbed, Size
from visionrnn.operators.mlstm import MLSTM
from visionrnn.registry import BACKBONES
from visionrnn.serialization.grids import Grids, Order, reorder
from visionrnn.serialization.traversal2d import Path, Step, parse_traversal

CONVOLUTIONS = {"grid": 3, "causal": 4}
"""Kinds of convolution and the width each has unless told otherwise."""

NORMS = ("both", "tokens", "head")
INITS = ("original", "original-fixed")

V1: dict[str, Any] = dict(
    global_pool="bilateral_avg", layer=dict(conv="causal", conv_kernel=4, bias=False), norm_bias=False, norm_eps=(1e-5, 1e-6)
)
"""Arguments of :class:`ViL` for the first version as published."""

V2: dict[str, Any] = dict(
    global_pool="bilateral_concat", layer=dict(conv="grid", conv_kernel=3, bias=True), norm_bias=True, norm_eps=(1e-6, 1e-5)
)
"""Arguments of :class:`ViL` for the second version as published: with ``norm_eps`` as the authors' package has it; they trained with the
two the other way round."""


class ViLLayer(MLSTM):
    """An mLSTM layer over token grids: it reads them along a path and convolves them on their grid or along that path.

    ``conv`` "grid" is the second version's: a depthwise 2-D convolution, its filters rotated by 180° on a path that runs backwards;
    "causal" is the first's: a 1-D convolution over this and the earlier steps of the path. ``conv_kernel``: its width, by default 3 and 4.
    ``bias``: of all projections; ``norm_bias``: of the norm. ``layers``: W_down starts with a spread of 2 / (√dim · layers). Other
    options: those of :class:`visionrnn.operators.mlstm.MLSTM`.
    """

    def __init__(
        self,
        dim: int,
        conv: str = "grid",
        conv_kernel: int | None = None,
        num_heads: int = 4,
        expand: int = 2,
        qkv_block: int = 4,
        bias: bool = True,
        norm_bias: bool | None = None,
        layers: int = 1,
        backend: str = "auto",
    ):
        if conv not in CONVOLUTIONS:
            raise ValueError(f"conv={conv!r}; expected one of {sorted(CONVOLUTIONS)}")
        kernel = CONVOLUTIONS[conv] if conv_kernel is None else conv_kernel
        super().__init__(dim, num_heads, expand, kernel, qkv_block, bias=bias, offset_norm=True, backend=backend)
        self.causal, inner = False, expand * dim
        self.conv = GridConv(inner, kernel, activation="silu") if conv == "grid" else None
        if self.conv is not None:
            del self.conv1d
        self.norm = GroupedNorm(num_heads, inner, bias if norm_bias is None else norm_bias, offset=True)
        nn.init.normal_(self.down_proj.weight, std=2 / (math.sqrt(dim) * layers))

    def forward(self, x: Tensor, grids: Grids, path: Path) -> Tensor:  # type: ignore[override]
        """x: [B, T, C], image after image, each row by row → [B, T, C] in the same order."""
        cu_seqlens, longest = grids.boundaries(x.device)
        order = grids.order(Path(path.name), x.device)  # backwards is the recurrence's own direction, not another order

        def convolve(u: Tensor) -> Tensor:
            if self.conv is not None:
                return self.conv(u, grids, rotated=path.reverse)
            return self._along(u, order, path.reverse, cu_seqlens)

        return self.scan(x, convolve, None, cu_seqlens, longest, order, path.reverse)[0]

    def _along(self, u: Tensor, order: Order | None, reverse: bool, cu_seqlens: Tensor | None) -> Tensor:
        """The causal convolution of u [B, T, D] along a path; the result in the order of u."""
        weight, u = self.conv1d.weight, u if order is None else reorder(u, *order)
        c, _ = causal_conv(
            u.to(weight.dtype), weight[:, 0].flip(-1).T, self.conv1d.bias, activation="silu",
            return_final_state=True, reverse=reverse, cu_seqlens=cu_seqlens, backend=self.backend,
        )  # fmt: skip
        return c if order is None else reorder(c, order[1], order[0])


class ViLBlock(nn.Module):
    """x + drop(layer(LN x)); of more than one path the mean over the layer along each."""

    def __init__(self, dim: int, step: Step, layer: Mapping[str, Any], norm_bias: bool = True, drop_path: float = 0.0):
        super().__init__()
        self.step = step
        self.norm = OffsetLayerNorm(dim, bias=norm_bias)
        self.layer = ViLLayer(dim, **{"norm_bias": norm_bias, **layer})
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grids: Grids) -> Tensor:
        """[B, T, C] → [B, T, C]."""
        value = self.norm(x)
        first, *others = (self.layer(value, grids, path) for path in self.step)
        branch = sum(others, first) / len(self.step) if others else first
        return x + self.drop_path(branch, grids.boundaries(x.device)[0])

    def extra_repr(self) -> str:
        return "paths " + ", ".join(map(str, self.step))


@BACKBONES.register("vil")
class ViL(PatchSequence):
    """Images → class scores by mLSTM layers over patches, every other one from the last patch to the first.

    ``V1`` and ``V2`` hold the arguments of the published versions; the defaults are the second's. ``global_pool``: the first and the
    last token, which have seen the image from either end, averaged ("bilateral_avg") or side by side ("bilateral_concat"); "avg" of all
    tokens; "" all tokens. ``depth`` counts layers: the second version's authors count pairs of them. ``stride``: of patches, below their
    size for patches that overlap. ``layer``: options of :class:`ViLLayer`. ``norms``: "tokens" after the layers, "head" after pooling,
    or "both", as all released weights need it; ``norm_eps``: what they add to the variance; ``norm_bias``: whether all norms
    but the head's have one. ``traversal``: the paths of the layers, see ``serialization.traversal2d.parse_traversal``.
    ``drop_path_rate`` is the same for all layers. ``init``: "original", or "original-fixed", where the layers' last projections start
    smaller the more layers there are. ``dynamic_img_size``: images of any size, and lists of images [C, H, W] of different sizes, which
    are run once.
    """

    POOLS = ("", "avg", "bilateral_avg", "bilateral_concat")

    def __init__(
        self,
        img_size: Size = 224,
        patch_size: Size = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "bilateral_concat",
        *,
        dim: int = 192,
        depth: int = 24,
        stride: Size | None = None,
        layer: Mapping[str, Any] | None = None,
        norms: str = "both",
        norm_bias: bool = True,
        norm_eps: tuple[float, float] = (1e-6, 1e-5),
        traversal: str | list = "alternate",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        dynamic_img_size: bool = False,
        init: str = "original",
    ):
        for name, value, known in (("norms", norms, NORMS), ("init", init, INITS)):
            if value not in known:
                raise ValueError(f"{name}={value!r}; expected one of {known}")
        if depth < 1:
            raise ValueError(f"depth={depth}: expected at least one layer")
        embed = PatchEmbed(img_size, patch_size, in_chans, dim, stride, dynamic=dynamic_img_size)
        super().__init__(embed, num_classes, global_pool, drop_rate)
        self.norms, self.head_eps = norms, norm_eps[1]
        steps = parse_traversal(traversal)
        options = {"layers": depth if init == "original-fixed" else 1, **(layer or {})}
        self.blocks = nn.ModuleList(ViLBlock(dim, steps[i % len(steps)], options, norm_bias, drop_path_rate) for i in range(depth))
        self.norm = nn.Identity() if norms == "head" else OffsetLayerNorm(dim, norm_eps[0], bias=norm_bias)
        self.finish()

    @property
    def head_hidden_size(self) -> int:
        return self.embed_dim * (2 if self.global_pool == "bilateral_concat" else 1)

    def make_head_norm(self) -> nn.Module:
        return nn.Identity() if self.norms == "tokens" else nn.LayerNorm(self.head_hidden_size, self.head_eps)

    def pool(self, features: Tensor) -> Tensor:
        if self.global_pool == "avg":
            return features.mean(1)
        ends = features[:, 0], features[:, -1]
        return torch.cat(ends, -1) if self.global_pool == "bilateral_concat" else (ends[0] + ends[1]) / 2
