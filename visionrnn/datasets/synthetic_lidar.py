"""Synthetic driving data: a 64-beam LiDAR and a camera ray-cast through procedural street scenes, written in KITTI's raw layout.

Made for trying out, testing and demonstrating without a download. It is NOT real data: call every figure measured on it synthetic.
A frame is a function of (seed, split, number in the split, density, field of view) only; files are byte-identical for any number of
worker processes on the same machine and package versions.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import struct
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from visionrnn.datasets.files import atomic_write
from visionrnn.datasets.kitti import Labels, frame_paths, read_labels, write_labels
from visionrnn.datasets.progress import track
from visionrnn.datasets.synthetic_camera import CameraRays, calibration_text, paint
from visionrnn.datasets.synthetic_labels import make_labels
from visionrnn.datasets.synthetic_rays import cast
from visionrnn.datasets.synthetic_scene import Scene, make_scene
from visionrnn.datasets.synthetic_sensor import LidarRays, measure
from visionrnn.errors import DataError

__all__ = ["GENERATOR_VERSION", "SyntheticFrame", "simulate_frame", "write_dataset"]

GENERATOR_VERSION = 1
"""Raised whenever a change alters what is written for a seed."""

SPLITS = ("train", "val")
MANIFEST = "dataset.json"
README = """# SYNTHETIC data

Ray-cast by `visionrnn.datasets.synthetic_lidar`; no sensor has recorded any of it. Figures measured on it must be called synthetic.
Layout and conventions are those of the KITTI object detection benchmark (raw layout). Parameters and counts: `dataset.json`.
"""


@dataclass
class SyntheticFrame:
    """One simulated frame.

    points: float32 [N, 4], x, y, z in metres (LiDAR frame) and intensity 0 to 1; owner: int [N], index into scene.objects, -1 for others;
    labels: KITTI labels, DontCare last; index: int [labels], the object of each row (-1: DontCare);
    boxes: float64 [labelled, 7], LiDAR frame, of the rows that are not DontCare; image: uint8 [375, 1242, 3].
    """

    points: np.ndarray
    owner: np.ndarray
    labels: Labels
    index: np.ndarray
    boxes: np.ndarray
    image: np.ndarray
    scene: Scene


@cache
def _lidar_rays(field_of_view: float) -> LidarRays:
    return LidarRays(field_of_view)


@cache
def _camera_rays() -> CameraRays:
    return CameraRays()


def simulate_frame(seed: int, split: str, number: int, density: float = 1.0, field_of_view: float = 360.0) -> SyntheticFrame:
    """Frame `number` of `split` ("train" or "val").

    density: factor on the number of vehicles, people and cyclists; field_of_view: degrees about straight ahead that the LiDAR covers.
    """
    streams = np.random.SeedSequence([seed, SPLITS.index(split), number]).spawn(3)
    scene = make_scene(np.random.default_rng(streams[0]), density)
    return observe(scene, streams[1], streams[2], field_of_view)


def observe(
    scene: Scene, lidar_seed: np.random.SeedSequence | int, camera_seed: np.random.SeedSequence | int, field_of_view: float = 360.0
) -> SyntheticFrame:
    """What LiDAR and camera see of a given scene."""
    points, owner, _ = measure(scene, _lidar_rays(field_of_view), np.random.default_rng(lidar_seed))
    rng = np.random.default_rng(camera_seed)
    hits = cast(scene, _camera_rays(), rng)
    labels, index = make_labels(scene, np.bincount(owner[owner >= 0], minlength=len(scene.objects)), hits)
    boxes = np.array([scene.objects[i].box for i in index if i >= 0]).reshape(-1, 7)
    return SyntheticFrame(points, owner, labels, index, boxes, paint(scene, _camera_rays(), hits, rng), scene)


@dataclass(frozen=True)
class Parameters:
    """All that decides what is written."""

    version: int
    seed: int
    train: int
    val: int
    density: float
    field_of_view: float

    def frames(self) -> list[tuple[str, str, int]]:
        """(name of the frame, split, number in the split); training frames come first."""
        order = [("train", k) for k in range(self.train)] + [("val", k) for k in range(self.val)]
        return [(f"{i:06d}", split, number) for i, (split, number) in enumerate(order)]


def write_dataset(
    out: str | Path,
    train: int,
    val: int,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
    density: float = 1.0,
    field_of_view: float = 360.0,
) -> dict[str, Any]:
    """Write `train` + `val` frames below `out` and return what `dataset.json` says.

    Files: training/{velodyne,label_2,calib,image_2}/NNNNNN.*, ImageSets/{train,val,trainval}.txt, dataset.json, README.md. Each is written
    to a temporary name and renamed. Run again with the same parameters, it adds only the frames that are missing.
    workers: processes, default one per usable core; the result does not depend on it.

    Raises DataError when `out` holds something else than this data set (nothing is touched then) or an argument makes no sense.
    """
    parameters = _checked(train, val, seed, density, field_of_view)
    root = Path(out)
    _claim(root, parameters)
    frames = parameters.frames()
    count = workers if workers is not None else _usable_cores()
    counts = list(track(_run(root, parameters, frames, max(1, min(count, len(frames)))), len(frames), "simulating", show=progress))
    for name, splits in (("train", ("train",)), ("val", ("val",)), ("trainval", SPLITS)):
        with atomic_write(root / "ImageSets" / f"{name}.txt", "w") as file:
            file.writelines(f"{frame}\n" for frame, split, _ in frames if split in splits)
    manifest = _manifest(parameters, complete=True) | {"counts": _totals(frames, counts)}
    _write_json(root / MANIFEST, manifest)
    return manifest


def _checked(train: int, val: int, seed: int, density: float, field_of_view: float) -> Parameters:
    if train < 0 or val < 0 or train + val == 0:
        raise DataError(f"train={train}, val={val}: expected counts of frames, at least one in all")
    if train + val > 1_000_000:
        raise DataError(f"train={train}, val={val}: frame names have six digits; expected at most 1 000 000 frames in all")
    if seed < 0:
        raise DataError(f"seed={seed}: expected an integer of 0 or more")
    if not 0 <= density <= 5:
        raise DataError(f"density={density}: expected a factor between 0 and 5")
    if not 90 <= field_of_view <= 360:
        raise DataError(f"field_of_view={field_of_view}: expected 90 (a little more than the camera sees) to 360 degrees")
    return Parameters(GENERATOR_VERSION, int(seed), int(train), int(val), float(density), float(field_of_view))


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _claim(root: Path, parameters: Parameters) -> None:
    """Make sure that `root` is ours to write: new, empty, or begun with the same parameters."""
    if root.exists() and not root.is_dir():
        raise DataError(f"{root}: is a file; expected a folder to write the data set into")
    path = root / MANIFEST
    if path.exists():
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))["parameters"]
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{path}: not the description of a synthetic data set; choose another folder") from None
        if stored != asdict(parameters):
            raise DataError(
                f"{root}: holds synthetic data made with {stored}, asked for {asdict(parameters)}; remove it or choose another folder"
            )
    elif root.exists() and any((root / name).exists() for name in ("training", "ImageSets")):
        raise DataError(f"{root}: holds a data set that was not made here (no {MANIFEST}); choose another folder")
    else:
        _write_json(path, _manifest(parameters, complete=False))
        with atomic_write(root / "README.md", "w") as file:
            file.write(README)


def _manifest(parameters: Parameters, complete: bool) -> dict[str, Any]:
    return {
        "synthetic": True,
        "generator": "visionrnn.datasets.synthetic_lidar",
        "note": "Simulated by ray casting; no sensor recorded any of this.",
        "parameters": asdict(parameters),
        "numpy": np.__version__,
        "complete": complete,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path, "w") as file:
        json.dump(content, file, indent=2)
        file.write("\n")


def _run(root: Path, parameters: Parameters, frames: list[tuple[str, str, int]], workers: int) -> Iterator[dict[str, int]]:
    """Counts of each frame, in order, written by `workers` processes."""
    if workers == 1:
        for frame in frames:
            yield _write_frame(root, parameters, *frame)
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        jobs = [pool.submit(_write_frame, root, parameters, *frame) for frame in frames]
        try:
            for job in jobs:
                yield job.result()
        except BrokenProcessPool:
            raise DataError(
                f"{root}: a worker process was killed (out of memory?); run again with fewer workers, finished frames are kept"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _write_frame(root: Path, parameters: Parameters, frame: str, split: str, number: int) -> dict[str, int]:
    """Write one frame unless all its files are there; return its counts."""
    paths = frame_paths(root, frame)
    wanted = (paths.points, paths.calibration, paths.image, paths.labels)
    if not all(path.exists() for path in wanted):
        made = simulate_frame(parameters.seed, split, number, parameters.density, parameters.field_of_view)
        contents = (made.points.astype("<f4").tobytes(), calibration_text().encode(), _png(made.image))
        for path, content in zip(wanted, contents, strict=False):
            with atomic_write(path, sync=False) as file:
                file.write(content)
        write_labels(paths.labels, made.labels)
    labels = read_labels(paths.labels)
    counts = {"points": paths.points.stat().st_size // 16}
    counts |= {str(name): int((labels.name == name).sum()) for name in np.unique(labels.name)}
    difficulty = labels.difficulty[labels.name != "DontCare"]
    return counts | {name: int((difficulty == level).sum()) for level, name in enumerate(("easy", "moderate", "hard"))}


def _png(image: np.ndarray) -> bytes:
    """PNG file of uint8 [H, W, 3]; each row stores its difference to the row above, which suits flat shading (W3C PNG, filter type 2)."""
    height, width, _ = image.shape
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)
    rows[:, 0] = 2
    rows[:, 1:] = image.reshape(height, -1)
    rows[1:, 1:] -= image.reshape(height, -1)[:-1]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB, no interlacing
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 3)), (b"IEND", b""))
    out = [struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(out)


def _totals(frames: list[tuple[str, str, int]], counts: list[dict[str, int]]) -> dict[str, dict[str, int]]:
    """Sums of the frames' counts for each split."""
    totals: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        chosen = [count for (_, owner, _), count in zip(frames, counts, strict=True) if owner == split]
        keys = sorted({key for count in chosen for key in count})
        totals[split] = {"frames": len(chosen)} | {key: sum(count.get(key, 0) for count in chosen) for key in keys}
    return totals
