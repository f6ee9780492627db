"""What a data set's clouds look like, in a few numbers, and whether another cloud looks alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

GROUND_TOLERANCE = 0.5  # metres
INTENSITY_RATIO = 4.0  # between full scales; 0–1 and 0–255 differ by 255
DENSITY_RATIO = 5.0
RANGE_RATIO = 2.5


def measure(clouds: Iterable[np.ndarray]) -> dict[str, Any]:
    """Statistics of clouds [N, F] (x, y, z in metres in the LiDAR frame, then intensity), as plain numbers; {} when no cloud has a point.

    ``features_per_point`` (the smallest F), ``intensity_min``, ``intensity_max`` and ``intensity_mean`` (0 without intensity; the range
    covers all points), ``ground_height`` (metres; the median of the frames'), ``points_per_frame_mean``, ``range_max_99`` (metres; 99th
    percentile of the horizontal distance, the median of the frames') and ``frames``, the number of clouds measured. Points with a NaN or
    infinite coordinate or intensity are passed over.
    """
    features, counts, grounds, ranges = [], [], [], []
    low, high, total = np.inf, -np.inf, 0.0
    for cloud in clouds:
        points = finite_points(cloud)
        if not len(points):
            continue
        features.append(points.shape[1])
        counts.append(len(points))
        grounds.append(ground_height(points))
        ranges.append(float(np.percentile(np.hypot(points[:, 0], points[:, 1]), 99)))
        if points.shape[1] > 3:
            low, high = min(low, float(points[:, 3].min())), max(high, float(points[:, 3].max()))
            total += float(points[:, 3].mean(dtype=np.float64)) * len(points)
    if not counts:
        return {}
    has_intensity = high >= low
    return {
        "features_per_point": int(min(features)),
        "intensity_min": low if has_intensity else 0.0,
        "intensity_max": high if has_intensity else 0.0,
        "intensity_mean": total / sum(counts),
        "ground_height": float(np.median(grounds)),
        "points_per_frame_mean": float(np.mean(counts)),
        "range_max_99": float(np.median(ranges)),
        "frames": len(counts),
    }


def finite_points(cloud: np.ndarray) -> np.ndarray:
    """The rows of a cloud [N, F] whose first four columns are finite."""
    cloud = np.asarray(cloud, dtype=np.float32)
    return cloud[np.isfinite(cloud[:, :4]).all(axis=1)]


def ground_height(points: np.ndarray) -> float:
    """Height of the ground near the sensor, in metres: the most frequent height in the lower half of the points within 20 m.

    Heights are counted in bins of 0.1 m, smoothed over three bins; the median within 0.15 m of the peak is returned. ``points`` [N, ≥ 3],
    finite, N ≥ 1; fewer than 100 points near the sensor: all points are used.
    """
    near = points[np.hypot(points[:, 0], points[:, 1]) < 20.0, 2]
    heights = (near if len(near) >= 100 else points[:, 2]).astype(np.float64)
    heights = heights[heights >= np.percentile(heights, 1)]  # reflections seem to lie below the ground
    heights = heights[heights <= np.median(heights)]
    bins = np.floor(heights / 0.1).astype(np.int64)
    counts = np.bincount(np.clip(bins - bins.min(), 0, 10_000))
    smooth = np.convolve(counts, [1, 2, 1], mode="same")
    peak = (bins.min() + int(smooth.argmax()) + 0.5) * 0.1
    return float(np.median(heights[np.abs(heights - peak) <= 0.15])) if len(heights) > 2 else float(heights.mean())


def mismatch(statistics: Mapping[str, Any], points: np.ndarray) -> list[str]:
    """How a cloud [N, F] differs from the clouds a model was trained on; one sentence per difference, naming the option that mends it.

    ``statistics`` is ``meta['data_statistics']`` of a checkpoint; missing entries are not compared. Only clear differences are told: ground
    more than 0.5 m off (``--z-offset``), full scale of the intensity 4 times larger or smaller (``--intensity-scale``), missing features,
    5 times more or fewer points, 2.5 times the reach or less than its 2.5th part.
    """
    cloud = measure([np.asarray(points)])
    if not cloud or not statistics:
        return []
    messages = []
    wanted, found = statistics.get("features_per_point"), cloud["features_per_point"]
    if wanted is not None and found < wanted:
        messages.append(f"the cloud has {found} values per point, the training data had {wanted}: add the missing columns")
    messages += _ground(statistics, cloud) + _intensity(statistics, cloud)
    for key, ratio, what, unit in (
        ("points_per_frame_mean", DENSITY_RATIO, "points", ""),
        ("range_max_99", RANGE_RATIO, "as the distance of its outermost points", " m"),
    ):
        trained, value = statistics.get(key), cloud[key]
        if trained and not trained / ratio <= value <= trained * ratio:
            messages.append(f"the cloud has {value:.0f}{unit} {what}, the training data had {trained:.0f}{unit}: expect worse boxes")
    return messages


def _ground(statistics: Mapping[str, Any], cloud: Mapping[str, Any]) -> list[str]:
    trained, found = statistics.get("ground_height"), cloud["ground_height"]
    if trained is None or abs(trained - found) <= GROUND_TOLERANCE:
        return []
    return [f"the ground lies at z = {found:.2f} m, in the training data at {trained:.2f} m: use --z-offset {trained - found:+.2f}"]


def _intensity(statistics: Mapping[str, Any], cloud: Mapping[str, Any]) -> list[str]:
    trained, found = statistics.get("intensity_max"), cloud["intensity_max"]
    if not trained or cloud["features_per_point"] < 4:
        return []
    if found <= 0:
        return [f"every intensity is 0, in the training data they reached {trained:.4g}: expect worse boxes"]
    if trained / INTENSITY_RATIO <= found <= trained * INTENSITY_RATIO:
        return []
    return [f"intensity reaches {found:.4g}, in the training data {trained:.4g}: use --intensity-scale {_round_scale(trained / found):.6g}"]


def _round_scale(scale: float) -> float:
    """A scale close to one between the usual full scales (1, 100, 255, 65535) as that one."""
    full = (1.0, 100.0, 255.0, 65535.0)
    usual = [a / b for a in full for b in full if a != b]
    nearest = min(usual, key=lambda value: abs(np.log(value / scale)))
    return nearest if abs(np.log(nearest / scale)) < 0.15 else scale
