"""Random changes of whole batches of images, for images so small that the work per image would be mostly overhead."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class RandomWarp(nn.Module):
    """Turns, scales, shears, moves and bends each image of a batch differently, bilinearly; outside the image is the border's value.

    ``turn``: degrees at most, either way. ``scale``: at most this share larger or smaller, rows and columns apart. ``shear``: at most
    this slope. ``move``: at most this share of the side. ``bend``: elastic displacements (Simard et al. 2003) at most about this share of
    the side, smooth over a quarter of it. All are drawn uniformly; bending is a normal field on a grid of 4 × 4 knots.
    """

    def __init__(self, turn: float = 0.0, scale: float = 0.0, shear: float = 0.0, move: float = 0.0, bend: float = 0.0):
        super().__init__()
        given = {"turn": turn, "scale": scale, "shear": shear, "move": move, "bend": bend}
        if min(given.values()) < 0 or scale >= 1:
            raise ValueError(f"RandomWarp: {given}; expected numbers of 0 or more, scale below 1")
        self.turn, self.scale, self.shear, self.move, self.bend = math.radians(turn), scale, shear, move, bend

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] → the same shape."""
        count, _, height, width = images.shape
        grid = F.affine_grid(self._affine(count).to(images), [count, 1, height, width], align_corners=False)
        if self.bend:
            knots = torch.randn(count, 2, 4, 4).to(images) * self.bend
            field = F.interpolate(knots, (height, width), mode="bicubic", align_corners=False)
            grid = grid + 2 * field.permute(0, 2, 3, 1)  # a side is 2 long
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def _affine(self, count: int) -> Tensor:
        """[B, 2, 3], from places in the output to places in the input, both from -1 to 1."""

        def uniform(most: float) -> Tensor:
            return (2 * torch.rand(count) - 1) * most

        angle, slope = uniform(self.turn), uniform(self.shear)
        rows, columns = 1 + uniform(self.scale), 1 + uniform(self.scale)
        cosine, sine = angle.cos(), angle.sin()
        turned = torch.stack([cosine, -sine, sine, cosine], 1).view(count, 2, 2)
        shaped = torch.stack([columns, slope, torch.zeros(count), rows], 1).view(count, 2, 2)
        moved = torch.stack([2 * uniform(self.move), 2 * uniform(self.move)], 1)
        return torch.cat([turned @ shaped, moved[:, :, None]], 2)
