"""Waymo, nuScenes, ONCE and Argoverse 2 through their configs' pipelines, on frames made up for it: boxes, labels, points, velocities."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet3d", reason="mmdet3d is not installed")
from lidar_files import COLUMNS, KEY_TIME, OBJECTS, PASTED, SPEED, cloud, write_lidar
from mmengine.config import Config
from mmengine.registry import init_default_scope

import visionrnn.integrations.mmdet3d  # noqa: F401  registers the data set and its transforms
from visionrnn.datasets.kitti import count_points_in_boxes
from visionrnn.datasets.pickles import load_infos, save_infos
from visionrnn.errors import DataError
from visionrnn.integrations.mmdet3d.datasets import LidarDataset
from visionrnn.integrations.mmengine.data_root import set_data_root

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "_base_" / "datasets"
NAMES = {"waymo": "waymo-3d-3class", "nuscenes": "nuscenes-3d-10class", "once": "once-3d-5class", "argoverse2": "argoverse2-3d-26class"}


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    init_default_scope("mmdet3d")
    found = {}
    for data, name in NAMES.items():
        config = Config.fromfile(CONFIGS / f"{name}.py")
        root = write_lidar(tmp_path_factory.mktemp(data), data, config.class_names)
        set_data_root(config, root)
        found[data] = config
    return found


def build(config, split="train", **changes):
    options = {**copy.deepcopy(config[f"{split}_dataloader"]["dataset"]), **changes}
    options.pop("type")
    return LidarDataset(**options)


def plain(config, split="train", **changes):
    """The data set without augmentation."""
    steps = [step for step in config.train_pipeline if step["type"].startswith(("Load", "Pack"))]
    return build(config, split, pipeline=steps, **changes)


def parts(sample):
    truth = sample["data_samples"].gt_instances_3d
    return sample["inputs"]["points"], truth.bboxes_3d, truth.labels_3d


def geometric(boxes):
    return torch.cat([boxes.gravity_center, boxes.tensor[:, 3:7]], 1).double().numpy()


def inside(points, boxes):
    return count_points_in_boxes(points.numpy(), geometric(boxes) + [0, 0, 0, 1e-3, 1e-3, 1e-3, 0])


@pytest.mark.parametrize("data", NAMES)
def test_boxes_are_where_the_points_are(configs, data):
    config = configs[data]
    sample = plain(config)[1]
    points, boxes, labels = parts(sample)
    _, expected, names = cloud(data, 1)
    kept = [i for i, name in enumerate(names) if name in config.class_names]
    np.testing.assert_allclose(geometric(boxes)[: len(kept)], expected[kept], atol=1e-5)
    assert labels.tolist()[: len(kept)] == [config.class_names.index(names[i]) for i in kept]
    unseen = 1 if data == "once" else 0  # the object without points is left out where the recipe does so
    assert len(boxes) == len(labels) == len(kept) + unseen
    counts = inside(points, boxes).tolist()
    assert counts[: len(kept)] == [12] * len(kept) and counts[len(kept) :] == [0] * unseen
    assert boxes.tensor.shape[1] == (9 if data == "nuscenes" else 7)
    assert sample["data_samples"].sample_idx == "frame 1"


@pytest.mark.parametrize("data", NAMES)
def test_training_samples(configs, data):
    config = configs[data]
    dataset = build(config)
    low, high = np.array(config.point_cloud_range[:3]), np.array(config.point_cloud_range[3:])
    pasted = []
    for epoch in range(4):
        dataset.set_epoch(epoch)
        for i in range(2):
            sample = dataset[i]
            points, boxes, labels = parts(sample)
            assert points.shape[1] == min(COLUMNS[data], 5) and len(points) > 20
            assert ((points[:, :3].numpy() > low) & (points[:, :3].numpy() < high)).all()
            assert ((geometric(boxes)[:, :3] >= low) & (geometric(boxes)[:, :3] <= high)).all() and (boxes.yaw.abs() <= np.pi).all()
            assert boxes.tensor.shape[1] == (9 if data == "nuscenes" else 7)
            new = labels == config.class_names.index(PASTED[data])
            pasted.append(int(new.sum()))
            assert (inside(points, boxes)[new.numpy()] >= 8).all()
    assert max(pasted) == 1  # the database's other object has too few points
    assert all(torch.equal(a, b) for a, b in zip(dataset[1]["inputs"]["points"], dataset[1]["inputs"]["points"], strict=True))


@pytest.mark.parametrize("data", NAMES)
def test_testing_samples(configs, data):
    config = configs[data]
    dataset = build(config, "val")
    assert len(dataset) == 2
    sample = dataset[0]
    points, truth = sample["inputs"]["points"], sample["data_samples"].eval_ann_info
    assert sample["data_samples"].sample_idx == "frame 10"
    stored, expected, names = cloud(data, 10)
    low, high = np.array(config.point_cloud_range[:3]), np.array(config.point_cloud_range[3:])
    frame = stored[((stored[:, :3] > low) & (stored[:, :3] < high)).all(axis=1)]
    np.testing.assert_array_equal(points[: len(frame), :3], frame[:, :3])
    kept = [i for i, name in enumerate(names) if name in config.class_names]
    np.testing.assert_allclose(geometric(truth["gt_bboxes_3d"])[: len(kept)], expected[kept], atol=1e-5)
    assert "images" not in dataset.get_data_info(0) and "instances" not in dataset.get_data_info(0)


def test_waymo_values_are_tanh(configs):
    stored = cloud("waymo", 1)[0]
    points = parts(plain(configs["waymo"])[1])[0]
    np.testing.assert_allclose(points[:, 3:], np.tanh(stored[:, 3:5]), rtol=1e-6)
    dataset = build(configs["waymo"])
    found = []
    for epoch in range(4):
        dataset.set_epoch(epoch)
        points, boxes, labels = parts(dataset[1])
        new = torch.from_numpy(geometric(boxes[labels == 2]))
        if len(new):
            near = ((points[:, :2] - new[0, :2]).norm(dim=1) < 0.5) & (points[:, 2] > new[0, 2])
            found += points[near, 3:].flatten().tolist()
    assert found and np.allclose(found, np.tanh(1.0))  # the database has 1.0 there


def test_nuscenes_sweeps(configs):
    dataset = plain(configs["nuscenes"])
    stored = cloud("nuscenes", 1)[0]
    points = parts(dataset[1])[0].numpy()
    np.testing.assert_array_equal(points[: len(stored), :4], stored[:, :4])
    assert (points[: len(stored), 4] == 0).all()
    rest = points[len(stored) :]
    np.testing.assert_allclose(rest[:, :4], np.tile([10, 0, -1, 7], (9, 1)), atol=1e-5)  # the other point was on the roof
    np.testing.assert_allclose(rest[:, 4], [0.05, 0.1, *[0.15] * 7], atol=1e-4)  # three sweeps, the oldest repeated
    alone, stored = parts(dataset[0])[0], cloud("nuscenes", 0)[0]  # no sweeps: the frame itself, without what is above the sensor
    near = (np.abs(stored[:, :2]) < 1).all(axis=1).sum()
    assert near and len(alone) == 10 * len(stored) - 9 * near and (alone[:, 4] == 0).all()


def test_sweeps_of_a_turning_vehicle(configs, tmp_path):
    """A sweep from another place and heading: points come to where they were seen, by the matrix's own definition."""
    from mmdet3d.structures.points import LiDARPoints

    from visionrnn.integrations.mmdet3d.transforms import LoadPointsOfSweeps

    rng = np.random.default_rng(0)
    pose, yaw = np.eye(4), 0.5
    pose[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    pose[:3, 3] = [4, -1, 0.2]
    seen = rng.uniform(5, 40, (6, 3))
    in_sweep = (pose @ np.column_stack([seen, np.ones(6)]).T).T[:, :3]
    np.column_stack([in_sweep, np.zeros((6, 2))]).astype(np.float32).tofile(tmp_path / "s.bin")
    sweep = {"timestamp": KEY_TIME - 0.5, "lidar_points": {"lidar_path": str(tmp_path / "s.bin"), "lidar2sensor": pose.tolist()}}
    info = {"points": LiDARPoints(torch.zeros(1, 5), 5), "timestamp": KEY_TIME, "lidar_sweeps": [sweep] * 3}
    out = LoadPointsOfSweeps(sweeps_num=1)(info)["points"].tensor
    np.testing.assert_allclose(out[1:, :3], seen, atol=1e-5)
    assert out[1:, 4].tolist() == [0.5] * 6


def test_velocities_turn_with_the_boxes(configs):
    """Everything moves along its heading, so it must do so however a sample is flipped, turned and scaled."""
    dataset = build(configs["nuscenes"])
    flips, unknown = set(), 0
    for epoch in range(8):
        dataset.set_epoch(epoch)
        sample = dataset[1]
        _, boxes, _ = parts(sample)
        meta = sample["data_samples"].metainfo
        flips.add((meta["pcd_horizontal_flip"], meta["pcd_vertical_flip"]))
        known = ~boxes.tensor[:, 7].isnan()
        unknown += int((~known).sum())
        velocity = boxes.tensor[known, 7:]
        heading = torch.stack([boxes.yaw.cos(), boxes.yaw.sin()], 1)[known]
        np.testing.assert_allclose(velocity, heading * SPEED * meta["pcd_scale_factor"], atol=1e-4)
    assert len(flips) == 4 and unknown == 8  # the trailer's velocity is not known, and stays so


def test_classes_and_frames_can_be_chosen(configs):
    config = configs["waymo"]
    dataset = plain(config, metainfo=dict(classes=["Sign", "Car"]))
    assert parts(dataset[0])[2].tolist() == [1, 0]
    assert dataset.metainfo["classes"] == ("Sign", "Car")
    one = plain(config, load_interval=2, times=3)
    assert len(one) == 3 and one.get_data_info(2)["sample_idx"] == "frame 0"
    assert len(parts(plain(config, min_lidar_points=0)[0])[2]) == 3  # the object without points too


def test_bad_files_and_options(configs, tmp_path):
    waymo, nuscenes = configs["waymo"], configs["nuscenes"]
    with pytest.raises(ValueError, match="box_origin='top'; expected 'bottom' or 'gravity'"):
        build(waymo, box_origin="top")
    with pytest.raises(ValueError, match="times=0; expected at least 1"):
        build(waymo, times=0)
    with pytest.raises(DataError, match=r"metainfo\.classes: Bus unknown; expected of Car, Pedestrian, Cyclist, Sign"):
        build(waymo, metainfo=dict(classes=["Bus"]))
    with pytest.raises(DataError, match=re.escape("none.pkl: file not found; it is made by mmdet3d's create_data")):
        build(waymo, ann_file="none.pkl")
    content = load_infos(Path(nuscenes.data_root) / "nuscenes_infos_train.pkl")
    content["data_list"][1]["instances"][0].pop("velocity")
    save_infos(tmp_path / "without.pkl", content)
    with pytest.raises(DataError, match=r"without\.pkl: frame frame 1: an instance is damaged or lacks a value: KeyError\('velocity'\)"):
        build(nuscenes, ann_file=str(tmp_path / "without.pkl"))
    save_infos(tmp_path / "nameless.pkl", {"metainfo": {}, "data_list": content["data_list"]})
    with pytest.raises(DataError, match=r"nameless\.pkl: metainfo has no 'categories'"):
        build(nuscenes, ann_file=str(tmp_path / "nameless.pkl"))


def test_real_key_frame(configs, shared_dir):
    """65 of the 68 objects have points; 984 of the 999 points annotated as theirs lie in the boxes; two velocities are not known."""
    config = configs["nuscenes"]
    (infos,) = (shared_dir / "data/nuscenes_real").glob("*.pkl")
    dataset = plain(config, data_root=str(infos.parent), ann_file=infos.name, data_prefix=dict(pts="", sweeps=""))
    points, boxes, labels = parts(dataset[0])
    assert len(points) == 272_414 and int(inside(points[:34_688], boxes).sum()) == 984
    assert np.bincount(labels, minlength=10).tolist() == [8, 2, 1, 1, 0, 22, 0, 1, 27, 3]
    assert int(boxes.tensor[:, 7].isnan().sum()) == 2


@pytest.mark.parametrize("data", NAMES)
def test_objects_lie_apart(data):
    """What the tests above take for granted: no object of the made-up frames is in the way of the one to be pasted."""
    for row in OBJECTS[data]:
        assert abs(row[1] + 15) > 5 or abs(row[2] - 15) > 5
