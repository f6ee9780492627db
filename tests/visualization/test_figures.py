"""Pictures: valid PNGs of the promised size, with boxes where they belong."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch

from visionrnn.errors import DataError, MissingPackageError

pytest.importorskip("matplotlib")
from PIL import Image

from visionrnn.datasets.kitti import Calibration, read_calibration, read_labels
from visionrnn.visualization.boxes import bev_layout, draw_bev
from visionrnn.visualization.camera import STRIP, draw_camera, project_segments, projection_matrix
from visionrnn.visualization.figure import THEMES, save_png

CLASSES = ("Car", "Pedestrian", "Cyclist")
RANGE = (0.0, -20.0, 40.0, 20.0)


def open_png(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])


def painted(image: np.ndarray, colour: str, tolerance: int = 60) -> np.ndarray:
    """[K, 2] (column, row) of the pixels of about this colour."""
    rows, columns = np.nonzero(np.abs(image - rgb(colour)).max(axis=2) < tolerance)
    return np.column_stack([columns, rows])


def camera() -> Calibration:
    """Looks along the LiDAR's x from 1 m above it: 500 px focal length, 640 × 360 image."""
    return Calibration(
        P2=np.array([[500.0, 0, 320, 0], [0, 500, 180, 0], [0, 0, 1, 0]]),
        R0_rect=np.eye(3),
        Tr_velo_to_cam=np.array([[0.0, -1, 0, 0], [0, 0, -1, 1], [1, 0, 0, 0]]),
    )


@pytest.mark.parametrize("background", ["dark", "light"])
def test_bev_draws_a_box_where_it_is(background):
    box = np.array([[10.0, 5, 0, 4, 2, 1.5, 0.0]])
    png = draw_bev(np.zeros((0, 4)), box, [0], classes=CLASSES, range=RANGE, background=background)
    layout = bev_layout(np.zeros((0, 4)), range=RANGE)
    image = open_png(png)
    assert image.shape[:2] == layout.picture_size[::-1]
    found = painted(image, THEMES[background].classes[0])
    width, _ = layout.map_size
    found = found[found[:, 0] < 62 + width]  # without the legend
    low, high = found.min(axis=0), found.max(axis=0)
    corners = layout.to_pixels(np.array([[12.0 + 0.8, 6.0], [8.0, 4.0]]))  # the heading mark ends 0.8 m before the front
    np.testing.assert_allclose(low, corners[0], atol=2)
    np.testing.assert_allclose(high, corners[1], atol=2)


def test_bev_heading_follows_yaw():
    layout = bev_layout(np.zeros((0, 4)), range=RANGE)
    image = open_png(draw_bev(np.zeros((0, 4)), [[10.0, 0, 0, 4, 2, 1.5, np.pi / 2]], ["Pedestrian"], classes=CLASSES, range=RANGE))
    found = painted(image, THEMES["dark"].classes[1])
    found = found[found[:, 0] < 62 + layout.map_size[0]]
    ahead, behind = layout.to_pixels(np.array([[10.0, 2.8], [10.0, -2.0]]))[:, 0]  # yaw 90° looks to the left
    assert abs(found[:, 0].min() - ahead) <= 2 and abs(found[:, 0].max() - behind) <= 2


def test_bev_draws_points_scores_and_ground_truth():
    points = np.array([[20.0, -10.0, 0.0, 0.5], [30.0, 10.0, 1.0, 0.1], [np.nan, 0, 0, 0]])
    layout = bev_layout(points, range=RANGE)
    image = open_png(draw_bev(torch.from_numpy(points), range=RANGE))
    column, row = layout.to_pixels(points[:1]).astype(int)[0]
    assert image[row, column].min() > 60
    assert open_png(draw_bev(points, range=RANGE, color_by="intensity")).shape == image.shape
    box = [[10.0, 5, 0, 4, 2, 1.5, 0.3]]
    plain, scored = (open_png(draw_bev(points, box, [0], s, classes=CLASSES, range=RANGE)) for s in (None, [0.87]))
    assert (plain != scored).any(axis=2).sum() > 30
    truth = open_png(draw_bev(points, ground_truth=box, range=RANGE))
    assert len(painted(truth[:, :1000], "#ffffff")) > len(painted(image[:, :1000], "#ffffff")) + 30


def test_bev_shows_everything_without_a_range():
    generator = np.random.default_rng(0)
    points = generator.uniform(-30, 30, (500, 3))
    layout = bev_layout(points, [[60.0, 0, 0, 4, 2, 1, 0]])
    assert layout.x_max > 62 and layout.x_min < -29
    assert bev_layout(np.zeros((0, 3))).x_max == 70
    far = bev_layout(points + [5000, 0, 0])
    assert far.x_min > 4900  # no room wasted for a sensor far away
    narrow = bev_layout(points, range=(0, -1, 100, 1))
    assert narrow.map_size[0] == pytest.approx(narrow.map_size[1] * (narrow.y_max - narrow.y_min) / 100, abs=1)


@pytest.mark.parametrize("points", [np.zeros((0, 4)), np.zeros((1, 4)), np.full((3, 4), np.nan), np.full((5, 3), 1e4)])
def test_bev_draws_odd_clouds(points):
    assert open_png(draw_bev(points)).size


def test_camera_draws_a_box_where_it_is():
    image = np.full((360, 640, 3), 128, np.uint8)
    picture = open_png(draw_camera(image, [[12.0, 0, 1, 4, 2, 1, 0.0]], camera(), [0], classes=CLASSES))
    assert picture.shape == (360 + STRIP, 640, 3)
    found = painted(picture[:360], THEMES["dark"].classes[0])
    # Its rear face is 10 m away: 2 m wide and 1 m high is 100 × 50 px round the principal point.
    np.testing.assert_allclose(found.min(axis=0), [270, 155], atol=2)
    np.testing.assert_allclose(found.max(axis=0), [370, 205], atol=2)


def test_camera_leaves_out_what_is_behind_and_cuts_what_passes():
    image = np.full((360, 640, 3), 128, np.uint8)
    behind = open_png(draw_camera(image, [[-12.0, 0, 1, 4, 2, 1, 0.0]], camera(), [0], [0.9], classes=CLASSES))
    assert (behind[:360] == 128).all()
    passing = open_png(draw_camera(image, [[1.0, -2, 1, 6, 1, 1, 0.0]], camera(), [0], classes=CLASSES))
    found = painted(passing[:360], THEMES["dark"].classes[0])
    assert len(found) and found[:, 0].min() > 320  # right of the camera, never mirrored to the left


def test_segments_are_cut_at_the_camera_and_the_border():
    matrix = projection_matrix(camera())
    start = np.array([[-5.0, -1, 1], [10, -100, 1], [10, 1, 1], [10, 50, 1], [-1, 0, 1]])
    end = np.array([[5.0, -1, 1], [10, 100, 1], [10, -1, 1], [10, 60, 1], [-2, 0, 1]])
    visible, pixels = project_segments(start, end, matrix, (640, 360))
    assert visible.tolist() == [True, True, True, False, False]
    np.testing.assert_allclose(pixels[0, 1], [320 + 100, 180])
    np.testing.assert_allclose(pixels[0, 0], [640, 180])
    np.testing.assert_allclose(pixels[1], [[640, 180], [0, 180]])
    np.testing.assert_allclose(pixels[2], [[270, 180], [370, 180]])


def test_camera_of_the_real_frame(shared_dir):
    base = shared_dir / "data" / "kitti_real" / "training"
    calibration, labels = read_calibration(base / "calib" / "000008.txt"), read_labels(base / "label_2" / "000008.txt")
    labels = labels[labels.name == "Car"]
    boxes = calibration.boxes_camera_to_lidar(labels.boxes)
    blank = np.zeros((375, 1242, 3), np.uint8)
    picture = open_png(draw_camera(blank, boxes[3:4], calibration, ["Car"]))  # a car wholly inside the image
    found = painted(picture[:375], THEMES["dark"].classes[0])
    np.testing.assert_allclose(np.concatenate([found.min(axis=0), found.max(axis=0)]), labels.box2d[3], atol=12)
    assert open_png(draw_camera(base / "image_2" / "000008.png", boxes, calibration)).shape == (375 + STRIP, 1242, 3)


def test_wrong_input_is_named(tmp_path):
    with pytest.raises(DataError, match=r"points: shape \[5, 2\], expected \[N, 3\]"):
        draw_bev(np.zeros((5, 2)))
    with pytest.raises(DataError, match=r"boxes: shape \[1, 6\], expected \[M, 7\]"):
        draw_bev(np.zeros((5, 3)), np.ones((1, 6)))
    with pytest.raises(DataError, match="box 1 has NaN"):
        draw_bev(np.zeros((5, 3)), [[1.0] * 7, [np.nan] * 7])
    with pytest.raises(DataError, match="scores: 1 values for 2 boxes"):
        draw_bev(np.zeros((5, 3)), np.ones((2, 7)), scores=[0.5])
    with pytest.raises(DataError, match="range"):
        draw_bev(np.zeros((5, 3)), range=(10, 0, 0, 10))
    with pytest.raises(DataError, match="intensity as 4th column"):
        draw_bev(np.zeros((5, 3)), color_by="intensity")
    with pytest.raises(DataError, match=r"missing\.png: image not found"):
        draw_camera(tmp_path / "missing.png", [], camera())
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"text\.png: not a readable image"):
        draw_camera(tmp_path / "text.png", [], camera())
    with pytest.raises(DataError, match=r"calibration: shape \[3, 3\]"):
        draw_camera(np.zeros((9, 9, 3)), [], np.eye(3))


def test_pictures_are_written_whole(tmp_path):
    png = draw_bev(np.zeros((0, 3)))
    path = save_png(tmp_path / "folder" / "picture.png", png)
    assert path.read_bytes() == png and [p.name for p in path.parent.iterdir()] == ["picture.png"]


def test_without_matplotlib_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'visionrnn\[viz\]'"):
        draw_bev(np.zeros((0, 3)))


def test_importing_the_drawings_loads_no_matplotlib():
    code = "import sys, visionrnn.visualization.boxes, visionrnn.visualization.camera; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
