"""Plain image classifiers: patches → tokens → blocks of one width, one after the other → norm → pooled → head."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from visionrnn.backbones.classifier import Classifier, Images
from visionrnn.layers.patch_embed import GridPositions, PatchEmbed, Size, pair, resample_positions
from visionrnn.serialization.grids import Grids


class PatchSequence(Classifier):
    """The frame that Vision-LSTM and VisionRNN share; a subclass makes the blocks (tokens [B, T, C], Grids → [B, T, C]) and the norm.

    ``position``: a learned embedding of the grid's places is added to the tokens.
    """

    PARTS, FORMATS, NORM_FITS_ALL = "blocks", ("NCHW", "NLC"), True

    blocks: nn.ModuleList

    def __init__(self, patch_embed: PatchEmbed, num_classes: int, global_pool: str, drop_rate: float = 0.0, position: bool = True):
        super().__init__(num_classes, global_pool, drop_rate)
        self.embed_dim = self.num_features = patch_embed.proj.out_channels
        self.patch_embed = patch_embed
        self.pos_embed = GridPositions(self._position_grid(), self.embed_dim) if position else None

    def _position_grid(self) -> tuple[int, int]:
        """The grid of patches that do not overlap, as published weights have it; re-sampled in the pass for any other."""
        (height, width), (rows, columns) = self.patch_embed.img_size, self.patch_embed.patch_size
        return height // rows, width // columns

    def finish(self) -> None:
        """Called by a subclass when its blocks are made: the head, and what timm wants to know of the features."""
        self.set_head()
        reduction = self.patch_embed.stride[0]
        self.feature_info = [{"module": f"blocks.{i}", "num_chs": self.embed_dim, "reduction": reduction} for i in range(len(self.blocks))]

    def embed(self, images: Images) -> tuple[Tensor, Grids]:
        """Tokens with positions, [B, T, C] (or packed), and their grids."""
        tokens, grids = self.patch_embed(images)
        return tokens if self.pos_embed is None else tokens + self.pos_embed(grids), grids

    def run(self, block: nn.Module, tokens: Tensor, grids: Grids) -> Tensor:
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(block, tokens, grids, use_reentrant=False)
        return block(tokens, grids)

    def forward_features(self, images: Images) -> Tensor | list[Tensor]:
        """[B, T, C] after the last norm; of a list of images a list of [T, C]."""
        tokens, grids = self.embed(images)
        for block in self.blocks:
            tokens = self.run(block, tokens, grids)
        tokens = self.norm(tokens)
        return list(tokens[0].split(grids.lengths)) if grids.packed else tokens

    def pool(self, features: Tensor) -> Tensor:
        return features.mean(1)

    def maps(self, images: Tensor, number: int) -> Iterator[Tensor]:
        tokens, grids = self.embed(images)
        for block in self.blocks[:number]:
            tokens = self.run(block, tokens, grids)
            yield tokens.unflatten(1, grids.sizes[0])

    # ---- timm's interface

    def set_input_size(self, img_size: Size | None = None, patch_size: Size | None = None) -> None:
        """Another image size to be built for: the model has the shapes it would have if built for it, its positions are re-sampled.

        Raises ValueError for another patch size, which cannot change.
        """
        if patch_size is not None and pair(patch_size) != self.patch_embed.patch_size:
            raise ValueError(f"patch_size={patch_size}: the patches of a built model stay {self.patch_embed.patch_size}")
        if img_size is None:
            return
        self.patch_embed.grid_size = self.patch_embed.grid_of(*pair(img_size))
        self.patch_embed.img_size = pair(img_size)
        self.note_input_size(pair(img_size))
        if self.pos_embed is not None:
            embed = resample_positions(self.pos_embed.embed.detach(), self._position_grid())
            self.pos_embed.embed = nn.Parameter(embed.contiguous(), requires_grad=self.pos_embed.embed.requires_grad)

    def no_weight_decay(self) -> set[str]:
        return super().no_weight_decay() | ({"pos_embed.embed"} if self.pos_embed is not None else set())

    def group_matcher(self, coarse: bool = False) -> dict:
        return dict(stem=r"^pos_embed|^patch_embed", blocks=[(r"^blocks\.(\d+)", None), (r"^norm", (99999,))])
