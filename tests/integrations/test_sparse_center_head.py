"""Sparse centre head: targets on cases worked by hand, losses, boxes, and frames without cells or objects."""

import math
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("mmdet3d")
pytest.importorskip("visionrnn.integrations.mmdet3d")  # first: makes mmdet3d importable
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from visionrnn.integrations.mmdet3d.heads.sparse_center import LIONSparseCenterHead
from visionrnn.integrations.mmdet3d.heads_common.codes import decode, encode
from visionrnn.integrations.mmdet3d.heads_common.grid import Grid
from visionrnn.integrations.mmdet3d.sparse_center_targets import batch_targets, cell_targets, places
from visionrnn.serialization import Voxels

RANGE = (-8.0, -4.0, -3.0, 8.0, 4.0, 1.0)
PLACE = {"point_cloud_range": RANGE, "voxel_size": (0.5, 0.5, 4.0)}  # 32 × 16 cells
GROUPS = [[2], [0, 3], [1]]  # neither in order nor contiguous
GRID = Grid(**PLACE)


def head(norm: dict | None = None, **options) -> LIONSparseCenterHead:
    torch.manual_seed(0)
    return LIONSparseCenterHead(8, GROUPS, PLACE, norm=norm, test_cfg={"limit": RANGE, **options})


def voxels(counts: list[int], seed: int = 0) -> Voxels:
    """That many distinct cells in each sample."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for sample, count in enumerate(counts):
        cell = torch.randperm(512, generator=generator)[:count].sort().values
        rows.append(torch.stack([torch.full_like(cell, sample), torch.zeros_like(cell), cell // 32, cell % 32], dim=1))
    coords = torch.cat(rows)
    return Voxels.from_coords(torch.randn(len(coords), 8, generator=generator), coords, (1, 16, 32), len(counts))


def sample(boxes: list[list[float]], labels: list[int]) -> SimpleNamespace:
    """Ground truth from boxes with geometric centres."""
    tensor = LiDARInstance3DBoxes(torch.tensor(boxes).reshape(-1, 7), origin=(0.5, 0.5, 0.5))
    return SimpleNamespace(gt_instances_3d=SimpleNamespace(bboxes_3d=tensor, labels_3d=torch.tensor(labels, dtype=torch.long)))


def test_places_in_cells():
    boxes = torch.tensor([[0.3, 1.0, -1.0, 4.0, 2.0, 1.5, 0.5], [99.0, -99.0, 0.0, 1.0, 1.0, 1.0, 0.0]])
    assert torch.allclose(places(boxes, GRID), torch.tensor([[16.6, 10.0], [31.5, 0.0]]))


def test_heat_map_by_hand():
    """Object's cell (10, 5) is empty; (11, 5) is nearest, at squared distance 1; radius 2, so σ = 5/6 and the peak ends at d² = 8."""
    cells = torch.tensor([[0, 0], [11, 5], [12, 5], [12, 7], [13, 5]])
    heat, nearest = cell_targets(cells, torch.tensor([[10, 5]]), torch.tensor([2]), torch.tensor([1]), 3)
    falls = [math.exp(-(squared - 1) / (2 * (5 / 6) ** 2)) for squared in (4, 8)]
    assert torch.allclose(heat[:, 1], torch.tensor([0.0, 1.0, *falls, 0.0]))
    assert heat[1, 1] == 1 and not heat[:, [0, 2]].any() and nearest.tolist() == [1]


def test_peaks_overlap_by_the_larger_and_ties_are_both_peaks():
    cells = torch.tensor([[4, 5], [6, 5], [9, 5]])
    heat, nearest = cell_targets(cells, torch.tensor([[5, 5], [9, 5]]), torch.tensor([3, 9]), torch.tensor([0, 0]), 1)
    assert heat[:, 0].tolist() == [1, 1, 1] and nearest.tolist() == [0, 2]


def test_an_object_far_from_all_cells_makes_no_peak():
    heat, nearest = cell_targets(torch.tensor([[0, 0]]), torch.tensor([[3, 0]]), torch.tensor([2]), torch.tensor([0]), 1)
    assert not heat.any() and nearest.tolist() == [0]


def test_many_objects_equal_one_at_a_time():
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(0, 100, (200, 2), generator=generator)
    centres, radii = torch.randint(0, 100, (150, 2), generator=generator), torch.randint(2, 9, (150,), generator=generator)
    labels = torch.randint(0, 4, (150,), generator=generator)
    heat, nearest = cell_targets(cells, centres, radii, labels, 4)
    single = [cell_targets(cells, centres[i : i + 1], radii[i : i + 1], labels[i : i + 1], 4) for i in range(150)]
    assert torch.equal(heat, torch.stack([part for part, _ in single]).amax(0))
    assert torch.equal(nearest, torch.cat([row for _, row in single]))


def test_codes_come_back_and_labels_stay():
    boxes = torch.tensor([[0.3, 1.0, -1.0, 4.0, 2.0, 1.5, 3.0], [-7.9, -3.9, 0.0, 0.7, 0.6, 1.7, -2.0]])
    cells = torch.tensor([[16, 10], [3, 3], [0, 1], [17, 10]])
    labels = torch.tensor([2, 0])
    before = labels.clone(), boxes.clone()
    found = batch_targets(GRID, cells, [1, 0, 3], [boxes, boxes, boxes], [labels] * 3, 4)
    assert torch.equal(labels, before[0]) and torch.equal(boxes, before[1])
    assert found.rows.tolist() == [0, 0, 3, 2] and found.labels.tolist() == [2, 0, 2, 0]  # the sample without cells teaches nothing
    assert torch.allclose(decode(found.codes, cells[found.rows], GRID), torch.cat([boxes, boxes]), atol=1e-5)
    assert torch.allclose(found.codes[0], torch.tensor([0.6, 0.0, -1.0, math.log(4), math.log(2), math.log(1.5), math.cos(3), math.sin(3)]))


def test_boxes_that_teach_nothing_are_left_out():
    boxes = torch.tensor([[0.0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1, 0]])
    found = batch_targets(GRID, torch.tensor([[16, 8]]), [1], [boxes], [torch.tensor([0, -1, 3])], 4)
    assert found.labels.tolist() == [3] and found.heat.tolist() == [[0, 0, 0, 1]]


def test_planted_boxes_are_found_with_their_labels():
    module, given = head(), voxels([40, 30])
    labels = [3, 1]
    boxes = torch.tensor([[1.2, -1.1, -1.0, 4.0, 1.9, 1.5, 2.5], [-5.0, 2.0, -0.8, 0.8, 0.6, 1.7, -0.4]])
    codes = torch.zeros(70, 8)
    heat = torch.full((70, 4), -9.0)
    cells = given.coords[:, [3, 2]]
    for row, box, label in zip((7, 50), boxes, labels, strict=True):
        codes[row] = encode(box[None], GRID.cells(box[None, :2]) - cells[row])
        heat[row, label] = 3.0
    parts = dict(zip(("center", "center_z", "dim", "rot"), codes.split([2, 1, 3, 2], dim=1), strict=True))
    results = module.predict_by_feat([{**parts, "heatmap": heat[:, group]} for group in GROUPS], given)
    for result, box, label in zip(results, boxes, labels, strict=True):
        assert result.labels_3d.tolist() == [label] and result.scores_3d.tolist() == [pytest.approx(1 / (1 + math.exp(-3)))]
        assert torch.allclose(result.bboxes_3d.gravity_center[0], box[:3], atol=1e-5)
        assert result.bboxes_3d.tensor[0, 2] == pytest.approx(float(box[2] - box[5] / 2))  # mmdet3d keeps the bottom centre
        assert torch.allclose(result.bboxes_3d.tensor[0, 3:], box[3:], atol=1e-5)


def test_suppression_within_a_group_only_and_limits():
    module, given = head(), voxels([6])
    codes = torch.zeros(6, 8)
    codes[:, :2] = torch.tensor([16.0, 8.0]) - given.coords[:, [3, 2]]  # all boxes at (0, 0)
    codes[:, 6] = 1
    codes[5, 2] = 5.0  # above the limit
    parts = dict(zip(("center", "center_z", "dim", "rot"), codes.split([2, 1, 3, 2], dim=1), strict=True))
    heat = torch.tensor([[0.0, -9, 1, 2], [-9, 1, -9, -9], [3, -9, 2, -9], [-9, -9, -9, -9], [-9, -9, -9, -9], [9, 9, 9, 9]])
    result = module.predict_by_feat([{**parts, "heatmap": heat[:, group]} for group in GROUPS], given)[0]
    assert result.labels_3d.tolist() == [2, 0, 1]
    assert torch.allclose(result.scores_3d, torch.tensor([2.0, 3.0, 1.0]).sigmoid())


def test_overfitting_finds_the_boxes():
    module = head({"momentum": 0.2}, score_thr=0.3)  # running statistics settle in few steps
    given = voxels([150, 120])
    samples = [
        sample([[1.0, -1.0, -1.0, 4.0, 1.8, 1.5, 0.3], [-5.0, 2.0, -0.8, 0.8, 0.6, 1.7, 2.0]], [0, 2]),
        sample([[4.0, 1.0, -1.2, 4.4, 1.7, 1.4, -1.0]], [3]),
    ]
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    history = []
    for _ in range(40):
        losses = module.loss(given, samples)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(total.item())
    assert history[-1] < 0.15 * history[0]
    assert all(parameter.grad is not None for parameter in module.parameters())
    for result, truth in zip(module.eval().predict(given, samples), samples, strict=True):
        for box, label in zip(truth.gt_instances_3d.bboxes_3d.gravity_center, truth.gt_instances_3d.labels_3d, strict=True):
            same = result.labels_3d == label
            assert same.any() and (result.bboxes_3d.gravity_center[same] - box).norm(dim=1).min() < 0.3


@pytest.mark.parametrize("counts", [[0, 0], [5, 0], [0, 5], [1, 0]])
@pytest.mark.parametrize("train", [True, False])
def test_frames_without_cells_or_objects(counts, train):
    module, given = head().train(train), voxels(counts)
    nothing, car = sample([], []), sample([[1.0, -1.0, -1.0, 4.0, 1.8, 1.5, 0.3]], [0])
    for samples in ([nothing, nothing], [car, nothing]):
        losses = module.loss(given, samples)
        assert all(bool(value.isfinite()) for value in losses.values())
        sum(losses.values()).backward()
        assert all(parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in module.parameters())
        taught = car in samples and counts[0] > 0
        assert bool(losses["group1.loss_bbox"] > 0) == taught
    results = module.predict(given, [nothing, nothing])
    assert len(results) == 2
    for count, result in zip(counts, results, strict=True):
        assert result.bboxes_3d.tensor.shape[1] == 7 and (count or not len(result.scores_3d))


def test_samples_do_not_disturb_each_other():
    module, both = head(score_thr=0.0).eval(), voxels([20, 30])
    second = Voxels.from_coords(both.features[20:], both.coords[20:] - torch.tensor([1, 0, 0, 0]), (1, 16, 32), 1)
    together, alone = module.predict(both, [None, None])[1], module.predict(second, [None])[0]
    assert torch.equal(together.labels_3d, alone.labels_3d)
    assert torch.allclose(together.bboxes_3d.tensor, alone.bboxes_3d.tensor, atol=1e-5)


def test_candidates_alone_give_the_boxes_of_all_cells():
    module, given = head(score_thr=0.08, candidates=40).eval(), voxels([150, 0, 300])
    for one, other in zip(module.predict(given, [None] * 3), module.predict_by_feat(module(given), given), strict=True):
        assert torch.equal(one.labels_3d, other.labels_3d) and torch.equal(one.scores_3d, other.scores_3d)
        assert torch.allclose(one.bboxes_3d.tensor, other.bboxes_3d.tensor, atol=1e-4)
    assert len(one.labels_3d) > 20


def test_whole_sparse_detector_trains_and_predicts():
    """Points → voxels → sparse LION → head, without any dense map; the second of three frames is empty."""
    place = {"point_cloud_range": [-8, -4, -4, 8, 4, 4], "voxel_size": [0.5, 0.5, 0.25]}
    config = ConfigDict(
        type="PointVoxelNet",
        data_preprocessor=dict(type="Det3DDataPreprocessor"),
        voxel_encoder=dict(type="PointVFE", in_channels=4, feat_channels=[8, 8], **place),
        middle_encoder=dict(
            type="SparseLIONEncoder",
            dim=8,
            operator=dict(type="mamba", d_state=2),
            stages=[dict(window=[4, 4, 32 >> i], group_size=64) for i in range(4)],
            bev_stages=[dict(window=[5, 5, 1], group_size=32)],
        ),
        bbox_head=dict(type="LIONSparseCenterHead", in_channels=8, groups=GROUPS, grid=place),
        test_cfg=dict(limit=RANGE),
    )
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet3d"):
        model = MODELS.build(config)
    span, low = torch.tensor([16.0, 8, 8, 1]), torch.tensor([-8.0, -4, -4, 0])
    points = [torch.rand(count, 4) * span + low for count in (200, 0, 120)]
    samples = []
    for boxes, labels in (([[1.0, -1.0, -1.0, 4.0, 1.8, 1.5, 0.3]], [0]), ([], []), ([[4.0, 1.0, -1.2, 0.8, 0.6, 1.7, 0.0]], [2])):
        truth = sample(boxes, labels).gt_instances_3d
        data_sample = Det3DDataSample()
        data_sample.gt_instances_3d = InstanceData(bboxes_3d=truth.bboxes_3d, labels_3d=truth.labels_3d)
        samples.append(data_sample)
    losses = model.loss({"points": points}, samples)
    assert len(losses) == 2 * len(GROUPS) and all(bool(value.isfinite()) for value in losses.values())
    sum(losses.values()).backward()
    assert all(parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in model.parameters())
    found = model.eval().predict({"points": points}, samples)
    assert len(found) == 3 and not len(found[1].pred_instances_3d.scores_3d)


def test_wrong_options_and_grids():
    with pytest.raises(ValueError, match="each label 0"):
        LIONSparseCenterHead(8, [[0], [0, 1]], PLACE)
    with pytest.raises(ValueError, match="code_weights"):
        LIONSparseCenterHead(8, GROUPS, PLACE, code_weights=[1.0] * 10)
    with pytest.raises(ValueError, match=r"test_cfg: unknown options \['nms'\]"):
        head(nms=0.1)
    wrong = Voxels.from_coords(torch.zeros(1, 8), torch.zeros(1, 4, dtype=torch.long), (2, 16, 32), 1)
    with pytest.raises(ValueError, match=r"spatial_shape \(2, 16, 32\)"):
        head()(wrong)
