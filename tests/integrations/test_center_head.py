"""The centre head: targets by hand, boxes there and back, losses, predictions, weights' names and counts."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmdet3d")

import visionrnn.integrations.mmdet3d  # noqa: F401  (makes mmdet3d importable)

# isort: split
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from visionrnn.integrations.mmdet3d.heads.center import LIONCenterHead
from visionrnn.integrations.mmdet3d.heads.center_boxes import Detections, Selection, suppress
from visionrnn.integrations.mmdet3d.heads.center_targets import Peaks, assign
from visionrnn.integrations.mmdet3d.heads_common import aligned_iou_3d, counts
from visionrnn.integrations.mmdet3d.heads_common.codes import decode
from visionrnn.integrations.mmdet3d.heads_common.grid import Grid

CONFIGS = Path(__file__).resolve().parents[2] / "configs/lion"
GRID = Grid([0, -4, -2, 8, 4, 2], [0.5, 0.5, 0.25], 1)  # 16 × 16 cells of half a metre
CAR = [3.1, 0.4, -0.9, 4.0, 2.0, 1.5, 0.7]


def sample(boxes: list[list[float]], labels: list[int] | None = None) -> Det3DDataSample:
    """A sample with boxes given by their geometric centres."""
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(len(boxes), -1 if boxes else 7)
    made = Det3DDataSample()
    made.gt_instances_3d = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(tensor, tensor.shape[1], origin=(0.5, 0.5, 0.5)),
        labels_3d=torch.tensor(labels if labels is not None else [0] * len(boxes), dtype=torch.long),
    )
    made.set_metainfo({"box_type_3d": LiDARInstance3DBoxes})
    return made


def head(num_classes: int = 2, in_channels: int = 4, **options: Any) -> LIONCenterHead:
    torch.manual_seed(0)
    grid = {"point_cloud_range": GRID.point_cloud_range, "voxel_size": GRID.voxel_size}
    return LIONCenterHead(num_classes, in_channels, grid, **{"feat_channels": 8, **options})


def test_targets_by_hand():
    """x 3.1 m is 6.2 cells, y 0.4 m is (0.4 + 4) / 0.5 = 8.8 cells; 4 × 2 m are 8 × 4 cells, whose radius at overlap 0.1 is 2."""
    boxes = torch.tensor([CAR])
    targets = assign([boxes, boxes[:0]], [torch.tensor([1]), torch.zeros(0, dtype=torch.long)], 3, GRID, Peaks())
    assert targets.heat.shape == (2, 3, 16, 16) and targets.cells.tolist() == [8 * 16 + 6]
    expected = [0.2, 0.8, -0.9, math.log(4), math.log(2), math.log(1.5), math.cos(0.7), math.sin(0.7)]
    assert targets.codes[0].tolist() == pytest.approx(expected, abs=1e-5)
    assert targets.heat[0, 1, 8, 6] == 1 and targets.heat[1].eq(0).all() and targets.heat[0, [0, 2]].eq(0).all()
    assert targets.heat[0, 1, 8, 8].item() == pytest.approx(math.exp(-4 / (2 * (5 / 6) ** 2)), rel=1e-5)  # radius 2: σ is 5/6
    assert targets.heat[0, 1, 8, 9] == 0


def test_objects_at_and_beyond_the_border():
    """On the near border: first cell; on the far border: last cell, offset 1; beyond, empty or ignored (label −1): not learnt."""
    boxes = torch.tensor([CAR]).repeat(7, 1)
    boxes[:, 0] = torch.tensor([0, 8.0, 8.1, -0.1, 4, 4, 4])
    boxes[4, 3] = 0
    targets = assign([boxes], [torch.tensor([0, 0, 0, 0, 0, -1, 5])], 2, GRID, Peaks())
    assert (targets.cells % 16).tolist() == [0, 15]
    assert targets.codes[:, 0].tolist() == pytest.approx([0, 1])
    back = decode(targets.codes, torch.stack([targets.cells % 16, targets.cells // 16], 1), GRID)
    torch.testing.assert_close(back, boxes[:2])


def test_at_most_so_many_objects():
    boxes = torch.tensor([CAR, CAR, CAR])
    boxes[:, 0] = torch.tensor([1.0, 3, 5])
    targets = assign([boxes, boxes], [torch.zeros(3, dtype=torch.long)] * 2, 1, GRID, Peaks(max_objects=2))
    assert targets.cells.tolist() == [8 * 16 + 2, 8 * 16 + 6, 256 + 8 * 16 + 2, 256 + 8 * 16 + 6]


def losses(model: LIONCenterHead, samples: list[Det3DDataSample], seed: int = 1) -> dict[str, torch.Tensor]:
    feats = torch.randn(len(samples), 4, 16, 16, generator=torch.Generator().manual_seed(seed))
    return model.loss([feats], samples)


def test_losses_by_hand():
    """All maps 0: L1 of the code with its weights, twice; the overlap's target is 2 · IoU − 1 of the box decoded from 0."""
    model = head(extra=["iou"], train_cfg={"code_weights": [1, 1, 1, 1, 1, 1, 0.5, 0.5]}).eval()
    sizes = {"center": 2, "center_z": 1, "dim": 3, "rot": 2, "iou": 1, "hm": 2}
    zero = {name: torch.zeros(1, size, 16, 16) for name, size in sizes.items()}
    box = [3.25, 0.25, 0.0, 1.0, 1.0, 2.0, 0.0]  # decoded: 1 m cube at (3, 0, 0)
    truth = sample([box], [1]).gt_instances_3d
    result = model.loss_by_feat(zero, [truth])
    assert result["loss_bbox"].item() == pytest.approx(2 * (0.5 + 0.5 + math.log(2) + 0.5 * 1), rel=1e-5)
    common = 0.75 * 0.75 * 1
    assert result["loss_iou"].item() == pytest.approx(abs(2 * common / (3 - common) - 1), rel=1e-5)
    background = (1 - model._targets([truth], torch.device("cpu")).heat) ** 4
    expected = -math.log(0.5) * 0.25 * (background.sum().item() + 1)
    assert result["loss_heatmap"].item() == pytest.approx(expected, rel=1e-5)


def test_order_of_objects_does_not_matter():
    other = [6.0, -2.0, -1.0, 0.8, 0.6, 1.7, 0.1]
    first, second = (losses(head(extra=["iou"]), [sample(*order)]) for order in (([CAR, other], [0, 1]), ([other, CAR], [1, 0])))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name])


def test_samples_without_objects_and_without_any():
    """An empty sample changes no box loss; a batch without objects has finite losses and gradients for every parameter."""
    model = head(extra=["iou", "vel"])
    result = losses(model, [sample([]), sample([])])
    assert result["loss_bbox"] == 0 and result["loss_iou"] == 0 and result["loss_heatmap"] > 0
    sum(result.values()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    model.eval()
    feats = torch.randn(2, 4, 16, 16)
    both = model.loss([feats], [sample([CAR]), sample([])])
    alone = model.loss([feats[:1]], [sample([CAR])])
    torch.testing.assert_close(both["loss_bbox"], alone["loss_bbox"])
    assert both["loss_heatmap"] > alone["loss_heatmap"]


@pytest.mark.parametrize("velocity", [[], [float("nan")] * 2])
def test_unknown_velocities_are_not_learnt(velocity):
    """Boxes without velocity or with NaN in a head that predicts it: the other numbers are learnt, the velocity branch gets no gradient."""
    model = head(extra=["vel"]).eval()
    result = losses(model, [sample([[*CAR, *velocity]])])
    sum(result.values()).backward()
    assert torch.isfinite(result["loss_bbox"]) and result["loss_bbox"] > 0
    assert all(not parameter.grad.any() for parameter in model.branches["vel"].parameters())
    assert model.branches["dim"][1].weight.grad.any()
    known = losses(model, [sample([[*CAR, 3.0, -1.0]])])
    assert known["loss_bbox"] > result["loss_bbox"]


def test_velocities_are_ignored_without_their_branch():
    torch.testing.assert_close(losses(head(), [sample([CAR])]), losses(head(), [sample([[*CAR, 1.0, 2.0]])]))


def test_learns_two_boxes_and_predicts_them():
    """60 steps on one small map: the loss falls to a tenth, and both boxes are found with their classes and headings."""
    torch.manual_seed(0)
    boxes = [CAR, [6.2, -2.2, -1.1, 0.8, 0.6, 1.7, -2.4]]
    truth = sample(boxes, [1, 0])
    model = head(extra=["iou"], in_channels=8, feat_channels=16, test_cfg={"score_threshold": 0.3, "nms_threshold": [0.5, 0.5]})
    feats = torch.randn(1, 8, 16, 16)
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    history = []
    for _ in range(60):
        total = sum(model.loss([feats], [truth]).values())
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        history.append(total.item())
    assert history[-1] < history[0] / 10
    (found,) = model.predict([feats], [truth])
    order = found.labels_3d.argsort()
    assert found.labels_3d[order].tolist() == [0, 1]
    got = torch.cat([found.bboxes_3d.gravity_center, found.bboxes_3d.tensor[:, 3:]], 1)[order]
    assert aligned_iou_3d(got, torch.tensor([boxes[1], boxes[0]])).min() > 0.6
    assert (got[:, 6] - torch.tensor([-2.4, 0.7])).abs().max() < 0.2


def planted(model: LIONCenterHead, places: list[tuple[int, int, int, float]]) -> dict[str, torch.Tensor]:
    """Maps with cubes of 1 m at (class, y, x, logit of the score) and nothing elsewhere."""
    width = {"center": 2, "center_z": 1, "dim": 3, "rot": 2, "iou": 1, "vel": 2, "hm": model.num_classes}
    maps = {name: torch.zeros(1, width[name], 16, 16) for name in model.branches}
    maps["hm"] -= 20
    maps["rot"][:, 0] = 1
    for label, y, x, logit in places:
        maps["hm"][0, label, y, x] = logit
    return maps


def predict(model: LIONCenterHead, maps: dict[str, torch.Tensor]) -> InstanceData:
    return model.predict_by_feat(maps)[0]


def test_a_planted_box_is_found():
    model = head(num_classes=3, extra=["vel"])
    maps = planted(model, [(2, 5, 9, 3.0)])
    maps["center"][0, :, 5, 9] = torch.tensor([0.5, 0.25])
    maps["dim"][0, :, 5, 9] = torch.tensor([4.0, 2.0, 1.5]).log()
    maps["rot"][0, :, 5, 9] = 3 * torch.tensor([math.cos(-2.0), math.sin(-2.0)])
    maps["vel"][0, :, 5, 9] = torch.tensor([7.0, -3.0])
    found = predict(model, maps)
    assert found.labels_3d.tolist() == [2] and found.scores_3d.item() == pytest.approx(1 / (1 + math.exp(-3)))
    expected = [9.5 * 0.5, 5.25 * 0.5 - 4, -0.75, 4, 2, 1.5, -2.0, 7, -3]  # bottom centre: 0 − 1.5 / 2
    assert found.bboxes_3d.tensor[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_nothing_found():
    model = head(test_cfg={"nms_threshold": [0.5, 0.5]})
    found = predict(model, planted(model, []))
    assert found.bboxes_3d.tensor.shape == (0, 7) and len(found.scores_3d) == len(found.labels_3d) == 0
    assert predict(head(), planted(head(), [])).bboxes_3d.tensor.shape == (0, 7)


def test_limit_threshold_and_number_of_candidates():
    places = [(0, 2, 2, 3.0), (0, 2, 9, 2.0), (1, 9, 9, 1.0), (1, 14, 2, -3.0)]
    for settings, expected in (
        ({}, [2.0, 5.5, 5.5]),
        ({"score_threshold": 0.01}, [2.0, 5.5, 5.5, 2.0]),
        ({"max_candidates": 2}, [2.0, 5.5]),
        ({"limit": [2.5, -4, -2, 8, 4, 2]}, [5.5, 5.5]),
        ({"nms_post": 1}, [2.0]),
    ):
        model = head(test_cfg=settings)
        maps = planted(model, places)
        maps["center"][:] = torch.tensor([2.0, 0.0])[:, None, None]
        assert predict(model, maps).bboxes_3d.tensor[:, 0].tolist() == expected, settings


def test_suppression_by_class_and_over_all():
    """Three equal boxes, two of one class: over all one stays; by class one each; with a high threshold of class 1 all of it."""
    boxes = torch.tensor([CAR, CAR, CAR])
    boxes[2, 0] += 0.4
    found = Detections(boxes, torch.tensor([0.5, 0.9, 0.7]), torch.tensor([0, 1, 1]))
    assert suppress(found, Selection(nms_threshold=0.5)).scores.tolist() == pytest.approx([0.9])
    by_class = suppress(found, Selection(nms_threshold=[0.5, 0.5]))
    assert by_class.labels.tolist() == [1, 0] and by_class.scores.tolist() == pytest.approx([0.9, 0.5])
    assert suppress(found, Selection(nms_threshold=[0.5, 0.95])).labels.tolist() == [1, 1, 0]


def test_rectified_scores():
    """Each class has its own weight."""
    model = head(extra=["iou"], test_cfg={"rectifier": [0.5, 0.2]})
    maps = planted(model, [(0, 2, 2, 0.0), (1, 9, 9, 0.0)])
    maps["iou"] += 0.6
    found = predict(model, maps)
    assert dict(zip(found.labels_3d.tolist(), found.scores_3d.tolist(), strict=True)) == pytest.approx(
        {0: 0.5**0.5 * 0.8**0.5, 1: 0.5**0.8 * 0.8**0.2}
    )
    assert predict(head(extra=["iou"], test_cfg={"rectifier": 0.5}), maps).scores_3d.tolist() == pytest.approx([0.4**0.5] * 2)


def test_classes_keep_their_order():
    """A peak in the heat map's channel k is class k, in targets and predictions; exchanging labels exchanges channels."""
    for label in range(3):
        heat = assign([torch.tensor([CAR])], [torch.tensor([label])], 3, GRID, Peaks()).heat
        model = head(num_classes=3)
        maps = planted(model, [])
        maps["hm"] = (heat * 10) - 5
        assert predict(model, maps).labels_3d[0] == label


def test_two_processes_equal_one(monkeypatch):
    """Each process divides by its share of all objects; the mean of the processes' losses is the loss of the whole batch."""
    model = head(extra=["iou"]).eval()
    feats = torch.randn(3, 4, 16, 16)
    batch = [sample([CAR, [6.0, -2.0, -1.0, 0.8, 0.6, 1.7, 0.1]], [0, 1]), sample([]), sample([CAR])]
    for parts in ([[0, 1], [2]], [[0, 2], [1]], [[1], [1]]):
        together = [*parts[0], *parts[1]]
        whole = model.loss([feats[together]], [batch[i] for i in together])
        mean = sum(len(batch[i].gt_instances_3d) for i in together) / 2
        with monkeypatch.context() as patch:
            patch.setattr(counts, "mean_over_ranks", lambda value, device, mean=mean: mean)
            patch.setattr(counts, "get_world_size", lambda: 2)
            split = [model.loss([feats[part]], [batch[i] for i in part]) for part in parts]
        for name, value in whole.items():
            torch.testing.assert_close((split[0][name] + split[1][name]) / 2, value, msg=f"{name} of {parts}")


@pytest.mark.parametrize("dataset, classes, channels, bias, extra", [("Waymo", 3, 384, False, ["iou"]), ("ONCE", 5, 512, True, [])])
def test_names_shapes_and_counts_are_the_published_ones(shared_dir, dataset, classes, channels, bias, extra):
    stored = json.loads(gzip.decompress((shared_dir / "goldens/lion/checkpoint_keys.json.gz").read_bytes()))
    published = stored["models"][f"{dataset}/mamba"]
    model = head(classes, channels, extra=extra, conv_bias=bias, feat_channels=64)
    ours = {f"dense_head.{name}".replace(".branches.", ".heads_list.0."): list(value.shape) for name, value in model.state_dict().items()}
    assert ours == {name: shape for name, shape in published["keys"].items() if name.startswith("dense_head.")}
    assert sum(parameter.numel() for parameter in model.parameters()) == published["params_by_part"]["dense_head"]


def test_initial_values():
    model = head(feat_channels=64)
    assert model.branches["hm"][1].bias.eq(-2.19).all() and model.branches["dim"][1].bias.eq(0).all()
    deviation = model.branches["dim"][0][0].weight.std().item()
    assert deviation == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.05)


@pytest.mark.parametrize("name", ["lion-mamba_8xb2-24e_waymo-3d-3class", "lion-mamba_8xb2-80e_once-3d-5class"])
def test_published_detectors_on_a_small_part_of_their_range(name):
    """32 × 32 cells and 16 channels, a cloud without points between two others: losses, gradients and boxes are finite."""
    torch.manual_seed(0)
    model = Config.fromfile(CONFIGS / f"{name}.py").model
    encoder, half = model.voxel_encoder, 16 * model.voxel_encoder.voxel_size[0]
    small = [-half, -half, encoder.point_cloud_range[2], half, half, encoder.point_cloud_range[5]]
    encoder.update(point_cloud_range=small, feat_channels=[16, 16])
    model.middle_encoder.update(dim=16, operator={"type": "mamba", "d_state": 4})
    model.backbone.in_channels = 32
    model.bbox_head.grid.point_cloud_range = small
    model.test_cfg.score_threshold = 0.0
    with DefaultScope.overwrite_default_scope("mmdet3d"):
        detector = MODELS.build(model)
    clouds = [
        torch.rand(count, encoder.in_channels) * torch.tensor([3, 3, 1.5, *[1.0] * (encoder.in_channels - 3)]) for count in (200, 0, 90)
    ]
    samples = [sample([[1.5, 1.5, 0.6, 2.0, 1.0, 1.5, 0.4]]), sample([]), sample([[1.0, 2.0, 0.6, 0.8, 0.8, 1.7, 2.0]], [1])]
    inputs = {"points": clouds}
    losses, _ = detector.parse_losses(detector.loss(inputs, samples))
    losses.backward()
    gradients = {key: parameter.grad for key, parameter in detector.named_parameters()}
    assert all(value is not None and torch.isfinite(value).all() for value in gradients.values())
    with torch.no_grad():
        found = [result.pred_instances_3d for result in detector.eval().predict(inputs, samples)]
    assert all(0 < len(boxes.scores_3d) <= 500 * model.bbox_head.num_classes for boxes in found)
    assert all(torch.isfinite(boxes.bboxes_3d.tensor).all() and boxes.bboxes_3d.tensor.shape[1] == 7 for boxes in found)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"extra": ["speed"]}, "extra="),
        ({"train_cfg": {"weight": 1}}, r"train_cfg: unknown options \['weight'\]"),
        ({"train_cfg": {"peaks": {"radius": 1}}}, r"train_cfg.peaks: unknown options \['radius'\]"),
        ({"test_cfg": {"nms_thr": 1}}, r"test_cfg: unknown options \['nms_thr'\]"),
        ({"train_cfg": {"code_weights": [1.0] * 10}}, "expected 8 numbers"),
        ({"test_cfg": {"nms_threshold": [0.5]}}, "one per class"),
        ({"test_cfg": {"rectifier": [0.5] * 3}}, "one per class"),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(ValueError, match=message):
        head(**options)


def test_maps_of_another_size():
    with pytest.raises(ValueError, match=r"expected \(16, 16\)"):
        head()([torch.zeros(1, 4, 8, 8)])
    with pytest.raises(ValueError, match="voxel_size of 3"):
        Grid([0, 0, 0, 1, 1, 1], [1, 1])
