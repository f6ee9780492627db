"""Grids of image patches → the order in which a scan visits them, and which order each block of a backbone takes.

A *path* is one way through a grid; PATHS has them by name, and every name with ``_reverse`` behind it runs from the end to the start
("reverse" alone is raster's). A *traversal* says which paths the blocks of a backbone take, see :func:`parse_traversal`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visionrnn.registry import Registry

PATHS = Registry("path")

TRAVERSALS: dict[str, tuple[str | tuple[str, ...], ...]] = {
    "alternate": ("raster", "reverse"),
    "cross_scan": (("raster", "reverse", "column", "column_reverse"),),
    "mamba_nd": ("raster", "reverse", "column", "column_reverse"),
}
"""Traversals with a name: Vision-LSTM's (Alkin et al. 2024), VMamba's (Liu et al. 2024), Mamba-ND's in two dimensions (Li et al. 2024)."""


@dataclass(frozen=True)
class Path:
    """One way through a grid: ``name`` of PATHS, from its end to its start with ``reverse``."""

    name: str
    reverse: bool = False

    def __str__(self) -> str:
        return {("raster", True): "reverse"}.get((self.name, self.reverse), self.name + "_reverse" * self.reverse)


def parse_path(path: Path | str) -> Path:
    """ "column_reverse" → Path("column", reverse=True). Raises ValueError, with the known names, for an unknown one."""
    if isinstance(path, Path):
        return path
    name, reverse = ("raster", True) if path == "reverse" else (path.removesuffix("_reverse"), path.endswith("_reverse"))
    if name not in PATHS:
        raise ValueError(f"path {path!r}: expected one of {['reverse', *PATHS]}, or one of them with '_reverse' behind it")
    return Path(name, reverse)


Step = tuple[Path, ...]
"""The paths one block takes; more than one are merged: the block scans each, and the results are averaged."""


def parse_traversal(traversal: str | Sequence[str | Sequence[str]]) -> tuple[Step, ...]:
    """The steps of a traversal; block i takes step i modulo their number.

    ``traversal``: a name of TRAVERSALS, a path's name (every block takes it), or a list with one entry for each block in turn, a path
    or a list of paths to be merged. Raises ValueError for an unknown name and for an empty list.
    """
    if isinstance(traversal, str):
        if traversal not in TRAVERSALS:
            try:
                return ((parse_path(traversal),),)
            except ValueError as error:
                raise ValueError(f"traversal {traversal!r}: expected one of {sorted(TRAVERSALS)} or a path; {error}") from None
        traversal = TRAVERSALS[traversal]
    steps = tuple((parse_path(step),) if isinstance(step, (str, Path)) else tuple(map(parse_path, step)) for step in traversal)
    if not steps or not all(steps):
        raise ValueError(f"traversal {traversal!r}: expected at least one path for every block")
    return steps


def path_keys(name: str, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Sort keys [H, W], int64, unique: the path visits patches in their ascending order. Raises ValueError for an empty grid."""
    if height < 1 or width < 1:
        raise ValueError(f"grid of {height} × {width} patches: expected at least one row and one column")
    rows = torch.arange(height, device=device).unsqueeze(1).expand(height, width)
    columns = torch.arange(width, device=device).expand(height, width)
    return PATHS.get(name)(rows, columns, height, width)


def path_order(path: Path | str, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """[H · W] int64: the row-major number of the patch that is visited first, second, … Raises ValueError for an empty grid."""
    path = parse_path(path)
    return path_keys(path.name, height, width, device).flatten().argsort(descending=path.reverse)


def windowed_order(
    path: Path | str, height: int, width: int, window: tuple[int, int], shift: bool = False, device: torch.device | str = "cpu"
) -> Tensor:
    """As :func:`path_order` inside windows of (rows, columns), which are themselves visited row by row; ``reverse`` turns all of it.

    ``shift`` moves the windows up and to the left by half of their size. Windows at the border are cut off. Raises ValueError for an
    empty grid or window.
    """
    path = parse_path(path)
    if height < 1 or width < 1 or min(window) < 1:
        raise ValueError(f"windows of {window} in a grid of {height} × {width} patches: expected at least one row and one column of each")
    (window_rows, window_columns), moved = window, (window[0] // 2, window[1] // 2) if shift else (0, 0)
    inside = path_keys(path.name, window_rows, window_columns, device).flatten()
    rank = torch.empty_like(inside).scatter_(0, inside.argsort(), torch.arange(len(inside), device=device)).view(window)
    rows, columns = torch.arange(height, device=device) + moved[0], torch.arange(width, device=device) + moved[1]
    number = rows.div(window_rows, rounding_mode="floor")[:, None] * (width // window_columns + 2)
    number = number + columns.div(window_columns, rounding_mode="floor")
    keys = number * len(inside) + rank[(rows % window_rows)[:, None], columns % window_columns]
    return keys.flatten().argsort(descending=path.reverse)


Keys = Callable[[Tensor, Tensor, int, int], Tensor]


@PATHS.register("raster")
def raster(rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """Row by row, each from the left."""
    return rows * width + columns


@PATHS.register("column")
def column(rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """Column by column, each from the top."""
    return columns * height + rows


@PATHS.register("snake")
def snake(rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """Row by row, every other one from the right: consecutive patches touch."""
    return rows * width + torch.where(rows % 2 == 0, columns, width - 1 - columns)


@PATHS.register("diagonal")
def diagonal(rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """Along the anti-diagonals from the top left corner, up and down in turn, as JPEG orders its coefficients."""
    number = rows + columns
    return number * (height + width) + torch.where(number % 2 == 0, columns, rows)


@PATHS.register("hilbert")
def hilbert(rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """Hilbert's curve (1891) through the smallest square with a power of two as side, skipping what lies outside the grid."""
    keys, x, y = torch.zeros_like(rows), columns, rows
    side = 1 << (max(height, width) - 1).bit_length() >> 1
    while side:  # one quadrant after the other: its number along the curve, then its coordinates turned into the curve's first quadrant
        right, low = (x & side) != 0, (y & side) != 0
        keys = keys * 4 + torch.where(right, torch.where(low, 2, 3), torch.where(low, 1, 0))
        x, y = x & (side - 1), y & (side - 1)
        mirror, turn = right & ~low, ~low
        x, y = torch.where(mirror, side - 1 - x, x), torch.where(mirror, side - 1 - y, y)
        x, y = torch.where(turn, y, x), torch.where(turn, x, y)
        side >>= 1
    return keys
