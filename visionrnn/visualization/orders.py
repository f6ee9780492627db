"""Traversals of image patches as pictures: the grid, and the way of the scan through it from its first patch to its last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from visionrnn.errors import DataError
from visionrnn.serialization.traversal2d import PATHS, Path, parse_path, parse_traversal, path_order, windowed_order
from visionrnn.visualization.figure import Theme, load_matplotlib, new_figure, pixel_axes, theme, to_png

PANEL, GAP, TITLE, TOP, BOTTOM = 320, 36, 58, 62, 64  # pixels
COLUMNS = 4
CELL = 16  # pixels at least
NUMBERED = 100  # cells up to which every cell shows when it is visited
COLOURS = {"dark": ("cool", 0.0, 1.0), "light": ("plasma", 0.0, 0.85)}  # colour map, the part of it that is told apart from the background


@dataclass(frozen=True)
class View:
    """What the pictures of one call share: the grid (rows, columns), windows, groups of consecutive patches, colours."""

    height: int
    width: int
    window: tuple[int, int] | None = None
    shift: bool = False
    group_size: int | None = None
    background: str = "light"

    def check(self) -> None:
        """Raises DataError for sizes that are no sizes, and for a shift without windows."""
        group = 1 if self.group_size is None else self.group_size
        for name, values, most in (
            ("grid", (self.height, self.width), 128),
            ("window", self.window or (1, 1), None),
            ("group size", (group,), None),
        ):
            if min(values) < 1 or (most and max(values) > most):
                raise DataError(f"{name} {' × '.join(map(str, values))}: expected numbers from 1" + (f" to {most}" if most else ""))
        if self.shift and self.window is None:
            raise DataError("shifted windows need the windows' size (rows and columns)")

    def order(self, path: Path) -> np.ndarray:
        """[T, 2] int: (column, row) of the patches in the order of their visits."""
        args = (path, self.height, self.width)
        order = windowed_order(*args, self.window, self.shift) if self.window else path_order(*args)
        rows, columns = np.divmod(order.numpy(), self.width)
        return np.column_stack([columns, rows])

    def groups(self, patches: int) -> np.ndarray:
        """[T] int: the group of every visit; a scan starts anew with every group."""
        return np.arange(patches) // (self.group_size or patches)


def draw_traversal(traversal: str | Sequence[str | Sequence[str]], height: int, width: int, **options: Any) -> bytes:
    """PNG: a panel for every path of a traversal (``serialization.traversal2d``), with the blocks that take it.

    options: ``window`` (rows, columns), ``shift`` (by half a window), ``group_size``, ``background`` "light" or "dark".
    Raises ValueError for an unknown traversal, DataError for sizes that are none.
    """
    steps = parse_traversal(traversal)
    panels = []
    for i, step in enumerate(steps):
        blocks = "every block" if len(steps) == 1 else f"blocks {i + 1}, {i + 1 + len(steps)}, {i + 1 + 2 * len(steps)}, …"
        merged = f", {len(step)} scans averaged" if len(step) > 1 else ""
        panels += [(path, blocks + merged) for path in step]
    if isinstance(traversal, str):
        name = traversal
    else:
        name = ", ".join(step if isinstance(step, str) else " + ".join(map(str, step)) for step in traversal)
    return _draw(panels, name, View(height, width, **options))


def draw_paths(height: int, width: int, **options: Any) -> bytes:
    """PNG: every path of the registry, and raster's reverse, in one picture; arguments and errors as :func:`draw_traversal`."""
    panels = [(parse_path(name), "") for name in ("raster", "reverse", *(name for name in PATHS if name != "raster"))]
    return _draw(panels, "paths", View(height, width, **options))


def _draw(panels: Sequence[tuple[Path, str]], title: str, view: View) -> bytes:
    view.check()
    colours = theme(view.background)
    columns = min(len(panels), COLUMNS if len(panels) not in (5, 6, 9) else 3)
    rows = -(-len(panels) // columns)
    above = TITLE if any(blocks for _, blocks in panels) else 44
    cell = max(PANEL / max(view.width, view.height), CELL)
    high, wide = round(cell * view.height), max(round(cell * view.width), 200)  # narrow grids: room for the text above
    size = (max(GAP + columns * (wide + GAP), 480), TOP + rows * (above + high) + BOTTOM)
    figure = new_figure(*size, colours.background)
    for text, top, font, weight in ((title, 28, 13, "bold"), (_details(view), 52, 10, "normal")):
        figure.text(GAP / size[0], 1 - top / size[1], text, color=colours.text, fontsize=font, weight=weight, va="center")
    for i, (path, blocks) in enumerate(panels):
        left, top = GAP + i % columns * (wide + GAP), TOP + i // columns * (above + high) + above
        axes = pixel_axes(figure, left, top, round(cell * view.width), high)
        _panel(axes, path, view, colours, cell)
        style = dict(transform=axes.transAxes, color=colours.text, va="center")
        axes.text(0, 1 + (30 if blocks else 13) / high, str(path), fontsize=11, weight="bold", **style)
        axes.text(0, 1 + 11 / high, blocks, fontsize=8.5, **style)
    _scale(figure, size, view, colours)
    return to_png(figure)


def _details(view: View) -> str:
    parts = [f"{view.height} × {view.width} patches"]
    if view.window:
        parts.append(f"windows of {view.window[0]} × {view.window[1]}" + ", shifted by half" * view.shift)
    if view.group_size:
        parts.append(f"groups of {view.group_size}")
    return "  ·  ".join(parts)


def _panel(axes: Any, path: Path, view: View, colours: Theme, cell: float) -> None:
    """The grid, its windows or groups as tinted cells, the way through it."""
    matplotlib = load_matplotlib()
    places = view.order(path)
    groups = view.groups(len(places))
    axes.set(xlim=(-0.5, view.width - 0.5), ylim=(view.height - 0.5, -0.5))
    axes.set_axis_off()
    _tint(axes, places, groups, view, colours)
    for x in np.arange(view.width + 1) - 0.5:
        axes.plot([x, x], [-0.5, view.height - 0.5], color=colours.grid, linewidth=0.8, zorder=1, clip_on=False)
    for y in np.arange(view.height + 1) - 0.5:
        axes.plot([-0.5, view.width - 0.5], [y, y], color=colours.grid, linewidth=0.8, zorder=1, clip_on=False)
    _window_borders(axes, view, colours)

    segments = np.stack([places[:-1], places[1:]], 1).astype(float)
    visit = _colours(view.background)(np.linspace(0, 1, max(len(places), 2)))
    inside = groups[:-1] == groups[1:]
    near = np.abs(segments[:, 0] - segments[:, 1]).max(1) <= 1
    thick = float(np.clip(cell / 9, 1.2, 3.5))
    lines = matplotlib.collections.LineCollection
    for chosen, width, alpha in ((inside & ~near, 0.3 * thick, 0.55), (inside & near, thick, 1.0)):
        axes.add_collection(lines(segments[chosen], colors=visit[:-1][chosen], linewidths=width, alpha=alpha, capstyle="round", zorder=3))
    axes.scatter(*places.T, s=(0.8 * thick) ** 2, color=visit[: len(places)], zorder=4, linewidths=0)
    for first in np.flatnonzero(np.append(True, ~inside)):
        _start(axes, places, int(first), groups, visit, thick, colours)
    last = places[-1]
    axes.scatter(
        *last, s=(2.9 * thick) ** 2, marker="s", facecolor=colours.background, edgecolor=visit[-1], linewidth=0.6 * thick, zorder=6
    )
    if len(places) <= NUMBERED:
        for number, (x, y) in enumerate(places):
            axes.text(x - 0.42, y - 0.45, str(number), color=colours.text, alpha=0.75, fontsize=min(cell * 0.17, 9), va="top", zorder=7)


def _tint(axes: Any, places: np.ndarray, groups: np.ndarray, view: View, colours: Theme) -> None:
    """Groups as areas of one colour each; without groups, windows."""
    if view.group_size:
        number = groups
    elif view.window:
        moved = np.array(view.window) // 2 if view.shift else np.zeros(2, int)
        at = (places[:, ::-1] + moved) // np.array(view.window)
        number = at[:, 0] * 2 + at[:, 1]
    else:
        return
    image = np.zeros((view.height, view.width, 4))
    tints = [load_matplotlib().colors.to_rgba(colour, 0.28) for colour in colours.classes]
    image[places[:, 1], places[:, 0]] = [tints[i % len(tints)] for i in number]
    axes.imshow(image, extent=(-0.5, view.width - 0.5, view.height - 0.5, -0.5), interpolation="nearest", zorder=0, aspect="auto")


def _window_borders(axes: Any, view: View, colours: Theme) -> None:
    if not view.window:
        return
    style = dict(color=colours.text, linewidth=1.6, alpha=0.7, zorder=2, clip_on=False)
    for number, (size, window) in enumerate(zip((view.height, view.width), view.window, strict=True)):
        moved = window // 2 if view.shift else 0
        inner = [place - 0.5 for place in range(-moved, size + 1, window) if 0 < place < size]
        for place in (-0.5, *inner, size - 0.5):
            along = [-0.5, (view.width, view.height)[number] - 0.5]
            axes.plot(*((along, [place] * 2) if number == 0 else ([place] * 2, along)), **style)


def _start(axes: Any, places: np.ndarray, first: int, groups: np.ndarray, visit: np.ndarray, thick: float, colours: Theme) -> None:
    """A dot where a scan starts, and an arrowhead towards the second patch."""
    whole = first == 0
    size = 1.0 if whole else 0.7
    axes.scatter(*places[first], s=(3.4 * size * thick) ** 2, color=visit[first], edgecolor=colours.background, linewidth=0.8, zorder=6)
    if first + 1 == len(places) or groups[first + 1] != groups[first]:
        return
    step = (places[first + 1] - places[first]) / np.abs(places[first + 1] - places[first]).max()
    turn = np.degrees(np.arctan2(-step[1], step[0])) - 90  # of a triangle that points up
    tip = places[first] + 0.62 * step
    axes.scatter(*tip, s=(3.8 * size * thick) ** 2, marker=(3, 0, turn), color=visit[first], linewidths=0, zorder=5)


def _scale(figure: Any, size: tuple[int, int], view: View, colours: Theme) -> None:
    """The legend below: first to last, and the two marks."""
    top, width = size[1] - 34, 120
    axes = pixel_axes(figure, GAP + 34, top, width, 12)
    axes.imshow(_colours(view.background)(np.linspace(0, 1, 256))[None], aspect="auto", extent=(0, 1, 0, 1))
    axes.set_axis_off()
    style = dict(transform=axes.transAxes, color=colours.text, fontsize=9, va="center", clip_on=False)
    axes.text(-0.05, 0.5, "first", ha="right", **style)
    axes.text(1.05, 0.5, "last", ha="left", **style)
    axes.text(1.5, 0.5, "● start     □ end     thin: jump", ha="left", **style)


def _colours(background: str) -> Any:
    """Position along the way, 0 … 1 → colour."""
    load_matplotlib()
    from matplotlib import colormaps

    name, low, high = COLOURS[background]
    return lambda values: colormaps[name](low + np.asarray(values) * (high - low))
