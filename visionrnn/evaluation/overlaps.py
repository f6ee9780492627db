"""Which objects overlap which detections, over all frames of a data set at once.

Objects of all frames lie in one table, ordered by frame; a pair is (row of a, row of b) of the same frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from visionrnn.geometry import rotated_intersection

PAIRS_PER_CHUNK = 1 << 20


@dataclass(frozen=True)
class Pairs:
    """Overlapping pairs, ordered by object, then by detection: rows ``truth`` [P] and ``detection`` [P], ``overlap`` [P] in (0, 1]."""

    truth: np.ndarray
    detection: np.ndarray
    overlap: np.ndarray

    def where(self, mask: np.ndarray) -> Pairs:
        """The pairs of a mask [P]."""
        return Pairs(self.truth[mask], self.detection[mask], self.overlap[mask])


def pairs_in_frames(frame_a: np.ndarray, frame_b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of rows with the same frame, in chunks. ``frame_a`` [N], ``frame_b`` [M]: frame numbers of the rows, not falling."""
    start = np.searchsorted(frame_b, frame_a, side="left")
    count = np.searchsorted(frame_b, frame_a, side="right") - start  # partners of each row of a
    total = np.cumsum(count)
    first = 0
    while first < len(frame_a):
        before = total[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(total, before + PAIRS_PER_CHUNK, side="right")))
        number = count[first:last]
        a = np.repeat(np.arange(first, last), number)
        within = np.arange(len(a)) - np.repeat(np.cumsum(number) - number, number)
        yield a, start[a] + within
        first = last


def image_overlap(a: np.ndarray, b: np.ndarray, over: str = "union") -> np.ndarray:
    """Overlap [P] of image boxes a, b [P, 4] (x1, y1, x2, y2 in pixels) over their union, or over the area of ``b`` with over="b"."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    common = np.where((sides > 0).all(1), sides[:, 0] * sides[:, 1], 0.0)
    area_a, area_b = ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) for box in (a, b))
    whole = area_b if over == "b" else area_a + area_b - common
    return np.divide(common, whole, out=np.zeros_like(common), where=common > 0)


def ground_overlaps(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Overlap over the union [P] from above and in 3D, of camera boxes a, b [P, 7].

    Boxes are x, y, z of the bottom centre (x right, y down, z front; metres), length, height, width, rotation_y (about the y axis).
    """
    from_above, volume = np.zeros(len(a)), np.zeros(len(a))
    reach = np.hypot(a[:, 3], a[:, 5]) / 2 + np.hypot(b[:, 3], b[:, 5]) / 2
    near = np.flatnonzero(np.hypot(a[:, 0] - b[:, 0], a[:, 2] - b[:, 2]) < reach)
    a, b = a[near], b[near]
    # the ground plane is (x, z); there the heading is (cos ry, -sin ry)
    flat_a, flat_b = (torch.from_numpy(box[:, [0, 2, 3, 5, 6]] * np.array([1, 1, 1, 1, -1.0])) for box in (a, b))
    common = rotated_intersection(flat_a, flat_b).numpy()
    area_a, area_b = (box[:, 3] * box[:, 5] for box in (a, b))
    from_above[near] = _ratio(common, area_a + area_b - common)
    height = np.minimum(a[:, 1], b[:, 1]) - np.maximum(a[:, 1] - a[:, 4], b[:, 1] - b[:, 4])
    common = common * np.maximum(height, 0)
    volume[near] = _ratio(common, area_a * a[:, 4] + area_b * b[:, 4] - common)
    return from_above, volume


def _ratio(common: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(common, whole, out=np.zeros_like(common), where=(common > 0) & (whole > 0))


def find_pairs(
    frame_a: np.ndarray, frame_b: np.ndarray, image: tuple[np.ndarray, np.ndarray], boxes: tuple[np.ndarray, np.ndarray], minimum: float
) -> dict[str, Pairs]:
    """Pairs with an overlap above ``minimum`` for the metrics "image", "bev" and "3d"; image boxes and camera boxes of (a, b)."""
    parts: dict[str, list[tuple[np.ndarray, ...]]] = {"image": [], "bev": [], "3d": []}
    for a, b in pairs_in_frames(frame_a, frame_b):
        values = dict(zip(("bev", "3d"), ground_overlaps(boxes[0][a], boxes[1][b]), strict=True))
        values["image"] = image_overlap(image[0][a], image[1][b])
        for metric, overlap in values.items():
            above = overlap > minimum
            parts[metric].append((a[above], b[above], overlap[above]))
    empty = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return {metric: Pairs(*(np.concatenate(column) for column in zip(empty, *chunks, strict=True))) for metric, chunks in parts.items()}


def covered_share(frame_a: np.ndarray, frame_b: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """For each image box of ``b`` [M, 4]: the largest share of its area covered by one box of ``a`` [N, 4] of the same frame. [M]."""
    share = np.zeros(len(b))
    for i, j in pairs_in_frames(frame_a, frame_b):
        np.maximum.at(share, j, image_overlap(a[i], b[j], over="b"))
    return share
