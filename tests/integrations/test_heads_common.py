"""What the centre-based heads share: heat maps against hand-computed values and mmdet3d's, boxes against the geometry module."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet3d")

import visionrnn.integrations.mmdet3d  # noqa: F401  (makes mmdet3d importable)

# isort: split
from mmdet3d.models.utils import draw_heatmap_gaussian
from mmdet3d.models.utils import gaussian_radius as mmdet3d_radius

from visionrnn.integrations.mmdet3d.heads_common import (
    aligned_iou_3d,
    draw_gaussians,
    focal_heatmap_loss,
    gaussian_radius,
    local_maxima,
    nms_3d,
    nms_by_class,
    peak_radii,
    rectify,
    usable,
    within,
)
from visionrnn.integrations.mmdet3d.heads_common.codes import decode, encode
from visionrnn.integrations.mmdet3d.heads_common.grid import Grid


def test_radius_equals_mmdet3ds():
    length, width = torch.tensor([10.0, 3.0, 40.0, 0.5]), torch.tensor([5.0, 2.0, 8.0, 0.5])
    for overlap in (0.1, 0.5, 0.7):
        expected = [float(mmdet3d_radius((long, wide), overlap)) for long, wide in zip(length, width, strict=True)]
        assert gaussian_radius(length, width, overlap).tolist() == pytest.approx(expected, rel=1e-6)


def test_radii_are_of_cells():
    """A box of 8 × 4 m on cells of 1 × 0.5 m is 8 × 8 cells large."""
    box, grid = torch.tensor([[0.0, 0, 0, 8, 4, 1, 0], [0, 0, 0, 0.1, 0.1, 1, 0]]), Grid([0, 0, 0, 8, 8, 8], [0.5, 0.25, 1], 2)
    expected = int(gaussian_radius(torch.tensor(8.0), torch.tensor(8.0), 0.1))
    assert peak_radii(box, grid, 0.1, 2).tolist() == [expected, 2] and expected > 2


def test_peaks_equal_mmdet3ds_drawing_one_by_one():
    """Overlapping peaks, peaks cut by the border, two classes; objects in any order give the same map."""
    centres = torch.tensor([[3, 4], [5, 4], [0, 0], [11, 7], [6, 2]])
    radii, classes = torch.tensor([2, 3, 4, 2, 1]), torch.tensor([0, 0, 1, 0, 1])
    heat = draw_gaussians(centres, radii, classes, (2, 8, 12))
    expected = torch.zeros(2, 8, 12)
    for centre, radius, label in zip(centres, radii, classes, strict=True):
        draw_heatmap_gaussian(expected[label], centre, int(radius))
    torch.testing.assert_close(heat, expected, atol=1e-6, rtol=0)
    assert heat[0, 4, 3] == 1 and heat[0, 4, 5] == 1 and heat[1, 0, 0] == 1
    assert heat[0, 4, 4] == pytest.approx(math.exp(-1 / (2 * (7 / 6) ** 2)))  # the wider of its two neighbours
    mixed = torch.tensor([4, 2, 0, 3, 1])
    assert torch.equal(heat, draw_gaussians(centres[mixed], radii[mixed], classes[mixed], (2, 8, 12)))


def test_a_centre_off_the_map_leaves_its_tail():
    heat = draw_gaussians(torch.tensor([[-1, 1]]), torch.tensor([2]), torch.tensor([0]), (1, 3, 4))
    expected = [math.exp(-distance / (2 * (5 / 6) ** 2)) for distance in (1, 4)]
    assert heat[0, 1].tolist() == pytest.approx([*expected, 0, 0])


def test_no_objects():
    none = torch.zeros(0, dtype=torch.long)
    assert draw_gaussians(torch.zeros(0, 2, dtype=torch.long), none, none, (2, 3, 4)).eq(0).all()
    with pytest.raises(ValueError, match=r"expected \[M, 2\]"):
        draw_gaussians(torch.zeros(1, 2, dtype=torch.long), none, none, (2, 3, 4))


def test_focal_loss_by_hand():
    """A peak with probability 0.8, a neighbour of target 0.5 with 0.3, and background with 0.1."""
    probability = torch.tensor([0.8, 0.3, 0.1], dtype=torch.float64)
    loss, peaks = focal_heatmap_loss(probability.logit().float(), torch.tensor([1.0, 0.5, 0.0]))
    expected = -(0.2**2 * math.log(0.8) + 0.5**4 * 0.3**2 * math.log(0.7) + 0.1**2 * math.log(0.9))
    assert loss.item() == pytest.approx(expected, rel=1e-5) and peaks == 1


def test_focal_loss_is_finite_and_alive_at_extreme_logits():
    logits = torch.tensor([-200.0, 200.0, -30.0], requires_grad=True)
    loss, _ = focal_heatmap_loss(logits, torch.tensor([1.0, 0.0, 1.0]))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss) and gradient[0] < -0.9 and gradient[1] > 0.9 and gradient[2] < -0.9


def test_local_maxima():
    heat = torch.zeros(1, 1, 4, 5)
    heat[0, 0, 1, 1], heat[0, 0, 1, 2], heat[0, 0, 3, 4] = 0.9, 0.8, 0.5
    kept = local_maxima(heat)
    assert kept.nonzero().tolist() == [[0, 0, 1, 1], [0, 0, 3, 4]] and kept[0, 0, 1, 1] == heat[0, 0, 1, 1]
    assert local_maxima(heat, border=False).nonzero().tolist() == [[0, 0, 1, 1]]
    assert torch.equal(local_maxima(heat, 1), heat)
    with pytest.raises(ValueError, match="odd"):
        local_maxima(heat, 2)


def test_suppression():
    """The second box is the first turned by 90° (overlap 1/3 seen from above); height plays no part; velocities are carried along."""
    boxes = torch.tensor([[0, 0, 0, 4, 2, 1, 0], [0, 0, 9, 4, 2, 1, math.pi / 2], [9, 0, 0, 4, 2, 1, 0]], dtype=torch.float32)
    boxes = torch.cat([boxes, torch.ones(3, 2)], 1)
    scores = torch.tensor([0.5, 0.9, 0.7])
    assert nms_3d(boxes, scores, 0.3).tolist() == [1, 2]
    assert nms_3d(boxes, scores, 0.4).tolist() == [1, 2, 0]
    assert nms_3d(boxes, scores, 0.4, post=2).tolist() == [1, 2]
    assert nms_3d(boxes, scores, 0.4, pre=1).tolist() == [1]
    assert nms_3d(boxes[:0], scores[:0], 0.4).tolist() == []
    with pytest.raises(ValueError, match="one for each box"):
        nms_3d(boxes, scores[:2], 0.4)
    with pytest.raises(ValueError, match="7 or more"):
        nms_3d(boxes[:, :5], scores, 0.4)


def test_suppression_by_class():
    """Two equal boxes of class 1, of which the better stays; of class 0, which has no threshold, all stay; best first."""
    box = torch.tensor([[0.0, 0, 0, 4, 2, 1, 0]])
    labels, scores = torch.tensor([1, 1, 0, 0]), torch.tensor([0.1, 0.3, 0.2, 0.4])
    assert nms_by_class(box.repeat(4, 1), scores, labels, {1: 0.1}).tolist() == [3, 1, 2]
    assert nms_by_class(box.repeat(4, 1), scores, labels, {0: 0.1, 1: 1.0}, post=1).tolist() == [3, 1]
    assert nms_by_class(box[:0], scores[:0], labels[:0], {1: 0.1}).tolist() == []


def test_rectified_scores():
    """Told overlaps are (x + 1) / 2, limited; the share is one number or one for each."""
    scores, told = torch.tensor([0.5, 0.5, 0.5, 0.5]), torch.tensor([0.6, 0.6, 2.4, -3.0])
    expected = [0.5**0.32 * 0.8**0.68, 0.5**0.35 * 0.8**0.65, 0.5**0.29, 0]
    assert rectify(scores, told, torch.tensor([0.68, 0.65, 0.71, 0.5])).tolist() == pytest.approx(expected)
    assert rectify(scores, told, 0.5).tolist() == pytest.approx([0.4**0.5, 0.4**0.5, 0.5**0.5, 0])
    assert rectify(scores, told, 0.0).tolist() == scores.tolist()


def test_codes_there_and_back():
    """Any yaw, with velocities; the angle comes back between −π and π. Sizes are limited, whatever a network says."""
    grid = Grid([0, -4, -2, 8, 4, 2], [0.5, 0.5, 0.25])
    boxes = torch.rand(50, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4 + 0.5
    boxes[:, 6] = torch.linspace(-math.pi + 1e-3, math.pi - 1e-3, 50)
    places = grid.cells(boxes[:, :2])
    codes = encode(boxes, places - places.floor())
    torch.testing.assert_close(decode(codes, places.floor(), grid), boxes)
    codes[:, 3:6] = 1000.0
    assert decode(codes, places.floor(), grid)[:, 3:6].max() < 150


def test_which_objects_are_usable():
    boxes = torch.ones(7, 9)
    boxes[1, 3], boxes[2, 4], boxes[3, 0], boxes[4, 8] = 0, -1, float("nan"), float("nan")
    assert usable(boxes, torch.tensor([0, 0, 0, 0, 1, -1, 2]), 2).tolist() == [True, False, False, False, True, False, False]


def test_overlap_of_pairs():
    """Half of the height, a turn by 90° of a box of 4 × 2: intersection 2 · 2 · 1, union 16 + 16 − 4 volumes."""
    a = torch.tensor([[1.0, 2, 3, 4, 2, 2, 0.3]]).repeat(2, 1)
    b = torch.tensor([[1.0, 2, 4, 4, 2, 2, 0.3 + math.pi / 2], [9.0, 2, 3, 4, 2, 2, 0]])
    assert aligned_iou_3d(a, b).tolist() == pytest.approx([4 / 28, 0])
    assert aligned_iou_3d(a, a + torch.tensor([0, 0, 0, 0, 0, 0, 2 * np.pi])).tolist() == pytest.approx([1, 1], abs=1e-5)


def test_limits_hold_their_faces():
    boxes = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1.01, 0, 0], [0, -0.01, 0], [0, 0, float("nan")]])
    boxes = torch.cat([boxes, torch.ones(5, 4)], 1)
    assert within(boxes, [0, 0, 0, 1, 1, 1]).tolist() == [True, True, False, False, False]
    with pytest.raises(ValueError, match="6 numbers"):
        within(boxes, [0, 1])
