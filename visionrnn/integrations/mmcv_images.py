"""mmcv's operators of image detectors in PyTorch and torchvision, with the calling convention of mmcv 2.1's compiled ones."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_POOLING, AVERAGE_POOLING = 0, 1
HARD, LINEAR, GAUSSIAN = 0, 1, 2


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Writes the features of regions, sampled bilinearly and averaged in every cell (He et al. 2017), into ``output`` [K, C, h, w].

    input: [B, C, H, W]; rois: [K, 5] as (image, x1, y1, x2, y2). Raises NotImplementedError for maxima in place of averages.
    """
    from torchvision.ops import roi_align

    _check_average(pool_mode)
    size = (aligned_height, aligned_width)
    output.copy_(roi_align(input, rois.to(input.dtype), size, spatial_scale, sampling_ratio, aligned))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Writes the gradient of the features [B, C, H, W] into ``grad_input``; averages are linear, so it needs no features."""
    from torchvision.ops import roi_align

    _check_average(pool_mode)
    with torch.enable_grad():
        leaf = torch.zeros_like(grad_input, requires_grad=True)
        out = roi_align(leaf, rois.to(leaf.dtype), (aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned)
    grad_input.copy_(torch.autograd.grad(out, leaf, grad_output)[0])


def _check_average(pool_mode: int) -> None:
    if pool_mode != AVERAGE_POOLING:
        raise NotImplementedError("roi_align with pool_mode='max': visionrnn's stand-in for mmcv has averages only; use pool_mode='avg'")


def softnms(
    boxes: Tensor, scores: Tensor, dets: Tensor, iou_threshold: float, sigma: float, min_score: float, method: int, offset: int
) -> Tensor:
    """Suppression that lowers scores (Bodla et al. 2017): the best box is taken, and the scores of the others are multiplied by a weight.

    With o the overlap with the box just taken, the weight is exp(−o² / sigma) (method 2); or 1 − o (1), or 0 (0), where o reaches
    ``iou_threshold``, else 1. Boxes whose score falls below ``min_score`` by that are dropped. boxes: [N, 4] as (x1, y1, x2, y2), a side
    being x2 − x1 + ``offset``. Writes boxes with their new scores into ``dets`` [N, 5], and returns their numbers int64 [K ≤ N].
    """
    left, score = torch.arange(len(boxes), device=boxes.device), scores.clone()
    area = (boxes[:, 2:] - boxes[:, :2] + offset).prod(1)
    taken: list[int] = []
    while len(left):
        best = int(left[score[left].argmax()])
        dets[len(taken), :4], dets[len(taken), 4] = boxes[best], score[best]
        taken.append(best)
        left = left[left != best]
        low, high = torch.maximum(boxes[best, :2], boxes[left, :2]), torch.minimum(boxes[best, 2:], boxes[left, 2:])
        inside = (high - low + offset).clamp_min(0).prod(1)
        overlap = inside / (area[best] + area[left] - inside)
        if method == GAUSSIAN:
            weight = torch.exp(-overlap.square() / sigma)
        else:
            weight = torch.where(overlap >= iou_threshold, 1 - overlap if method == LINEAR else torch.zeros_like(overlap), 1)
        score[left] *= weight
        left = left[score[left] >= min_score]
    return torch.tensor(taken, dtype=torch.int64, device=boxes.device)
