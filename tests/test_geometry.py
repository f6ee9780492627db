"""Rotated overlap against shapely, suppression against brute force, points in boxes against the definition."""

import math

import pytest
import torch

from visionrnn import geometry
from visionrnn.geometry import box_corners, box_corners_bev, iou3d, nms_rotated, points_in_boxes, rotated_intersection, rotated_iou


def random_boxes(count: int, seed: int, spread: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(count, 5, generator=generator, dtype=torch.float64)
    scale = torch.tensor([2 * spread, 2 * spread, 5.0, 3.0, 4 * math.pi], dtype=torch.float64)
    offset = torch.tensor([-spread, -spread, 0.2, 0.2, -2 * math.pi], dtype=torch.float64)
    return unit * scale + offset


def pairs_10000() -> tuple[torch.Tensor, torch.Tensor]:
    """Random pairs; every tenth each: identical, touching at a side, contained, degenerate, parallel, almost identical."""
    a, b = random_boxes(10_000, 0), random_boxes(10_000, 1)
    b[0::10] = a[0::10]
    side = a[1::10].clone()  # moved by its own length along its heading: a common side, no common area
    side[:, 0] += side[:, 2] * side[:, 4].cos()
    side[:, 1] += side[:, 2] * side[:, 4].sin()
    b[1::10] = side
    b[2::10] = a[2::10] * torch.tensor([1, 1, 0.5, 0.5, 1], dtype=torch.float64)
    b[3::20, 2] = 0
    a[13::20, 2:4] = 0
    b[4::10, 4] = a[4::10, 4] + math.pi / 2
    b[5::10] = a[5::10] + 1e-9 * b[5::10]
    return a, b


def shapely_areas(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    shapely = pytest.importorskip("shapely")
    left, right = (shapely.polygons(box_corners_bev(box).numpy()) for box in (a, b))
    left, right = (shapely.buffer(side, 0) for side in (left, right))  # zero-size boxes become empty
    # without a grid shapely returns a whole box for some pairs that only touch
    return torch.as_tensor(shapely.area(shapely.intersection(left, right, grid_size=1e-9)))


def test_intersection_and_iou_equal_shapely():
    a, b = pairs_10000()
    exact = shapely_areas(a, b)
    assert (rotated_intersection(a, b) - exact).abs().max() < 1e-7
    assert (rotated_intersection(b, a) - rotated_intersection(a, b)).abs().max() < 1e-12
    union = a[:, 2] * a[:, 3] + b[:, 2] * b[:, 3] - exact
    expected = torch.where(union > 0, exact / union.clamp(min=1e-300), 0.0)
    assert (rotated_iou(a, b, aligned=True) - expected).abs().max() < 1e-7
    assert (exact > 0.1).sum() > 3000


def test_special_pairs_are_exact():
    a, b = pairs_10000()
    iou = rotated_iou(a, b, aligned=True)
    assert (iou[0::10] - 1).abs().max() < 1e-12
    assert iou[1::10].max() < 1e-12
    assert (iou[2::10] - 0.25).abs().max() < 1e-12
    assert iou[3::10].max() == 0
    assert (iou[5::10] - 1).abs().max() < 1e-6


def test_full_turns_and_swapped_sides_change_nothing():
    box = torch.tensor([[1.0, 2.0, 4.0, 2.0, 0.3]], dtype=torch.float64)
    same = torch.tensor([[1.0, 2.0, 2.0, 4.0, 0.3 + math.pi / 2], [1.0, 2.0, 4.0, 2.0, 0.3 + 7 * math.pi]], dtype=torch.float64)
    assert torch.allclose(rotated_iou(box, same), torch.ones(1, 2, dtype=torch.float64), atol=1e-12)


def test_matrix_form_equals_pairs_in_every_chunking(monkeypatch):
    a, b = random_boxes(40, 2, spread=8).float(), random_boxes(30, 3, spread=8).float()
    expected = rotated_iou(a.repeat_interleave(30, 0), b.repeat(40, 1), aligned=True).view(40, 30)
    assert rotated_iou(a, b).dtype == torch.float32
    assert torch.allclose(rotated_iou(a, b), expected, atol=1e-6)
    monkeypatch.setattr(geometry, "PAIRS_PER_CHUNK", 7)
    monkeypatch.setattr(geometry, "CELLS_PER_CHUNK", 65)
    assert torch.allclose(rotated_iou(a, b), expected, atol=1e-6)


def test_iof_divides_by_the_first_box():
    small, large = torch.tensor([[0.0, 0, 1, 1, 0.7]]), torch.tensor([[0.0, 0, 4, 4, 0.0]])
    assert rotated_iou(small, large, mode="iof").item() == pytest.approx(1)
    assert rotated_iou(large, small, mode="iof").item() == pytest.approx(1 / 16)
    with pytest.raises(ValueError, match="expected 'iou'"):
        rotated_iou(small, large, mode="giou")


def test_float32_far_from_the_origin():
    near = torch.tensor([[0.0, 0, 4, 2, 0.5], [1.0, 0.5, 4, 2, 0.6]])
    far = near + torch.tensor([4096.0, -4096, 0, 0, 0])
    assert torch.allclose(rotated_iou(near, near), rotated_iou(far, far), atol=1e-6)


def test_intersection_has_right_gradients():
    a, b = random_boxes(60, 4), random_boxes(60, 5)
    overlapping = rotated_intersection(a, b) > 0.05
    a, b = a[overlapping].requires_grad_(), b[overlapping].requires_grad_()
    assert torch.autograd.gradcheck(rotated_intersection, (a, b), eps=1e-7, atol=1e-5)


def test_iou3d_by_hand():
    box = torch.tensor([[0.0, 0, 0, 4, 2, 2, 0]])
    others = torch.tensor(
        [
            [0.0, 0, 0, 4, 2, 2, 0],  # the same
            [0.0, 0, 1, 4, 2, 2, 0],  # half a height up: 8 of 24
            [2.0, 0, 0, 4, 2, 2, 0],  # half a length on: 8 of 24
            [0.0, 0, 2, 4, 2, 2, 0],  # on top: touching
            [0.0, 0, 0, 4, 2, 2, math.pi / 2],  # across: 2·2·2 of 24
            [0.0, 0, 0, 2, 1, 1, 0],  # inside: 2 of 16
            [0.0, 0, 0, 0, 0, 0, 0],
        ]
    )
    expected = torch.tensor([[1, 1 / 3, 1 / 3, 0, 1 / 3, 1 / 8, 0]])
    assert torch.allclose(iou3d(box, others), expected, atol=1e-6)
    assert torch.allclose(iou3d(box.expand(7, 7), others, aligned=True), expected[0], atol=1e-6)


def test_corners_by_hand():
    corners = box_corners(torch.tensor([[1.0, 2, 3, 4, 2, 6, math.pi / 2]]))
    flat = torch.tensor([[0.0, 4], [0, 0], [2, 0], [2, 4]])
    assert torch.allclose(corners[0, :4], torch.cat((flat, torch.zeros(4, 1)), 1), atol=1e-6)
    assert torch.allclose(corners[0, 4:], torch.cat((flat, torch.full((4, 1), 6.0)), 1), atol=1e-6)


def brute_force_nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> list[int]:
    iou = rotated_iou(boxes, boxes)
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda k: (-scores[k].item(), k)):
        if all(iou[better, index] <= threshold for better in kept):
            kept.append(index)
    return kept


@pytest.mark.parametrize(("count", "block", "threshold"), [(0, 256, 0.5), (1, 256, 0.5), (300, 256, 0.1), (300, 7, 0.3), (200, 64, 0.0)])
def test_nms_equals_brute_force(monkeypatch, count, block, threshold):
    monkeypatch.setattr(geometry, "NMS_BLOCK", block)
    boxes = random_boxes(count, 6, spread=8)
    scores = (torch.rand(count, generator=torch.Generator().manual_seed(7)) * 20).round() / 20  # with many ties
    assert nms_rotated(boxes, scores, threshold).tolist() == brute_force_nms(boxes, scores, threshold)


def test_nms_of_identical_boxes_keeps_the_first():
    boxes = torch.tensor([[0.0, 0, 4, 2, 0.3]]).repeat(600, 1)
    assert nms_rotated(boxes, torch.ones(600), 0.5).tolist() == [0]


def test_points_in_boxes_equals_the_definition(monkeypatch):
    generator = torch.Generator().manual_seed(8)
    points = torch.rand(500, 4, generator=generator, dtype=torch.float64) * 8 - 4
    flat = random_boxes(20, 9, spread=2)
    boxes = torch.stack((flat[:, 0], flat[:, 1], flat[:, 0] / 3, flat[:, 2], flat[:, 3], flat[:, 3], flat[:, 4]), 1)
    expected = torch.zeros(500, 20, dtype=torch.bool)
    for n, (x, y, z, length, width, height, yaw) in enumerate(boxes.tolist()):
        for p, (px, py, pz) in enumerate(points[:, :3].tolist()):
            along = math.cos(yaw) * (px - x) + math.sin(yaw) * (py - y)
            across = math.cos(yaw) * (py - y) - math.sin(yaw) * (px - x)
            expected[p, n] = abs(along) <= length / 2 and abs(across) <= width / 2 and abs(pz - z) <= height / 2
    assert torch.equal(points_in_boxes(points, boxes), expected)
    monkeypatch.setattr(geometry, "CELLS_PER_CHUNK", 33)
    assert torch.equal(points_in_boxes(points, boxes), expected)
    assert 50 < expected.sum() < 5000


def test_points_on_faces_are_inside_and_nan_is_not():
    box = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0]])
    points = torch.tensor([[1.0, 1, 1], [1.0001, 0, 0], [float("nan"), 0, 0]])
    assert points_in_boxes(points, box)[:, 0].tolist() == [True, False, False]


def test_empty_inputs():
    none5, none7, some7 = torch.zeros(0, 5), torch.zeros(0, 7), torch.ones(3, 7)
    assert rotated_iou(none5, torch.ones(3, 5)).shape == (0, 3)
    assert rotated_iou(torch.ones(3, 5), none5).shape == (3, 0)
    assert iou3d(some7, none7).shape == (3, 0)
    assert points_in_boxes(torch.zeros(0, 3), some7).shape == (0, 3)
    assert points_in_boxes(torch.zeros(4, 3), none7).shape == (4, 0)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"a: expected shape \[N, 5\], got \[2, 7\]"):
        rotated_iou(torch.zeros(2, 7), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="equal lengths, got 2 and 3"):
        rotated_intersection(torch.zeros(2, 5), torch.zeros(3, 5))
    with pytest.raises(ValueError, match="one for each box"):
        nms_rotated(torch.zeros(2, 5), torch.zeros(3), 0.5)
