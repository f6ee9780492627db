"""Synthetic LiDAR data: layout, determinism, geometry of the sensor, labels that fit points and pictures."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from visionrnn.datasets import synthetic_objects as shapes
from visionrnn.datasets.kitti import read_calibration, read_labels, read_split
from visionrnn.datasets.synthetic_camera import CALIBRATION, HEIGHT, WIDTH, CameraRays
from visionrnn.datasets.synthetic_ground import Ground
from visionrnn.datasets.synthetic_labels import MIN_POINTS, camera_corners
from visionrnn.datasets.synthetic_lidar import SyntheticFrame, observe, simulate_frame, write_dataset
from visionrnn.datasets.synthetic_rays import RayGrid, cast, intersect
from visionrnn.datasets.synthetic_scene import Scene, SceneObject, make_scene
from visionrnn.datasets.synthetic_sensor import LidarRays, beam_elevations
from visionrnn.datasets.synthetic_shapes import Surface, block, ellipsoid, pillar, rotation_z, shape_bounds
from visionrnn.errors import DataError
from visionrnn.geometry import rotated_iou

WALL = Surface(0.5, (200, 200, 200))
FLAT = Ground((0.0, 0.0), (0.0, 0.0), 0.0, 0.0, 0.0, 8.0, -8.0, 2.0, 0.1, None, 0.0)


@pytest.fixture(scope="module")
def frames() -> list[SyntheticFrame]:
    return [simulate_frame(3, "train", number) for number in range(6)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "one"
    write_dataset(root, 3, 1, seed=5, workers=1, progress=False)
    return root


def _bytes(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def _car_scene(x: float, y: float, yaw: float, *walls) -> Scene:
    solids = shapes.car(np.random.default_rng(1))
    low, high = shape_bounds(solids)
    base = float(FLAT.height(np.array([x]), np.array([y]))[0])
    centre = np.array([*((low + high) / 2)[:2], low[2]])
    placed = [solid.placed(0.0, -centre).placed(yaw, np.array([x, y, base])) for solid in solids]
    box = np.array([x, y, base + (high - low)[2] / 2, *(high - low), yaw])
    return Scene(FLAT, [SceneObject("Car", box, placed)], list(walls))


# --- writing ---


def test_same_bytes_for_any_number_of_workers(dataset: Path, tmp_path: Path):
    write_dataset(tmp_path / "two", 3, 1, seed=5, workers=2, progress=False)
    one, two = _bytes(dataset), _bytes(tmp_path / "two")
    assert one == two
    assert len([name for name in one if name.startswith("training/")]) == 16


def test_other_seed_and_split_differ(dataset: Path, tmp_path: Path):
    write_dataset(tmp_path / "a", 1, 0, seed=6, workers=1, progress=False)
    ours, other = _bytes(dataset), _bytes(tmp_path / "a")
    for kind in ("velodyne/000000.bin", "label_2/000000.txt", "image_2/000000.png"):
        assert ours[f"training/{kind}"] != other[f"training/{kind}"]
    assert ours["training/velodyne/000000.bin"] != ours["training/velodyne/000003.bin"]  # frame 0 of train and of val
    assert not any(".part" in name for name in ours)


def test_layout_and_description(dataset: Path):
    assert read_split(dataset, "train") == ["000000", "000001", "000002"]
    assert read_split(dataset, "val") == ["000003"]
    assert read_split(dataset, "trainval") == ["000000", "000001", "000002", "000003"]
    manifest = json.loads((dataset / "dataset.json").read_text())
    assert manifest["synthetic"] is True and manifest["complete"] is True
    assert manifest["parameters"]["seed"] == 5 and manifest["counts"]["train"]["frames"] == 3
    assert "SYNTHETIC" in (dataset / "README.md").read_text()
    points = np.fromfile(dataset / "training/velodyne/000000.bin", dtype="<f4").reshape(-1, 4)
    np.testing.assert_array_equal(points, simulate_frame(5, "train", 0).points)
    calibration = read_calibration(dataset / "training/calib/000000.txt")
    np.testing.assert_allclose(calibration.lidar2img, CALIBRATION.lidar2img, atol=1e-8)
    np.testing.assert_allclose(calibration.R0_rect @ calibration.R0_rect.T, np.eye(3), atol=1e-9)


def test_picture_file_holds_the_picture(dataset: Path):
    image = pytest.importorskip("PIL.Image")
    with image.open(dataset / "training/image_2/000001.png") as file:
        stored = np.asarray(file)
    np.testing.assert_array_equal(stored, simulate_frame(5, "train", 1).image)
    assert stored.shape == (HEIGHT, WIDTH, 3)


def test_continues_with_missing_frames_only(tmp_path: Path):
    root = tmp_path / "set"
    write_dataset(root, 2, 0, seed=9, workers=1, progress=False, field_of_view=100)
    before = _bytes(root)
    kept, lost = root / "training/velodyne/000000.bin", root / "training/image_2/000001.png"
    stamp = kept.stat().st_mtime_ns
    lost.unlink()
    write_dataset(root, 2, 0, seed=9, workers=1, progress=False, field_of_view=100)
    assert _bytes(root) == before
    assert kept.stat().st_mtime_ns == stamp


def test_refuses_folders_that_are_not_its_own(dataset: Path, tmp_path: Path):
    before = _bytes(dataset)
    with pytest.raises(DataError, match=r"holds synthetic data made with .*'seed': 5.*'seed': 6.*another folder"):
        write_dataset(dataset, 3, 1, seed=6, progress=False)
    assert _bytes(dataset) == before
    real = tmp_path / "kitti"
    (real / "training").mkdir(parents=True)
    with pytest.raises(DataError, match=r"kitti: holds a data set that was not made here"):
        write_dataset(real, 1, 1, progress=False)
    assert list(real.iterdir()) == [real / "training"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file; expected a folder"):
        write_dataset(tmp_path / "file", 1, 1, progress=False)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/dataset.json").write_text("[]")
    with pytest.raises(DataError, match="not the description of a synthetic data set"):
        write_dataset(tmp_path / "odd", 1, 1, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": 0, "val": 0}, "at least one"),
        ({"train": -1, "val": 5}, "expected counts"),
        ({"train": 1, "val": 0, "seed": -1}, "seed=-1"),
        ({"train": 1, "val": 0, "density": -0.5}, "density=-0.5"),
        ({"train": 1, "val": 0, "field_of_view": 20}, "field_of_view=20"),
    ],
)
def test_senseless_arguments(tmp_path: Path, arguments: dict, message: str):
    with pytest.raises(DataError, match=message):
        write_dataset(tmp_path / "x", progress=False, **arguments)
    assert not (tmp_path / "x").exists()


# --- sensor and rays ---


def test_beams_are_those_of_a_64_beam_sensor():
    elevation = beam_elevations()
    gaps = -np.diff(elevation)
    assert elevation.shape == (64,) and (gaps > 0).all()
    assert elevation[0] == pytest.approx(2.0, abs=0.1) and elevation[-1] == pytest.approx(-24.9, abs=0.15)
    assert gaps[:31].mean() == pytest.approx(1 / 3, abs=0.02) and gaps[32:].mean() == pytest.approx(0.5, abs=0.03)


def test_points_come_from_the_sensor(frames: list[SyntheticFrame]):
    for frame in frames:
        x, y, z, intensity = frame.points.T.astype(np.float64)
        distance = np.sqrt(x * x + y * y + z * z)
        assert 60_000 < len(frame.points) < 130_000 and frame.points.dtype == np.float32
        assert np.isfinite(frame.points).all() and distance.max() < 120.1 and distance.min() > 0.8
        assert intensity.min() >= 0 and intensity.max() <= 1
        nearest = np.abs(np.degrees(np.arcsin(z / distance))[:, None] - beam_elevations()).min(axis=1)
        assert nearest.max() < 0.01
        quarters, _ = np.histogram(np.arctan2(y, x), bins=4, range=(-np.pi, np.pi))
        assert quarters.min() > 8_000  # all around


def test_narrow_field_of_view_keeps_the_labels():
    wide, narrow = simulate_frame(1, "val", 0), simulate_frame(1, "val", 0, field_of_view=100)
    azimuth = np.degrees(np.abs(np.arctan2(narrow.points[:, 1], narrow.points[:, 0])))
    assert azimuth.max() < 50.5 and len(narrow.points) < 0.4 * len(wide.points)
    np.testing.assert_allclose(narrow.scene.objects[0].box, wide.scene.objects[0].box)
    assert set(narrow.index[narrow.index >= 0]) ^ set(wide.index[wide.index >= 0]) <= set(range(len(wide.scene.objects)))


def test_intersections_are_on_the_surface():
    rng = np.random.default_rng(0)
    direction = rng.normal(0, 0.12, (40, 50, 3)) + [1.0, 0.0, 0.0]
    direction /= np.linalg.norm(direction, axis=2, keepdims=True)
    dx, dy, dz = (direction[..., k].astype(np.float32) for k in range(3))
    origin, offset = np.array([0.1, -0.2, 0.3]), np.array([9.0, 0.3, 0.2])
    ball = ellipsoid((0, 0, 0), (0.5, 0.8, 1.2), WALL, tilt=0.4).placed(0.7, offset)
    post = pillar(0.0, 0.0, -1.0, 1.0, 0.6, WALL).placed(0.7, offset)
    crate = block(-1, 1, -0.5, 0.5, -0.7, 0.7, WALL).placed(0.7, offset)
    for solid in (ball, post, crate):
        t, (nx, ny, nz, leave) = intersect(solid, origin, dx, dy, dz, 0.3)
        hit = np.isfinite(t)
        assert 50 < hit.sum() < hit.size
        for distance in (t, leave):
            place = origin + distance[hit, None].astype(float) * direction[hit]
            if solid.planes is not None:
                value = (place @ solid.planes[:, :3].T - solid.planes[:, 3]).max(axis=1)
            else:
                local = (place - solid.centre) @ solid.inverse.T
                radial = np.sqrt((local[:, :2] ** 2).sum(axis=1))
                value = np.sqrt((local**2).sum(axis=1)) - 1 if solid is ball else np.maximum(radial, np.abs(local[:, 2])) - 1
            np.testing.assert_allclose(value, 0, atol=2e-4)
        towards = (nx * dx + ny * dy + nz * dz)[hit]
        assert (towards < 1e-4).all()
        np.testing.assert_allclose((nx**2 + ny**2 + nz**2)[hit], 1, atol=1e-4)
        assert np.isfinite(intersect(solid, origin, *_ray(offset - origin), 0.3)[0]).all()  # towards its middle


def _ray(vector: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    unit = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit[:1, None], unit[1:2, None], unit[2:, None]


@pytest.mark.parametrize("make", [LidarRays, CameraRays])
def test_culling_loses_nothing(make: type[RayGrid], monkeypatch: pytest.MonkeyPatch):
    scene = make_scene(np.random.default_rng(11))
    scene.background = [solid for solid in scene.background if solid.surface.free_path == 0][:25]
    scene.objects = [thing for thing in scene.objects if thing.name in ("Car", "Pedestrian")][:8]
    rays = make()
    quick = cast(scene, rays, np.random.default_rng(0))
    rows, columns = rays.shape
    monkeypatch.setattr(rays, "windows", lambda corners: np.tile([0, rows, 0, columns], (len(corners), 1)))
    full = cast(scene, rays, np.random.default_rng(0))
    np.testing.assert_array_equal(quick.surface, full.surface)
    np.testing.assert_array_equal(quick.distance, full.distance)
    np.testing.assert_array_equal(quick.alone, full.alone)


def test_ground_is_met_where_it_is():
    ground = Ground((0.02, -0.01), (2e-4, 1e-4), 0.1, 2e-3, -1.5, 4.0, -3.5, 2.0, 0.12, 20.0, 3.5)
    rays = LidarRays()
    distance = ground.cast(rays.origin, rays.dx, rays.dy, rays.dz)
    hit = np.isfinite(distance) & (distance < 60)
    x, y, z = (distance[hit].astype(float) * axis[hit] for axis in (rays.dx, rays.dy, rays.dz))
    gap = z - ground.height(x, y)
    assert np.abs(gap).max() < 0.12 + 1e-3  # a kerb's face at most
    assert (np.abs(gap) < 1e-3).mean() > 0.97
    assert hit[-20:].all()
    u, v = ground.to_road(np.array([30.0]), np.array([5.0]))
    np.testing.assert_allclose(ground.to_lidar(float(u[0]), float(v[0]))[:2], (30, 5), atol=1e-9)


# --- labels ---


def test_labelled_objects_own_points_inside_their_boxes(frames: list[SyntheticFrame]):
    for frame in frames:
        assert len(frame.boxes) == (frame.index >= 0).sum()
        for owner, box in zip(frame.index[frame.index >= 0], frame.boxes, strict=True):
            points = frame.points[frame.owner == owner, :3]
            assert len(points) >= MIN_POINTS
            outside = (np.abs((points - box[:3]) @ rotation_z(box[6])) - box[3:6] / 2).max(axis=1)
            assert outside.max() < 0.09 and (outside < 0.05).mean() > 0.97  # range noise is cut at 7 cm


def test_every_box_is_tight():
    """Rays from six sides: what they meet fills the bounds, which become the label, and never leaves them."""
    for name, build in shapes.BUILDERS.items():
        solids = build(np.random.default_rng(2))
        solids = [replace(solid, surface=WALL) for solid in solids]  # spokes as opaque discs
        low, high = shape_bounds(solids)
        met = []
        for axis, sign in [(axis, sign) for axis in range(3) for sign in (-1, 1)]:
            origin = (low + high) / 2 + 60.0 * sign * np.eye(3)[axis]
            aim = np.stack(np.meshgrid(*(np.linspace(low[k] - 0.1, high[k] + 0.1, 240 if k != axis else 1) for k in range(3))), axis=-1)
            aim = aim.reshape(240, 240, 3)
            aim[..., axis] = (low[axis] + high[axis]) / 2
            direction = (aim - origin) / np.linalg.norm(aim - origin, axis=2, keepdims=True)
            rays = [direction[..., k].astype(np.float32) for k in range(3)]
            distance = np.min([intersect(solid, origin, *rays, 0.3)[0] for solid in solids], axis=0)
            hit = np.isfinite(distance)
            met.append(origin + distance[hit, None].astype(float) * direction[hit])
        places = np.concatenate(met)
        assert np.abs(places.min(axis=0) - low).max() < 0.03 and np.abs(places.max(axis=0) - high).max() < 0.03, name


def test_labels_project_to_their_picture_boxes(dataset: Path):
    seen = 0
    for frame in range(4):
        labels = read_labels(dataset / f"training/label_2/{frame:06d}.txt")
        calibration = read_calibration(dataset / f"training/calib/{frame:06d}.txt")
        labels = labels[labels.name != "DontCare"]
        assert set(labels.name) <= {"Car", "Van", "Pedestrian", "Cyclist"}
        assert (labels.box2d[:, :2] >= 0).all() and (labels.box2d[:, 2:] <= [WIDTH - 1, HEIGHT - 1]).all()
        assert set(labels.occluded) <= {0, 1, 2, 3} and ((labels.truncated >= 0) & (labels.truncated <= 1)).all()
        ray = np.arctan2(labels.location[:, 0], labels.location[:, 2])
        assert np.abs(np.sin((labels.alpha - labels.rotation_y + ray) / 2)).max() < 0.006
        boxes = calibration.boxes_camera_to_lidar(labels.boxes)
        error = boxes - simulate_frame(5, *(("train", frame) if frame < 3 else ("val", 0))).boxes
        assert np.abs(error[:, :6]).max() < 0.012 and np.abs(np.sin(error[:, 6])).max() < 0.006  # two decimals in the file
        for box, stored, truncated in zip(boxes, labels.box2d, labels.truncated, strict=True):
            signs = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])
            corners = (signs * box[3:6] / 2) @ rotation_z(box[6]).T + box[:3]
            pixel, depth = calibration.lidar_to_image(corners)
            if truncated == 0:
                assert depth.min() > 0
                np.testing.assert_allclose(np.concatenate([pixel.min(0), pixel.max(0)]), stored, atol=2.0)
                seen += 1
    assert seen > 10


def test_camera_corners_agree_with_the_lidar_box():
    box = np.array([[12.0, -3.0, -0.9, 4.0, 1.7, 1.5, 0.6]])
    corners = camera_corners(CALIBRATION.boxes_lidar_to_camera(box))[0]
    signs = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])
    expected = CALIBRATION.lidar_to_camera((signs * box[0, 3:6] / 2) @ rotation_z(0.6).T + box[0, :3])
    distance = np.linalg.norm(corners[:, None] - expected, axis=2).min(axis=1)
    assert distance.max() < 0.015  # the LiDAR stands 0.15° askew to the camera


def test_classes_difficulties_and_sizes_all_occur(frames: list[SyntheticFrame]):
    names = np.concatenate([frame.labels.name for frame in frames])
    assert set(names) == {"Car", "Van", "Pedestrian", "Cyclist", "DontCare"}
    difficulty = np.concatenate([frame.labels.difficulty for frame in frames])[names != "DontCare"]
    assert all((difficulty == level).sum() >= 5 for level in range(3))
    occluded = np.concatenate([frame.labels.occluded for frame in frames])
    assert {0, 1, 2} <= set(occluded)
    assert (np.concatenate([frame.labels.truncated for frame in frames]) > 0.1).any()
    size = np.concatenate([frame.labels.size for frame in frames])
    for name, mean in (("Car", (3.9, 1.5, 1.65)), ("Pedestrian", (0.75, 1.72, 0.65)), ("Cyclist", (1.75, 1.73, 0.6))):  # l, h, w
        assert np.abs(size[names == name].mean(axis=0) / mean - 1).max() < 0.12, name


def test_objects_stand_apart_on_the_ground(frames: list[SyntheticFrame]):
    for frame in frames:
        boxes = np.array([thing.box for thing in frame.scene.objects])
        overlap = rotated_iou(*(torch.from_numpy(boxes[:, [0, 1, 3, 4, 6]]),) * 2).numpy()
        assert (overlap - np.diag(np.diag(overlap))).max() < 1e-9
        np.testing.assert_allclose(boxes[:, 2] - boxes[:, 5] / 2, frame.scene.ground.height(boxes[:, 0], boxes[:, 1]), atol=1e-9)


def test_wall_before_a_car():
    free = observe(_car_scene(20, 0, 0.3), 0, 0)
    assert free.labels.name.tolist() == ["Car"] and free.labels.occluded[0] == 0 and free.labels.truncated[0] == 0
    hidden = observe(_car_scene(20, 0, 0.3, block(9.8, 10, -4, 4, -2, 2, WALL)), 0, 0)
    assert len(hidden.labels) == 0 and not (hidden.owner == 0).any()
    part = observe(_car_scene(20, 0, np.pi / 2, block(9.8, 10, -4, 0.4, -2, 2, WALL)), 0, 0)
    assert part.labels.occluded.tolist() == [2]
    low = observe(_car_scene(20, 0, 0.3, block(14.8, 15, -4, 4, -2, -1.0, WALL)), 0, 0)
    assert low.labels.occluded.tolist() == [1]
    assert 0 < (low.owner == 0).sum() < (free.owner == 0).sum()


def test_edge_of_the_picture_and_out_of_it():
    edge = observe(_car_scene(10, 8.5, 0.0), 0, 0)
    assert edge.labels.name.tolist() == ["Car"] and 0.1 < edge.labels.truncated[0] < 0.9
    assert edge.labels.box2d[0, 0] == 0
    behind = observe(_car_scene(-15, 0, 0.0), 0, 0)
    assert len(behind.labels) == 0 and (behind.owner == 0).sum() > 100  # the LiDAR sees it all the same
    far = observe(_car_scene(78, 0, 0.0), 0, 0)
    assert far.labels.name.tolist() == ["DontCare"] and far.labels.location[0, 0] == -1000


def test_empty_street(tmp_path: Path):
    frame = simulate_frame(0, "train", 0, density=0.0)
    assert len(frame.labels) == 0 and frame.boxes.shape == (0, 7) and len(frame.points) > 60_000
    write_dataset(tmp_path / "empty", 1, 0, workers=1, progress=False, density=0.0, field_of_view=90)
    assert len(read_labels(tmp_path / "empty/training/label_2/000000.txt")) == 0
