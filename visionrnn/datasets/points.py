"""Point clouds from files: [N, F] float32, x, y, z in metres, then intensity and whatever else the file has."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from visionrnn.datasets.point_files import read_pcd, read_ply
from visionrnn.errors import DataError

POINT_SUFFIXES = (".bin", ".npy", ".pcd", ".ply")


def load_points(path: str | Path, num_features: int | None = None, allow_empty: bool = False) -> np.ndarray:
    """Reads a point cloud as float32 [N, F], F ≥ 3: x, y, z (metres, the file's frame), then intensity when the file has it.

    - ``.bin``: raw little-endian float32 rows of ``num_features`` columns (default 4, as KITTI's; nuScenes sweeps have 5);
    - ``.npy``: a two-dimensional number array; its first ``num_features`` columns, or all;
    - ``.pcd`` (ascii, binary, binary_compressed) and ``.ply`` (ascii, binary): the fields x, y, z and one named intensity, i, reflectance,
      reflectivity or remission, in their own units.

    Where 4 features are asked for and the file has only x, y, z, intensity is 0 and a warning says so. Rows with NaN or infinity are
    dropped with a warning. Raises DataError, naming the file: missing, empty (unless ``allow_empty``), truncated, of another kind,
    with too few columns.
    """
    path = Path(path)
    if num_features is not None and num_features < 3:
        raise ValueError(f"num_features={num_features}; expected at least 3 (x, y, z)")
    suffix = path.suffix.lower()
    if suffix not in POINT_SUFFIXES:
        raise DataError(f"{path}: file name ends in {suffix or 'nothing'!r}; expected a point cloud in {', '.join(POINT_SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{path}: {'is a folder, expected a point cloud file' if path.is_dir() else 'point cloud file not found'}")
    if suffix == ".bin":
        points = _read_bin(path, num_features or 4)
    elif suffix == ".npy":
        points = _read_npy(path)
    else:
        points = read_pcd(path) if suffix == ".pcd" else read_ply(path)
    return check_points(points, str(path), num_features, allow_empty)


def check_points(points: np.ndarray, name: str = "points", num_features: int | None = None, allow_empty: bool = False) -> np.ndarray:
    """Checks an array of points and gives it as contiguous float32 [N, F]; ``name`` opens every message.

    With ``num_features`` columns beyond it are cut, and a missing intensity (3 columns, 4 asked for) is 0 with a warning. Rows with NaN or
    infinity are dropped with a warning that counts them. Raises DataError: not [N, F] numbers with F ≥ 3 (or ``num_features``),
    no points, no finite points (the last two unless ``allow_empty``).
    """
    points = np.asarray(points)
    if points.dtype == object or not (np.issubdtype(points.dtype, np.number) and not np.issubdtype(points.dtype, np.complexfloating)):
        raise DataError(f"{name}: array of {points.dtype}; expected real numbers, one row of x, y, z, intensity a point")
    if points.ndim != 2 or points.shape[1] < 3:
        raise DataError(f"{name}: array of shape {list(points.shape)}; expected [N, F] with F ≥ 3 columns x, y, z, intensity, …")
    if len(points) == 0 and not allow_empty:
        raise DataError(f"{name}: no points; expected at least one")
    points = _fit_features(points, name, num_features)
    with np.errstate(over="ignore"):
        points = np.ascontiguousarray(points, dtype=np.float32)
    finite = np.isfinite(points).all(axis=1)
    if not finite.all():
        dropped = len(points) - int(finite.sum())
        if dropped == len(points) and not allow_empty:
            raise DataError(f"{name}: all {dropped} points have NaN or infinite values; expected finite coordinates")
        warnings.warn(f"{name}: {dropped} of {len(points)} points have NaN or infinite values and were dropped", stacklevel=2)
        points = points[finite]
    return points


def _fit_features(points: np.ndarray, name: str, num_features: int | None) -> np.ndarray:
    columns = points.shape[1]
    if num_features is None or columns == num_features:
        return points
    if columns > num_features:
        return points[:, :num_features]
    if (columns, num_features) == (3, 4):
        warnings.warn(f"{name}: no intensity column; intensity is set to 0", stacklevel=3)
        return np.column_stack([points, np.zeros(len(points), dtype=points.dtype)])
    raise DataError(f"{name}: {columns} columns, expected {num_features} a point")


def _read_bin(path: Path, columns: int) -> np.ndarray:
    size, row = path.stat().st_size, 4 * columns
    if size % row:
        raise DataError(
            f"{path}: {size} bytes is not a multiple of {row} ({columns} float32 numbers a point); "
            "the file is truncated (copy it again) or has another number of columns"
        )
    return np.fromfile(path, dtype="<f4").reshape(-1, columns)


def _read_npy(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path}: not a readable .npy array ({error}); expected one written by numpy.save, without objects") from None
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: an archive of several arrays; expected one array, [N, F]")
    return array
