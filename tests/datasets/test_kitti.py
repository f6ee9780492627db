"""The KITTI layout: conversions between frames, files read and written, errors that name the file and line."""

import re
import struct

import numpy as np
import pytest
from kitti_files import CALIBRATION, calibration_text, png

from visionrnn.datasets.kitti import (
    count_points_in_boxes,
    frame_paths,
    points_in_image,
    read_calibration,
    read_image_size,
    read_labels,
    read_split,
    wrap_angle,
    write_labels,
)
from visionrnn.errors import DataError

ROW = "Car 0.00 1 2.04 334.85 178.94 624.50 372.04 1.57 1.50 3.68 -1.17 1.65 7.86 1.90"


def test_boxes_between_frames():
    rng = np.random.default_rng(0)
    boxes = np.column_stack([rng.uniform(-40, 40, (200, 3)), rng.uniform(0.5, 5, (200, 3)), rng.uniform(-np.pi, np.pi, 200)])
    back = CALIBRATION.boxes_camera_to_lidar(CALIBRATION.boxes_lidar_to_camera(boxes))
    np.testing.assert_allclose(back, boxes, atol=1e-9)
    # straight ahead, heading along the camera's x (ry = 0): to the right in the LiDAR frame, yaw -90 degrees
    box = CALIBRATION.boxes_camera_to_lidar(np.array([[0, 1.65, 10, 4, 1.5, 1.6, 0]]))[0]
    np.testing.assert_allclose(box[3:], [4, 1.6, 1.5, -np.pi / 2])
    bottom = CALIBRATION.camera_to_lidar(np.array([[0, 1.65, 10]]))[0]
    np.testing.assert_allclose(box[:3], bottom + [0, 0, 0.75])


def test_projection():
    camera = CALIBRATION.lidar_to_camera(np.array([[10.0, 1, -0.5], [20, -3, 1]]))
    pixels, depth = CALIBRATION.lidar_to_image(np.array([[10.0, 1, -0.5], [20, -3, 1]]))
    for i in range(2):
        u, v, w = CALIBRATION.P2 @ np.append(camera[i], 1)
        np.testing.assert_allclose(np.append(pixels[i], depth[i]), [u / w, v / w, w])
    keep = points_in_image(np.array([[10.0, 0, 0], [-10, 0, 0], [10, 20, 0], [10, 0, 9], [10, 0, -9]]), CALIBRATION, (120, 400))
    assert keep.tolist() == [True, False, False, False, False]


def test_wrap_angle():
    np.testing.assert_allclose(wrap_angle(np.array([np.pi, -np.pi, 3.5, -7.0, 0.1])), [-np.pi, -np.pi, 3.5 - 2 * np.pi, 2 * np.pi - 7, 0.1])


def test_labels_round_trip(tmp_path):
    path = tmp_path / "000001.txt"
    path.write_text(ROW + "\n")
    labels = read_labels(path)
    assert labels.name.tolist() == ["Car"] and labels.score is None
    assert labels.size.tolist() == [[3.68, 1.57, 1.50]]  # l, h, w
    assert labels.boxes.tolist() == [[-1.17, 1.65, 7.86, 3.68, 1.57, 1.50, 1.90]]
    write_labels(tmp_path / "again.txt", labels)
    assert (tmp_path / "again.txt").read_text() == ROW + "\n"
    path.write_text(ROW + " 0.8765\n\n" + ROW + " 0.1\n")
    labels = read_labels(path)
    assert labels.score.tolist() == [0.8765, 0.1]
    write_labels(tmp_path / "again.txt", labels[labels.score > 0.5])
    assert (tmp_path / "again.txt").read_text() == ROW + " 0.8765\n"
    path.write_text("")
    empty = read_labels(path)
    assert len(empty) == 0 and empty.boxes.shape == (0, 7) and empty.difficulty.shape == (0,)


def test_difficulty(tmp_path):
    path = tmp_path / "l.txt"
    rows = [
        ("0.00 0", 41),
        ("0.00 0", 40),
        ("0.20 0", 60),
        ("0.00 1", 60),
        ("0.40 1", 60),
        ("0.00 2", 26),
        ("0.00 3", 60),
        ("0.60 0", 60),
        ("0 0", 25),
    ]
    path.write_text("".join(f"Car {state} 0 10 100 50 {100 + height} 1.5 1.6 4 0 1.6 20 0\n" for state, height in rows))
    assert read_labels(path).difficulty.tolist() == [0, 1, 1, 1, 2, 2, -1, -1, -1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ROW + "\nCar 0.00 1 2.04\n", ", line 2: 4 columns, expected 15 (type truncated occluded alpha x1 y1 x2 y2 h w l x y z ry) or 16"),
        (ROW.replace("1.65", "up"), ", line 1: 'up' is not a number"),
        (ROW.replace("1.65", "nan"), ", line 1: NaN or infinite value; every number must be finite"),
        (ROW.replace("3.68", "-3.68"), ", line 1: size h w l 1.57 1.50 -3.68 is negative; expected metres"),
        (ROW + "\n" + ROW + " 0.5\n", ", line 2: 16 columns, but the lines above have 15; expected one kind in a file"),
    ],
)
def test_bad_labels(tmp_path, text, message):
    path = tmp_path / "000001.txt"
    path.write_text(text)
    with pytest.raises(DataError, match="^" + re.escape(f"{path}{message}")):
        read_labels(path)


def test_missing_labels(tmp_path):
    with pytest.raises(
        DataError, match=re.escape(f"{tmp_path / 'a.txt'}: label file not found; a frame without objects has an empty file")
    ):
        read_labels(tmp_path / "a.txt")


def test_calibration_file(tmp_path):
    path = tmp_path / "000001.txt"
    path.write_text(calibration_text())
    read = read_calibration(path)
    for key in ("P2", "R0_rect", "Tr_velo_to_cam"):
        np.testing.assert_allclose(getattr(read, key), getattr(CALIBRATION, key), rtol=1e-11, atol=1e-11)
    np.testing.assert_array_equal(read.Tr_imu_to_velo, np.eye(4)[:3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: None, ": calibration file not found; expected the lines P2, R0_rect, Tr_velo_to_cam of the frame"),
        (lambda text: text.replace("R0_rect", "R1_rect"), ": no line for R0_rect; a KITTI calibration needs P2, R0_rect, Tr_velo_to_cam"),
        (lambda text: text.replace("P2: ", "P2: 1 "), ", line 3: P2 has 13 numbers, expected 12 (3 × 4)"),
        (lambda text: text.replace("P3: 2", "P3: two"), ", line 4: 'two.000000000000e+02' is not a number"),
        (
            lambda text: re.sub("R0_rect: .*", "R0_rect: " + "0 " * 9, text),
            ": R0_rect · Tr_velo_to_cam cannot be inverted; expected a rotation",
        ),
    ],
)
def test_bad_calibration(tmp_path, change, message):
    path = tmp_path / "000001.txt"
    text = change(calibration_text())
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match="^" + re.escape(f"{path}{message}")):
        read_calibration(path)


def test_split(tmp_path):
    (tmp_path / "ImageSets").mkdir()
    path = tmp_path / "ImageSets" / "train.txt"
    with pytest.raises(DataError, match=re.escape(f"{path}: split file not found; expected one frame name a line, e.g. 000008")):
        read_split(tmp_path, "train")
    path.write_text("000003\n\n000001 \n")
    assert read_split(tmp_path, "train") == ["000003", "000001"]
    path.write_text("000003\n000001\n000003\n")
    with pytest.raises(DataError, match="line 3: frame 000003 is listed already in line 1; expected each frame once"):
        read_split(tmp_path, "train")
    path.write_text("../000003\n")
    with pytest.raises(DataError, match=r"line 1: '\.\./000003' is not a frame name"):
        read_split(tmp_path, "train")


def test_image_size(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(37, 120))
    assert read_image_size(path) == (37, 120)
    path.write_bytes(png(37, 120)[:-5])
    with pytest.raises(DataError, match=re.escape(f"{path}: PNG is truncated")):
        read_image_size(path)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'none.png'}: image not found; expected the frame's .png or .jpg")):
        read_image_size(tmp_path / "none.png")
    path.write_bytes(b"")
    with pytest.raises(DataError, match="image file is empty"):
        read_image_size(path)
    path.write_bytes(b"GIF89a..")
    with pytest.raises(DataError, match="not a PNG or JPEG image"):
        read_image_size(path)
    jpeg = b"\xff\xd8" + b"\xff\xe0" + struct.pack(">H", 16) + bytes(14) + b"\xff\xff\xc0" + struct.pack(">HBHH", 17, 8, 48, 64) + bytes(10)
    path.write_bytes(jpeg)
    assert read_image_size(path) == (48, 64)
    path.write_bytes(jpeg[:24])
    with pytest.raises(DataError, match="JPEG header ends before the image size"):
        read_image_size(path)


def test_frame_paths(tmp_path):
    paths = frame_paths(tmp_path, "000007", "testing")
    assert paths.points == tmp_path / "testing" / "velodyne" / "000007.bin"
    assert paths.image.name == "000007.png"
    paths.image.parent.mkdir(parents=True)
    paths.image.with_suffix(".jpg").write_bytes(b"")
    assert frame_paths(tmp_path, "000007", "testing").image.name == "000007.jpg"


def test_count_points_in_boxes():
    boxes = np.array([[5.0, 0, 0, 4, 2, 1, np.pi / 2], [50, 0, 0, 1, 1, 1, 0]])
    points = np.array([[5, 1.9, 0.4, 0], [5, -1.9, 0, 0], [6.9, 0, 0, 0], [5, 0, 0.6, 0], [5.9, 0, 0, 0]], dtype=np.float32)
    assert count_points_in_boxes(points, boxes).tolist() == [3, 0]
    assert count_points_in_boxes(points[:0], boxes).tolist() == [0, 0]
    assert count_points_in_boxes(points, boxes[:0]).tolist() == []


def test_real_frame(shared_dir):
    paths = frame_paths(shared_dir / "data" / "kitti_real", "000008")
    calibration, labels = read_calibration(paths.calibration), read_labels(paths.labels)
    points = np.fromfile(paths.points, dtype=np.float32).reshape(-1, 4)
    counts = count_points_in_boxes(points, calibration.boxes_camera_to_lidar(labels.boxes))
    assert counts[:6].tolist() == [1325, 1900, 881, 659, 55, 162]
    assert points_in_image(points, calibration, read_image_size(paths.image)).sum() == len(points) == 17238
