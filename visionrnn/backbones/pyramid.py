"""PyramidRNN: image backbones of several resolutions, with any registered operator over groups of tokens ordered by windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from visionrnn.backbones.classifier import Classifier, Images
from visionrnn.backbones.grid_block import EPS, GridBlock
from visionrnn.backbones.vision_rnn import MLP_RATIOS
from visionrnn.layers.grid_conv import GridConv
from visionrnn.layers.patch_embed import PatchEmbed, Size, pair
from visionrnn.layers.patch_merge import PatchMerging
from visionrnn.registry import BACKBONES
from visionrnn.serialization.grid_scan import GridScan
from visionrnn.serialization.grids import Grids
from visionrnn.serialization.traversal2d import parse_traversal


@dataclass(frozen=True)
class Stage:
    """``depth`` blocks of width ``dim``; tokens are ordered by windows of ``window`` (rows, columns; or one number for both), and cut into
    groups of ``group_size``, which an operator scans at once; in every other block windows are moved by half their size."""

    dim: int
    depth: int
    window: Size = 14
    group_size: int = 784

    def __post_init__(self):
        object.__setattr__(self, "window", pair(self.window))
        if min(self.dim, self.depth, self.group_size, *self.window) < 1:
            raise ValueError(f"expected dim, depth, window and group_size of at least 1, got {self}")


TINY = tuple(Stage(dim, depth) for dim, depth in ((64, 2), (128, 2), (256, 6), (512, 2)))
"""About 13 million parameters and 2 · 10⁹ multiplications at 224². At this size 784 tokens are 4, then 1 group of an image; time hardly
depends on the size of groups. Operators with heads keep their default of 4, whose width so grows from 16 to 128 channels."""

SIZES: dict[str, dict[str, Any]] = {"tiny": dict(stages=TINY)}


def sized(operator: str, size: str = "tiny") -> dict[str, Any]:
    """Keyword arguments of :class:`PyramidRNN` for an operator at a size of SIZES. Raises KeyError for another size."""
    if size not in SIZES:
        raise KeyError(f"size={size!r}; expected one of {sorted(SIZES)}")
    return {**SIZES[size], "operator": operator, "mlp_ratio": MLP_RATIOS.get(operator, 4.0)}


class PyramidStage(nn.Module):
    """Tokens of one resolution: merged from the one before (not in the first stage), a convolution that tells places, the blocks.

    x ← x + conv(x), 3 × 3, each channel for itself, at the stage's start: the operators know the order of tokens, but not which of them
    lie above each other, and zeros at the border tell where an image ends, at any size (Chu et al. 2021, "Conditional positional
    encodings").
    """

    def __init__(self, dim_before: int | None, dim: int, blocks: Sequence[GridBlock]):
        super().__init__()
        self.merge = None if dim_before is None else PatchMerging(dim_before, dim, EPS)
        self.position = GridConv(dim, 3)
        self.blocks = nn.ModuleList(blocks)
        self.grad_checkpointing = False

    def forward(self, tokens: Tensor, grids: Grids) -> tuple[Tensor, Grids]:
        if self.merge is not None:
            tokens, grids = self.merge(tokens, grids)
        tokens = tokens + self.position(tokens, grids)
        for block in self.blocks:
            if self.grad_checkpointing and self.training and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, grids, use_reentrant=False)
            else:
                tokens = block(tokens, grids)
        return tokens, grids


@BACKBONES.register("pyramid_rnn")
class PyramidRNN(Classifier):
    """Images [B, in_chans, H, W], or a list of images [in_chans, H, W] of different sizes, which are run as one pack → class scores.

    Patches pass ``stages`` (:class:`Stage`, or its arguments as a dict); between two, 2 × 2 tokens become one. Inside a stage tokens are
    ordered window by window and cut into groups of equal size, as LION (Liu et al. 2024) groups voxels; groups never span two images, the
    last of an image may be shorter. ``operator``: name or config of any registered operator. ``traversal``: the path inside the windows of
    block i, counted over all stages, is step i of it, see ``parse_traversal``. No parameter depends on the image's size: images of any
    size are taken, unless ``dynamic_img_size`` is False. What does not fill a patch at the right and at the bottom is not seen; stages
    round sizes up. Raises KeyError, TypeError or ValueError for an unknown operator, option or path, with the choices.
    """

    output_fmt, feature_dim = "NHWC", -1  # of forward_features; both are timm's words for it

    def __init__(
        self,
        img_size: Size = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        *,
        stages: Sequence[Stage | Mapping[str, Any]] = TINY,
        patch_size: Size = 4,
        operator: Mapping | str = "mamba",
        traversal: str | Sequence[str | Sequence[str]] = "mamba_nd",
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        dynamic_img_size: bool = True,
    ):
        parsed = [stage if isinstance(stage, Stage) else Stage(**stage) for stage in stages]
        steps = parse_traversal(traversal)
        if not parsed:
            raise ValueError("stages: expected at least one, got none")
        super().__init__(num_classes, global_pool, drop_rate)
        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, parsed[0].dim, dynamic=dynamic_img_size)
        self.embed_norm = nn.LayerNorm(parsed[0].dim, eps=EPS)
        last, number = max(sum(stage.depth for stage in parsed) - 1, 1), 0
        self.stages = nn.ModuleList()
        for i, stage in enumerate(parsed):
            blocks = []
            for j in range(stage.depth):
                scan = GridScan(steps[number % len(steps)], pair(stage.window), j % 2 == 1, stage.group_size)
                blocks.append(GridBlock(stage.dim, operator, scan, mlp_ratio, drop_path_rate * number / last, number / last))
                number += 1
            self.stages.append(PyramidStage(parsed[i - 1].dim if i else None, stage.dim, blocks))
        self.num_features = parsed[-1].dim
        self.norm = nn.LayerNorm(self.num_features, eps=EPS)
        self.feature_info = [
            {"module": f"stages.{i}", "num_chs": stage.dim, "reduction": self.patch_embed.stride[0] << i} for i, stage in enumerate(parsed)
        ]
        self.set_head()

    def run(self, images: Images, number: int) -> Iterator[tuple[Tensor, Grids]]:
        """Tokens and grids after each of the first ``number`` stages."""
        tokens, grids = self.patch_embed(images)
        tokens = self.embed_norm(tokens)
        for stage in self.stages[:number]:
            tokens, grids = stage(tokens, grids)
            yield tokens, grids

    def forward_features(self, images: Images) -> Tensor | list[Tensor]:
        """[B, H, W, C] after the last stage and norm; of a list of images a list of [H, W, C]."""
        *_, (tokens, grids) = self.run(images, len(self.stages))
        tokens = self.norm(tokens)
        if not grids.packed:
            return tokens.unflatten(1, grids.sizes[0])
        parts = tokens[0].split(grids.lengths)
        return [part.unflatten(0, size) for part, size in zip(parts, grids.sizes, strict=True)]

    def pool(self, features: Tensor) -> Tensor:
        return features.mean((1, 2))

    def maps(self, images: Tensor, number: int) -> Iterator[Tensor]:
        return (tokens.unflatten(1, grids.sizes[0]) for tokens, grids in self.run(images, number))

    # ---- timm's interface

    def set_input_size(self, img_size: Size | None = None, patch_size: Size | None = None) -> None:
        """Another image size to be built for; only what ``dynamic_img_size=False`` accepts changes. The patch size cannot change."""
        if patch_size is not None and pair(patch_size) != self.patch_embed.patch_size:
            raise ValueError(f"patch_size={patch_size}: the patches of a built model stay {self.patch_embed.patch_size}")
        if img_size is not None:
            self.patch_embed.img_size = pair(img_size)
            self.patch_embed.grid_size = self.patch_embed.grid_of(*pair(img_size))
            self.note_input_size(pair(img_size))

    def group_matcher(self, coarse: bool = False) -> dict:
        fine = [(r"^stages\.(\d+)\.(?:merge|position)", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None), (r"^norm", (99999,))]
        return dict(stem=r"^patch_embed|^embed_norm", blocks=r"^stages\.(\d+)" if coarse else fine)
