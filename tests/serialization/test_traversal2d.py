"""Paths through grids of patches, windows of them, and which path each block takes."""

from __future__ import annotations

import pytest
import torch

from visionrnn.serialization.traversal2d import (
    PATHS,
    TRAVERSALS,
    Path,
    parse_path,
    parse_traversal,
    path_order,
    windowed_order,
)

SIZES = [(1, 1), (1, 7), (7, 1), (4, 4), (8, 8), (5, 3), (3, 8), (14, 9)]
EVERY_PATH = pytest.mark.parametrize("name", list(PATHS))
EVERY_SIZE = pytest.mark.parametrize("size", SIZES, ids=str)


def steps_between(order: torch.Tensor, width: int) -> torch.Tensor:
    """Distance along rows plus along columns from each visited patch to the next."""
    return (order // width).diff().abs() + (order % width).diff().abs()


@EVERY_PATH
@EVERY_SIZE
def test_every_patch_once_and_reverse_is_the_reverse(name, size):
    order = path_order(name, *size)
    assert order.dtype == torch.int64 and torch.equal(order.sort().values, torch.arange(size[0] * size[1]))
    assert torch.equal(path_order(f"{name}_reverse", *size), order.flip(0))
    assert torch.equal(path_order(Path(name, reverse=True), *size), order.flip(0))
    assert order[0] == 0  # all start in the corner


def test_rows_and_columns():
    assert torch.equal(path_order("raster", 3, 4), torch.arange(12))
    assert torch.equal(path_order("reverse", 3, 4), torch.arange(12).flip(0))
    assert torch.equal(path_order("column", 3, 4), torch.arange(12).view(3, 4).T.flatten())
    assert path_order("snake", 3, 4).tolist() == [0, 1, 2, 3, 7, 6, 5, 4, 8, 9, 10, 11]


def test_diagonal_is_the_zigzag_of_jpeg():
    assert path_order("diagonal", 4, 4).tolist() == [0, 1, 4, 8, 5, 2, 3, 6, 9, 12, 13, 10, 7, 11, 14, 15]
    assert path_order("diagonal", 2, 4).tolist() == [0, 1, 4, 5, 2, 3, 6, 7]


@EVERY_SIZE
def test_snake_is_continuous(size):
    assert (steps_between(path_order("snake", *size), size[1]) == 1).all()


@pytest.mark.parametrize("side", [1, 2, 4, 8, 16, 32])
def test_hilbert_is_continuous_and_fills_quadrant_after_quadrant(side):
    order = path_order("hilbert", side, side)
    assert (steps_between(order, side) == 1).all()
    part = side
    while part > 1:  # at every scale
        part //= 2
        square = order // side // part * (side // part) + order % side // part
        assert len(square.unique_consecutive()) == (side // part) ** 2


@EVERY_SIZE
def test_hilbert_in_any_grid_is_the_square_s_curve_without_what_lies_outside(size):
    side = 1 << (max(size) - 1).bit_length()
    rows, columns = path_order("hilbert", side, side).div(side, rounding_mode="floor"), path_order("hilbert", side, side) % side
    inside = (rows < size[0]) & (columns < size[1])
    assert torch.equal(path_order("hilbert", *size), (rows * size[1] + columns)[inside])


def windows_by_hand(path: Path, size, window, shift) -> list[int]:
    """Window after window, each with the path of a whole window, of which only the patches inside the grid count."""
    moved = [part // 2 if shift else 0 for part in window]
    inside = [divmod(patch, window[1]) for patch in path_order(path.name, *window).tolist()]
    found = []
    for top in range(-moved[0], size[0], window[0]):
        for left in range(-moved[1], size[1], window[1]):
            places = [(top + row, left + column) for row, column in inside]
            found += [row * size[1] + column for row, column in places if 0 <= row < size[0] and 0 <= column < size[1]]
    return found[::-1] if path.reverse else found


@EVERY_PATH
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_windows_one_after_the_other(name, shift, reverse):
    for size in SIZES:
        for window in [(4, 4), (3, 5), (1, 1), (2, 1), (20, 20)]:
            path = Path(name, reverse)
            assert windowed_order(path, *size, window, shift).tolist() == windows_by_hand(path, size, window, shift), (size, window)


def test_shift_moves_windows():
    assert windowed_order("raster", 2, 4, (2, 2)).tolist() == [0, 1, 4, 5, 2, 3, 6, 7]
    assert windowed_order("raster", 2, 4, (2, 2), shift=True).tolist() == [0, 1, 2, 3, 4, 5, 6, 7]  # rows apart, columns 0 | 1 2 | 3


@pytest.mark.parametrize("size", [(0, 3), (3, 0), (-1, 2)])
def test_empty_grids_are_refused(size):
    with pytest.raises(ValueError, match="at least one row and one column"):
        path_order("snake", *size)
    with pytest.raises(ValueError, match="at least one row and one column"):
        windowed_order("snake", *size, (2, 2))


@pytest.mark.parametrize("window", [(0, 2), (2, 0), (-1, 3)])
def test_empty_windows_are_refused(window):
    with pytest.raises(ValueError, match="at least one row and one column"):
        windowed_order("raster", 4, 4, window)


def test_names():
    assert parse_path("reverse") == parse_path("raster_reverse") == Path("raster", True)
    assert parse_path(Path("snake")) == Path("snake")
    for name in ("raster", "reverse", "column_reverse", "hilbert"):
        assert str(parse_path(name)) == name
    for wrong in ("spiral", "reverse_reverse", "raster_reverse_reverse", ""):
        with pytest.raises(ValueError, match=r"hilbert.*raster.*_reverse"):
            parse_path(wrong)


def test_traversals():
    raster, reverse, column, column_reverse = map(parse_path, ("raster", "reverse", "column", "column_reverse"))
    assert parse_traversal("alternate") == ((raster,), (reverse,))
    assert parse_traversal("cross_scan") == ((raster, reverse, column, column_reverse),)
    assert parse_traversal("mamba_nd") == ((raster,), (reverse,), (column,), (column_reverse,))
    assert parse_traversal("column") == ((column,),)
    assert parse_traversal(["raster", ["snake", "column_reverse"], column]) == ((raster,), (Path("snake"), column_reverse), (column,))
    assert all(parse_traversal(name) for name in TRAVERSALS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("zigzag", r"'zigzag'.*alternate.*cross_scan.*hilbert"),
        ([], "at least one path"),
        (["raster", []], "at least one path"),
        (["x"], "'x'"),
    ],
)
def test_wrong_traversals(wrong, message):
    with pytest.raises(ValueError, match=message):
        parse_traversal(wrong)


def test_a_new_path_is_found():
    @PATHS.register("far_first")
    def far_first(rows, columns, height, width):
        return (height - 1 - rows) * width + columns

    try:
        assert path_order("far_first", 2, 3).tolist() == [3, 4, 5, 0, 1, 2]
        assert windowed_order("far_first_reverse", 2, 2, (2, 1)).tolist() == [1, 3, 0, 2]
        assert parse_traversal("far_first") == ((Path("far_first"),),)
    finally:
        del PATHS._classes["far_first"]
