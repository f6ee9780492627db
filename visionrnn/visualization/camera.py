"""Camera pictures: 3D boxes projected into an image, cut where they pass behind the camera."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from visionrnn.datasets.kitti import Calibration
from visionrnn.errors import DataError
from visionrnn.geometry import box_corners
from visionrnn.visualization.figure import BoxSet, as_array, box_set, load_matplotlib, new_figure, outlined, pixel_axes, theme, to_png

NEAR = 0.1  # metres in front of the camera; what is closer or behind has no place in the image
STRIP = 34  # pixels under the image, for the legend
# Corners 0–3 are the bottom, 4–7 the top: front left, rear left, rear right, front right.
EDGES = np.array([(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)])
FRONT_CROSS = np.array([(0, 7), (3, 4)])  # the diagonals of the front face mark the heading


def projection_matrix(calibration: Calibration | np.ndarray) -> np.ndarray:
    """[3, 4] matrix from the LiDAR frame to homogeneous pixels (third row: depth in metres)."""
    matrix = calibration.lidar2img if isinstance(calibration, Calibration) else as_array(calibration)
    if matrix.shape not in ((3, 4), (4, 4)):
        raise DataError(f"calibration: shape {list(matrix.shape)}, expected a Calibration or a [3, 4] or [4, 4] LiDAR-to-pixel matrix")
    return matrix[:3].astype(np.float64)


def project_segments(start: np.ndarray, end: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Line segments in space → their visible parts in pixels.

    start, end [S, 3] in the LiDAR frame; matrix [3, 4]; size (width, height) of the image. Returns (visible [S] bool,
    pixels [S, 2, 2]: both ends as column, row; meaningless where not visible). A segment is cut at depth NEAR before it is
    divided by its depth, since a point behind the camera would be mirrored into the image; then it is cut at the image's borders.
    """
    a, b = (points @ matrix[:, :3].T + matrix[:, 3] for points in (start, end))  # [S, 3] homogeneous pixels
    low, high = _clip(np.zeros(len(a)), np.ones(len(a)), a[:, 2] - NEAR, b[:, 2] - NEAR)
    visible = low < high
    ends = [a + t[:, None] * (b - a) for t in (low, high)]
    p, q = (np.divide(e[:, :2], e[:, 2:], out=np.zeros((len(e), 2)), where=visible[:, None]) for e in ends)
    low, high = np.zeros(len(a)), np.ones(len(a))
    for axis, limit in enumerate(size):
        low, high = _clip(low, high, p[:, axis], q[:, axis])
        low, high = _clip(low, high, limit - p[:, axis], limit - q[:, axis])
    visible &= low < high
    return visible, np.stack([p + low[:, None] * (q - p), p + high[:, None] * (q - p)], axis=1)


def _clip(low: np.ndarray, high: np.ndarray, f0: np.ndarray, f1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Narrows the parameter interval [low, high] of segments to where a function, linear from f0 to f1 along them, is ≥ 0."""
    change = f1 - f0
    crossing = -f0 / np.where(change == 0, 1.0, change)
    low = np.where((change > 0) & (crossing > low), crossing, low)
    high = np.where((change < 0) & (crossing < high), crossing, high)
    return low, np.where((change == 0) & (f0 < 0), low, high)


def read_image(image: Any) -> np.ndarray:
    """A path, or an array [H, W, 3] or [H, W] (uint8 0–255 or float 0–1, RGB) → uint8 [H, W, 3]. Raises DataError."""
    if isinstance(image, (str, Path)):
        load_matplotlib()  # Pillow comes with it
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(image) as opened:
                return np.asarray(opened.convert("RGB"))
        except FileNotFoundError:
            raise DataError(f"{image}: image not found; expected a .png or .jpg") from None
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"{image}: not a readable image ({error}); expected a .png or .jpg") from None
    array = as_array(image)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] not in (3, 4) or not array.size:
        raise DataError(f"image: shape {list(array.shape)}, expected [height, width, 3] in RGB order")
    if array.dtype.kind == "f":
        array = np.clip(np.nan_to_num(array), 0, 1) * 255
    return array[:, :, :3].astype(np.uint8)


def draw_camera(
    image: Any,
    boxes: Any,
    calibration: Calibration | np.ndarray,
    labels: Any = None,
    scores: Any = None,
    *,
    classes: Sequence[str] = (),
    ground_truth: Any = None,
) -> bytes:
    """The image with 3D boxes drawn into it, as the bytes of a PNG of the image's size and a strip for the legend below.

    ``image``: path or [H, W, 3]; boxes [M, 7] in the LiDAR frame (geometric centre); ``calibration``: the frame's ``Calibration`` or a
    [3, 4] LiDAR-to-pixel matrix; labels, scores, classes, ground truth as in ``draw_bev``. A cross marks a box's front face.
    Boxes behind the camera are left out, those half behind are cut. Raises DataError, MissingPackageError.
    """
    matplotlib = load_matplotlib()
    pixels, matrix, colours = read_image(image), projection_matrix(calibration), theme("dark")
    height, width = pixels.shape[:2]
    found, truth = box_set(boxes, labels, classes, scores), box_set(ground_truth)
    figure = new_figure(width, height + STRIP, colours.background)
    axes = pixel_axes(figure, 0, 0, width, height)
    axes.imshow(pixels, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    truth_shown = _draw(axes, truth, matrix, (width, height), [colours.ground_truth], matplotlib, dashed=True)
    shown = _draw(axes, found, matrix, (width, height), colours.classes, matplotlib)
    handles = []
    for label in found.present():
        count = int((found.labels[shown] == label).sum())
        line = matplotlib.lines.Line2D(
            [], [], color=found.colour(label, colours.classes), linewidth=2, label=f"{found.name(label)} ({count})"
        )
        handles.append(line)
    if len(truth.boxes):
        text = f"ground truth ({int(truth_shown.sum())})"
        handles.append(matplotlib.lines.Line2D([], [], color=colours.ground_truth, linewidth=1.2, linestyle=(0, (4, 3)), label=text))
    if handles:
        figure.legend(
            handles=handles, loc="lower left", ncol=len(handles), frameon=False, labelcolor=colours.text, fontsize=9, borderaxespad=0.3
        )
    if width >= 600:
        figure.text(
            1 - 8 / width, STRIP / 2 / (height + STRIP), "cross = front of the box", color=colours.text, fontsize=9, ha="right", va="center"
        )
    return to_png(figure)


def _draw(
    axes: Any, boxes: BoxSet, matrix: np.ndarray, size: tuple[int, int], colours: Sequence[str], matplotlib: Any, dashed: bool = False
) -> np.ndarray:
    """Draws the boxes, far ones first; returns which of them are at least partly in the image [M]."""
    shown = np.zeros(len(boxes.boxes), dtype=bool)
    if not len(boxes.boxes):
        return shown
    corners = box_corners(torch.from_numpy(boxes.boxes)).numpy()  # [M, 8, 3]
    depth = boxes.boxes[:, :3] @ matrix[2, :3] + matrix[2, 3]
    for i in np.argsort(-depth):
        colour = boxes.colour(int(boxes.labels[i]), colours)
        outline: list[np.ndarray] = []
        for pairs, thickness in ((EDGES, 1.0 if dashed else 1.6), (FRONT_CROSS, 0.5 if dashed else 0.8)):
            visible, segments = project_segments(corners[i, pairs[:, 0]], corners[i, pairs[:, 1]], matrix, size)
            for segment in segments[visible]:
                axes.plot(segment[:, 0], segment[:, 1], color=colour, linewidth=thickness, linestyle=(0, (4, 3)) if dashed else "-")
            outline.extend(segments[visible])
        shown[i] = bool(outline)
        if outline and boxes.scores is not None:
            drawn = np.concatenate(outline)
            place = (float(np.clip(drawn[:, 0].mean(), 16, size[0] - 16)), float(np.clip(drawn[:, 1].min() - 3, 11, size[1] - 2)))
            text = f"{boxes.name(int(boxes.labels[i]))} {boxes.scores[i]:.2f}"
            axes.text(*place, text, color=colour, fontsize=8, ha="center", va="bottom", path_effects=outlined(matplotlib, "black"))
    return shown
