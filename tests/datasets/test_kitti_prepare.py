"""Preparation of the raw KITTI layout: what is written, that it repeats exactly, resumes, and refuses bad files all at once."""

import os
import pickle
import re
import shutil

import numpy as np
import pytest
from kitti_files import BOXES, CALIBRATION, IMAGE_SIZE, write_kitti

from visionrnn.datasets import kitti_prepare
from visionrnn.datasets.kitti import count_points_in_boxes, points_in_image, read_labels
from visionrnn.datasets.kitti_prepare import prepare_kitti
from visionrnn.datasets.pickles import load_infos, save_infos
from visionrnn.errors import DataError


def read_bin(path):
    return np.fromfile(path, dtype=np.float32).reshape(-1, 4)


def outputs(root):
    """Every prepared file and its bytes."""
    files = [path for path in root.rglob("*") if path.is_file() and ".kitti_prepare" not in path.parts]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_what_is_written(tmp_path):
    root = write_kitti(tmp_path, train=3, val=2, empty=(1,))
    result = prepare_kitti(root, workers=1, progress=False)
    assert result.frames == {"train": 3, "val": 2, "trainval": 5}
    assert result.objects == {"Car": 4, "Pedestrian": 4, "Cyclist": 4}
    assert result.database == {"Pedestrian": 2, "Cyclist": 2, "Car": 2}
    assert "train 3, val 2, trainval 5" in str(result) and "NaN" not in str(result)

    infos = load_infos(root / "kitti_infos_trainval.pkl")
    assert infos["metainfo"]["categories"] == {
        **{name: i for i, name in enumerate(("Pedestrian", "Cyclist", "Car", "Van", "Truck", "Person_sitting", "Tram", "Misc"))},
        "DontCare": -1,
    }
    assert [info["sample_idx"] for info in infos["data_list"]] == [0, 1, 2, 3, 4]
    for name, frames in (("train", [0, 1, 2]), ("val", [3, 4])):
        assert load_infos(root / f"kitti_infos_{name}.pkl")["data_list"] == [infos["data_list"][i] for i in frames]

    info = infos["data_list"][2]
    assert info["lidar_points"]["lidar_path"] == "000002.bin" and info["images"]["CAM2"]["img_path"] == "000002.png"
    assert (info["images"]["CAM2"]["height"], info["images"]["CAM2"]["width"]) == IMAGE_SIZE
    np.testing.assert_allclose(info["images"]["CAM2"]["lidar2cam"], CALIBRATION.lidar2cam, rtol=1e-10, atol=1e-10)
    labels = read_labels(root / "training/label_2/000002.txt")
    boxes = CALIBRATION.boxes_camera_to_lidar(labels.boxes)
    points = read_bin(root / "training/velodyne/000002.bin")
    reduced = read_bin(root / "training/velodyne_reduced/000002.bin")
    np.testing.assert_array_equal(reduced, points[points_in_image(points, CALIBRATION, IMAGE_SIZE)])
    assert 0 < len(reduced) < len(points)
    counts = count_points_in_boxes(reduced, boxes)
    assert [i["num_lidar_pts"] for i in info["instances"]] == [*counts[:3].tolist(), -1]
    assert [i["bbox_label_3d"] for i in info["instances"]] == [2, 0, 1, -1]
    assert [i["index"] for i in info["instances"]] == [0, 1, 2, -1]
    assert info["instances"][0]["bbox_3d"] == labels.boxes[0].tolist()
    middle = CALIBRATION.lidar_to_image(boxes[:1, :3])
    np.testing.assert_allclose(info["instances"][0]["center_2d"], middle[0][0], atol=0.6)  # the LiDAR's up is not quite the camera's
    assert len(infos["data_list"][1]["instances"]) == 1  # DontCare alone

    database = load_infos(root / "kitti_dbinfos_train.pkl")
    entry = database["Cyclist"][1]
    assert entry["path"] == "kitti_gt_database/000002_Cyclist_2.bin" and entry["gt_idx"] == 2 and entry["image_idx"] == 2
    cut = read_bin(root / entry["path"])
    assert len(cut) == entry["num_points_in_gt"] == counts[2] > 30
    bottom = boxes[2, :3] - [0, 0, boxes[2, 5] / 2]
    np.testing.assert_allclose(entry["box3d_lidar"], [*bottom, *boxes[2, 3:]], rtol=1e-6)
    assert (np.abs(cut[:, :2]) < 1).all() and (cut[:, 2] > -0.01).all() and (cut[:, 2] < BOXES[2, 5] + 0.01).all()
    assert sorted(e["group_id"] for entries in database.values() for e in entries) == list(range(6))
    # plain pickle of the files, as mmdet3d reads them, gives the same
    with (root / "kitti_infos_train.pkl").open("rb") as file:
        assert pickle.load(file) == load_infos(root / "kitti_infos_train.pkl")


def test_workers_do_not_change_the_result(tmp_path):
    a = write_kitti(tmp_path / "a", train=7, val=3)
    b = write_kitti(tmp_path / "b", train=7, val=3)
    prepare_kitti(a, workers=1, progress=False)
    prepare_kitti(b, workers=3, progress=False)
    assert outputs(a) == outputs(b)


def test_resume(tmp_path, monkeypatch):
    root = write_kitti(tmp_path, train=4, val=1)
    prepare = kitti_prepare._prepare_frame

    def killed(root, image_size, job):
        if job[1] == "000003":
            raise KeyboardInterrupt
        return prepare(root, image_size, job)

    monkeypatch.setattr(kitti_prepare, "_prepare_frame", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare_kitti(root, workers=1, progress=False)
    monkeypatch.undo()
    assert not (root / "kitti_infos_train.pkl").exists()
    assert prepare_kitti(root, workers=1, progress=False).skipped == 3
    whole = outputs(root)
    assert prepare_kitti(root, workers=1, progress=False).skipped == 5

    (root / "training/velodyne_reduced/000000.bin").write_bytes(b"cut off")  # damaged output
    next((root / "kitti_gt_database").glob("000001_Car*")).unlink()  # lost output
    (root / ".kitti_prepare/training/000002.pkl").write_bytes(b"\x80\x04half")  # damaged record
    os.utime(root / "training/label_2/000003.txt", ns=(1, 1))  # input written anew
    assert prepare_kitti(root, workers=1, progress=False).skipped == 1
    assert outputs(root) == whole
    assert not list(root.rglob("*.part"))


def test_all_problems_at_once(tmp_path):
    root = write_kitti(tmp_path, train=5, val=1)
    training = root / "training"
    (training / "velodyne/000000.bin").write_bytes(b"")
    truncated = training / "velodyne/000001.bin"
    truncated.write_bytes(truncated.read_bytes()[:-3])
    (training / "calib/000002.txt").unlink()
    (training / "label_2/000003.txt").write_text("Car 1 2 3\n")
    (training / "image_2/000004.png").unlink()
    (training / "velodyne/000005.bin").unlink()
    with pytest.raises(DataError) as caught:
        prepare_kitti(root, workers=1, progress=False)
    assert str(caught.value).startswith(f"{root}: 6 problem(s) found, nothing was prepared:\n- ")
    expected = [
        f"{training / 'velodyne/000000.bin'}: no points; expected at least one",
        f"{truncated}: {truncated.stat().st_size} bytes is not a multiple of 16 (4 float32 numbers a point); the file is truncated",
        f"{training / 'calib/000002.txt'}: calibration file not found; expected the lines P2, R0_rect, Tr_velo_to_cam of the frame",
        f"{training / 'label_2/000003.txt'}, line 1: 4 columns, expected 15",
        f"{training / 'image_2/000004.png'}: image not found; expected the frame's .png or .jpg",
        f"{training / 'velodyne/000005.bin'}: point cloud file not found",
    ]
    assert len(caught.value.problems) == 6
    for problem, start in zip(caught.value.problems, expected, strict=True):
        assert problem.startswith(start)
    assert not (training / "velodyne_reduced").exists()


def test_without_images(tmp_path):
    root = write_kitti(tmp_path, train=2, val=1)
    prepare_kitti(root, workers=1, progress=False)
    with_images = outputs(root)
    shutil.rmtree(root / "training/image_2")
    with pytest.raises(DataError) as caught:
        prepare_kitti(root, workers=1, progress=False)
    assert caught.value.problems == [
        f"{root / 'training/image_2'}: folder not found (3 images); KITTI labels only what the camera sees, so the image size is needed. "
        "For LiDAR-only data give it: --image-size HEIGHT WIDTH (375 1242 for KITTI's camera)"
    ]
    prepare_kitti(root, workers=1, progress=False, image_size=IMAGE_SIZE)
    same = outputs(root)
    for name, content in same.items():
        assert content == with_images[name] or name.startswith("kitti_infos"), name
    camera = load_infos(root / "kitti_infos_val.pkl")["data_list"][0]["images"]["CAM2"]
    assert "img_path" not in camera and (camera["height"], camera["width"]) == IMAGE_SIZE


def test_missing_split_and_folder(tmp_path):
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'no'}: folder not found; expected the KITTI layout")):
        prepare_kitti(tmp_path / "no")
    root = write_kitti(tmp_path / "data", train=1, val=1)
    (root / "ImageSets/val.txt").unlink()
    (root / "ImageSets/test.txt").write_text("000000\n")
    with pytest.raises(DataError) as caught:
        prepare_kitti(root, progress=False)
    assert caught.value.problems == [
        f"{root / 'ImageSets/val.txt'}: split file not found; expected one frame name a line, e.g. 000008, for the split 'val'",
        f"{root / 'testing'}: folder not found, but ImageSets/test.txt is there; add the folder or remove that file",
    ]


def test_test_split_and_bad_points(tmp_path):
    root = write_kitti(tmp_path, train=1, val=1)
    shutil.copytree(root / "training", root / "testing")
    shutil.rmtree(root / "testing/label_2")
    (root / "ImageSets/test.txt").write_text("000001\n")
    points = read_bin(root / "testing/velodyne/000001.bin")
    points[5, 2] = np.nan
    points.tofile(root / "testing/velodyne/000001.bin")
    result = prepare_kitti(root, workers=1, progress=False)
    assert result.dropped_points == 1 and "warning:  1 points had NaN or infinite values and were dropped" in str(result)
    assert "instances" not in load_infos(root / "kitti_infos_test.pkl")["data_list"][0]
    assert np.isfinite(read_bin(root / "testing/velodyne_reduced/000001.bin")).all()


def test_real_frame(tmp_path, shared_dir):
    shutil.copytree(shared_dir / "data" / "kitti_real", tmp_path / "kitti", copy_function=shutil.copyfile)
    root = tmp_path / "kitti"
    result = prepare_kitti(root, workers=1, progress=False)
    assert (result.points, result.reduced_points) == (17238, 17238)
    info = load_infos(root / "kitti_infos_train.pkl")["data_list"][0]
    assert [i["num_lidar_pts"] for i in info["instances"] if i["bbox_label"] >= 0] == [1325, 1900, 881, 659, 55, 162]
    cars = load_infos(root / "kitti_dbinfos_train.pkl")["Car"]
    assert [entry["num_points_in_gt"] for entry in cars] == [1325, 1900, 881, 659, 55, 162]
    assert [len(read_bin(root / entry["path"])) for entry in cars] == [1325, 1900, 881, 659, 55, 162]


class Harmful:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_pickles_hold_plain_values_only(tmp_path):
    value = {"a": np.arange(3.0), "b": [1, "x", None, (2.5, True)], "c": np.float32(2), "d": np.array(["Car"]), "e": {1, 2}, "f": b"\xff"}
    for protocol in range(2, 6):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, protocol=protocol))
        read = load_infos(tmp_path / "a.pkl")
        np.testing.assert_array_equal(read["a"], value["a"])
        assert {k: read[k] for k in "bcef"} == {k: value[k] for k in "bcef"} and read["d"].tolist() == ["Car"]
    save_infos(tmp_path / "b.pkl", [{"x": Harmful()}])
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'b.pkl'}: refused or damaged pickle (it names {os.name}.system)")):
        load_infos(tmp_path / "b.pkl")
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(value)[:-9])
    with pytest.raises(DataError, match="refused or damaged pickle"):
        load_infos(tmp_path / "c.pkl")
    with pytest.raises(DataError, match="file not found; make it with `visionrnn create-data kitti --root"):
        load_infos(tmp_path / "none.pkl")
