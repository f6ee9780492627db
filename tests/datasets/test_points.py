"""Point files of every kind give the same numbers; damaged ones are refused with the reason."""

import re
import struct

import numpy as np
import pytest

from visionrnn.datasets.point_files import lzf_decompress
from visionrnn.datasets.points import check_points, load_points
from visionrnn.errors import DataError

POINTS = np.random.default_rng(0).uniform(-50, 50, (37, 4)).astype(np.float32)
PCD_HEADER = (
    "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z _ intensity ring\nSIZE 4 4 4 1 4 2\nTYPE F F F U F U\nCOUNT 1 1 1 3 1 1\n"
    "WIDTH {n}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {n}\nDATA {data}\n"
)
PCD_ROW = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("pad", "u1", (3,)), ("i", "<f4"), ("ring", "<u2")])


def pcd_table():
    table = np.zeros(len(POINTS), dtype=PCD_ROW)
    for column, name in enumerate(["x", "y", "z", "i"]):
        table[name] = POINTS[:, column]
    return table


def lzf_literals(data):
    """The simplest LZF stream: literals only."""
    chunks = [data[i : i + 32] for i in range(0, len(data), 32)]
    return b"".join(bytes([len(chunk) - 1]) + chunk for chunk in chunks)


def write_pcd(path, data):
    header = PCD_HEADER.format(n=len(POINTS), data=data).encode()
    if data == "ascii":
        rows = "\n".join(f"{x!r} {y!r} {z!r} 0 0 0 {i!r} 7" for x, y, z, i in POINTS.tolist())
        path.write_bytes(header + rows.encode() + b"\n")
    elif data == "binary":
        path.write_bytes(header + pcd_table().tobytes())
    else:
        columns = b"".join(np.ascontiguousarray(pcd_table()[name]).tobytes() for name in PCD_ROW.names)
        packed = lzf_literals(columns)
        path.write_bytes(header + struct.pack("<II", len(packed), len(columns)) + packed)


def write_ply(path, form):
    header = f"ply\nformat {form} 1.0\ncomment made for a test\nelement camera 1\nproperty uchar id\nelement vertex {len(POINTS)}\n"
    header += "property float x\nproperty float y\nproperty uchar red\nproperty float z\nproperty double scalar_Intensity\nend_header\n"
    if form == "ascii":
        body = "3\n" + "\n".join(f"{x!r} {y!r} 9 {z!r} {i!r}" for x, y, z, i in POINTS.tolist())
        path.write_text(header + body + "\n")
        return
    order = "<" if "little" in form else ">"
    kinds = [("x", "f4"), ("y", "f4"), ("red", "u1"), ("z", "f4"), ("i", "f8")]
    table = np.zeros(len(POINTS), dtype=[(name, order + kind) for name, kind in kinds])
    for column, name in enumerate(["x", "y", "z", "i"]):
        table[name] = POINTS[:, column]
    path.write_bytes(header.encode() + b"\x03" + table.tobytes())


@pytest.mark.parametrize("data", ["ascii", "binary", "binary_compressed"])
def test_pcd(tmp_path, data):
    write_pcd(tmp_path / "a.pcd", data)
    np.testing.assert_array_equal(load_points(tmp_path / "a.pcd"), POINTS)


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply(tmp_path, form):
    write_ply(tmp_path / "a.ply", form)
    np.testing.assert_array_equal(load_points(tmp_path / "a.ply", 4), POINTS)


def test_bin_and_npy(tmp_path):
    POINTS.tofile(tmp_path / "a.bin")
    np.save(tmp_path / "a.npy", POINTS.astype(np.float64))
    for name in ("a.bin", "a.npy"):
        points = load_points(tmp_path / name)
        np.testing.assert_array_equal(points, POINTS)
        assert points.dtype == np.float32 and points.flags.c_contiguous and points.flags.writeable
    assert load_points(tmp_path / "a.npy", 3).shape == (37, 3)
    wide = np.column_stack([POINTS, np.arange(37, dtype=np.float32)])
    wide.tofile(tmp_path / "wide.bin")
    np.testing.assert_array_equal(load_points(tmp_path / "wide.bin", 5), wide)


def test_one_point(tmp_path):
    POINTS[:1].tofile(tmp_path / "one.bin")
    np.testing.assert_array_equal(load_points(tmp_path / "one.bin"), POINTS[:1])


def test_lzf_copies_that_overlap():
    assert lzf_decompress(bytes([0, 65, (7 << 5), 1, 0]), 11) == b"A" * 11  # a literal, then 7 + 1 + 2 bytes from 1 back
    assert lzf_decompress(bytes([1, 65, 66, (3 << 5), 1]), 7) == b"ABABABA"
    assert lzf_decompress(bytes([(1 << 5), 9]), 3) is None  # points before the start
    assert lzf_decompress(bytes([(7 << 5)]), 3) is None  # ends in the middle


def bad(path, content, message, num_features=None):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="^" + re.escape(f"{path}: {message}")):
        load_points(path, num_features)


def test_bad_files(tmp_path):
    bad(tmp_path / "a.bin", b"", "no points; expected at least one")
    bad(
        tmp_path / "b.bin",
        POINTS.tobytes()[:-6],
        "586 bytes is not a multiple of 16 (4 float32 numbers a point); the file is truncated (copy it again) or has another number",
    )
    bad(tmp_path / "none.bin", None, "point cloud file not found")
    bad(tmp_path / "a.las", b"LASF", "file name ends in '.las'; expected a point cloud in .bin, .npy, .pcd, .ply")
    bad(tmp_path / "c.npy", b"not numpy", "not a readable .npy array")
    np.save(tmp_path / "d.npy", np.zeros((5, 2)))
    bad(tmp_path / "d.npy", None, "array of shape [5, 2]; expected [N, F] with F ≥ 3 columns")
    np.save(tmp_path / "e.npy", np.zeros((5, 4)))
    bad(tmp_path / "e.npy", None, "4 columns, expected 6 a point", 6)
    write_pcd(tmp_path / "f.pcd", "binary")
    bad(tmp_path / "f.pcd", (tmp_path / "f.pcd").read_bytes()[:-30], "header says 37 points, the file holds 35; it is truncated")
    write_pcd(tmp_path / "g.pcd", "binary_compressed")
    bad(tmp_path / "g.pcd", (tmp_path / "g.pcd").read_bytes()[:-30], "PCD compressed data is truncated")
    bad(tmp_path / "h.pcd", b"hello\n", "no DATA line in its header; not a PCD file or truncated")
    no_z = PCD_HEADER.replace("x y z", "x y w").format(n=37, data="binary").encode()
    bad(tmp_path / "i.pcd", no_z + pcd_table().tobytes(), "no field z; it has x, y, w, _, intensity, ring; expected x, y, z and intensity")
    write_ply(tmp_path / "j.ply", "ascii")
    bad(tmp_path / "j.ply", (tmp_path / "j.ply").read_bytes()[:-400], "header says 37 points, the file holds")
    write_ply(tmp_path / "k.ply", "binary_little_endian")
    bad(tmp_path / "k.ply", (tmp_path / "k.ply").read_bytes()[:-1], "header says 37 points, the file holds 36; it is truncated")
    bad(tmp_path / "l.ply", b"ply\n", "no header from 'ply' to 'end_header'; not a PLY file or truncated")
    (tmp_path / "m.bin").mkdir()
    bad(tmp_path / "m.bin", None, "is a folder, expected a point cloud file")


def test_empty_is_allowed_on_request(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"")
    assert load_points(tmp_path / "a.bin", 4, allow_empty=True).shape == (0, 4)


def test_check_points():
    broken = POINTS.copy()
    broken[3, 0], broken[9, 3], broken[9, 1] = np.nan, np.inf, -np.inf
    with pytest.warns(UserWarning, match="cloud: 2 of 37 points have NaN or infinite values and were dropped"):
        kept = check_points(broken, "cloud")
    np.testing.assert_array_equal(kept, np.delete(POINTS, [3, 9], axis=0))
    with pytest.raises(DataError, match="cloud: all 37 points have NaN or infinite values; expected finite coordinates"):
        check_points(np.full((37, 4), np.nan), "cloud")
    with pytest.warns(UserWarning, match="cloud: no intensity column; intensity is set to 0"):
        assert check_points(POINTS[:, :3], "cloud", 4)[:, 3].tolist() == [0] * 37
    with pytest.raises(DataError, match="cloud: array of object; expected real numbers"):
        check_points([[1, "a", None]], "cloud")
    with pytest.raises(DataError, match=re.escape("cloud: array of shape [3]; expected [N, F]")):
        check_points(np.zeros(3), "cloud")
    with pytest.raises(DataError, match="points: no points; expected at least one"):
        check_points(np.zeros((0, 4)))
