"""Pipeline steps: objects pasted with velocities and limits of their own, objects in range, bad databases."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet3d", reason="mmdet3d is not installed")
pytest.importorskip("visionrnn.integrations.mmdet3d")  # first: makes mmdet3d importable
from mmdet3d.structures import LiDARInstance3DBoxes
from mmdet3d.structures.points import LiDARPoints

from visionrnn.datasets.pickles import save_infos
from visionrnn.errors import DataError
from visionrnn.integrations.mmdet3d.transforms import LoadPointsOfSweeps, ObjectRangeFilter3D, PasteObjects

CLASSES = ("Car", "Cyclist")


def entry(root, name, place, points, columns=7, features=5, **more):
    path = f"{name}_{place}.bin"
    np.full((points, features), 0.5, dtype=np.float32).tofile(root / path)
    box = np.array([place, 0, -1, 4, 2, 1.5, 0, 3, 1][:columns], dtype=np.float32)
    return {"name": name, "path": path, "box3d_lidar": box, "num_points_in_gt": points, **more}


@pytest.fixture
def root(tmp_path):
    entries = {
        "Car": [entry(tmp_path, "Car", 10, 6, 9, difficulty=0), entry(tmp_path, "Car", 20, 4, 9, difficulty=0)],
        "Cyclist": [entry(tmp_path, "Cyclist", 30, 4, 9), entry(tmp_path, "Cyclist", 40, 9, 9, difficulty=-1)],
    }
    save_infos(tmp_path / "db.pkl", entries)
    return tmp_path


def paste(root, **options):
    return PasteObjects(str(root), groups=dict(Car=2, Cyclist=2), info_path="db.pkl", classes=CLASSES, num_features=5, **options)


def scene(columns=9, number=0):
    boxes = torch.zeros(number, columns) + torch.tensor([-20.0, 0, -1, 4, 2, 1.5, 0, 5, 0][:columns])
    boxes[:, 0] -= 10 * torch.arange(number)
    return {
        "points": LiDARPoints(torch.full((3, 5), 60.0), 5),
        "gt_bboxes_3d": LiDARInstance3DBoxes(boxes, box_dim=columns),
        "gt_labels_3d": np.zeros(number, dtype=np.int64),
    }


def test_boxes_have_the_scenes_columns(root):
    step = paste(root, min_points=dict(Car=5, Cyclist=0))
    assert [[e["box3d_lidar"][0] for e in step.entries[name]] for name in CLASSES] == [[10], [30]]  # points of each class; difficulty
    out = step(scene(9, 1))
    boxes = out["gt_bboxes_3d"].tensor
    assert boxes.shape == (3, 9) and out["gt_labels_3d"].tolist() == [0, 0, 1]
    assert boxes[:, 7:].tolist() == [[5, 0], [3, 1], [3, 1]]
    assert step(scene(7, 1))["gt_bboxes_3d"].tensor.shape == (3, 7)
    assert step(scene(9))["gt_bboxes_3d"].tensor.shape == (2, 9)


def test_least_points_may_be_one_number(root):
    assert [len(paste(root, min_points=4).entries[name]) for name in CLASSES] == [2, 1]
    assert [len(paste(root, min_points=dict(Car=5)).entries[name]) for name in CLASSES] == [1, 1]  # nothing is asked of the others


def test_the_scenes_objects_count(root):
    step = paste(root, min_points=0, limit_whole_scene=True)
    assert sorted(step(scene(9, 1))["gt_labels_3d"].tolist()) == [0, 0, 1]
    assert sorted(step(scene(9, 2))["gt_labels_3d"].tolist()) == [0, 0, 1]


def test_values_become_what_the_frames_have(root):
    points = paste(root, min_points=0, tanh_columns=(3,))(scene())["points"].tensor
    pasted = points[points[:, 0] < 50]
    assert len(pasted) == 6 + 4 + 4
    np.testing.assert_allclose(pasted[:, 3], np.tanh(0.5))
    assert (pasted[:, 4] == 0.5).all() and sorted(set(pasted[:, 0].tolist())) == [10.5, 20.5, 30.5]


def test_bad_databases(root):
    save_infos(root / "old.pkl", {"Car": [entry(root, "Car", 10, 6, 7, difficulty=0)]})
    step = PasteObjects(str(root), groups=dict(Car=1), info_path="old.pkl", classes=CLASSES, num_features=5)
    with pytest.raises(DataError, match=r"Car_10\.bin: a box of 7 values, the frame's have 9; make the database with velocities"):
        step(scene(9))
    with pytest.raises(DataError, match=r"none\.pkl: file not found; it is the database of objects"):
        PasteObjects(str(root), groups=dict(Car=1), info_path="none.pkl", classes=CLASSES)
    save_infos(root / "bare.pkl", {"Car": [{"name": "Car"}]})
    with pytest.raises(DataError, match=r"bare\.pkl: an entry is damaged or lacks a value: KeyError\('num_points_in_gt'\)"):
        PasteObjects(str(root), groups=dict(Car=1), info_path="bare.pkl", classes=CLASSES)
    with pytest.raises(DataError, match=r"PasteObjects\.min_points: Van not among the classes Car, Cyclist"):
        paste(root, min_points=dict(Van=3))
    with pytest.warns(UserWarning, match="no object of Car with 90 points, Cyclist with 80 points; none is pasted"):
        paste(root, min_points=dict(Car=90, Cyclist=80))
    with pytest.raises(DataError, match=r"Car_10\.bin: 120 bytes is not a multiple of 16"):
        PasteObjects(str(root), groups=dict(Car=2), info_path="db.pkl", classes=CLASSES)(scene())


def test_objects_in_range():
    boxes = torch.tensor(  # bottom centres; 2 m high
        [[1.0, 1, -2, 4, 2, 2, 7.0], [1, 1, -4.1, 4, 2, 2, 0], [1, 1, 2.0, 4, 2, 2, 0], [1, 1, 2.1, 4, 2, 2, 0], [10.1, 1, 0, 4, 2, 2, 0]]
    )
    info = {"gt_bboxes_3d": LiDARInstance3DBoxes(boxes), "gt_labels_3d": np.arange(5)}
    out = ObjectRangeFilter3D([-10, -10, -3, 10, 10, 3])(info)
    assert out["gt_labels_3d"].tolist() == [0, 2]  # middles at z -1, -3.1, 3, 3.1, and one too far
    assert out["gt_bboxes_3d"].yaw.tolist() == pytest.approx([7.0 - 2 * np.pi, 0])
    nothing = {"gt_bboxes_3d": LiDARInstance3DBoxes(boxes[:0]), "gt_labels_3d": np.zeros(0, dtype=np.int64)}
    assert len(ObjectRangeFilter3D([-10, -10, -3, 10, 10, 3])(nothing)["gt_labels_3d"]) == 0


def test_sweeps_that_cannot_be_read(tmp_path):
    (tmp_path / "cut.bin").write_bytes(bytes(30))
    for name, message in (("cut.bin", "30 bytes is not a multiple of 20"), ("gone.bin", "point cloud file not found")):
        points = {"lidar_path": str(tmp_path / name), "lidar2sensor": np.eye(4).tolist()}
        info = {**scene(), "timestamp": 1.0, "lidar_sweeps": [{"timestamp": 0.5, "lidar_points": points}]}
        with pytest.raises(DataError, match=message):
            LoadPointsOfSweeps()(info)
