"""From the raw KITTI layout to what training reads: info files, points in the camera's view, ground-truth database.

Expected under ``root``: ``ImageSets/{train,val}.txt`` (and ``test.txt``, optional), ``training/{velodyne,label_2,calib,image_2}``
(``testing/`` without labels). Written:

- ``kitti_infos_{train,val,trainval,test}.pkl``: mmdet3d 1.4's info files, version 2 (kitti_infos.py);
- ``training/velodyne_reduced/NNNNNN.bin``: the points the left colour camera sees, the only ones KITTI labels;
- ``kitti_gt_database/`` and ``kitti_dbinfos_train.pkl`` (kitti_database.py);
- ``.kitti_prepare/``: one record a finished frame, by which a second run skips what is done and unchanged.
"""

from __future__ import annotations

import os
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

import numpy as np

from visionrnn.datasets.files import atomic_write
from visionrnn.datasets.kitti import (
    Calibration,
    FramePaths,
    frame_paths,
    inside_boxes,
    points_in_image,
    read_calibration,
    read_image_size,
    read_labels,
)
from visionrnn.datasets.kitti_check import PreparationError, check_frame, gather_missing_images, read_splits
from visionrnn.datasets.kitti_database import DATABASE_FOLDER, database_infos, write_objects
from visionrnn.datasets.kitti_infos import frame_info, metainfo
from visionrnn.datasets.pickles import load_infos, save_infos
from visionrnn.datasets.points import load_points
from visionrnn.datasets.progress import track
from visionrnn.errors import DataError

RECORDS = ".kitti_prepare"
RECORD_VERSION = 1


@dataclass
class Preparation:
    """What was made, for the closing message: frames of each split, objects and database entries by class, points, files."""

    root: Path
    frames: dict[str, int]
    objects: Counter = field(default_factory=Counter)
    database: dict[str, int] = field(default_factory=dict)
    points: int = 0
    reduced_points: int = 0
    dropped_points: int = 0
    skipped: int = 0
    seconds: float = 0.0
    files: list[Path] = field(default_factory=list)

    def __str__(self) -> str:
        count = self.frames["trainval"] + self.frames.get("test", 0)
        lines = [
            f"{self.root}: prepared in {self.seconds:.1f} s ({self.skipped} of {count} frames were done before)",
            "  frames:   " + ", ".join(f"{split} {number}" for split, number in self.frames.items()),
            "  objects:  " + (", ".join(f"{name} {number}" for name, number in sorted(self.objects.items())) or "none"),
            "  database: " + (", ".join(f"{name} {number}" for name, number in self.database.items()) or "empty"),
            f"  points:   {self.reduced_points} of {self.points} are in the camera's view",
            "  files:    " + ", ".join(path.name for path in self.files),
        ]
        if self.dropped_points:
            lines.insert(5, f"  warning:  {self.dropped_points} points had NaN or infinite values and were dropped")
        return "\n".join(lines)


def prepare_kitti(
    root: str | Path, workers: int | None = None, progress: bool = True, image_size: tuple[int, int] | None = None
) -> Preparation:
    """Checks every file under ``root``, then writes the prepared files.

    The result does not depend on ``workers`` (processes; default: one a processor). Run again after an interruption, it continues:
    frames whose inputs are unchanged and whose outputs are whole are skipped.
    ``image_size`` (height, width) serves data without camera images: the view is then cut by calibration and this size.
    Raises PreparationError with all problems found, before anything is written.
    """
    root, start = Path(root), time.monotonic()
    splits = read_splits(root)
    tasks = [(folder, frame) for folder, frames in _frames_by_folder(splits).items() for frame in frames]
    run = partial(_parallel, workers=workers or os.cpu_count() or 1)
    checked = run(partial(check_frame, root, image_size), tasks)
    problems = [problem for found in track(checked, len(tasks), "checking ", progress) for problem in found]
    if problems:
        raise PreparationError(root, gather_missing_images(root, problems))
    train = set(splits["train"])
    jobs = [(folder, frame, folder == "training" and frame in train) for folder, frame in tasks]
    import torch  # noqa: F401  here, before the workers fork from this process, and not at all for the checks

    done = run(partial(_prepare_frame, root, image_size), jobs, initializer=_one_thread)
    records = {(r["folder"], r["frame"]): r for r in track(done, len(jobs), "preparing", progress)}
    result = _write_infos(root, splits, records)
    result.seconds = time.monotonic() - start
    return result


def _frames_by_folder(splits: dict[str, list[str]]) -> dict[str, list[str]]:
    return {"training": splits["trainval"], **({"testing": splits["test"]} if "test" in splits else {})}


def _parallel(function: Callable[[Any], Any], items: list, workers: int, initializer: Callable[[], None] | None = None) -> Iterator[Any]:
    """``map`` over processes, results in order; in this process for few items or one worker."""
    if workers <= 1 or len(items) < 8:
        yield from map(function, items)
        return
    method = "fork" if "fork" in get_all_start_methods() else None
    pool = ProcessPoolExecutor(min(workers, len(items)), mp_context=get_context(method), initializer=initializer)
    try:
        yield from pool.map(function, items, chunksize=max(1, min(16, len(items) // (4 * workers))))
    except BrokenProcessPool:
        raise RuntimeError("a worker process was killed, perhaps for want of memory; run again with fewer workers, it continues") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _prepare_frame(root: Path, image_size: tuple[int, int] | None, job: tuple[str, str, bool]) -> dict[str, Any]:
    """Makes one frame's files and record, or finds them done."""
    folder, frame, in_train = job
    paths = frame_paths(root, frame, folder)
    place = root / RECORDS / folder / f"{frame}.pkl"
    inputs = _fingerprint(root, (paths.points, paths.calibration, paths.labels, paths.image), image_size, in_train)
    record = _finished(root, place, inputs)
    if record is not None:
        return {**record, "skipped": True}
    calibration = read_calibration(paths.calibration)
    size = read_image_size(paths.image) if paths.image.exists() or image_size is None else image_size
    points, dropped = _load_finite(paths.points)
    reduced = points[points_in_image(points, calibration, size)]
    data = reduced.astype("<f4").tobytes()
    with atomic_write(paths.reduced, sync=False) as file:
        file.write(data)
    record = {
        "version": RECORD_VERSION,
        "folder": folder,
        "frame": frame,
        "inputs": inputs,
        "reduced_crc": zlib.crc32(data),
        "points": len(points),
        "reduced_points": len(reduced),
        "dropped_points": dropped,
        "names": [],
        "objects": [],
        "info": {},
        **_describe(root, paths, calibration, size, reduced, folder == "training", in_train),
    }
    save_infos(place, record, sync=False)
    return {**record, "skipped": False}


def _load_finite(path: Path) -> tuple[np.ndarray, int]:
    """Finite points [P, 4] and how many others the file had."""
    total = path.stat().st_size // 16
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is dropped is counted and told at the end
        points = load_points(path, 4)
    return points, total - len(points)


def _describe(
    root: Path, paths: FramePaths, calibration: Calibration, size: tuple[int, int], reduced: np.ndarray, labelled: bool, in_train: bool
) -> dict[str, Any]:
    """The frame's info and, for the training split, its entries of the database."""
    if not labelled:
        return {"info": frame_info(paths, calibration, size, None, None)}
    labels = read_labels(paths.labels)
    boxes = calibration.boxes_camera_to_lidar(labels.boxes)
    inside = inside_boxes(reduced, boxes)
    counts = inside.sum(axis=0)
    counts[labels.name == "DontCare"] = -1
    objects = write_objects(root, paths.frame, reduced, boxes, inside, labels) if in_train else []
    return {"info": frame_info(paths, calibration, size, labels, counts), "objects": objects, "names": labels.name.tolist()}


def _fingerprint(root: Path, paths: Iterable[Path], image_size: tuple[int, int] | None, in_train: bool) -> list[Any]:
    """Sizes and times of the inputs and the options: what the outputs depend on."""
    out: list[Any] = [image_size, in_train]
    for path in paths:
        if path.exists():
            stat = path.stat()
            out.append((str(path.relative_to(root)), stat.st_size, stat.st_mtime_ns))
    return out


def _finished(root: Path, place: Path, inputs: list[Any]) -> dict[str, Any] | None:
    """The record of a frame made before from the same inputs, if all its files are still what was written."""
    try:
        record = load_infos(place)
    except DataError:  # none yet, or cut off: the frame is made anew
        return None
    if not isinstance(record, dict) or record.get("version") != RECORD_VERSION or record.get("inputs") != inputs:
        return None
    files = [(frame_paths(root, record["frame"], record["folder"]).reduced, record["reduced_crc"])]
    files += [(root / entry["path"], entry["crc"]) for entry in record["objects"]]
    whole = all(path.is_file() and zlib.crc32(path.read_bytes()) == crc for path, crc in files)
    return record if whole else None


def _write_infos(root: Path, splits: dict[str, list[str]], records: dict[tuple[str, str], dict]) -> Preparation:
    result = Preparation(root, {split: len(frames) for split, frames in splits.items()})
    head = metainfo({"DontCare"} | {name for record in records.values() for name in record["names"]})
    for split, frames in splits.items():
        folder = "testing" if split == "test" else "training"
        path = root / f"kitti_infos_{split}.pkl"
        save_infos(path, {"metainfo": head, "data_list": [records[folder, frame]["info"] for frame in frames]})
        result.files.append(path)
    database = database_infos([entry for frame in splits["train"] for entry in records["training", frame]["objects"]])
    path = root / "kitti_dbinfos_train.pkl"
    save_infos(path, database)
    result.files.append(path)
    (root / DATABASE_FOLDER).mkdir(exist_ok=True)
    result.database = {name: len(entries) for name, entries in database.items()}
    for record in records.values():
        result.objects.update(name for name in record["names"] if name != "DontCare")
        result.points += record["points"]
        result.reduced_points += record["reduced_points"]
        result.dropped_points += record["dropped_points"]
        result.skipped += record["skipped"]
    return result
