"""Checks of a raw KITTI folder before anything is written: every problem is found, not only the first."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from visionrnn.datasets.kitti import frame_paths, read_calibration, read_image_size, read_labels, read_split
from visionrnn.datasets.points import load_points
from visionrnn.errors import DataError

SHOWN_PROBLEMS = 50


class PreparationError(DataError):
    """Files of the data set are missing or wrong; ``problems`` has one sentence each."""

    def __init__(self, root: Path, problems: list[str]):
        self.problems = problems
        shown = "".join(f"\n- {problem}" for problem in problems[:SHOWN_PROBLEMS])
        more = f"\n… and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        super().__init__(f"{root}: {len(problems)} problem(s) found, nothing was prepared:{shown}{more}")


def read_splits(root: Path) -> dict[str, list[str]]:
    """Frames of train, val, trainval and, when there is a list of it, test. Raises PreparationError."""
    if not root.is_dir():
        raise DataError(f"{root}: folder not found; expected the KITTI layout (ImageSets/, training/velodyne, label_2, calib, image_2)")
    problems, splits = [], {}
    for split in ("train", "val", "test"):
        if split == "test" and not (root / "ImageSets" / "test.txt").exists():
            continue
        try:
            splits[split] = read_split(root, split)
            if split == "train" and not splits[split]:
                problems.append(f"{root / 'ImageSets' / 'train.txt'}: no frames; expected one frame name a line")
        except DataError as error:
            problems.append(str(error))
    if "test" in splits and not (root / "testing").is_dir():
        problems.append(f"{root / 'testing'}: folder not found, but ImageSets/test.txt is there; add the folder or remove that file")
    if problems:
        raise PreparationError(root, problems)
    splits["trainval"] = list(dict.fromkeys(splits["train"] + splits["val"]))
    return {split: splits[split] for split in ("train", "val", "trainval", "test") if split in splits}


def gather_missing_images(root: Path, problems: list[str]) -> list[str]:
    """Without any image folder one sentence replaces a problem for each frame."""
    for folder in ("training", "testing"):
        images = root / folder / "image_2"
        found = [problem for problem in problems if problem.startswith(f"{images}{os.sep}")]
        if found and not images.is_dir():
            advice = (
                f"{images}: folder not found ({len(found)} images); KITTI labels only what the camera sees, so the image size is needed. "
                "For LiDAR-only data give it: --image-size HEIGHT WIDTH (375 1242 for KITTI's camera)"
            )
            problems = [advice, *(problem for problem in problems if problem not in found)]
    return problems


def check_frame(root: Path, image_size: tuple[int, int] | None, task: tuple[str, str]) -> list[str]:
    """Problems of one frame's files."""
    folder, frame = task
    paths, problems = frame_paths(root, frame, folder), []
    checks: list[Callable[[], Any]] = [partial(_check_points_file, paths.points), partial(read_calibration, paths.calibration)]
    if folder == "training":
        checks.append(partial(read_labels, paths.labels))
    if image_size is None or paths.image.exists():
        checks.append(partial(read_image_size, paths.image))
    for check in checks:
        try:
            check()
        except DataError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{error.filename or frame}: {error.strerror or error}")
    return problems


def _check_points_file(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path}: point cloud file not found")
    size = path.stat().st_size
    if size == 0 or size % 16:
        load_points(path, 4)  # says what is wrong
