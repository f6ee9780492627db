"""Statistics of clouds, and the warnings for a cloud that does not fit them."""

import numpy as np
import pytest

from visionrnn.datasets.statistics import ground_height, measure, mismatch


def street(seed=0, ground=-1.73, scale=1.0, points=20_000):
    """Ground, walls and cars round a sensor: [N, 4] with intensity in [0, scale]."""
    random = np.random.default_rng(seed)
    distance, angle = random.uniform(3, 60, points), random.uniform(-np.pi, np.pi, points)
    x, y = distance * np.cos(angle), distance * np.sin(angle)
    z = ground + random.normal(0, 0.02, points) + 0.01 * x
    raised = random.random(points) < 0.5
    z = np.where(raised, ground + random.uniform(0, 4, points), z)
    return np.stack([x, y, z, scale * random.random(points)], axis=1).astype(np.float32)


def test_measure():
    statistics = measure(street(seed) for seed in range(3))
    assert statistics["ground_height"] == pytest.approx(-1.73, abs=0.05)
    assert statistics["features_per_point"] == 4 and statistics["frames"] == 3 and statistics["points_per_frame_mean"] == 20_000
    assert 0 <= statistics["intensity_min"] < 0.01 and 0.99 < statistics["intensity_max"] <= 1
    assert statistics["intensity_mean"] == pytest.approx(0.5, abs=0.01) and statistics["range_max_99"] == pytest.approx(59.4, abs=0.5)
    assert all(type(value) in (int, float) for value in statistics.values())


def test_measure_passes_over_what_is_not_finite_or_empty():
    cloud = street()
    broken = cloud.copy()
    broken[:50, 0], broken[50:99, 3] = np.nan, np.inf
    assert measure([broken, np.zeros((0, 4))])["points_per_frame_mean"] == 20_000 - 99
    assert measure([]) == {} and measure([np.zeros((0, 4))]) == {} and measure([np.full((3, 4), np.nan)]) == {}
    one = measure([np.array([[1.0, 2.0, -1.0]])])
    assert one["ground_height"] == -1.0 and one["intensity_max"] == 0.0 and one["features_per_point"] == 3


def test_ground_of_the_real_frame(shared_dir):
    points = np.fromfile(shared_dir / "data/kitti_real/training/velodyne/000008.bin", np.float32).reshape(-1, 4)
    assert ground_height(points) == pytest.approx(-1.7, abs=0.15)  # the sensor stands 1.73 m above the road


def test_a_cloud_of_the_same_kind_fits():
    statistics = measure(street(seed) for seed in range(3))
    assert mismatch(statistics, street(9)) == []
    assert mismatch(statistics, street(9, points=7_000)) == []
    assert mismatch(statistics, street(9, ground=-1.5)) == []
    assert mismatch({}, street()) == [] and mismatch(statistics, np.zeros((0, 4))) == []


@pytest.mark.parametrize(
    ("cloud", "message"),
    [
        (street(9, ground=0.05), r"the ground lies at z = 0\.0\d m, in the training data at -1\.7\d m: use --z-offset -1\.7\d"),
        (street(9, scale=255.0), r"intensity reaches 255, in the training data 1: use --intensity-scale 0\.00392157"),
        (street(9, scale=0.0), "every intensity is 0"),
        (street(9)[:, :3], "3 values per point, the training data had 4"),
        (street(9, points=2_000), "2000 points, the training data had 20000"),
        (street(9) * np.float32([4, 4, 1, 1]), "as the distance of its outermost points"),
    ],
)
def test_a_cloud_of_another_kind_is_told(cloud, message):
    statistics = measure(street(seed) for seed in range(3))
    messages = mismatch(statistics, cloud)
    assert len(messages) == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(messages[0])
