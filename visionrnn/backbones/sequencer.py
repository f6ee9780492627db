"""Sequencer2D: images through recurrent networks along columns and rows (Tatsunami & Taki 2022)."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from visionrnn.backbones.classifier import Classifier, Images
from visionrnn.layers.bidirectional_rnn2d import BidirectionalRNN2D
from visionrnn.layers.drop_path import DropPath
from visionrnn.layers.linear import Linear, linear
from visionrnn.layers.mlp import Mlp
from visionrnn.layers.patch_embed import GridPositions, PatchEmbed, Size
from visionrnn.registry import BACKBONES
from visionrnn.serialization.grids import Grids

EPS = 1e-6  # of all norms


class SequencerBlock(nn.Module):
    """x + scans(norm(x)), then x + feed-forward(norm(x)); x [B, H, W, C], or packed maps [1, T, C] with their ``grids``.

    ``scans``: options of :class:`BidirectionalRNN2D`.
    """

    def __init__(
        self, dim: int, hidden_size: int, mlp_ratio: float = 3.0, drop: float = 0.0, drop_path: float = 0.0, scans: dict | None = None
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.rnn_tokens = BidirectionalRNN2D(dim, hidden_size, **(scans or {}))
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp_channels = Mlp(dim, int(mlp_ratio * dim), drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grids: Grids | None = None) -> Tensor:
        x = x + self._dropped(self.rnn_tokens(self.norm1(x), grids), grids)
        return x + self._dropped(self.mlp_channels(self.norm2(x)), grids)

    def _dropped(self, branch: Tensor, grids: Grids | None) -> Tensor:
        if grids is not None:
            return self.drop_path(branch, grids.boundaries(branch.device)[0])
        return self.drop_path(branch.flatten(1, 2)).view_as(branch)


class Stem(PatchEmbed):
    """Images [B, C, H, W] of any size → patches [B, h, w, D], normalised with ``norm``."""

    def __init__(self, img_size: Size, patch_size: int, in_chans: int, dim: int, norm: bool):
        super().__init__(img_size, patch_size, in_chans, dim, dynamic=True)
        self.norm = nn.LayerNorm(dim, eps=EPS) if norm else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        # channels last in, channels last out: otherwise every later norm would copy
        tokens, grids = super().forward(images.contiguous(memory_format=torch.channels_last))
        return self.norm(tokens).unflatten(1, grids.sizes[0])

    def pack(self, images: Sequence[Tensor]) -> tuple[Tensor, Grids]:
        """Images [C, H, W] → packed patches [1, T, D]."""
        tokens, grids = super().forward(images)
        return self.norm(tokens), grids


class PatchConv2d(nn.Conv2d):
    """A convolution whose kernel is as large as its stride; what is left at the edges is not seen. Single pixels: a linear map."""

    def __init__(self, dim: int, out_dim: int, patch_size: int):
        super().__init__(dim, out_dim, patch_size, patch_size)

    def forward(self, input: Tensor) -> Tensor:
        if self.kernel_size != (1, 1):
            return super().forward(input)
        return self.map(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def map(self, patches: Tensor) -> Tensor:
        """[..., C · patch rows · patch columns] → [..., D]."""
        return linear(patches, self.weight.flatten(1), self.bias)


class Downsample(nn.Module):
    """A map [B, H, W, C] at a lower resolution and another width, [B, h, w, D]; or packed maps [1, T, C] with their ``grids``."""

    def __init__(self, dim: int, out_dim: int, patch_size: int):
        super().__init__()
        self.down = PatchConv2d(dim, out_dim, patch_size)
        self.patch_size = patch_size

    def forward(self, x: Tensor, grids: Grids | None = None) -> Tensor:
        if grids is None:
            self._check((x.shape[1], x.shape[2]))
            return self.down(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        parts = zip(x[0].split(grids.lengths), grids.sizes, self.after(grids).sizes, strict=True)
        return self.down.map(torch.cat([self._patches(part.view(*size, -1), small) for part, size, small in parts])).unsqueeze(0)

    def after(self, grids: Grids) -> Grids:
        """The grids of what ``forward`` returns. Raises ValueError where a map is smaller than a patch, as ``forward`` does."""
        self._check(*grids.sizes)
        patch = self.patch_size
        return Grids(tuple((height // patch, width // patch) for height, width in grids.sizes), grids.packed)

    def _check(self, *sizes: tuple[int, int]) -> None:
        for height, width in sizes:
            if min(height, width) < self.patch_size:
                raise ValueError(
                    f"images: one has a map of {height} × {width} features, smaller than a patch of {self.patch_size} × {self.patch_size};"
                    " give larger images"
                )

    def _patches(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """[H, W, C] → [h · w, C · patch rows · patch columns]."""
        (height, width), patch = size, self.patch_size
        whole = x[: height * patch, : width * patch].view(height, patch, width, patch, -1)
        return whole.permute(0, 2, 4, 1, 3).reshape(height * width, -1)


class Stage(nn.Module):
    """A change of resolution and width, unless it is the first stage, and blocks."""

    def __init__(self, downsample: Downsample | nn.Identity, blocks: Sequence[nn.Module]):
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.grad_checkpointing = False

    def forward(self, x: Tensor, grids: Grids | None = None) -> Tensor:
        """A map, or packed maps with their ``grids`` → the same, with those of :meth:`after`."""
        if grids is None:
            x = self.downsample(x)
        elif isinstance(self.downsample, Downsample):
            x, grids = self.downsample(x, grids), self.after(grids)
        again = self.grad_checkpointing and self.training and torch.is_grad_enabled()
        for block in self.blocks:
            x = checkpoint(block, x, grids, use_reentrant=False) if again else block(x, grids)
        return x

    def after(self, grids: Grids) -> Grids:
        return self.downsample.after(grids) if isinstance(self.downsample, Downsample) else grids


@BACKBONES.register("sequencer2d")
class Sequencer2D(Classifier):
    """Stages of blocks that scan columns and rows; weights have timm's names, so its checkpoints load as they are.

    ``layers`` … ``mlp_ratios`` have a number for each stage: its blocks, the factor by which its resolution falls, its width, the units
    of its recurrent networks, the feed-forward's width over its own. ``cell``, ``num_rnn_layers``, ``bidirectional``, ``union`` and
    ``with_fc``: see :class:`BidirectionalRNN2D`. ``drop_path_rate`` holds in every block, as in timm; with ``drop_path_ramp`` it rises
    linearly from 0 to that, as published. ``position``: a learned embedding of the places of an ``img_size`` image's patches is added to
    them, and re-sampled for other images (published for the plain model, union="flat"). ``nlhb``: the head's bias starts at
    −log(num_classes). Images may have any size; what is left of it behind whole patches is not seen.
    """

    output_fmt, feature_dim = "NHWC", -1  # of forward_features; both are timm's words for it

    def __init__(
        self,
        num_classes: int = 1000,
        img_size: Size = 224,
        in_chans: int = 3,
        global_pool: str = "avg",
        layers: Sequence[int] = (4, 3, 8, 3),
        patch_sizes: Sequence[int] = (7, 2, 1, 1),
        embed_dims: Sequence[int] = (192, 384, 384, 384),
        hidden_sizes: Sequence[int] = (48, 96, 96, 96),
        mlp_ratios: Sequence[float] = (3.0, 3.0, 3.0, 3.0),
        cell: str = "lstm",
        num_rnn_layers: int = 1,
        bidirectional: bool = True,
        union: str = "cat",
        with_fc: bool = True,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        drop_path_ramp: bool = False,
        nlhb: bool = False,
        stem_norm: bool = False,
        position: bool = False,
    ):
        super().__init__(num_classes, global_pool, drop_rate)
        of_stages = dict(layers=layers, patch_sizes=patch_sizes, embed_dims=embed_dims, hidden_sizes=hidden_sizes, mlp_ratios=mlp_ratios)
        if len({len(values) for values in of_stages.values()}) > 1:
            raise ValueError(f"a number for each stage: got {', '.join(f'{len(values)} {name}' for name, values in of_stages.items())}")
        self.in_chans, self.num_features, self.nlhb = in_chans, embed_dims[-1], nlhb
        self.stem = Stem(img_size, patch_sizes[0], in_chans, embed_dims[0], stem_norm)
        self.pos_embed = GridPositions(self.stem.grid_size, embed_dims[0]) if position else None
        scans = dict(num_layers=num_rnn_layers, bidirectional=bidirectional, union=union, with_fc=with_fc, cell=cell)
        total = sum(layers)
        rates = iter([drop_path_rate * (i / max(total - 1, 1) if drop_path_ramp else 1) for i in range(total)])
        stages = []
        for i, (depth, dim, hidden, ratio) in enumerate(zip(layers, embed_dims, hidden_sizes, mlp_ratios, strict=True)):
            downsample = Downsample(embed_dims[i - 1], dim, patch_sizes[i]) if i else nn.Identity()
            stages.append(Stage(downsample, [SequencerBlock(dim, hidden, ratio, proj_drop_rate, next(rates), scans) for _ in range(depth)]))
        self.stages = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(embed_dims[-1], eps=EPS)
        self.set_head()
        reductions = accumulate(patch_sizes, lambda all_before, patch: all_before * patch)
        self.feature_info = [
            {"module": f"stages.{i}", "num_chs": dim, "reduction": reduction}
            for i, (dim, reduction) in enumerate(zip(embed_dims, reductions, strict=True))
        ]
        self.init_weights()

    def init_weights(self) -> None:
        """Starting values as published; torch's own for the recurrent networks, which are the same."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                _lecun_normal_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            elif isinstance(module, nn.Linear) and not name.startswith("head"):
                nn.init.xavier_uniform_(module.weight)
                nn.init.normal_(module.bias, std=1e-6 if "mlp" in name else 0.0)

    def make_head(self) -> nn.Module:
        if self.num_classes <= 0:
            return nn.Sequential(OrderedDict(fc=nn.Identity()))
        fc = Linear(self.head_hidden_size, self.num_classes)
        nn.init.zeros_(fc.weight)
        nn.init.constant_(fc.bias, -math.log(self.num_classes) if self.nlhb else 0.0)
        return nn.Sequential(OrderedDict(fc=fc))

    def embed(self, images: Tensor) -> Tensor:
        """Patches, with positions where the model has them, [B, h, w, D]."""
        x = self.stem(images)
        return x if self.pos_embed is None else x + self.pos_embed.resampled((x.shape[1], x.shape[2]))

    def forward_features(self, images: Images) -> Tensor | list[Tensor]:
        """[B, h, w, C] after the last norm; of a list of images a list of [h, w, C]."""
        if not isinstance(images, Tensor):
            return self._of_list(images)
        x = self.embed(images)
        for stage in self.stages:
            x = stage(x)
        return self.norm(x)

    def _of_list(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Every step runs once, over the tokens of all images one after the other."""
        x, grids = self.stem.pack(images)
        if self.pos_embed is not None:
            x = x + self.pos_embed(grids)
        for stage in self.stages:
            x, grids = stage(x, grids), stage.after(grids)  # type: ignore[operator]
        features = self.norm(x)[0].split(grids.lengths)
        return [of_one.unflatten(0, size) for of_one, size in zip(features, grids.sizes, strict=True)]

    def pool(self, features: Tensor) -> Tensor:
        return features.mean((1, 2))

    def maps(self, images: Tensor, number: int) -> Iterator[Tensor]:
        x = self.embed(images)
        for stage in self.stages[:number]:
            x = stage(x)
            yield x

    # ---- timm's interface

    def no_weight_decay(self) -> set[str]:
        return super().no_weight_decay() | ({"pos_embed.embed"} if self.pos_embed is not None else set())

    def group_matcher(self, coarse: bool = False) -> dict:
        if coarse:
            return dict(stem=r"^stem|^pos_embed", blocks=[(r"^stages\.(\d+)", None), (r"^norm", (99999,))])
        stages = [(r"^stages\.(\d+)\.blocks\.(\d+)", None), (r"^stages\.(\d+)\.downsample", (0,))]
        return dict(stem=r"^stem|^pos_embed", blocks=[*stages, (r"^norm", (99999,))])


def _lecun_normal_(weight: Tensor) -> None:
    """Normal of variance 1 / fan-in, cut at two deviations, which 0.8796 of the spread survives."""
    std = math.sqrt(1 / weight[0].numel()) / 0.87962566103423978
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
