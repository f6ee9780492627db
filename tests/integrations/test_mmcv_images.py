"""The stand-ins for mmcv's operators of image detectors, called through mmcv's own wrappers, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

pytest.importorskip("mmcv")
from visionrnn.integrations import mmcv_ops

pytestmark = pytest.mark.skipif(not mmcv_ops.install(), reason="a compiled mmcv is installed; there is no stand-in to test")


def boxes_of(count: int, seed: int, size: float = 20.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner, side = torch.rand(count, 2, generator=generator) * size, torch.rand(count, 2, generator=generator) * size / 2 + 1
    return torch.cat([corner, corner + side], 1)


def overlap(a: np.ndarray, b: np.ndarray, offset: int) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + offset, 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + offset, 0)
    area = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return width * height / (area[0] + area[1] - width * height)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("count", [0, 1, 200])
def test_greedy_suppression(count, offset):
    from mmcv.ops import nms

    boxes, scores = boxes_of(count, 0), torch.rand(count, generator=torch.Generator().manual_seed(1))
    found, kept = nms(boxes, scores, 0.3, offset=offset)
    expected: list[int] = []
    for number in scores.argsort(descending=True).tolist():
        if all(overlap(boxes[number].numpy(), boxes[other].numpy(), offset) <= 0.3 for other in expected):
            expected.append(number)
    assert kept.tolist() == expected
    assert torch.equal(found, torch.cat([boxes, scores[:, None]], 1)[expected])


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("count", [0, 1, 60])
def test_soft_suppression(method, count, offset):
    from mmcv.ops import soft_nms

    boxes, scores = boxes_of(count, 2), torch.rand(count, generator=torch.Generator().manual_seed(3))
    found, kept = soft_nms(boxes, scores, 0.3, sigma=0.5, min_score=0.05, method=method, offset=offset)
    left = dict(enumerate(scores.double().tolist()))
    expected: list[tuple[int, float]] = []
    while left:
        best = max(left, key=left.__getitem__)
        expected.append((best, left.pop(best)))
        for other in list(left):
            o = overlap(boxes[best].double().numpy(), boxes[other].double().numpy(), offset)
            factor = {"naive": 0.0, "linear": 1 - o}.get(method, math.exp(-(o**2) / 0.5))
            left[other] *= factor if method == "gaussian" or o >= 0.3 else 1.0
            if left[other] < 0.05:
                del left[other]
    assert kept.tolist() == [number for number, _ in expected]
    torch.testing.assert_close(
        found[:, 4].double(), torch.tensor([score for _, score in expected], dtype=torch.float64), rtol=1e-5, atol=1e-6
    )
    assert torch.equal(found[:, :4], boxes[kept])


def bilinear(image: torch.Tensor, y: float, x: float) -> torch.Tensor:
    """Value [C] at a point of [C, H, W]; 0 more than a pixel outside, the border's within it."""
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return image.new_zeros(len(image))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    v, u = y - top, x - left
    upper = (1 - u) * image[:, top, left] + u * image[:, top, right]
    return (1 - v) * upper + v * ((1 - u) * image[:, bottom, left] + u * image[:, bottom, right])


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling", [0, 2])
def test_aligned_regions(sampling, aligned):
    from mmcv.ops import RoIAlign

    generator = torch.Generator().manual_seed(4)
    features = torch.randn(2, 3, 7, 9, generator=generator, dtype=torch.float64)
    regions = torch.tensor([[0, 1.0, 2.0, 11.0, 9.0], [1, 0.0, 0.0, 17.5, 13.0], [1, -3.0, 4.0, 5.0, 20.0]], dtype=torch.float64)
    scale, (rows, columns) = 0.5, (2, 3)
    found = RoIAlign((rows, columns), scale, sampling, aligned=aligned)(features, regions)
    assert found.shape == (3, 3, rows, columns)
    for region, result in zip(regions, found, strict=True):
        number, x1, y1, x2, y2 = region.tolist()
        shift = 0.5 if aligned else 0.0
        x1, y1, x2, y2 = (value * scale - shift for value in (x1, y1, x2, y2))
        width, height = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1), max(y2 - y1, 1))
        cell_h, cell_w = height / rows, width / columns
        points_h, points_w = (sampling, sampling) if sampling else (math.ceil(cell_h), math.ceil(cell_w))
        for row in range(rows):
            for column in range(columns):
                points = [
                    bilinear(
                        features[int(number)],
                        y1 + row * cell_h + (i + 0.5) * cell_h / points_h,
                        x1 + column * cell_w + (j + 0.5) * cell_w / points_w,
                    )
                    for i in range(points_h)
                    for j in range(points_w)
                ]
                torch.testing.assert_close(result[:, row, column], torch.stack(points).mean(0), rtol=1e-10, atol=1e-12)


def test_gradient_of_aligned_regions():
    from mmcv.ops import RoIAlign

    features = torch.randn(2, 2, 5, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64, requires_grad=True)
    regions = torch.tensor([[0, 0.3, 1.1, 7.0, 8.0], [1, 2.0, 0.0, 9.5, 6.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda values: RoIAlign(2, 0.5, 2)(values, regions), (features,))
    assert RoIAlign(2, 0.5, 2)(features, regions[:0]).shape == (0, 2, 2, 2)


def test_maxima_of_regions_are_refused():
    from mmcv.ops import RoIAlign

    with pytest.raises(NotImplementedError, match="pool_mode='avg'"):
        RoIAlign(2, 1.0, 2, pool_mode="max")(torch.zeros(1, 1, 4, 4), torch.tensor([[0, 0.0, 0.0, 3.0, 3.0]]))
