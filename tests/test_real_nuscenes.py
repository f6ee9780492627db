"""The real nuScenes key-frame through LION's full nuScenes configuration, read where it lies beside the project.

As a program: ``python test_real_nuscenes.py DATA_FOLDER [CONFIG]`` prints what it measured as one line of JSON.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from visionrnn.datasets.pickles import load_infos
from visionrnn.geometry import points_in_boxes

CONFIG = "lion-mamba_8xb2-36e_nuscenes-3d-10class"
CLASSES = (  # LION's order, in which the head's class ids are meant
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
)


def read_key_frame(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points float32 [N, 5] (x, y, z, intensity, age 0 s); boxes [M, 9] by their geometric centres; labels [M] in LION's order; their
    numbers of points as annotated [M]. Objects that are none of the ten classes are left out."""
    (info_file,) = folder.glob("*.pkl")
    infos = load_infos(info_file)
    frame = infos["data_list"][0]
    points = np.fromfile(folder / frame["lidar_points"]["lidar_path"], dtype=np.float32).reshape(-1, 5)
    points[:, 4] = 0  # in the file: the laser's number
    names = {number: name for name, number in infos["metainfo"]["categories"].items()}
    rows = [row for row in frame["instances"] if row["bbox_label_3d"] >= 0]
    boxes = np.array([[*row["bbox_3d"], *row["velocity"]] for row in rows], dtype=np.float32)
    labels = np.array([CLASSES.index(names[row["bbox_label_3d"]]) for row in rows])
    return points, boxes, labels, np.array([row["num_lidar_pts"] for row in rows])


def test_heights_are_of_the_middle(shared_dir):
    """984 points lie in the boxes, of 999 that are annotated as theirs; read as heights of the bottoms, half of them would be lost."""
    points, boxes, labels, counts = read_key_frame(shared_dir / "data/nuscenes_real")
    assert len(boxes) == 68 and counts.sum() == 999 and np.isnan(boxes[:, 7]).sum() == 2
    rows = torch.from_numpy(boxes[:, :7])
    assert points_in_boxes(torch.from_numpy(points), rows).sum() == 984
    rows[:, 2] += rows[:, 5] / 2
    assert points_in_boxes(torch.from_numpy(points), rows).sum() < 500
    expected = {"car": 8, "truck": 2, "construction_vehicle": 1, "bus": 1, "barrier": 22, "bicycle": 1, "pedestrian": 30, "traffic_cone": 3}
    assert {CLASSES[label]: int((labels == label).sum()) for label in set(labels)} == expected


def test_classes_of_the_config_are_in_lions_order():
    pytest.importorskip("mmdet3d")
    from visionrnn.integrations.mmdet3d.inference import load_config

    config = load_config(CONFIG)
    assert tuple(config.metainfo["classes"]) == tuple(config.train_dataloader.dataset.metainfo["classes"]) == CLASSES
    for labels in (config.model.bbox_head.point_classes, config.model.test_cfg.nms_classes):
        assert [CLASSES[label] for label in labels] == ["pedestrian", "traffic_cone"]


def main(folder: str, config: str = CONFIG) -> dict[str, Any]:
    """Prediction, then loss and gradients, of the whole model on this frame; peak memory in MB is the process's, so far."""
    from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
    from mmengine.registry import MODELS, DefaultScope
    from mmengine.structures import InstanceData

    from visionrnn.integrations.mmdet3d.inference import load_config

    points, boxes, labels, counts = read_key_frame(Path(folder))
    options = load_config(config).model
    options.middle_encoder.drop_path = 0.0  # else whole blocks, some of which have one group only, are left without a gradient
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet3d"):
        model = MODELS.build(options)
    low, high = (torch.tensor(bounds) for bounds in ((-54, -54, -5), (54, 54, 3)))
    centres = torch.from_numpy(boxes[:, :3])
    kept = ((centres >= low) & (centres < high)).all(1) & torch.from_numpy(counts > 0)
    truth = LiDARInstance3DBoxes(torch.from_numpy(boxes)[kept], box_dim=9, origin=(0.5, 0.5, 0.5))
    data = Det3DDataSample(gt_instances_3d=InstanceData(bboxes_3d=truth, labels_3d=torch.from_numpy(labels)[kept]))
    data.set_metainfo({"box_type_3d": LiDARInstance3DBoxes})
    batch = {"inputs": {"points": [torch.from_numpy(points)]}, "data_samples": [data]}
    found: dict[str, Any] = {"objects": len(truth), "loaded_mb": peak()}
    model.voxel_encoder.register_forward_hook(lambda _, __, voxels: found.update(voxels=list(voxels.counts)))

    model.eval()
    with torch.inference_mode():
        start = time.perf_counter()
        (result,) = model(**model.data_preprocessor(batch, False), mode="predict")
        found.update(predict_s=time.perf_counter() - start, predict_mb=peak())
        (again,) = model(**model.data_preprocessor(batch, False), mode="predict")
    out, repeated = result.pred_instances_3d, again.pred_instances_3d
    found["boxes"] = list(out.bboxes_3d.tensor.shape)
    found["repeats"] = torch.equal(out.bboxes_3d.tensor, repeated.bboxes_3d.tensor) and torch.equal(out.scores_3d, repeated.scores_3d)
    found["boxes_finite"] = bool(out.bboxes_3d.tensor.isfinite().all())
    found["scores"] = [out.scores_3d.min().item(), out.scores_3d.max().item()]
    found["classes"] = sorted(set(out.labels_3d.tolist()))

    model.train()
    start = time.perf_counter()
    losses = model(**model.data_preprocessor(batch, True), mode="loss")
    middle = time.perf_counter()
    total, _ = model.parse_losses(losses)
    total.backward()
    found.update(loss_s=middle - start, backward_s=time.perf_counter() - middle, train_mb=peak())
    found["losses"] = {name: value.item() for name, value in losses.items()}
    broken = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    still = [name for name, p in model.named_parameters() if name not in broken and not p.grad.any()]
    return {**found, "without_gradient": broken, "gradient_zero": still}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_key_frame_through_the_whole_model(shared_dir):
    """Voxels, losses, gradients of every parameter, boxes, and memory, in a process of its own."""
    pytest.importorskip("mmdet3d")
    done = subprocess.run([sys.executable, __file__, shared_dir / "data/nuscenes_real"], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["voxels"] == [7782]
    assert set(found["losses"]) == {"loss_heatmap", "loss_cls", "loss_bbox", "loss_iou"}
    assert all(math.isfinite(value) and value > 0 for value in found["losses"].values())
    assert found["without_gradient"] == [] and found["gradient_zero"] == []
    assert 50 < found["boxes"][0] <= 200 and found["boxes"][1] == 9 and found["boxes_finite"] and found["repeats"]
    assert 0 <= found["scores"][0] <= found["scores"][1] <= 1 and set(found["classes"]) <= set(range(10))
    assert found["predict_mb"] < 3000 and found["train_mb"] < 10000


if __name__ == "__main__":
    import visionrnn.integrations.mmdet3d  # noqa: F401  (makes mmdet3d importable)

    print(json.dumps(main(*sys.argv[1:])))
