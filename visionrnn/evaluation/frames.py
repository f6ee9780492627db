"""Frames of labels → one table of objects, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from visionrnn.datasets.kitti import Labels
from visionrnn.errors import DataError

_SHAPES: dict[str, tuple[int, ...]] = {
    "truncated": (), "occluded": (), "alpha": (), "box2d": (4,), "size": (3,), "location": (3,), "rotation_y": (), "score": (),
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Objects of all frames, one row each, in frame order."""

    frame: np.ndarray
    name: np.ndarray  # lower case
    labels: Labels

    @property
    def height(self) -> np.ndarray:
        """[N] pixels, in the image."""
        return self.labels.box2d[:, 3] - self.labels.box2d[:, 1]

    @property
    def distance(self) -> np.ndarray:
        """[N] metres from the camera to the box's bottom centre, on the ground plane."""
        return np.hypot(self.labels.location[:, 0], self.labels.location[:, 2])


def tabulate(frames: Sequence[Labels | Mapping[str, Any]], what: str, needed: tuple[str, ...]) -> Table:
    """Joins ``frames``; ``needed`` are the fields without which a frame with objects is refused. Raises DataError, naming the frame."""
    parts = [_labels(frame, f"{what}[{index}]", needed) for index, frame in enumerate(frames)]
    joined = {
        field: np.concatenate([getattr(part, field) for part in parts]) if parts else np.zeros((0, *shape))
        for field, shape in (("name", ()), *_SHAPES.items())
    }
    frame = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return Table(frame, np.char.lower(joined["name"].astype(np.str_)), Labels(**joined))


def _labels(frame: Labels | Mapping[str, Any], what: str, needed: tuple[str, ...]) -> Labels:
    """The frame as Labels with every field an array; fields that do not matter here are zeros."""
    get = frame.get if isinstance(frame, Mapping) else lambda field: getattr(frame, field)
    names = get("name")
    if names is None:
        raise DataError(f"{what}: has no 'name'; expected the fields name, {', '.join(_SHAPES)}")
    names = np.asarray(names)
    values: dict[str, np.ndarray] = {}
    for field, shape in _SHAPES.items():
        given = get(field)
        if given is None and len(names) and (field in needed or field not in ("truncated", "occluded", "score")):
            raise DataError(f"{what}: has no {field!r}; expected an array of shape {[len(names), *shape]}")
        value = np.zeros((len(names), *shape)) if given is None else np.asarray(given, dtype=np.float64)
        if value.size == 0 == len(names):
            value = value.reshape(0, *shape)
        if value.shape != (len(names), *shape):
            raise DataError(f"{what}: {field} has shape {list(value.shape)}, expected {[len(names), *shape]}, a row for each name")
        if not np.isfinite(value).all():
            raise DataError(f"{what}: {field} holds NaN or infinite values; every number must be finite")
        values[field] = value
    return Labels(name=names, **values)
