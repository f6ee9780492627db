"""Oriented boxes in torch: corners, overlap, non-maximum suppression, points inside. Any device; no Python loop over pairs.

Frames and layouts, everywhere: x front, y left, z up; metres; yaw counter-clockwise from +x in radians.
``boxes`` [N, 7] are x, y, z of the geometric centre, length (along the heading), width, height, yaw.
``boxes5`` [N, 5] are the same boxes seen from above: x, y, length, width, yaw. Negative sizes count as zero.

Overlaps are computed in float64 and returned in the type of the inputs, so that float32 boxes far from the origin lose nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

PAIRS_PER_CHUNK = 1 << 16  # bounds the working memory of overlaps to some tens of megabytes
CELLS_PER_CHUNK = 1 << 20  # the same for tables of one number per pair
NMS_BLOCK = 256

_CORNER_SIGNS = ((0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5))


def _check(boxes: Tensor, columns: int, name: str) -> Tensor:
    if boxes.dim() != 2 or boxes.shape[1] != columns:
        raise ValueError(f"{name}: expected shape [N, {columns}], got {list(boxes.shape)}")
    return boxes


def _result_type(a: Tensor, b: Tensor) -> torch.dtype:
    dtype = torch.promote_types(a.dtype, b.dtype)
    return dtype if dtype.is_floating_point else torch.get_default_dtype()


def bev(boxes: Tensor) -> Tensor:
    """Boxes [N, 7] → the same boxes seen from above [N, 5]."""
    return _check(boxes, 7, "boxes")[:, [0, 1, 3, 4, 6]]


def box_corners_bev(boxes5: Tensor) -> Tensor:
    """Boxes [N, 5] → corners [N, 4, 2], counter-clockwise: front left, rear left, rear right, front right."""
    _check(boxes5, 5, "boxes5")
    if not boxes5.is_floating_point():
        boxes5 = boxes5.to(torch.get_default_dtype())
    local = boxes5.new_tensor(_CORNER_SIGNS) * boxes5[:, None, 2:4].clamp(min=0)  # [N, 4, 2]
    cos, sin = boxes5[:, 4:].cos(), boxes5[:, 4:].sin()  # [N, 1]
    x, y = local.unbind(-1)
    return torch.stack((x * cos - y * sin, x * sin + y * cos), -1) + boxes5[:, None, :2]


def box_corners(boxes: Tensor) -> Tensor:
    """Boxes [N, 7] → corners [N, 8, 3]: the four of ``box_corners_bev`` at the bottom, then the same four at the top."""
    flat = box_corners_bev(bev(boxes))  # [N, 4, 2]
    half = boxes[:, 5:6].to(flat.dtype).clamp(min=0) / 2
    z = boxes[:, 2:3].to(flat.dtype)
    levels = [torch.cat((flat, height[:, None].expand(-1, 4, 1)), -1) for height in (z - half, z + half)]
    return torch.cat(levels, 1)


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    """Paired intersection areas [P] of float64 boxes [P, 5].

    Green's theorem in the frame of ``b``, where ``b`` is |x| ≤ X, |y| ≤ Y: the common area is
    −∮ [|x| ≤ X] clamp(y, −Y, Y) dx, taken counter-clockwise around ``a``. Along an edge y is linear in x, so each edge gives
    (length in x, clipped to ±X) · (mean of the clamped y there), with no cases of polygon topology: identical, touching and
    contained boxes are ordinary values, and the result is continuous in all inputs.
    """
    cos, sin = b[:, 4].cos(), b[:, 4].sin()
    offset = a[:, :2] - b[:, :2]
    centre = torch.stack((offset[:, 0] * cos + offset[:, 1] * sin, offset[:, 1] * cos - offset[:, 0] * sin), -1)
    start = box_corners_bev(torch.cat((centre, a[:, 2:4], a[:, 4:] - b[:, 4:]), -1))  # [P, 4, 2], counter-clockwise
    end = start.roll(-1, 1)
    half = b[:, 2:4].clamp(min=0)[:, None] / 2  # [P, 1, 2]
    limit_x, limit_y = half.unbind(-1)  # [P, 1]
    (x0, y0), (x1, y1) = start.unbind(-1), end.unbind(-1)  # [P, 4] each

    clipped0, clipped1 = x0.clamp(-limit_x, limit_x), x1.clamp(-limit_x, limit_x)
    run = x1 - x0
    safe = torch.where(run == 0, torch.ones_like(run), run)
    ya = y0 + (y1 - y0) * ((clipped0 - x0) / safe).clamp(0, 1)
    yb = y0 + (y1 - y0) * ((clipped1 - x0) / safe).clamp(0, 1)

    # mean of clamp(y) for y running evenly over [low, high]: the shares below, inside and above ±Y, each with its own mean
    low, high = torch.minimum(ya, yb), torch.maximum(ya, yb)
    inside_low, inside_high = low.clamp(-limit_y, limit_y), high.clamp(-limit_y, limit_y)
    rise = high - low
    flat = rise == 0
    safe = torch.where(flat, torch.ones_like(rise), rise)
    inside = (inside_high - inside_low) / safe
    above = (high - torch.maximum(low, limit_y)).clamp(min=0) / safe
    below = (torch.minimum(high, -limit_y) - low).clamp(min=0) / safe
    mean = inside * (inside_low + inside_high) / 2 + (above - below) * limit_y
    mean = torch.where(flat, inside_low, mean)
    area = -((clipped1 - clipped0) * mean).sum(-1)
    smaller = torch.minimum(_area(a), _area(b))
    return torch.minimum(area.clamp(min=0), smaller) + 0.0  # + 0.0: no negative zeros


def _area(boxes5: Tensor) -> Tensor:
    return boxes5[:, 2].clamp(min=0) * boxes5[:, 3].clamp(min=0)


def rotated_intersection(a: Tensor, b: Tensor) -> Tensor:
    """Areas [P], in square metres, common to the pairs of boxes a [P, 5] and b [P, 5]. Differentiable."""
    _check(a, 5, "a")
    _check(b, 5, "b")
    if len(a) != len(b):
        raise ValueError(f"a and b are taken in pairs: expected equal lengths, got {len(a)} and {len(b)}")
    chunks = [_intersection(x.double(), y.double()) for x, y in zip(a.split(PAIRS_PER_CHUNK), b.split(PAIRS_PER_CHUNK), strict=True)]
    dtype = _result_type(a, b)
    return torch.cat(chunks).to(dtype) if chunks else a.new_zeros(0, dtype=dtype)


def _near_pairs(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (i, j) of the pairs whose circumscribed circles meet; every other pair has no common area."""
    radius_a, radius_b = (box[:, 2:4].clamp(min=0).norm(dim=1) / 2 for box in (a, b))
    rows = max(1, CELLS_PER_CHUNK // max(1, len(b)))
    pairs = []
    for start in range(0, len(a), rows):
        part = slice(start, start + rows)
        distance = (a[part, None, 0] - b[:, 0]) ** 2 + (a[part, None, 1] - b[:, 1]) ** 2
        near = (distance <= (radius_a[part, None] + radius_b) ** 2).nonzero()
        near[:, 0] += start
        pairs.append(near)
    index = torch.cat(pairs) if pairs else torch.zeros(0, 2, dtype=torch.long, device=a.device)
    return index[:, 0], index[:, 1]


def _ratio(common: Tensor, whole: Tensor) -> Tensor:
    """common / whole, and 0 where both boxes are empty."""
    return torch.where(whole > 0, common / torch.where(whole > 0, whole, torch.ones_like(whole)), torch.zeros_like(common))


def _whole(size_a: Tensor, size_b: Tensor, common: Tensor, mode: str) -> Tensor:
    if mode not in ("iou", "iof"):
        raise ValueError(f"mode={mode!r}; expected 'iou' (over the union) or 'iof' (over the first box)")
    return size_a + size_b - common if mode == "iou" else size_a


def pairwise_common(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sparse form of the N × M intersection: (i [K], j [K], areas [K] in float64) of the pairs of a [N, 5], b [M, 5] that may overlap."""
    a, b = _check(a, 5, "a").double(), _check(b, 5, "b").double()
    i, j = _near_pairs(a, b)
    return i, j, rotated_intersection(a[i], b[j])


def rotated_iou(a: Tensor, b: Tensor, mode: str = "iou", aligned: bool = False) -> Tensor:
    """Overlap of boxes a [N, 5] and b [M, 5] seen from above, in [0, 1].

    ``mode``: "iou" divides by the union, "iof" by the area of the box of ``a``; empty boxes give 0.
    Returns [N, M], or [N] of the pairs (a_i, b_i) with ``aligned``. Raises ValueError for wrong shapes or mode.
    """
    dtype = _result_type(a, b)
    a, b = _check(a, 5, "a").double(), _check(b, 5, "b").double()
    if aligned:
        common = rotated_intersection(a, b)
        return _ratio(common, _whole(_area(a), _area(b), common, mode)).to(dtype)
    i, j, common = pairwise_common(a, b)
    values = _ratio(common, _whole(_area(a)[i], _area(b)[j], common, mode))
    return a.new_zeros(len(a), len(b), dtype=dtype).index_put((i, j), values.to(dtype))


def _height_overlap(a: Tensor, b: Tensor) -> Tensor:
    half_a, half_b = a[:, 5].clamp(min=0) / 2, b[:, 5].clamp(min=0) / 2
    top = torch.minimum(a[:, 2] + half_a, b[:, 2] + half_b)
    bottom = torch.maximum(a[:, 2] - half_a, b[:, 2] - half_b)
    return (top - bottom).clamp(min=0)


def iou3d(a: Tensor, b: Tensor, aligned: bool = False) -> Tensor:
    """Volume overlap (intersection over union) of boxes a [N, 7] and b [M, 7]: [N, M], or [N] of the pairs with ``aligned``."""
    dtype = _result_type(a, b)
    a, b = _check(a, 7, "a").double(), _check(b, 7, "b").double()
    if aligned:
        left, right, common = a, b, rotated_intersection(bev(a), bev(b))
    else:
        i, j, common = pairwise_common(bev(a), bev(b))
        left, right = a[i], b[j]
    common = common * _height_overlap(left, right)
    volumes = [_area(bev(box)) * box[:, 5].clamp(min=0) for box in (left, right)]
    values = _ratio(common, volumes[0] + volumes[1] - common).to(dtype)
    return values if aligned else a.new_zeros(len(a), len(b), dtype=dtype).index_put((i, j), values)


def _greedy(first: Tensor, second: Tensor, count: int) -> Tensor:
    """Which of ``count`` boxes, best first, stay when first[k] (better) removes second[k] if it stays itself. Bool [count].

    A box is settled once all boxes that could remove it are; each round settles at least one, and few rounds are needed.
    """
    kept = torch.zeros(count, dtype=torch.bool, device=first.device)
    settled = kept.clone()
    while not bool(settled.all()):
        removed, waiting = torch.zeros_like(kept), torch.zeros_like(kept)
        removed[second[kept[first]]] = True
        waiting[second[~settled[first]]] = True
        fresh = ~settled & ~removed & ~waiting
        kept |= fresh
        settled |= fresh | removed
    return kept


def nms_rotated(boxes5: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Greedy non-maximum suppression: by falling score, a box is kept unless its overlap with a kept one is above ``threshold``.

    boxes5 [N, 5], scores [N] → indices of the kept boxes [K], by falling score; equal scores keep the order of the input.
    """
    _check(boxes5, 5, "boxes5")
    if scores.shape != boxes5.shape[:1]:
        raise ValueError(f"scores: expected shape [{len(boxes5)}], one for each box, got {list(scores.shape)}")
    alive = scores.detach().sort(descending=True, stable=True).indices
    boxes5 = boxes5.detach().double()
    result = []
    while len(alive):
        block, alive = alive[:NMS_BLOCK], alive[NMS_BLOCK:]
        first, second = _overlapping(boxes5[block], boxes5[block], threshold)
        ordered = first < second
        block = block[_greedy(first[ordered], second[ordered], len(block))]
        result.append(block)
        stays = torch.ones_like(alive, dtype=torch.bool)
        stays[_overlapping(boxes5[block], boxes5[alive], threshold)[1]] = False
        alive = alive[stays]
    return torch.cat(result) if result else torch.zeros(0, dtype=torch.long, device=boxes5.device)


def _overlapping(a: Tensor, b: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Indices (i, j) of the pairs with IoU above the threshold."""
    i, j, common = pairwise_common(a, b)
    above = _ratio(common, _area(a)[i] + _area(b)[j] - common) > threshold
    return i[above], j[above]


def points_in_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """Whether points [P, 3 or more] (x, y, z first) lie in boxes [N, 7], faces included. Bool [P, N]; NaN points lie in none."""
    _check(boxes, 7, "boxes")
    if points.dim() != 2 or points.shape[1] < 3:
        raise ValueError(f"points: expected shape [P, 3 or more], got {list(points.shape)}")
    boxes = boxes.double()
    half = boxes[:, 3:6].clamp(min=0) / 2
    cos, sin = boxes[:, 6].cos(), boxes[:, 6].sin()
    inside = torch.zeros(len(points), len(boxes), dtype=torch.bool, device=points.device)
    rows = max(1, CELLS_PER_CHUNK // max(1, len(boxes)))
    for start in range(0, len(points) if len(boxes) else 0, rows):
        part = points[start : start + rows, :3].double()
        x, y, z = (part[:, None, axis] - boxes[:, axis] for axis in range(3))  # [rows, N]
        along, across = x * cos + y * sin, y * cos - x * sin
        inside[start : start + rows] = (along.abs() <= half[:, 0]) & (across.abs() <= half[:, 1]) & (z.abs() <= half[:, 2])
    return inside
