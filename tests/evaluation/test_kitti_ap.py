"""The KITTI metric in mmdet3d's loops: perfect, shifted and missing predictions, files written, two processes."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from visionrnn.datasets.kitti import Calibration, frame_paths, read_labels
from visionrnn.datasets.kitti_infos import frame_info, metainfo
from visionrnn.datasets.pickles import save_infos
from visionrnn.detections import Detections
from visionrnn.errors import DataError
from visionrnn.evaluation.kitti_command import main as score_folders

pytest.importorskip("mmdet3d")

CLASSES = ("Car", "Pedestrian", "Cyclist")
SIZES = torch.tensor([[4.0, 1.6, 1.5], [0.8, 0.6, 1.7], [1.8, 0.6, 1.7]])
FRAMES = 50
IMAGE_SIZE = (375, 1242)


def calibration() -> Calibration:
    focal = 720.0
    turned = 0.01  # the camera looks a little to the side of the sensor
    turn = np.array([[math.cos(turned), -math.sin(turned), 0], [math.sin(turned), math.cos(turned), 0], [0, 0, 1]])
    axes = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
    return Calibration(
        P2=np.array([[focal, 0, 610, 45], [0, focal, 173, 0.2], [0, 0, 1, 0.003]]),
        R0_rect=np.eye(3),
        Tr_velo_to_cam=np.column_stack([axes @ turn, [0.01, -0.07, -0.27]]),
    )


def true_boxes(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes [4, 7] (geometric centre) and labels [4] of a frame: two cars, a pedestrian and a cyclist, near and well apart."""
    generator = torch.Generator().manual_seed(index)
    labels = torch.tensor([0, 1, 2, 0])
    unit = torch.rand(4, 3, generator=generator)
    x, y = 12 + 6 * unit[:, 0], torch.tensor([-5.0, -2, 2, 5]) + unit[:, 1] - 0.5
    size = SIZES[labels]
    return torch.column_stack([x, y, size[:, 2] / 2 - 1.7, size, 6 * unit[:, 2] - 3]), labels


def write_info_file(path: Path) -> Path:
    infos = []
    for index in range(FRAMES):
        boxes, labels = true_boxes(index)
        truth = Detections(boxes.numpy(), np.ones(4), labels.numpy(), CLASSES).to_kitti(calibration(), IMAGE_SIZE)
        truth = dataclasses.replace(truth, score=None)
        infos.append(frame_info(frame_paths(path.parent, f"{index:06d}"), calibration(), IMAGE_SIZE, truth, np.full(4, 99)))
    save_infos(path, {"metainfo": metainfo(set(CLASSES)), "data_list": infos})
    return path


def sample(index: int, shift: tuple[float, float, float] = (0, 0, 0), kept: int = 4) -> dict:
    """What mmdet3d's detectors hand to a metric: boxes with their BOTTOM centre, here the true ones, moved by ``shift``."""
    from mmdet3d.structures import LiDARInstance3DBoxes

    boxes, labels = true_boxes(index)
    boxes = boxes + torch.tensor([*shift, 0.0, 0, 0, 0])
    boxes[:, 2] -= boxes[:, 5] / 2
    scores = 0.9 - torch.arange(4) / 10 - index / 1000
    found = {"bboxes_3d": LiDARInstance3DBoxes(boxes[:kept]), "scores_3d": scores[:kept], "labels_3d": labels[:kept]}
    return {"sample_idx": index, "pred_instances_3d": found}


def scores_of(metric, samples: list[dict]) -> dict[str, float]:
    metric.dataset_meta = {"classes": CLASSES}
    for start in range(0, len(samples), 7):
        metric.process({}, samples[start : start + 7])
    return metric.evaluate(len(samples))


@pytest.fixture(scope="module")
def info_file(tmp_path_factory) -> Path:
    return write_info_file(tmp_path_factory.mktemp("kitti") / "kitti_infos_val.pkl")


@pytest.fixture
def metric(info_file):
    from mmdet3d.registry import METRICS

    import visionrnn.integrations.mmdet3d.metrics  # noqa: F401  registers it

    return METRICS.build({"type": "KittiAP", "ann_file": str(info_file)})


@pytest.mark.parametrize("scope", ["mmengine", "mmdet", "mmdet3d"])
def test_found_whatever_scope_the_process_has(info_file, scope):
    """A runner of another package leaves its default scope behind, which decides where mmengine looks a name up."""
    from mmdet3d.registry import METRICS
    from mmengine.registry import DefaultScope

    from visionrnn.integrations.mmdet3d.lidar_metric import LidarAP
    from visionrnn.integrations.mmdet3d.metrics import KittiAP

    with DefaultScope.overwrite_default_scope(scope):
        for prefix in ("", "mmdet3d."):
            assert isinstance(METRICS.build({"type": f"{prefix}KittiAP", "ann_file": str(info_file)}), KittiAP)
            assert isinstance(METRICS.build({"type": f"{prefix}LidarAP", "min_overlap": 0.5}), LidarAP)


def test_perfect_predictions_score_100(metric):
    result = scores_of(metric, [sample(index) for index in range(FRAMES)])
    for name in CLASSES:
        for title in ("3D", "BEV", "image", "AOS"):
            for difficulty in ("easy", "moderate", "hard"):
                for recalls in ("R40", "R11"):
                    assert result[f"kitti/{name}_{title}_{difficulty}_{recalls}"] == pytest.approx(100, abs=1e-4)
        assert result[f"kitti/{name}_3D_moderate_R40_0-30m"] == pytest.approx(100)
        assert result[f"kitti/{name}_3D_moderate_R40_30-50m"] == 0
    assert result["kitti/mAP_3D_moderate_R40"] == pytest.approx(100)
    assert all(type(value) is float for value in result.values())


def test_runs_in_mmengines_evaluator(metric):
    from mmdet3d.structures import Det3DDataSample
    from mmengine.evaluator import Evaluator
    from mmengine.structures import InstanceData

    evaluator = Evaluator(metric)
    evaluator.dataset_meta = {"classes": CLASSES}
    for index in range(FRAMES):
        plain = sample(index)
        element = Det3DDataSample(metainfo={"sample_idx": index})
        element.pred_instances_3d = InstanceData(**plain["pred_instances_3d"])
        evaluator.process(data_samples=[element], data_batch=None)
    assert evaluator.evaluate(FRAMES)["kitti/mAP_BEV_easy_R40"] == pytest.approx(100)


def test_objects_beyond_the_range_need_not_be_found(metric, info_file):
    """The first car of each frame is more than 4 m to the right: not found, it costs recall, unless the range ends before it."""
    from mmdet3d.registry import METRICS

    whole = [sample(index) for index in range(FRAMES)]
    short = [{**s, "pred_instances_3d": {name: value[1:] for name, value in s["pred_instances_3d"].items()}} for s in whole]
    ranged = METRICS.build({"type": "KittiAP", "ann_file": str(info_file), "point_cloud_range": [0, -4, -3, 30, 30, 1]})
    assert scores_of(metric, short)["kitti/Car_3D_moderate_R40"] == pytest.approx(50, abs=2.5)
    for samples in (short, whole):
        assert scores_of(ranged, samples)["kitti/Car_3D_moderate_R40"] == pytest.approx(100)
    with pytest.raises(ValueError, match="point_cloud_range"):
        METRICS.build({"type": "KittiAP", "ann_file": str(info_file), "point_cloud_range": [0, -4]})


def test_shifted_predictions_score_less(metric):
    up = scores_of(metric, [sample(index, shift=(0, 0, 0.5)) for index in range(FRAMES)])
    assert up["kitti/Car_BEV_moderate_R40"] == pytest.approx(100)  # seen from above nothing moved
    assert up["kitti/Car_3D_moderate_R40"] == 0  # 1 of 2 m common height: overlap 0.5
    assert up["kitti/Pedestrian_3D_moderate_R40"] == pytest.approx(100)  # 1.2 of 2.2 m: above 0.5
    aside = scores_of(metric, [sample(index, shift=(0.5 * (index % 2), 0.5 * (index % 2), 0)) for index in range(FRAMES)])
    assert 20 < aside["kitti/Car_3D_moderate_R40"] < 80


def test_missing_and_invisible_predictions(metric):
    half = scores_of(metric, [sample(index, kept=4 * (index % 2)) for index in range(FRAMES)])
    assert half["kitti/Car_3D_hard_R40"] == pytest.approx(50, abs=2.5)
    behind = scores_of(metric, [sample(index, shift=(-60, 0, 0)) for index in range(FRAMES)])
    assert behind["kitti/Car_image_hard_R40"] == 0


def test_files_written_score_the_same_as_the_metric(info_file, tmp_path, capsys):
    from visionrnn.integrations.mmdet3d.metrics import KittiAP

    metric = KittiAP(str(info_file), submission_prefix=str(tmp_path / "det"), format_only=True)
    assert scores_of(metric, [sample(index, kept=2 + index % 3) for index in range(FRAMES)]) == {}
    files = sorted((tmp_path / "det").glob("*.txt"))
    assert [path.name for path in files] == [f"{index:06d}.txt" for index in range(FRAMES)]
    found, (boxes, _) = read_labels(files[2]), true_boxes(2)
    expected = calibration().boxes_lidar_to_camera(boxes.numpy())
    assert np.abs(found.boxes - expected).max() < 0.006  # two decimals are written
    assert found.name.tolist() == ["Car", "Pedestrian", "Cyclist", "Car"]
    assert score_folders([str(tmp_path / "det"), str(tmp_path / "det"), "--json", "-"]) == 0
    with pytest.raises(ValueError, match="give submission_prefix"):
        KittiAP(str(info_file), format_only=True)


def test_bad_input_is_named(metric, tmp_path):
    from mmdet3d.structures import CameraInstance3DBoxes

    from visionrnn.integrations.mmdet3d.metrics import KittiAP

    metric.dataset_meta = {"classes": CLASSES}
    with pytest.raises(DataError, match="no frame with sample_idx 77"):
        metric.process({}, [{**sample(0), "sample_idx": 77}])
    wrong = sample(0)
    wrong["pred_instances_3d"]["bboxes_3d"] = CameraInstance3DBoxes(torch.zeros(4, 7))
    with pytest.raises(DataError, match="CameraInstance3DBoxes, expected LiDARInstance3DBoxes"):
        metric.process({}, [wrong])
    metric.dataset_meta = {"classes": ("Car",)}
    with pytest.raises(DataError, match="labels_3d: 0 to 2, expected 0 to 0"):
        metric.process({}, [sample(0)])
    save_infos(tmp_path / "other.pkl", [1, 2])
    with pytest.raises(DataError, match="not an info file of version 2"):
        KittiAP(str(tmp_path / "other.pkl")).process({}, [sample(0)])


def test_two_processes_score_as_one(info_file, metric, tmp_path):
    expected = scores_of(metric, [sample(index, kept=2 + index % 3) for index in range(FRAMES - 1)])
    worker = "import sys; from test_kitti_ap import two_processes; two_processes(*sys.argv[1:])"
    command = [sys.executable, "-c", worker, str(info_file), str(tmp_path / "store")]
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    processes = [
        subprocess.Popen([*command, str(rank)], env=environment(folders), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    for process, (output, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
        found = dict(line.split("=") for line in output.splitlines() if line.startswith("kitti/"))
        assert {key: float(value) for key, value in found.items()} == pytest.approx(expected)


def environment(folders: list[str]) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")]), "OMP_NUM_THREADS": "1"}


def two_processes(info_file: str, store: str, rank: str) -> None:
    """One of two processes: scores every second frame (49 of them: the loader repeats the first) and prints what it gets."""
    from visionrnn.integrations.mmdet3d.metrics import KittiAP

    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=2)
    indices = [*range(FRAMES - 1), 0][int(rank) :: 2]
    metric = KittiAP(info_file)
    metric.dataset_meta = {"classes": CLASSES}
    metric.process({}, [sample(index, kept=2 + index % 3) for index in indices])
    for key, value in metric.evaluate(FRAMES - 1).items():
        print(f"{key}={value}")
    torch.distributed.destroy_process_group()
