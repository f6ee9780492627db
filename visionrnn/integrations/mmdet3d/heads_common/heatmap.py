"""Heat maps of centre-based heads: how wide a peak is, drawing all peaks at once, the loss, and reading peaks off."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from visionrnn.integrations.mmdet3d.heads_common.grid import Grid

PRIOR = -2.19
"""Bias of untrained heat maps and classifiers: the logit of the score 0.1 (Lin et al. 2017, section 3.3)."""


def gaussian_radius(length: Tensor, width: Tensor, min_overlap: float = 0.5) -> Tensor:
    """Radius, in cells, within which a moved box [M] of ``length`` × ``width`` cells keeps an IoU of about ``min_overlap``.

    The smallest over three cases (both corners moved inwards, both outwards, one each way), each a quadratic equation, with the roots
    that CornerNet's and CenterPoint's code takes (Law & Deng 2018; Yin et al. 2021): the first two are larger than the exact ones, and
    released weights were trained with them. Not rounded.
    """
    total, area = length + width, length * width
    moved_alike = (total + (total**2 - 4 * area * (1 - min_overlap) / (1 + min_overlap)).sqrt()) / 2
    shrunk = (2 * total + (4 * total**2 - 16 * (1 - min_overlap) * area).sqrt()) / 2
    grown = (-2 * min_overlap * total + (4 * (min_overlap * total) ** 2 + 16 * min_overlap * (1 - min_overlap) * area).sqrt()) / 2
    return torch.minimum(torch.minimum(moved_alike, shrunk), grown)


def peak_radii(boxes: Tensor, grid: Grid, min_overlap: float, min_radius: int) -> Tensor:
    """Radii int [M] of the peaks of boxes [M, 7 or more], in the grid's cells: :func:`gaussian_radius` cut to whole cells, at least
    ``min_radius``."""
    length, width = (boxes[:, 3:5] / boxes.new_tensor(grid.cell)).unbind(1)
    return gaussian_radius(length, width, min_overlap).int().clamp(min=min_radius)


def draw_gaussians(centres: Tensor, radii: Tensor, classes: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Heat map float32 [K, Y, X] = ``shape`` with one peak for each of M objects; where peaks overlap, the larger value stays.

    centres: int [M, 2] cells (x, y), on or off the map; radii: int [M] cells; classes: int [M] in 0 … K − 1. A peak is
    exp(−distance² / 2σ²), σ = (2 · radius + 1) / 6, on the square of (2 · radius + 1)² cells round its centre, where it is exactly 1.
    Raises ValueError when shapes do not fit.
    """
    if centres.dim() != 2 or centres.shape[1] != 2 or not len(centres) == len(radii) == len(classes):
        shapes = f"centres {list(centres.shape)}, radii {list(radii.shape)}, classes {list(classes.shape)}"
        raise ValueError(f"{shapes}: expected [M, 2], [M] and [M]")
    _, height, width = shape
    heat = torch.zeros(shape, device=centres.device)
    side = 2 * radii.long() + 1
    cells = side**2  # each object's own square, all squares one after the other: no object pays for a larger one
    owner = torch.repeat_interleave(cells)
    place = torch.arange(len(owner), device=owner.device) - (cells.cumsum(0) - cells)[owner]
    dy = place // side[owner] - radii.long()[owner]
    dx = place % side[owner] - radii.long()[owner]
    x, y = centres[owner, 0] + dx, centres[owner, 1] + dy
    values = torch.exp(-(dx**2 + dy**2) / (2 * (side[owner] / 6) ** 2))
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = (classes.long()[owner] * height + y) * width + x
    return heat.view(-1).scatter_reduce_(0, index[inside], values[inside], "amax").view(shape)


def focal_heatmap_loss(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """CornerNet's focal loss (Law & Deng 2018, equation 1, α 2, β 4), summed, and the number of peaks (target = 1); both scalars.

    logits and target have the same shape. Logarithms are taken of the sigmoid in float32 without clamping, so no gradient dies.
    """
    logits, target = logits.float(), target.float()
    peaks = target == 1
    probability = logits.sigmoid()
    hit = functional.logsigmoid(logits) * (1 - probability) ** 2
    miss = functional.logsigmoid(-logits) * probability**2 * (1 - target) ** 4
    return -torch.where(peaks, hit, miss).sum(), peaks.sum()


def local_maxima(heat: Tensor, kernel: int = 3, border: bool = True) -> Tensor:
    """Heat map [B, K, Y, X] with every cell zeroed that is not the largest of the ``kernel`` × ``kernel`` cells round it.

    Cells off the map do not count; with ``border`` False, cells whose square leaves the map are zeroed too.
    Raises ValueError for an even kernel.
    """
    if kernel % 2 != 1 or kernel < 1:
        raise ValueError(f"kernel={kernel}; expected an odd number of cells")
    half = kernel // 2
    if not half:
        return heat
    kept = torch.where(heat == functional.max_pool2d(heat, kernel, 1, half), heat, torch.zeros_like(heat))
    return kept if border else functional.pad(kept[..., half:-half, half:-half], (half,) * 4)
