"""LidarAP in mmengine's terms: detections of a data set's own boxes have 100, none have 0, and what is missing is named."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet3d", reason="mmdet3d is not installed")
from lidar_files import write_lidar
from mmdet3d.registry import METRICS
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.config import Config
from mmengine.registry import init_default_scope

import visionrnn.integrations.mmdet3d  # noqa: F401  registers the metric
from visionrnn.errors import DataError
from visionrnn.integrations.mmdet3d.datasets import LidarDataset
from visionrnn.integrations.mmengine.data_root import set_data_root

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "_base_" / "datasets"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    init_default_scope("mmdet3d")
    config = Config.fromfile(CONFIGS / "nuscenes-3d-10class.py")
    set_data_root(config, write_lidar(tmp_path_factory.mktemp("nuscenes"), "nuscenes", config.class_names))
    return config


@pytest.fixture(scope="module")
def samples(config):
    options = dict(config.val_dataloader.dataset)
    options.pop("type")
    data = LidarDataset(**options)
    return data.metainfo, [data[i]["data_samples"].to_dict() for i in range(2)]


def metric(config, samples, **changes):
    built = METRICS.build({**config.val_evaluator, **changes})
    built.dataset_meta = samples[0]
    return built


def answer(samples, change=lambda boxes: boxes):
    """The samples with their own boxes as detections."""
    out = []
    for sample in copy.deepcopy(samples[1]):
        truth = sample["eval_ann_info"]
        boxes = LiDARInstance3DBoxes(change(truth["gt_bboxes_3d"].tensor.clone()), box_dim=9)
        labels = torch.from_numpy(truth["gt_labels_3d"])[: len(boxes)]
        found = {"bboxes_3d": boxes, "labels_3d": labels, "scores_3d": torch.linspace(0.9, 0.5, len(boxes))}
        out.append({**sample, "pred_instances_3d": found})
    return out


def test_own_boxes_have_100(config, samples):
    judge = metric(config, samples)
    for sample in answer(samples):
        judge.process({}, [sample])
    scores = judge.evaluate(2)
    present = [name for name in scores if name.endswith("_AP")]
    assert sorted(present) == ["lidar/pedestrian_AP", "lidar/trailer_AP", "lidar/truck_AP"]
    assert all(scores[name] == 100 for name in [*present, "lidar/mAP", "lidar/truck_AP_0-30m"])
    assert "lidar/truck_AP_50-infm" not in scores


def test_wrong_or_no_boxes_have_0(config, samples):
    for change in (lambda boxes: boxes[:0], lambda boxes: boxes + torch.tensor([0, 0, 3.0, 0, 0, 0, 0, 0, 0])):
        judge = metric(config, samples)
        judge.process({}, answer(samples, change))
        assert judge.evaluate(2)["lidar/mAP"] == 0


def test_what_is_missing_is_named(config, samples):
    judge = metric(config, samples, min_overlap=dict(car=0.5))
    judge.process({}, answer(samples))
    with pytest.raises(DataError, match=r"LidarAP\.min_overlap: nothing for truck, construction_vehicle"):
        judge.evaluate(2)
    with pytest.raises(ValueError, match=r"point_cloud_range=\[0, -4\]; expected x, y, z minima"):
        metric(config, samples, point_cloud_range=[0, -4])
    sample = answer(samples)[0]
    sample.pop("eval_ann_info")
    with pytest.raises(DataError, match="sample frame 10: no annotations"):
        metric(config, samples).process({}, [sample])
    assert np.isnan(metric(config, samples).compute_metrics([])["mAP"])  # no objects, no score
