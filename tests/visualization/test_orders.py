"""Pictures of traversals: one panel for every path, the way's colours where the path is, windows and groups tinted."""

import io

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from matplotlib import colormaps
from PIL import Image

from visionrnn import cli
from visionrnn.errors import DataError
from visionrnn.serialization.traversal2d import PATHS, TRAVERSALS, parse_path, path_order
from visionrnn.visualization.orders import COLOURS, GAP, PANEL, TITLE, TOP, View, draw_paths, draw_traversal


def pixels(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def centre(place: int, height: int, width: int, panel: int = 0) -> tuple[int, int]:
    """Pixel (row, column) of a patch's centre in a panel of the first row."""
    cell = PANEL / max(height, width)
    left = GAP + panel * (max(round(cell * width), 200) + GAP)
    return round(TOP + TITLE + (place // width + 0.5) * cell), round(left + (place % width + 0.5) * cell)


def colour(part: float, background: str = "light") -> np.ndarray:
    name, low, high = COLOURS[background]
    return np.array(colormaps[name](low + part * (high - low))[:3]) * 255


@pytest.mark.parametrize("size", [(14, 14), (7, 5)])
@pytest.mark.parametrize("name", [*PATHS, "reverse", "hilbert_reverse"])
def test_the_way_has_its_colours(name, size):
    picture = pixels(draw_traversal(name, *size))
    order = path_order(name, *size).tolist()
    for step in (0, 2, len(order) // 2, len(order) - 4):
        found = picture[centre(order[step], *size)]
        assert np.abs(found - colour(step / (len(order) - 1))).max() < 40, step
    assert picture[centre(order[-1], *size)].min() > 240  # the end is a hollow square


def test_merged_and_alternating_paths_have_a_panel_each():
    one = pixels(draw_traversal("raster", 4, 4)).shape[1]
    assert pixels(draw_traversal("alternate", 4, 4)).shape[1] == GAP + 2 * (PANEL + GAP)
    for name in ("cross_scan", "mamba_nd"):
        picture = pixels(draw_traversal(name, 4, 4))
        assert picture.shape[1] == GAP + 4 * (PANEL + GAP) > one
        for panel, path in enumerate(("raster", "reverse", "column", "column_reverse")):
            first = int(path_order(path, 4, 4)[0])
            assert np.abs(picture[centre(first, 4, 4, panel)] - colour(0)).max() < 20
    assert pixels(draw_paths(4, 4)).shape[1] == GAP + 3 * (PANEL + GAP)


def test_scans_start_anew_with_every_group():
    whole, grouped = (pixels(draw_traversal("raster", 4, 4, group_size=size)) for size in (None, 8))
    (y, x), (next_y, next_x) = centre(7, 4, 4), centre(8, 4, 4)  # raster jumps from its second row to its third
    y, x = round(0.7 * y + 0.3 * next_y), round(0.7 * x + 0.3 * next_x)
    on_the_jump = [picture[y - 3 : y + 4, x, 1].min() for picture in (whole, grouped)]
    assert on_the_jump[0] < 190 < on_the_jump[1]
    assert View(4, 4, group_size=6).groups(16).tolist() == [0] * 6 + [1] * 6 + [2] * 4
    tints = {tuple(grouped[y + 15, x + 15]) for y, x in (centre(place, 4, 4) for place in (1, 9))}
    assert len(tints) == 2


def test_windows_are_visited_one_after_the_other():
    view = View(4, 6, window=(2, 3))
    assert view.order(parse_path("raster"))[:7].tolist() == [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1], [3, 0]]
    plain, windows, shifted = (
        pixels(draw_traversal("snake", 4, 6, **options)) for options in ({}, {"window": (2, 3)}, {"window": (2, 3), "shift": True})
    )
    assert plain.shape == windows.shape and (plain != windows).any() and (windows != shifted).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"window": (0, 2)}, "window 0 × 2"), ({"group_size": 0}, "group size 0"), ({"shift": True}, "need the windows' size")],
)
def test_wrong_sizes_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        draw_traversal("raster", 4, 4, **options)


def test_command_draws_everything(tmp_path, capsys):
    assert cli.main(["visualize", "orders", "--grid", "5", "6", "--out", str(tmp_path / "new")]) == 0
    written = [line.rpartition("/")[2].removesuffix(".png") for line in capsys.readouterr().out.split()]
    assert written == ["paths", *PATHS, *TRAVERSALS]
    assert sorted(path.stem for path in (tmp_path / "new").iterdir()) == sorted(written)


def test_command_takes_lists_and_refuses_what_it_does_not_know(tmp_path, capsys):
    call = ["visualize", "orders", "--out", str(tmp_path), "--traversal"]
    assert cli.main([*call, "raster+reverse,column", "--window", "2", "2", "--shift", "--group-size", "9", "--background", "dark"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["raster+reverse,column.png"]
    for wrong, message in (
        ([*call, "zigzag"], "--traversal zigzag"),
        ([*call, "snake", "--boxes", "found.json"], "--boxes is not for pictures of orders"),
        (["visualize", "cloud.bin", "--grid", "3", "3", "--out", str(tmp_path)], "--grid is not for pictures of point clouds"),
        (["visualize", "orders", "--out", str(tmp_path / "one.png")], "expected a folder"),
    ):
        assert cli.main(wrong) == 2 and message in capsys.readouterr().err
