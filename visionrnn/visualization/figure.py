"""What all pictures share: matplotlib without a display, class colours, the two themes, arrays in the shapes the drawings expect."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from visionrnn.datasets.files import atomic_write
from visionrnn.errors import DataError, MissingPackageError

DPI = 100


@dataclass(frozen=True)
class Theme:
    """Colours of a picture. ``classes`` are told apart with every common colour blindness (M. Okabe and K. Ito, 2008)."""

    background: str
    text: str
    grid: str
    ground_truth: str
    darkest_point: float  # grey level of the lowest point, 0 black … 1 white
    lightest_point: float
    classes: tuple[str, ...]


THEMES = {
    "dark": Theme(
        "#101214", "#e8e8e8", "#30343a", "#ffffff", 0.32, 0.82, ("#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#F0E442", "#D55E00")
    ),
    "light": Theme(
        "#ffffff", "#202020", "#e2e2e2", "#000000", 0.74, 0.25, ("#D55E00", "#0072B2", "#CC79A7", "#009E73", "#E69F00", "#56B4E9")
    ),
}


def theme(name: str) -> Theme:
    """The theme of this name; ValueError otherwise."""
    if name not in THEMES:
        raise ValueError(f"background={name!r}; expected one of {sorted(THEMES)}")
    return THEMES[name]


def load_matplotlib() -> ModuleType:
    """matplotlib, imported on first use. Figures are drawn on an Agg canvas, so neither a display nor a global back end is touched."""
    try:
        import matplotlib
        import matplotlib.backends.backend_agg
        import matplotlib.figure
        import matplotlib.patheffects
    except ImportError as error:
        raise MissingPackageError("drawing pictures needs matplotlib, which is not installed; run: pip install 'visionrnn[viz]'") from error
    return matplotlib


def new_figure(width: int, height: int, background: str) -> Any:
    """An empty figure of exactly width × height pixels."""
    matplotlib = load_matplotlib()
    figure = matplotlib.figure.Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=background)
    matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
    return figure


def pixel_axes(figure: Any, left: int, top: int, width: int, height: int) -> Any:
    """Axes covering exactly this rectangle of the figure, in pixels from its upper left corner."""
    total_width, total_height = figure.get_size_inches() * DPI
    return figure.add_axes((left / total_width, 1 - (top + height) / total_height, width / total_width, height / total_height))


def to_png(figure: Any) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()


def save_png(path: str | Path, png: bytes) -> Path:
    """Writes a picture whole or not at all, making the folder; returns the path."""
    with atomic_write(path, "wb") as file:
        file.write(png)
    return Path(path)


def outlined(matplotlib: ModuleType, colour: str) -> list[Any]:
    """Path effects that put a thin outline round text, so that it is readable on points and images."""
    return [matplotlib.patheffects.withStroke(linewidth=2.5, foreground=colour)]


@dataclass(frozen=True)
class BoxSet:
    """Boxes ready to draw: ``boxes`` [M, 7] float64 (geometric centre, LiDAR frame), class index [M] (-1 unknown), scores [M] or None."""

    boxes: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    scores: np.ndarray | None

    def name(self, label: int) -> str:
        return self.classes[label] if 0 <= label < len(self.classes) else "object"

    def colour(self, label: int, colours: Sequence[str]) -> str:
        return colours[label % len(colours)] if label >= 0 else colours[-1]

    def present(self) -> list[int]:
        """Class indices that occur, in order."""
        return sorted({int(label) for label in self.labels})


def as_array(values: Any) -> np.ndarray:
    """A numpy array or a torch tensor on any device → numpy array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values)


def as_boxes(boxes: Any, what: str = "boxes") -> np.ndarray:
    """[M, ≥ 7] → [M, 7] float64. Raises DataError for other shapes and for NaN."""
    array = np.zeros((0, 7)) if boxes is None else as_array(boxes).astype(np.float64)
    if array.size == 0:
        return np.zeros((0, 7))
    if array.ndim != 2 or array.shape[1] < 7:
        raise DataError(f"{what}: shape {list(array.shape)}, expected [M, 7]: x, y, z of the centre, length, width, height, yaw")
    if not np.isfinite(array[:, :7]).all():
        raise DataError(f"{what}: box {int(np.argmin(np.isfinite(array[:, :7]).all(1)))} has NaN or infinite values")
    return array[:, :7]


def box_set(boxes: Any, labels: Any = None, classes: Sequence[str] = (), scores: Any = None) -> BoxSet:
    """Checks boxes and what belongs to them. ``labels``: class indices, or class names (then ``classes`` is extended as needed)."""
    array = as_boxes(boxes)
    count, names = len(array), list(classes)
    if labels is None:
        index = np.full(count, 0 if len(names) == 1 else -1)
    else:
        index = as_array(labels).reshape(-1)
        if index.dtype.kind in "UO":
            names += [name for name in dict.fromkeys(str(label) for label in index) if name not in names]
            index = np.array([names.index(str(label)) for label in index], dtype=np.int64)
        index = index.astype(np.int64)
    score = None if scores is None else as_array(scores).astype(np.float64).reshape(-1)
    for name, values in (("labels", index), ("scores", score)):
        if values is not None and len(values) != count:
            raise DataError(f"{name}: {len(values)} values for {count} boxes; expected one for each")
    return BoxSet(array, index, tuple(names), score)
