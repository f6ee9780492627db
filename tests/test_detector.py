"""Detector: points in, boxes out, with the test pipeline's preprocessing, on good and bad input."""

import json
import sys
import warnings

import numpy as np
import pytest
import torch
from detector_config import CLASSES, CONFIG, RANGE, STATISTICS, cloud, write_detector

from visionrnn.datasets.kitti import Calibration, read_calibration, read_labels, write_labels
from visionrnn.detections import Detections, image_boxes, read_detections
from visionrnn.errors import CheckpointError, DataError, MissingPackageError


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    pytest.importorskip("mmengine")
    return write_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def detector(files):
    from visionrnn import Detector

    return Detector(*files)


def warned(call, *args, **kwargs):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call(*args, **kwargs)
    return result, [str(warning.message) for warning in caught]


def test_finds_boxes_best_first_without_warning(detector):
    found, messages = warned(detector, cloud())
    assert messages == []
    assert 0 < len(found) <= 20 and found.classes == CLASSES
    assert found.boxes.shape == (len(found), 7) and found.boxes.dtype == np.float32
    assert (np.diff(found.scores) <= 0).all() and (np.abs(found.boxes[:, 6]) <= np.pi).all()
    assert found.names == [CLASSES[label] for label in found.labels]
    assert 0 < found.latency < 60


def test_equals_mmdet3d_reading_the_file_itself(detector, files, tmp_path):
    """The same boxes as the config's test pipeline gives for the cloud in a file, test-time wrapper and all."""
    from mmdet3d.registry import TRANSFORMS
    from mmdet3d.structures import get_box_type
    from mmengine.config import Config
    from mmengine.dataset import Compose, pseudo_collate

    points = cloud()
    points.tofile(tmp_path / "cloud.bin")
    pipeline = Compose([TRANSFORMS.build(step) for step in Config.fromfile(files[0]).test_pipeline])
    box_type, box_mode = get_box_type("LiDAR")
    packed = pipeline({"lidar_points": {"lidar_path": str(tmp_path / "cloud.bin")}, "box_type_3d": box_type, "box_mode_3d": box_mode})
    inputs = {"points": [packed["inputs"]["points"][0]]} if isinstance(packed["inputs"]["points"], list) else None
    batch = pseudo_collate([packed]) if inputs is None else {"inputs": inputs, "data_samples": [packed["data_samples"]]}
    with torch.no_grad():
        expected = detector._model.model.test_step(batch)[0].pred_instances_3d
    found = detector(points)
    order = np.argsort(-expected.scores_3d.numpy(), kind="stable")
    np.testing.assert_array_equal(found.scores, expected.scores_3d.numpy()[order])
    np.testing.assert_array_equal(found.boxes[:, :6], torch.cat([expected.bboxes_3d.gravity_center, expected.bboxes_3d.dims], 1)[order])
    np.testing.assert_array_equal(found.labels, expected.labels_3d[order])


def test_takes_tensors_and_files(detector, tmp_path):
    points = cloud()
    expected = detector(points)
    points.tofile(tmp_path / "cloud.bin")
    np.save(tmp_path / "cloud.npy", points)
    np.column_stack([points, points[:, 0]]).astype(np.float32).tofile(tmp_path / "five.bin")
    for source in (torch.from_numpy(points), points.astype(np.float64), tmp_path / "cloud.bin", str(tmp_path / "cloud.npy")):
        np.testing.assert_array_equal(detector(source).boxes, expected.boxes)
    np.testing.assert_array_equal(detector(tmp_path / "five.bin", columns=5).boxes, expected.boxes)
    assert detector(tmp_path / "cloud.bin").source == str(tmp_path / "cloud.bin")


def test_leaves_the_points_alone(detector):
    points = cloud()
    before = points.copy()
    detector(points)
    np.testing.assert_array_equal(points, before)


@pytest.mark.parametrize("points", [np.zeros((0, 4), np.float32), np.zeros((0,)), []])
def test_empty_cloud_has_no_boxes(detector, points):
    found, messages = warned(detector, points)
    assert messages == ["points: no points, so there are no boxes"]
    assert len(found) == 0 and found.boxes.shape == (0, 7) and json.loads(found.to_json())["boxes"] == []


def test_one_point_gives_a_result(detector):
    found, _ = warned(detector, cloud()[:1])
    assert np.isfinite(found.boxes).all()


def test_points_out_of_range_give_no_boxes_and_say_so(detector):
    found, messages = warned(detector, cloud() + np.float32([1000, 0, 0, 0]))
    assert len(found) == 0
    assert any("no point is in the model's range" in text and "unit (metres)" in text and "x 0 … 25.6" in text for text in messages)


def test_points_not_finite_are_dropped(detector):
    points = cloud()
    dirty = np.insert(points, [5, 100], [[np.nan, 0, 0, 0], [1, 2, np.inf, 0]], axis=0)
    found, messages = warned(detector, dirty)
    np.testing.assert_array_equal(found.boxes, detector(points).boxes)
    assert messages == ["points: 2 of 3002 points have NaN or infinite values and were dropped"]
    assert len(warned(detector, np.full((3, 4), np.nan))[0]) == 0


@pytest.mark.parametrize("shape", [(10, 3), (10, 5), (10,), (2, 10, 4)])
def test_wrong_columns_say_what_is_expected(detector, shape):
    with pytest.raises(DataError, match=r"points: shape .* but the model expects \[N, 4\]: x, y, z, intensity"):
        detector(np.ones(shape, np.float32))
    with pytest.raises(DataError, match="expected real numbers"):
        detector(np.array([["a"] * 4]))


def test_bad_files_are_named(detector, tmp_path):
    (tmp_path / "cut.bin").write_bytes(cloud().tobytes()[:-3])
    with pytest.raises(DataError, match=r"cut\.bin: .* not a multiple of 16"):
        detector(tmp_path / "cut.bin")
    with pytest.raises(DataError, match=r"absent\.bin: point cloud file not found"):
        detector(tmp_path / "absent.bin")
    with pytest.raises(DataError, match="expected a point cloud in"):
        detector(tmp_path / "cloud.las")


def test_z_offset_is_undone_on_the_boxes(detector, files):
    from visionrnn import Detector

    points = cloud()
    lifted = points + np.float32([0, 0, 1.5, 0])
    shifted = Detector(*files, z_offset=-1.5)
    expected, found = detector(points), shifted(lifted)
    np.testing.assert_allclose(found.boxes, expected.boxes + np.float32([0, 0, 1.5, 0, 0, 0, 0]), atol=1e-4)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    messages = warned(detector, lifted)[1]
    assert len(messages) == 1 and "--z-offset -1." in messages[0]
    assert warned(shifted, lifted)[1] == []


def test_intensity_scale_mends_another_range(detector, files):
    from visionrnn import Detector

    bright = cloud() * np.float32([1, 1, 1, 255])
    messages = warned(detector, bright)[1]
    assert len(messages) == 1 and "--intensity-scale" in messages[0]
    mended = Detector(*files, intensity_scale=1 / 255)
    found, messages = warned(mended, bright)
    assert messages == []
    np.testing.assert_allclose(found.boxes, detector(cloud()).boxes, atol=1e-4)


def test_calibration_crops_to_the_camera(detector):
    narrow = Calibration(
        P2=np.array([[100.0, 0, 50, 0], [0, 100, 50, 0], [0, 0, 1, 0]]),
        R0_rect=np.eye(3),
        Tr_velo_to_cam=np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]]),
    )
    points = cloud()
    seen = (np.abs(points[:, 1]) < points[:, 0] * 0.5) & (np.abs(points[:, 2]) < points[:, 0] * 0.5)
    found = detector(points, calibration=narrow, image_shape=(100, 100))
    np.testing.assert_array_equal(found.boxes, detector(points[seen]).boxes)
    assert not np.array_equal(found.boxes, detector(points).boxes)
    behind, messages = warned(detector, points * np.float32([-1, 1, 1, 1]), calibration=narrow, image_shape=(100, 100))
    assert len(behind) == 0 and "none of the 3000 points is in the camera's image" in messages[0]


def test_score_threshold(files, detector):
    from visionrnn import Detector

    every = detector(cloud())
    threshold = float(np.median(every.scores))
    found = Detector(*files, score_threshold=threshold)(cloud())
    assert len(found) == (every.scores >= threshold).sum() < len(every)
    assert len(every.above(0.99)) == 0


def test_checkpoint_of_another_model_names_the_keys(files, tmp_path):
    from visionrnn import Detector

    config, checkpoint = files
    content = torch.load(checkpoint, weights_only=True)
    state = content["state_dict"]
    state["backbone.blocks.9.weight"] = state.pop("backbone.blocks.0.0.weight")
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth: .*another model.*backbone\.blocks\.0\.0\.weight.*backbone\.blocks\.9\.weight"):
        Detector(config, tmp_path / "other.pth")
    (tmp_path / "broken.pth").write_bytes(checkpoint.read_bytes()[:500])
    for name in ("broken.pth", "absent.pth"):
        with pytest.raises(CheckpointError, match=name):
            Detector(config, tmp_path / name)


def test_boxes_that_are_not_finite_are_left_out(files, tmp_path):
    from visionrnn import Detector

    content = torch.load(files[1], weights_only=True)
    content["state_dict"]["bbox_head.conv_reg.bias"][2::14] = float("nan")  # the heights of half the anchors
    torch.save(content, tmp_path / "diverged.pth")
    found, messages = warned(Detector(files[0], tmp_path / "diverged.pth"), cloud())
    assert np.isfinite(found.boxes).all() and any("its training diverged" in text for text in messages)


def test_bare_and_wrapped_weights_load(files, tmp_path, detector):
    from visionrnn import Detector

    config, checkpoint = files
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    for name, saved in (("bare.pth", state), ("wrapped.pth", {"state_dict": {f"module.{key}": value for key, value in state.items()}})):
        torch.save(saved, tmp_path / name)
        loaded = Detector(config, tmp_path / name)
        assert loaded.classes == CLASSES
        np.testing.assert_array_equal(loaded(cloud()).boxes, detector(cloud()).boxes)


def test_classes_in_another_order_are_the_checkpoints(files, tmp_path):
    from visionrnn import Detector

    config, checkpoint = files
    content = torch.load(checkpoint, weights_only=True)
    content["meta"]["classes"] = ["Pedestrian", "Cyclist", "Car"]
    torch.save(content, tmp_path / "order.pth")
    loaded, messages = warned(Detector, config, tmp_path / "order.pth")
    assert loaded.classes == ("Pedestrian", "Cyclist", "Car") and "the checkpoint's are used" in messages[0]
    content["meta"]["classes"] = ["Car"]
    torch.save(content, tmp_path / "order.pth")
    with pytest.raises(CheckpointError, match="trained for the classes Car, the config has"):
        Detector(config, tmp_path / "order.pth")


def test_bad_config_and_device_are_named(files, tmp_path):
    from visionrnn import Detector

    with pytest.raises(DataError, match="there is no such file"):
        Detector(tmp_path / "absent.py", files[1])
    (tmp_path / "broken.py").write_text("model = dict(")
    with pytest.raises(DataError, match=r"broken\.py: the config cannot be read"):
        Detector(tmp_path / "broken.py", files[1])
    (tmp_path / "typo.py").write_text(CONFIG.replace("layer_nums", "layer_numbers"))
    with pytest.raises(DataError, match=r"typo\.py: the model cannot be built.*layer_numbers"):
        Detector(tmp_path / "typo.py", files[1])
    with pytest.raises(DataError, match="device 'gpu' is unknown"):
        Detector(*files, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(DataError, match="torch sees no CUDA device"):
            Detector(*files, device="cuda")


def test_without_mmdet3d_the_remedy_is_named(monkeypatch, files):
    from visionrnn import Detector

    for name in [name for name in sys.modules if name.startswith("visionrnn.integrations.mmdet3d")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    with pytest.raises(MissingPackageError, match=r"pip install 'visionrnn\[mmdet3d\]'"):
        Detector(*files)


def example() -> Detections:
    boxes = np.array([[12.0, 1, -0.8, 4, 1.7, 1.5, 0.25], [20, -3, -0.9, 0.8, 0.6, 1.7, -2.0], [-15, 0, -0.8, 4, 1.7, 1.5, 0]], np.float32)
    return Detections(boxes, np.float32([0.9, 0.5, 0.4]), np.array([0, 1, 0]), CLASSES, 0.125, "cloud.bin")


def test_json_round_trip(tmp_path):
    found = example()
    content = json.loads(found.to_json())
    assert content["file"] == "cloud.bin" and content["latency_seconds"] == 0.125
    assert "geometric centre" in content["conventions"] and "LiDAR frame" in content["conventions"]
    assert content["boxes"][0] == {"class": "Car", "score": 0.9, "x": 12, "y": 1, "z": -0.8, "l": 4, "w": 1.7, "h": 1.5, "yaw": 0.25}
    (tmp_path / "a.json").write_text(found.to_json())
    back = read_detections(tmp_path / "a.json")
    np.testing.assert_allclose(back.boxes, found.boxes, atol=1e-4)
    assert back.names == found.names and back.latency == found.latency and back.classes == CLASSES


def test_json_with_faults_is_named(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(DataError, match="detections file not found"):
        read_detections(path)
    for text, message in (("{", "not a JSON file"), ("[]", "no list 'boxes'"), ('{"boxes": [{"x": 1}]}', "box 0: KeyError 'y'")):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_detections(path)


def test_kitti_text_leads_back_to_the_boxes(tmp_path, shared_dir):
    calibration = read_calibration(shared_dir / "data/kitti_real/training/calib/000008.txt")
    found = example()
    labels = found.to_kitti(calibration, (375, 1242))
    assert len(labels) == 2  # the box behind the camera has no place in the image
    write_labels(tmp_path / "000008.txt", labels)
    back = read_labels(tmp_path / "000008.txt")
    np.testing.assert_allclose(calibration.boxes_camera_to_lidar(back.boxes), found.boxes[:2], atol=0.02)
    assert back.name.tolist() == ["Car", "Pedestrian"] and back.score.tolist() == [0.9, 0.5]
    assert (back.box2d[:, 2:] > back.box2d[:, :2]).all()
    empty = Detections(np.zeros((0, 7), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), CLASSES).to_kitti(
        calibration, (375, 1242)
    )
    assert len(empty) == 0


def test_kitti_boxes_in_the_image_and_alpha_agree_with_the_labels(shared_dir):
    base = shared_dir / "data/kitti_real/training"
    calibration, labels = read_calibration(base / "calib/000008.txt"), read_labels(base / "label_2/000008.txt")
    labels = labels[labels.name == "Car"]
    boxes = calibration.boxes_camera_to_lidar(labels.boxes)
    box2d, visible = image_boxes(boxes, calibration, (375, 1242))
    assert visible.all()
    whole = labels.truncated < 0.1
    np.testing.assert_allclose(box2d[whole], labels.box2d[whole], atol=12)  # drawn by hand round the pixels, ours round the 3D box
    count = len(labels)
    found = Detections(boxes.astype(np.float32), np.ones(count, np.float32), np.zeros(count, np.int64), CLASSES)
    difference = np.abs(found.to_kitti(calibration, (375, 1242)).alpha - labels.alpha)
    assert np.minimum(difference, 2 * np.pi - difference).max() < 0.06


def test_range_and_statistics_are_the_models(detector):
    assert detector.point_range == RANGE and detector.columns == 4
    assert detector._model.statistics == STATISTICS
