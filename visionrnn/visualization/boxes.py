"""Bird's-eye pictures: points, boxes with heading, scores, ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from visionrnn.errors import DataError
from visionrnn.geometry import box_corners_bev
from visionrnn.visualization.figure import (
    BoxSet,
    Theme,
    as_array,
    box_set,
    load_matplotlib,
    new_figure,
    outlined,
    pixel_axes,
    theme,
    to_png,
)

LEFT, RIGHT, TOP, BOTTOM = 62, 168, 40, 52  # margins round the map in pixels; the legend is in the right one
MAX_SIDE, MIN_SIDE = 1000, 260  # pixels of the map's sides


@dataclass(frozen=True)
class BevLayout:
    """Where metres lie in a bird's-eye picture: x forward is up, y left is left. All bounds in metres in the LiDAR frame."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float
    pixels_per_metre: float

    @property
    def map_size(self) -> tuple[int, int]:
        """(width, height) of the map in pixels."""
        return round((self.y_max - self.y_min) * self.pixels_per_metre), round((self.x_max - self.x_min) * self.pixels_per_metre)

    @property
    def picture_size(self) -> tuple[int, int]:
        """(width, height) of the whole picture in pixels."""
        width, height = self.map_size
        return width + LEFT + RIGHT, height + TOP + BOTTOM

    def to_pixels(self, xy: np.ndarray) -> np.ndarray:
        """Metres [N, 2] (x, y) → pixels [N, 2] (column, row) from the picture's upper left corner."""
        width, height = self.map_size
        column = LEFT + (self.y_max - xy[:, 1]) / (self.y_max - self.y_min) * width
        row = TOP + (self.x_max - xy[:, 0]) / (self.x_max - self.x_min) * height
        return np.column_stack([column, row])


def bev_layout(points: Any, boxes: Any = None, range: Sequence[float] | None = None) -> BevLayout:
    """The part of the ground a picture shows: ``range``, or else all boxes and all but the outermost 0.5 % of the points.

    ``range`` is (x_min, y_min, x_max, y_max) or mmdet3d's (x_min, y_min, z_min, x_max, y_max, z_max), in metres.
    """
    if range is not None:
        bounds = [float(value) for value in range]
        if len(bounds) == 6:
            bounds = [bounds[0], bounds[1], bounds[3], bounds[4]]
        if len(bounds) != 4 or not np.isfinite(bounds).all() or bounds[0] >= bounds[2] or bounds[1] >= bounds[3]:
            raise DataError(f"range: {list(range)}, expected x_min, y_min, x_max, y_max in metres, minima below maxima")
    else:
        bounds = _bounds(as_array(points)[:, :2].astype(np.float64), box_set(boxes).boxes)
    longest = max(bounds[2] - bounds[0], bounds[3] - bounds[1])
    for low in (0, 1):  # a narrow strip is shown with some ground beside it, so that the legend fits
        missing = longest * MIN_SIDE / MAX_SIDE - (bounds[low + 2] - bounds[low])
        if missing > 0:
            bounds[low], bounds[low + 2] = bounds[low] - missing / 2, bounds[low + 2] + missing / 2
    return BevLayout(bounds[0], bounds[1], bounds[2], bounds[3], MAX_SIDE / longest)


def _bounds(xy: np.ndarray, boxes: np.ndarray) -> list[float]:
    xy = xy[np.isfinite(xy).all(axis=1)]
    corners = []
    if len(xy):
        corners.append(np.percentile(xy, [0.5, 99.5], axis=0))
        nearest = np.clip(0.0, *corners[0])
        if np.abs(nearest).max() < np.ptp(corners[0], axis=0).max():  # the sensor is shown unless the cloud lies far from it
            corners.append(np.zeros((1, 2)))
    if len(boxes):
        reach = np.hypot(boxes[:, 3], boxes[:, 4])[:, None] / 2
        corners += [boxes[:, :2] - reach, boxes[:, :2] + reach]
    if not corners:
        return [0.0, -40.0, 70.0, 40.0]
    stacked = np.concatenate(corners)
    low, high = stacked.min(axis=0), stacked.max(axis=0)
    centre, half = (low + high) / 2, np.maximum((high - low) / 2, 5.0) + 1.0
    return [float(v) for v in (*(centre - half), *(centre + half))]


def draw_bev(
    points: Any,
    boxes: Any = None,
    labels: Any = None,
    scores: Any = None,
    *,
    classes: Sequence[str] = (),
    ground_truth: Any = None,
    range: Sequence[float] | None = None,
    color_by: str = "height",
    background: str = "dark",
    title: str | None = None,
) -> bytes:
    """A bird's-eye picture of one cloud as the bytes of a PNG, drawn without a display. x forward is up, y left is left.

    points [N, ≥ 3] x, y, z in metres in the LiDAR frame (a 4th column is the intensity); boxes [M, 7] with geometric centre; labels [M]
    class indices into ``classes``, or class names; scores [M] are written beside the boxes. ``ground_truth`` [K, 7] is drawn dashed.
    The line from a box's centre leaves through its front. ``range``: see ``bev_layout``. ``color_by``: "height" or "intensity"; the points
    that stand out most from the background ("dark" or "light") are the highest or the most reflecting.
    Arrays may be numpy or torch. Raises DataError (wrong shapes), MissingPackageError (no matplotlib).
    """
    matplotlib = load_matplotlib()
    cloud = as_array(points)
    if cloud.ndim != 2 or cloud.shape[1] < 3:
        raise DataError(f"points: shape {list(cloud.shape)}, expected [N, 3] or more columns: x, y, z, intensity, …")
    found, truth, colours = box_set(boxes, labels, classes, scores), box_set(ground_truth), theme(background)
    layout = bev_layout(cloud, np.concatenate([found.boxes, truth.boxes]), range)
    figure = new_figure(*layout.picture_size, colours.background)
    axes = pixel_axes(figure, LEFT, TOP, *layout.map_size)
    axes.set_facecolor(colours.background)
    extent = (layout.y_max, layout.y_min, layout.x_min, layout.x_max)
    image, unit, limits = _paint_points(cloud, layout, colours, color_by)
    axes.imshow(image, extent=extent, interpolation="nearest", aspect="auto", zorder=1)
    axes.set_xlim(layout.y_max, layout.y_min)
    axes.set_ylim(layout.x_min, layout.x_max)
    _draw_boxes(axes, truth, colours, matplotlib, dashed=True)
    _draw_boxes(axes, found, colours, matplotlib)
    axes.plot([0], [0], marker="^", markersize=7, color=colours.text, linestyle="none", zorder=2)
    _label_axes(axes, colours, title or "Bird's-eye view: x forward, y left")
    _draw_legend(figure, axes, found, truth, colours, matplotlib)
    figure.text(
        1 - (RIGHT - 12) / layout.picture_size[0],
        BOTTOM / layout.picture_size[1],
        _caption(cloud, color_by, unit, limits, background),
        color=colours.text,
        fontsize=8,
        va="bottom",
    )
    return to_png(figure)


def _paint_points(cloud: np.ndarray, layout: BevLayout, colours: Theme, color_by: str) -> tuple[np.ndarray, str, tuple[float, float]]:
    """Points as grey 2 × 2 pixel marks on a transparent image [height, width, 4]; the highest point of a pixel wins."""
    if color_by not in ("height", "intensity"):
        raise ValueError(f"color_by={color_by!r}; expected 'height' or 'intensity'")
    column = 2 if color_by == "height" else 3
    if cloud.shape[1] <= column:
        raise DataError(f"points: {cloud.shape[1]} columns; colouring by intensity needs the intensity as 4th column")
    width, height = layout.map_size
    image = np.zeros((height, width, 4), dtype=np.float32)
    xyz, value = cloud[:, :3].astype(np.float64), cloud[:, column].astype(np.float64)
    keep = np.isfinite(xyz).all(axis=1) & np.isfinite(value)
    keep &= (xyz[:, 0] >= layout.x_min) & (xyz[:, 0] < layout.x_max) & (xyz[:, 1] > layout.y_min) & (xyz[:, 1] <= layout.y_max)
    xyz, value = xyz[keep], value[keep]
    if not len(xyz):
        return image, "m" if column == 2 else "", (0.0, 0.0)
    low, high = (float(v) for v in np.percentile(value, [1, 99]))
    grey = colours.darkest_point + (colours.lightest_point - colours.darkest_point) * np.clip((value - low) / max(high - low, 1e-6), 0, 1)
    order = np.argsort(xyz[:, 2], kind="stable")
    pixels = np.floor(layout.to_pixels(xyz[order]) - (LEFT, TOP)).astype(np.int64)
    for right, down in ((1, 1), (0, 1), (1, 0), (0, 0)):
        columns, rows = np.minimum(pixels[:, 0] + right, width - 1), np.minimum(pixels[:, 1] + down, height - 1)
        image[rows, columns, :3] = grey[order, None]
        image[rows, columns, 3] = 1
    return image, "m" if column == 2 else "", (low, high)


def _draw_boxes(axes: Any, boxes: BoxSet, colours: Theme, matplotlib: Any, dashed: bool = False) -> None:
    corners = box_corners_bev(torch.from_numpy(boxes.boxes[:, [0, 1, 3, 4, 6]])).numpy()
    for i, (x, y, _, length, width, _, yaw) in enumerate(boxes.boxes):
        colour = colours.ground_truth if dashed else boxes.colour(int(boxes.labels[i]), colours.classes)
        outline, centre = corners[i][[0, 1, 2, 3, 0]], np.array([x, y])
        mark = np.array([centre, centre + (length / 2 + max(0.2 * length, 0.4)) * np.array([np.cos(yaw), np.sin(yaw)])])
        style: dict[str, Any] = {"color": colour, "linewidth": 1.1 if dashed else 1.6, "zorder": 3 if dashed else 4}
        axes.plot(outline[:, 1], outline[:, 0], linestyle=(0, (4, 3)) if dashed else "-", **style)
        axes.plot(mark[:, 1], mark[:, 0], linestyle="-", **style)
        if boxes.scores is not None:
            reach = (abs(np.cos(yaw)) * width + abs(np.sin(yaw)) * length) / 2
            effects = outlined(matplotlib, colours.background)
            style = {"color": colour, "fontsize": 8, "va": "center", "path_effects": effects, "clip_on": True, "zorder": 5}
            axes.annotate(
                f"{boxes.scores[i]:.2f}", (y - reach, x), xytext=(4, 0), textcoords="offset points", annotation_clip=True, **style
            )


def _label_axes(axes: Any, colours: Theme, title: str) -> None:
    axes.set_title(title, color=colours.text, fontsize=11, pad=8)
    axes.set_xlabel("y, left  [m]", color=colours.text, fontsize=9)
    axes.set_ylabel("x, forward  [m]", color=colours.text, fontsize=9)
    axes.tick_params(colors=colours.text, labelsize=8)
    axes.grid(color=colours.grid, linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(colours.grid)


def _draw_legend(figure: Any, axes: Any, found: BoxSet, truth: BoxSet, colours: Theme, matplotlib: Any) -> None:
    line = matplotlib.lines.Line2D
    entries = []
    for label in found.present():
        count = int((found.labels == label).sum())
        entries.append(line([], [], color=found.colour(label, colours.classes), linewidth=2, label=f"{found.name(label)} ({count})"))
    if len(truth.boxes):
        entries.append(
            line([], [], color=colours.ground_truth, linewidth=1.2, linestyle=(0, (4, 3)), label=f"ground truth ({len(truth.boxes)})")
        )
    entries.append(line([], [], color=colours.text, marker="^", markersize=7, linestyle="none", label="sensor"))
    axes.legend(
        handles=entries, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, labelcolor=colours.text, fontsize=9
    )


def _caption(cloud: np.ndarray, color_by: str, unit: str, limits: tuple[float, float], background: str) -> str:
    shade = "light" if background == "dark" else "dark"
    low, high = limits
    return f"{len(cloud)} points\ngrey: {color_by}\n{low:.1f} to {high:.1f} {unit}\n({shade} = high)".replace(" \n", "\n")
