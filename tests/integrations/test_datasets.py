"""mmdet3d trains from prepared KITTI data: right boxes and labels, repeatable augmentation, bad files named."""

import pickle
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from kitti_files import CALIBRATION, write_kitti

from visionrnn.datasets.kitti import count_points_in_boxes, read_labels
from visionrnn.datasets.kitti_prepare import prepare_kitti
from visionrnn.datasets.pickles import load_infos, save_infos
from visionrnn.errors import DataError
from visionrnn.geometry import rotated_iou

pytest.importorskip("mmdet3d", reason="mmdet3d is not installed")
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope

import visionrnn.integrations.mmdet3d  # noqa: F401  registers the data set and its transforms
from visionrnn.integrations.mmdet3d.datasets import KittiLidarDataset
from visionrnn.integrations.mmdet3d.transforms import LoadPointsChecked, PasteObjects
from visionrnn.integrations.mmengine.data_root import set_data_root

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "_base_" / "datasets"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Seven frames for training, the second without objects, and two for validation."""
    path = write_kitti(tmp_path_factory.mktemp("kitti"), train=7, val=2, empty=(1,))
    prepare_kitti(path, workers=1, progress=False)
    init_default_scope("mmdet3d")
    return path


def config_of(root, name="kitti"):
    config = Config.fromfile(CONFIGS / f"{name}-3d-3class.py")
    set_data_root(config, root)
    return config


def build(config, split="train", **changes):
    options = {**config[f"{split}_dataloader"]["dataset"], **changes}
    options.pop("type")
    return KittiLidarDataset(**options)


@pytest.fixture(scope="module")
def train_set(root):
    return build(config_of(root))


def points_and_boxes(sample):
    truth = sample["data_samples"].gt_instances_3d
    return sample["inputs"]["points"], truth.bboxes_3d.tensor, truth.labels_3d


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(points_and_boxes(a), points_and_boxes(b), strict=True))


def test_boxes_and_labels_are_those_of_the_files(root):
    plain = [step for step in config_of(root).train_pipeline if step["type"].startswith(("Load", "Pack"))]
    data = build(config_of(root), pipeline=plain)
    points, boxes, labels = points_and_boxes(data[2])
    truth = CALIBRATION.boxes_camera_to_lidar(read_labels(root / "training/label_2/000002.txt").boxes[:3])
    truth[:, 2] -= truth[:, 5] / 2  # mmdet3d's boxes have the bottom centre
    np.testing.assert_allclose(boxes[:, :6], truth[:, :6], atol=1e-4)
    np.testing.assert_allclose(np.cos(boxes[:, 6] - truth[:, 6]), 1, atol=1e-6)
    assert labels.tolist() == [0, 1, 2]  # Car, Pedestrian, Cyclist, though the file counts otherwise
    stored = np.fromfile(root / "training/velodyne_reduced/000002.bin", dtype=np.float32).reshape(-1, 4)
    np.testing.assert_array_equal(points, stored)
    other = build(config_of(root), pipeline=plain, metainfo=dict(classes=["Cyclist", "Car"]))
    assert points_and_boxes(other[2])[2].tolist() == [1, 0]


@pytest.mark.parametrize("name", ["kitti", "synthetic"])
def test_configs_build_and_find_the_frames(root, name):
    config = config_of(root, name)
    train, val = build(config), build(config, "val")
    assert (len(train), len(val)) == (7, 2)
    assert [val[i]["data_samples"].sample_idx for i in range(2)] == [7, 8]  # numbers of the frames, as the metric looks them up
    infos = load_infos(config.val_evaluator.ann_file)
    assert [info["sample_idx"] for info in infos["data_list"]] == [7, 8]
    assert config.test_evaluator.ann_file == str(root / "kitti_infos_val.pkl")


def test_augmentation_depends_on_seed_epoch_and_sample_alone(root, train_set):
    train_set.set_seed(3)
    train_set.set_epoch(5)
    first = [train_set[i] for i in range(len(train_set))]
    np.random.seed(99)
    again = [train_set[i] for i in reversed(range(len(train_set)))][::-1]
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    anew = build(config_of(root), seed=3)  # as a resumed run has it
    anew.set_epoch(5)
    assert all(same(a, anew[i]) for i, a in enumerate(first))
    train_set.set_epoch(6)
    assert not any(same(a, train_set[i]) for i, a in enumerate(first))
    train_set.set_epoch(5)
    train_set.set_seed(4)
    assert not any(same(a, train_set[i]) for i, a in enumerate(first))


def test_other_generators_go_on_undisturbed(train_set):
    def draw():
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    draw()
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    draw()
    train_set[0]
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_do_not_change_samples(train_set, persistent):
    train_set.set_seed(0)
    loader = torch.utils.data.DataLoader(
        train_set, 2, shuffle=True, num_workers=2, collate_fn=pseudo_collate, persistent_workers=persistent, generator=torch.Generator()
    )
    for epoch in (0, 1):
        train_set.set_epoch(epoch)
        clouds = [points for batch in loader for points in batch["inputs"]["points"]]
        expected = [train_set[i]["inputs"]["points"] for i in range(len(train_set))]
        assert sorted(float(c.double().sum()) for c in clouds) == sorted(float(c.double().sum()) for c in expected)


def test_times_repeats_frames_with_other_augmentation(root):
    data = build(config_of(root), times=3)
    assert len(data) == 21
    assert data.get_data_info(9)["lidar_path"].endswith("000002.bin")
    assert not same(data[2], data[9])


def paste(root, **options):
    return PasteObjects(str(root), groups=dict(Car=2, Pedestrian=3, Cyclist=1), **options)


def scene(root, data, index):
    steps = [step for step in data.pipeline.transforms if type(step).__name__.startswith("Load")]
    info = data.get_data_info(index)
    for step in steps:
        info = step(info)
    return info


def test_pasted_objects(root, train_set):
    step, counts = paste(root), []
    for seed in range(12):
        info = scene(root, train_set, seed % 7)
        before = len(info["gt_labels_3d"])
        random.seed(seed)
        info = step(info)
        boxes = torch.cat([info["gt_bboxes_3d"].gravity_center, info["gt_bboxes_3d"].tensor[:, 3:]], dim=1).double()
        assert len(boxes) == len(info["gt_labels_3d"])
        overlap = rotated_iou(boxes[:, [0, 1, 3, 4, 6]], boxes[:, [0, 1, 3, 4, 6]])
        assert (overlap - torch.eye(len(boxes)))[before:].abs().max() < 1e-5 if len(boxes) > before else True
        inside = count_points_in_boxes(info["points"].tensor.numpy(), boxes.numpy() + [0, 0, 0, 1e-3, 1e-3, 1e-3, 0])
        assert (inside[before:] >= 30).all()  # each object came with its points
        counts.append(len(boxes) - before)
    assert max(counts) > 0 and len(set(counts)) > 1
    random.seed(4)
    one = step(scene(root, train_set, 0))["points"].tensor
    for seed in (8, 4):  # nothing is remembered from call to call
        random.seed(seed)
        other = step(scene(root, train_set, 0))["points"].tensor
    assert torch.equal(one, other)


def test_scene_limit(root, train_set, monkeypatch):
    monkeypatch.setattr("visionrnn.integrations.mmdet3d.transforms.rotated_iou", lambda a, b: torch.zeros(len(a), len(b)))  # all fit
    labels = scene(root, train_set, 0)["gt_labels_3d"].tolist()
    assert labels == [0, 1, 2]
    for limit, expected in ((False, [0, 0, 1, 1, 1, 2]), (True, [0, 1, 1])):
        out = paste(root, limit_whole_scene=limit)(scene(root, train_set, 0))
        assert out["gt_labels_3d"].tolist() == labels + expected


def test_points_of_the_scene_make_room(root, train_set, monkeypatch):
    step = PasteObjects(str(root), groups=dict(Car=1))
    info = scene(root, train_set, 1)  # no objects
    step.entries["Car"] = step.entries["Car"][:1]
    entry = step.entries["Car"][0]
    x, y, z = entry["box3d_lidar"][:3]
    info["points"].tensor[:5] = torch.tensor([x, y, z + 0.5, 0.77])
    cloud = step(info)["points"].tensor
    assert not (cloud[:, 3] == 0.77).any()
    cut = np.fromfile(root / entry["path"], dtype=np.float32).reshape(-1, 4)
    np.testing.assert_allclose(cloud[: len(cut), :3], cut[:, :3] + entry["box3d_lidar"][:3], atol=1e-6)
    step.disabled = True  # as mmdet3d's DisableObjectSampleHook does for the last epochs
    assert len(step(scene(root, train_set, 0))["gt_labels_3d"]) == 3


def test_frames_without_objects_or_points(root, train_set, tmp_path):
    train_set.set_epoch(0)
    assert len(points_and_boxes(train_set[1])[1]) > 0  # the frame without objects is replaced by another
    plain = [step for step in config_of(root).train_pipeline if step["type"] != "PasteObjects"]
    data = build(config_of(root), pipeline=plain, filter_empty_gt=False)
    points, boxes, labels = points_and_boxes(data[1])
    assert len(points) > 0 and boxes.shape == (0, 7) and labels.shape == (0,) and labels.dtype == torch.int64
    (tmp_path / "000001.bin").write_bytes(b"")  # nothing in the camera's view
    (tmp_path / "000000.bin").write_bytes((root / "training/velodyne_reduced/000000.bin").read_bytes())
    data = build(config_of(root), pipeline=plain, filter_empty_gt=False, data_prefix=dict(pts=str(tmp_path)))
    batch = pseudo_collate([data[0], data[1]])
    assert [tuple(points.shape[1:]) for points in batch["inputs"]["points"]] == [(4,), (4,)] and len(batch["inputs"]["points"][1]) == 0
    with_paste = build(config_of(root), filter_empty_gt=False, data_prefix=dict(pts=str(tmp_path)))
    assert len(points_and_boxes(with_paste[1])[0]) > 0  # only what was pasted


def test_no_objects_at_all(root):
    data = build(config_of(root), metainfo=dict(classes=["Tram"]), pipeline=[], max_refetch=3)
    message = f"{root / 'kitti_infos_train.pkl'}: no frame with an object of Tram in 4 draws; check the classes and the range"
    with pytest.raises(DataError, match=re.escape(message)):
        data[0]


def test_bad_files(root, tmp_path):
    with pytest.raises(DataError, match=re.escape(f"{root / 'none.pkl'}: file not found; make it with `visionrnn create-data kitti")):
        build(config_of(root), ann_file="none.pkl")
    with pytest.raises(DataError, match=r"metainfo\.classes: Bus unknown; expected of Pedestrian, Cyclist, Car"):
        build(config_of(root), metainfo=dict(classes=["Bus"]))
    (tmp_path / "harm.pkl").write_bytes(pickle.dumps({"metainfo": {}, "data_list": [print]}))
    with pytest.raises(DataError, match=re.escape("refused or damaged pickle (it names builtins.print)")):
        build(config_of(root), ann_file=str(tmp_path / "harm.pkl"))
    save_infos(tmp_path / "old.pkl", [{"image": {}}])
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'old.pkl'}: no metainfo and data_list; expected info version 2")):
        build(config_of(root), ann_file=str(tmp_path / "old.pkl"))
    save_infos(tmp_path / "empty.pkl", {"metainfo": {}, "data_list": []})
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'empty.pkl'}: no frames; expected at least one")):
        build(config_of(root), ann_file=str(tmp_path / "empty.pkl"))
    with pytest.raises(DataError, match=re.escape("PasteObjects.groups: Van not among the classes Car, Pedestrian, Cyclist")):
        PasteObjects(str(root), groups=dict(Van=1))
    with pytest.raises(DataError, match=r"kitti_dbinfos_train\.pkl: file not found"):
        PasteObjects(str(tmp_path), groups=dict(Car=1))
    with pytest.warns(UserWarning, match="no object of Cyclist with 1000 points; none is pasted"):
        assert PasteObjects(str(root), groups=dict(Cyclist=1), min_points=1000)._choose(np.zeros((0, 7)), np.zeros(0)) == []
    load = LoadPointsChecked()
    (tmp_path / "cut.bin").write_bytes(bytes(25))
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'cut.bin'}: 25 bytes is not a multiple of 16")):
        load(dict(lidar_points=dict(lidar_path=str(tmp_path / "cut.bin"))))
    with pytest.raises(DataError, match=r"gone\.bin: point cloud file not found"):
        load(dict(lidar_points=dict(lidar_path=str(tmp_path / "gone.bin"))))


def test_set_data_root():
    config = Config(
        dict(
            data_root="data/x/",
            train_dataloader=dict(dataset=dict(type="RepeatDataset", dataset=dict(data_root="data/x/", other="data/xy/z"))),
            val_evaluator=[dict(ann_file="data/x/v.pkl"), dict(paths=("data/x/a", dict(p="data/x/b")))],
        )
    )
    set_data_root(config, "/new/place/")
    assert config.data_root == "/new/place"
    assert config.train_dataloader.dataset.dataset == dict(data_root="/new/place", other="data/xy/z")
    assert config.val_evaluator[0].ann_file == "/new/place/v.pkl" and config.val_evaluator[1].paths[1]["p"] == "/new/place/b"
    with pytest.raises(DataError, match="config: no data loader has a data set with data_root"):
        set_data_root(Config(dict(data_root="a")), "b")
