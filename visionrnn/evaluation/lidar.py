"""Average precision of boxes in the LiDAR's frame by 3D overlap: no image, no difficulty, no benchmark's own rules.

For each class, detections of all frames are taken by falling score. One is right when the free object of its class and frame that it
overlaps most is overlapped by more than the class's threshold; each object is found once. The result is the mean of the interpolated
precision (the best at this or a higher recall) over the 40 recalls 1/40 … 1, in percent (Simonelli et al., ICCV 2019).

Objects outside the range looked at, or outside the band of distances, need not be found, and finding them is no error; nor are
detections out there that find nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from visionrnn.errors import DataError
from visionrnn.evaluation.overlaps import ground_overlaps, pairs_in_frames

DISTANCE_BANDS = ((0.0, 30.0), (30.0, 50.0), (50.0, float("inf")))  # metres from the sensor, on the ground
RECALLS = 40


@dataclass(frozen=True)
class Boxes:
    """One frame's boxes [N, 7]: x, y, z of the geometric centre, l, w, h (metres), yaw; labels [N]; scores [N], of detections only."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None


def average_precision(
    truth: Sequence[Boxes],
    found: Sequence[Boxes],
    min_overlap: Sequence[float],
    limit: Sequence[float] | None = None,
    bands: Sequence[tuple[float, float]] = DISTANCE_BANDS,
) -> list[dict[str, Any]]:
    """Scores ``found`` against ``truth``, frame by frame; ``min_overlap`` [K] are the overlaps that the classes 0 … K − 1 need.

    limit: x, y, z minima, then maxima, of the centres that count. Returns for each class "AP" in percent (NaN without objects), "objects",
    and "bands": the same two for each of ``bands``. Raises DataError for lists of unequal length and detections without scores.
    """
    if len(truth) != len(found):
        raise DataError(f"found: {len(found)} frames, but truth has {len(truth)}; expected equal numbers")
    if any(frame.scores is None for frame in found):
        raise DataError("found: a frame has no scores; every detection needs one")
    results = []
    for label, overlap in enumerate(min_overlap):
        frames, objects, _ = _table(truth, label)
        found_frames, detections, scores = _table(found, label)
        matches = _candidates(frames, found_frames, objects, detections, overlap)
        everywhere = _score(objects, detections, scores, matches, limit, (0.0, float("inf")))
        results.append({**everywhere, "bands": [_score(objects, detections, scores, matches, limit, band) for band in bands]})
    return results


def _table(frames: Sequence[Boxes], label: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frame number [N], boxes [N, 7] and scores [N] of all boxes of a class."""
    chosen = [frame.labels == label for frame in frames]
    number = np.repeat(np.arange(len(frames)), [int(mask.sum()) for mask in chosen])
    boxes = [np.zeros((0, 7)), *(frame.boxes[mask, :7] for frame, mask in zip(frames, chosen, strict=True))]
    scores = [
        np.zeros(0),
        *(frame.scores[mask] if frame.scores is not None else np.zeros(0) for frame, mask in zip(frames, chosen, strict=True)),
    ]
    return number, np.concatenate(boxes).astype(np.float64), np.concatenate(scores).astype(np.float64)


def _candidates(
    frames: np.ndarray, found_frames: np.ndarray, objects: np.ndarray, detections: np.ndarray, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of objects and of detections that overlap by more than ``least``, and by how much; each [P]."""
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for a, b in pairs_in_frames(frames, found_frames):
        volume = ground_overlaps(_camera(objects[a]), _camera(detections[b]))[1]
        enough = volume > least
        parts.append((a[enough], b[enough], volume[enough]))
    a, b, overlap = (np.concatenate(column) for column in zip(*parts, strict=True))
    return a, b, overlap


def _camera(boxes: np.ndarray) -> np.ndarray:
    """LiDAR boxes [N, 7] → x right, y down, z front, of the bottom centre; length, height, width; heading about y. [N, 7]."""
    x, y, z, length, width, height, yaw = boxes.T
    return np.column_stack([-y, height / 2 - z, x, length, height, width, -yaw - np.pi / 2])


def _score(
    objects: np.ndarray,
    detections: np.ndarray,
    scores: np.ndarray,
    matches: tuple[np.ndarray, np.ndarray, np.ndarray],
    limit: Sequence[float] | None,
    band: tuple[float, float],
) -> dict[str, Any]:
    counted, own = _inside(objects, limit, band), _inside(detections, limit, band)
    number = int(counted.sum())
    if not number:
        return {"AP": float("nan"), "objects": 0}
    truth, detection, overlap = matches
    right, taken_by = np.zeros(len(detections), bool), np.zeros(len(detections), bool)
    free = np.ones(len(objects), bool)
    # best detection first, each with its counted candidates first and these by overlap
    for p in np.lexsort((-overlap, ~counted[truth], detection, -scores[detection])):
        if free[truth[p]] and not taken_by[detection[p]]:
            free[truth[p]], taken_by[detection[p]] = False, True
            right[detection[p]] = counted[truth[p]]
    judged = np.where(taken_by, right, own)  # detections of ignored objects, or out of range and of nothing, do not count
    order = np.flatnonzero(judged)[np.argsort(-scores[judged], kind="stable")]
    last_of_equals = np.append(scores[order][1:] != scores[order][:-1], True)[: len(order)]
    true = np.cumsum(right[order])[last_of_equals]
    precision = true / (np.flatnonzero(last_of_equals) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(true, np.arange(1, RECALLS + 1) * number / RECALLS - 1e-9)
    return {"AP": float(np.append(best, 0.0)[np.minimum(place, len(best))].mean() * 100), "objects": number}


def _inside(boxes: np.ndarray, limit: Sequence[float] | None, band: tuple[float, float]) -> np.ndarray:
    distance = np.hypot(boxes[:, 0], boxes[:, 1])
    inside = (distance >= band[0]) & (distance < band[1])
    if limit is not None:
        low, high = np.asarray(limit[:3]), np.asarray(limit[3:])
        inside &= ((boxes[:, :3] >= low) & (boxes[:, :3] <= high)).all(1)
    return inside
