"""The stand-in for mmcv's compiled operators, called through mmcv's and mmdet3d's own wrappers."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("mmcv")
from visionrnn.errors import MissingPackageError
from visionrnn.integrations import mmcv_ops

STAND_IN = mmcv_ops.install()
pytestmark = pytest.mark.skipif(not STAND_IN, reason="a compiled mmcv is installed; there is no stand-in to test")
PAIRS = 10_000


def random_boxes(count: int, generator: torch.Generator, spread: float = 4.0) -> torch.Tensor:
    """[count, 5]: x, y, w, h, angle; float64."""
    values = torch.rand(count, 5, generator=generator, dtype=torch.float64)
    scale = torch.tensor([spread, spread, 4.0, 2.0, 4 * torch.pi], dtype=torch.float64)
    shift = torch.tensor([-spread / 2, -spread / 2, 0.2, 0.2, -2 * torch.pi], dtype=torch.float64)
    return values * scale + shift


def polygons(boxes: torch.Tensor) -> np.ndarray:
    """shapely polygons of rotated boxes, corners worked out here."""
    import shapely

    x, y, w, h, angle = boxes.double().numpy().T
    along = np.stack([np.cos(angle), np.sin(angle)], 1) * w[:, None] / 2
    across = np.stack([-np.sin(angle), np.cos(angle)], 1) * h[:, None] / 2
    centre = np.stack([x, y], 1)
    return shapely.polygons(
        np.stack([centre + along + across, centre - along + across, centre - along - across, centre + along - across], 1)
    )


def shapely_iou(a: torch.Tensor, b: torch.Tensor, mode: str = "iou") -> np.ndarray:
    import shapely

    shapes_a, shapes_b = polygons(a), polygons(b)
    common = shapely.area(shapely.intersection(shapes_a, shapes_b))
    whole = shapely.area(shapes_a) + shapely.area(shapes_b) - common if mode == "iou" else shapely.area(shapes_a)
    return np.divide(common, whole, out=np.zeros_like(common), where=whole > 1e-12)


def paired(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return a.repeat_interleave(len(b), 0), b.repeat(len(a), 1)


# ------------------------------------------------------------------ the module itself


def test_module_is_found_and_install_repeats():
    module = sys.modules["mmcv._ext"]
    assert importlib.util.find_spec("mmcv._ext").loader is not None
    assert mmcv_ops.install() and sys.modules["mmcv._ext"] is module
    import mmcv.ops
    from mmcv.utils.ext_loader import load_ext

    assert load_ext("_ext", ["hard_voxelize_forward", "carafe_forward"]) is module
    assert isinstance(mmcv.ops.get_compiler_version(), str)


def test_unknown_operator_raises_on_call_with_its_name():
    from mmcv.ops import roi_pool, three_nn

    with pytest.raises(MissingPackageError, match=r"three_nn_forward.*full mmcv"):
        three_nn(torch.rand(1, 8, 3), torch.rand(1, 8, 3))
    with pytest.raises(MissingPackageError, match="roi_pool_forward"):
        roi_pool(torch.rand(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 2, 2]]), 2)
    assert not hasattr(sys.modules["mmcv._ext"], "__path__")


def test_install_leaves_another_extension_alone(tmp_path):
    """A package path with a module mmcv/_ext.py in it plays the compiled one."""
    (tmp_path / "_ext.py").write_text("MARK = 'compiled'\n")
    code = f"""
import mmcv
mmcv.__path__.append({str(tmp_path)!r})
from visionrnn.integrations import mmcv_ops
assert mmcv_ops.install() is False
import mmcv._ext
assert mmcv._ext.MARK == 'compiled'
assert mmcv_ops.install() is False
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_missing_mmcv_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "mmcv._ext")
    monkeypatch.setitem(sys.modules, "mmcv", None)
    with pytest.raises((MissingPackageError, ModuleNotFoundError), match="mmcv"):
        mmcv_ops.install()


# ------------------------------------------------------------------ rotated IoU


def special_pairs() -> tuple[torch.Tensor, torch.Tensor]:
    unit = [0.0, 0, 4, 2, 0]
    pairs = [
        (unit, unit),  # identical
        ([3.0, -1, 4, 2, 0.7], [3.0, -1, 4, 2, 0.7]),
        (unit, [0.0, 0, 4, 2, np.pi]),  # identical, half a turn
        (unit, [0.0, 0, 2, 4, np.pi / 2]),  # identical, sides swapped
        (unit, [4.0, 0, 4, 2, 0]),  # share a side
        (unit, [4.0, 2, 4, 2, 0]),  # share a corner
        (unit, [2 + np.sqrt(0.5), 0.0, 1, 1, np.pi / 4]),  # corner on a side
        (unit, [0.3, 0.1, 1, 0.5, 0.4]),  # contained
        ([0.3, 0.1, 1, 0.5, 0.4], unit),
        (unit, [0.0, 0, 4, 2, np.pi / 2]),  # a cross
        (unit, [0.0, 0, 0, 2, 0.3]),  # no width
        ([0.0, 0, 0, 0, 0], [0.0, 0, 0, 0, 0]),  # a point, twice
        (unit, [100.0, 0, 4, 2, 1.0]),  # far away
        (unit, [1.0, 0, 4, 2, 0]),  # shifted along, sides collinear
    ]
    return torch.tensor([a for a, _ in pairs], dtype=torch.float64), torch.tensor([b for _, b in pairs], dtype=torch.float64)


@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-6), (torch.float32, 2e-5)])
def test_box_iou_rotated_against_shapely(mode, dtype, bound):
    pytest.importorskip("shapely")
    from mmcv.ops import box_iou_rotated

    generator = torch.Generator().manual_seed(0)
    special_a, special_b = special_pairs()
    a = torch.cat([special_a, random_boxes(PAIRS, generator)]).to(dtype)
    b = torch.cat([special_b, random_boxes(PAIRS, generator)]).to(dtype)
    iou = box_iou_rotated(a, b, mode=mode, aligned=True)
    assert iou.dtype == dtype and iou.shape == (len(a),)
    expected = shapely_iou(a, b, mode)
    assert (expected[len(special_a) :] > 0.1).mean() > 0.1
    np.testing.assert_allclose(iou.double().numpy(), expected, atol=bound)


def test_box_iou_rotated_all_pairs_and_direction_of_the_angle():
    pytest.importorskip("shapely")
    from mmcv.ops import box_iou_rotated

    generator = torch.Generator().manual_seed(1)
    a, b = random_boxes(13, generator), random_boxes(7, generator)
    np.testing.assert_allclose(box_iou_rotated(a, b).numpy().ravel(), shapely_iou(*paired(a, b)), atol=1e-6)
    mirror = torch.tensor([1.0, 1, 1, 1, -1], dtype=torch.float64)
    expected = shapely_iou(*paired(a * mirror, b * mirror))
    np.testing.assert_allclose(box_iou_rotated(a, b, clockwise=False).numpy().ravel(), expected, atol=1e-6)
    assert box_iou_rotated(a[:0], b).shape == (0, 7)


def test_overlap_and_3d_iou_of_iou3d():
    pytest.importorskip("shapely")
    import shapely
    from mmcv.ops import boxes_iou3d, boxes_overlap_bev

    generator = torch.Generator().manual_seed(2)
    a, b = (random_boxes(9, generator), random_boxes(5, generator))
    with_height = [torch.cat([x[:, :2], x[:, :1] * 0.2, x[:, 2:4], x[:, 3:4], x[:, 4:]], 1) for x in (a, b)]
    pairs = paired(a, b)
    expected = shapely.area(shapely.intersection(polygons(pairs[0]), polygons(pairs[1])))
    np.testing.assert_allclose(boxes_overlap_bev(*with_height).numpy().ravel(), expected, atol=1e-6)
    boxes_a, boxes_b = paired(*with_height)
    top = torch.minimum(boxes_a[:, 2] + boxes_a[:, 5] / 2, boxes_b[:, 2] + boxes_b[:, 5] / 2)
    low = torch.maximum(boxes_a[:, 2] - boxes_a[:, 5] / 2, boxes_b[:, 2] - boxes_b[:, 5] / 2)
    common = expected * (top - low).clamp_min(0).numpy()
    volume = boxes_a[:, 3:6].prod(1).numpy() + boxes_b[:, 3:6].prod(1).numpy() - common
    np.testing.assert_allclose(boxes_iou3d(*with_height).numpy().ravel(), common / volume, atol=1e-6)


# ------------------------------------------------------------------ NMS


def brute_force_nms(iou: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    kept: list[int] = []
    for candidate in np.argsort(-scores, kind="stable"):
        if all(iou[earlier, candidate] <= threshold for earlier in kept):
            kept.append(int(candidate))
    return kept


def rotated_matrix(boxes: torch.Tensor) -> np.ndarray:
    return shapely_iou(*paired(boxes, boxes)).reshape(len(boxes), len(boxes))


def axis_aligned_matrix(boxes: np.ndarray, offset: float = 0) -> np.ndarray:
    matrix = np.zeros((len(boxes), len(boxes)))
    for i, a in enumerate(boxes):
        for j, b in enumerate(boxes):
            sides = [max(0, min(a[k + 2], b[k + 2]) - max(a[k], b[k]) + offset) for k in (0, 1)]
            areas = [(c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b)]
            matrix[i, j] = sides[0] * sides[1] / (sum(areas) - sides[0] * sides[1])
    return matrix


@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.7])
def test_rotated_nms_against_brute_force(threshold):
    pytest.importorskip("shapely")
    from mmcv.ops import nms_rotated
    from mmcv.ops.iou3d import nms3d
    from mmdet3d.models.layers import nms_bev

    generator = torch.Generator().manual_seed(3)
    boxes, scores = random_boxes(70, generator).float(), torch.rand(70, generator=generator)
    boxes[35:] = boxes[:35] + 0.05 * torch.randn(35, 5, generator=generator)  # near copies
    expected = brute_force_nms(rotated_matrix(boxes), scores.numpy(), threshold)
    assert 1 < len(expected) < 70
    dets, kept = nms_rotated(boxes, scores, threshold)
    assert kept.tolist() == expected
    torch.testing.assert_close(dets, torch.cat([boxes[kept], scores[kept, None]], 1))

    corners = torch.cat([boxes[:, :2] - boxes[:, 2:4] / 2, boxes[:, :2] + boxes[:, 2:4] / 2, boxes[:, 4:]], 1)
    assert nms_bev(corners, scores, threshold).tolist() == expected
    assert nms_bev(corners, scores, threshold, pre_max_size=70, post_max_size=3).tolist() == expected[:3]
    boxes7 = torch.cat([boxes[:, :2], torch.zeros(70, 1), boxes[:, 2:4], torch.ones(70, 1), boxes[:, 4:]], 1)
    assert nms3d(boxes7, scores, threshold).tolist() == expected


def test_rotated_nms_keeps_labels_apart():
    pytest.importorskip("shapely")
    from mmcv.ops import nms_rotated

    generator = torch.Generator().manual_seed(4)
    boxes, scores = random_boxes(60, generator).float(), torch.rand(60, generator=generator)
    labels = torch.randint(0, 3, (60,), generator=generator)
    matrix = rotated_matrix(boxes) * (labels[:, None] == labels[None]).numpy()
    assert nms_rotated(boxes, scores, 0.2, labels=labels)[1].tolist() == brute_force_nms(matrix, scores.numpy(), 0.2)
    mirrored = boxes * torch.tensor([1.0, 1, 1, 1, -1])
    expected = brute_force_nms(rotated_matrix(mirrored), scores.numpy(), 0.2)
    assert nms_rotated(boxes, scores, 0.2, clockwise=False)[1].tolist() == expected


@pytest.mark.parametrize("offset", [0, 1])
def test_axis_aligned_nms_against_brute_force(offset, monkeypatch):
    from mmcv.ops import nms

    from visionrnn.integrations import mmcv_boxes

    monkeypatch.setattr(mmcv_boxes, "NMS_BLOCK", 16)  # several blocks
    generator = torch.Generator().manual_seed(5)
    low = torch.rand(50, 2, generator=generator) * 10
    boxes, scores = torch.cat([low, low + 0.5 + 4 * torch.rand(50, 2, generator=generator)], 1), torch.rand(50, generator=generator)
    scores[7] = scores[30]  # a tie: the earlier one comes first
    expected = brute_force_nms(axis_aligned_matrix(boxes.numpy(), offset), scores.numpy(), 0.3)
    assert nms(boxes, scores, 0.3, offset=offset)[1].tolist() == expected
    assert nms(boxes[:0], scores[:0], 0.3)[1].tolist() == []


def test_nms_with_yaw_ignored():
    from mmcv.ops.iou3d import nms3d_normal
    from mmdet3d.models.layers import nms_normal_bev

    generator = torch.Generator().manual_seed(6)
    boxes, scores = random_boxes(50, generator), torch.rand(50, generator=generator)
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:4] / 2, boxes[:, :2] + boxes[:, 2:4] / 2], 1)
    expected = brute_force_nms(axis_aligned_matrix(corners.numpy()), scores.numpy(), 0.25)
    assert nms_normal_bev(torch.cat([corners, boxes[:, 4:]], 1), scores, 0.25).tolist() == expected
    boxes7 = torch.cat([boxes[:, :2], boxes[:, :1], boxes[:, 2:4], boxes[:, :1].abs(), boxes[:, 4:]], 1)
    assert nms3d_normal(boxes7, scores, 0.25).tolist() == expected


@pytest.mark.parametrize("rotated", [True, False])
def test_mmdet3d_multiclass_nms(rotated):
    pytest.importorskip("shapely")
    from mmdet3d.models.layers import box3d_multiclass_nms
    from mmengine import ConfigDict

    generator = torch.Generator().manual_seed(7)
    boxes, scores = random_boxes(40, generator).float(), torch.rand(40, 4, generator=generator)
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:4] / 2, boxes[:, :2] + boxes[:, 2:4] / 2, boxes[:, 4:]], 1)
    matrix = rotated_matrix(boxes) if rotated else axis_aligned_matrix(corners[:, :4].numpy())
    expected = []
    for label in range(3):
        members = (scores[:, label] > 0.3).nonzero().squeeze(1).numpy()
        kept = brute_force_nms(matrix[np.ix_(members, members)], scores[members, label].numpy(), 0.2)
        expected += [(float(scores[members[k], label]), label, int(members[k])) for k in kept]
    expected.sort(reverse=True)
    config = ConfigDict(use_rotate_nms=rotated, nms_thr=0.2)
    out_boxes, out_scores, out_labels = box3d_multiclass_nms(boxes, corners, scores, 0.3, 20, config)
    assert out_labels.tolist() == [label for _, label, _ in expected[:20]]
    assert out_scores.tolist() == [score for score, _, _ in expected[:20]]
    torch.testing.assert_close(out_boxes, boxes[[k for _, _, k in expected[:20]]])


# ------------------------------------------------------------------ points in boxes


def test_points_in_boxes_of_mmcv_and_of_mmdet3d():
    from mmcv.ops import points_in_boxes_all, points_in_boxes_cpu, points_in_boxes_part
    from mmdet3d.structures import LiDARInstance3DBoxes

    generator = torch.Generator().manual_seed(8)
    flat = random_boxes(6, generator).float()
    boxes = torch.cat([flat[:, :2], torch.full((6, 1), -1.0), flat[:, 2:4], torch.full((6, 1), 1.5), flat[:, 4:]], 1)  # bottom centre
    points = torch.rand(500, 3, generator=generator) * torch.tensor([6.0, 6.0, 4.0]) - torch.tensor([3.0, 3.0, 2.0])
    expected = np.zeros((500, 6), dtype=int)
    for j, (x, y, z, length, width, height, yaw) in enumerate(boxes.tolist()):
        dx, dy = points[:, 0].numpy() - x, points[:, 1].numpy() - y
        along, across = dx * np.cos(yaw) + dy * np.sin(yaw), dy * np.cos(yaw) - dx * np.sin(yaw)
        up = points[:, 2].numpy() - z
        expected[:, j] = (abs(along) < length / 2) & (abs(across) < width / 2) & (up >= 0) & (up <= height)
    first = np.where(expected.any(1), expected.argmax(1), -1)
    assert (expected.sum(1) > 1).any() and (first == -1).any()
    for function in (points_in_boxes_all, points_in_boxes_cpu):
        np.testing.assert_array_equal(function(points[None], boxes[None])[0].numpy(), expected)
    assert points_in_boxes_part(points[None], boxes[None])[0].tolist() == first.tolist()
    container = LiDARInstance3DBoxes(boxes)
    assert container.points_in_boxes_part(points).tolist() == first.tolist()
    np.testing.assert_array_equal(container.points_in_boxes_all(points).numpy(), expected)
    assert LiDARInstance3DBoxes(boxes[:0]).points_in_boxes_part(points).tolist() == [-1] * 500
    with pytest.raises(ValueError, match=r"expected points \[B, M, 3\]"):
        points_in_boxes_part(points[None], boxes[None, :, :6])


# ------------------------------------------------------------------ voxelisation

RANGE, SIZE = [0.0, -4.0, -1.0, 8.0, 4.0, 3.0], [1.0, 0.5, 2.0]  # grid x, y, z: 8, 16, 2


def cloud(count: int, seed: int) -> torch.Tensor:
    """float32 [count, 4], a part of it out of range, on the border, NaN or Inf."""
    values = np.random.default_rng(seed).uniform([-1, -5, -1.5, 0], [9, 5, 3.5, 1], (count, 4)).astype(np.float32)
    if count >= 20:
        values[3, 0], values[4, 1], values[5, 2] = np.nan, np.inf, -np.inf
        values[6, :3], values[7, :3] = RANGE[:3], RANGE[3:]  # the lower border is inside, the upper one is not
    return torch.from_numpy(values)


def voxel_of(point: np.ndarray) -> tuple[int, int, int] | None:
    grid = (8, 16, 2)
    index = []
    for k in range(3):
        cell = np.floor((point[k] - np.float32(RANGE[k])) / np.float32(SIZE[k]))
        if not 0 <= cell < grid[k]:
            return None
        index.append(int(cell))
    return index[2], index[1], index[0]


def test_dynamic_voxelisation():
    from mmcv.ops import Voxelization

    points = cloud(400, 9)
    coords = Voxelization(SIZE, RANGE, max_num_points=-1)(points)
    assert coords.dtype == torch.int32
    expected = [voxel_of(p) or (-1, -1, -1) for p in points.numpy()]
    assert coords.tolist() == [list(e) for e in expected]
    assert expected[6] == (0, 0, 0) and expected[7] == (-1, -1, -1) and expected[3] == (-1, -1, -1)
    assert Voxelization(SIZE, RANGE, max_num_points=-1)(points[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    ("count", "max_points", "max_voxels"), [(0, 3, 10), (1, 3, 10), (600, 3, 1000), (600, 2, 40), (600, 100, 1), (9, 1, 1000)]
)
def test_hard_voxelisation_is_first_come_first_served(count, max_points, max_voxels):
    from mmcv.ops import Voxelization
    from mmdet3d.models.data_preprocessors.voxelize import VoxelizationByGridShape

    points = cloud(count, 10)
    voxels: dict[tuple[int, int, int], list[np.ndarray]] = {}
    for point in points.numpy():
        place = voxel_of(point)
        if place is None or (place not in voxels and len(voxels) >= max_voxels):
            continue
        members = voxels.setdefault(place, [])
        if len(members) < max_points:
            members.append(point)
    for layer in (
        Voxelization(SIZE, RANGE, max_points, max_voxels),
        VoxelizationByGridShape(point_cloud_range=RANGE, max_num_points=max_points, voxel_size=SIZE, max_voxels=max_voxels),
    ):
        features, coords, counts = layer(points)
        assert coords.tolist() == [list(place) for place in voxels]
        assert counts.tolist() == [len(members) for members in voxels.values()]
        assert features.shape == (len(voxels), max_points, 4)
        for row, members in zip(features.numpy(), voxels.values(), strict=True):
            np.testing.assert_array_equal(row[: len(members)], np.stack(members))
            assert (row[len(members) :] == 0).all()


def test_hard_voxelisation_of_points_out_of_range():
    from mmcv.ops import Voxelization

    features, coords, counts = Voxelization(SIZE, RANGE, 3, 10)(torch.full((5, 4), 100.0))
    assert features.shape == (0, 3, 4) and coords.shape == (0, 3) and counts.shape == (0,)


# ------------------------------------------------------------------ scatter


@pytest.mark.parametrize("reduce_type", ["max", "mean", "sum"])
def test_dynamic_scatter_against_numpy(reduce_type):
    from mmcv.ops import dynamic_scatter

    rng = np.random.default_rng(11)
    coords = rng.integers(-1, 3, (200, 3)).astype(np.int32)
    feats = rng.integers(-4, 4, (200, 5)).astype(np.float64)  # small integers: many equal maxima
    weights = rng.normal(size=(64, 5))
    rows = sorted({tuple(c) for c in coords.tolist() if min(c) >= 0})
    expected, gradient = np.zeros((len(rows), 5)), np.zeros_like(feats)
    for m, row in enumerate(rows):
        members = [i for i, c in enumerate(coords.tolist()) if tuple(c) == row]
        expected[m] = {"max": np.max, "mean": np.mean, "sum": np.sum}[reduce_type](feats[members], axis=0)
        for channel in range(5):
            if reduce_type == "max":
                gradient[members[int(np.argmax(feats[members, channel]))], channel] = weights[m, channel]
            else:
                gradient[members, channel] = weights[m, channel] / (len(members) if reduce_type == "mean" else 1)
    leaf = torch.from_numpy(feats).requires_grad_()
    out, out_coords = dynamic_scatter(leaf, torch.from_numpy(coords), reduce_type)
    assert out_coords.dtype == torch.int32 and out_coords.tolist() == [list(row) for row in rows]
    np.testing.assert_allclose(out.detach().numpy(), expected, atol=1e-12)
    (out * torch.from_numpy(weights[: len(rows)])).sum().backward()
    np.testing.assert_allclose(leaf.grad.numpy(), gradient, atol=1e-12)


def test_dynamic_scatter_map_and_empty_input():
    from mmdet3d.models.data_preprocessors.voxelize import dynamic_scatter_3d

    coords = torch.tensor([[0, 0, 2], [-1, -1, -1], [0, 0, 1], [0, 0, 2]], dtype=torch.int32)
    feats = torch.arange(4.0)[:, None]
    out, out_coords, mapping = dynamic_scatter_3d(feats, coords, "sum", True)
    assert mapping.tolist() == [1, -1, 0, 1] and out.tolist() == [[2.0], [3.0]] and out_coords.tolist() == [[0, 0, 1], [0, 0, 2]]
    for empty_coords in (coords[:0], coords[1:2]):
        leaf = feats[: len(empty_coords)].clone().requires_grad_()
        out, out_coords = dynamic_scatter_3d(leaf, empty_coords, "max")
        assert out.shape == (0, 1) and out_coords.shape == (0, 3)
        out.sum().backward()
        assert leaf.grad.eq(0).all()


def test_dynamic_scatter_with_coordinates_too_large_for_one_key():
    from mmcv.ops import dynamic_scatter

    coords = torch.tensor([[2**30, 5, 2**30], [0, 2**30, 7], [2**30, 5, 2**30]], dtype=torch.int32)
    out, out_coords = dynamic_scatter(torch.tensor([[1.0], [2.0], [4.0]]), coords, "sum")
    assert out_coords.tolist() == [[0, 2**30, 7], [2**30, 5, 2**30]] and out.tolist() == [[2.0], [5.0]]


# ------------------------------------------------------------------ focal loss


def test_fused_focal_loss_equals_mmdets_python_form():
    from mmcv.ops import sigmoid_focal_loss
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

    generator = torch.Generator().manual_seed(12)
    logits = torch.randn(30, 3, generator=generator, dtype=torch.float64) * 4
    target = torch.randint(0, 4, (30,), generator=generator)  # 3: background
    one_hot = torch.nn.functional.one_hot(target, 4)[:, :3]
    leaves = [logits.clone().requires_grad_() for _ in range(2)]
    fused = sigmoid_focal_loss(leaves[0], target, 2.0, 0.25, None, "sum")
    python = py_sigmoid_focal_loss(leaves[1], one_hot, gamma=2.0, alpha=0.25, reduction="sum")
    torch.testing.assert_close(fused, python)
    fused.backward()
    python.backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)
