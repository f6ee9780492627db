"""Input and output files of ``detect`` and ``visualize``: clouds in folders, the calibration and image beside a cloud, names of results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from visionrnn.datasets.files import atomic_write
from visionrnn.datasets.points import POINT_SUFFIXES
from visionrnn.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
SUMMARY = "detect_summary.json"


@dataclass(frozen=True)
class Frame:
    """One cloud with its companions (None where there is none) and the name its results get."""

    name: str
    points: Path
    calibration: Path | None
    image: Path | None


def expand(paths: Sequence[str | Path]) -> list[Path]:
    """Files as they are; a folder is replaced by its point clouds, sorted. Raises DataError for a folder without any."""
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in POINT_SUFFIXES and file.is_file())
        if not found:
            raise DataError(f"{path}: no point clouds in this folder; expected files ending in {', '.join(POINT_SUFFIXES)}")
        files += found
    return list(dict.fromkeys(files))


def gather(paths: Sequence[str | Path], calibration: Path | None = None, images: Sequence[Path] = ()) -> list[Frame]:
    """Frames of clouds and folders of clouds.

    calibration: a file for all, or a folder with one of each cloud's name; without it ``../calib/NAME.txt``, where KITTI has it.
    images: files or folders, matched by name (one image for one cloud needs no matching name); without them ``../image_2/NAME.png``, .jpg.
    Raises DataError: no clouds, a calibration or image asked for that does not exist.
    """
    files = expand(paths)
    for path in [*([calibration] if calibration else []), *images]:
        if not path.exists():
            raise DataError(f"{path}: no such {'calibration file or folder' if path == calibration else 'image or folder of images'}")
    pictures = _images_by_name(images)
    names = result_names(files)
    frames = []
    for file, name in zip(files, names, strict=True):
        stem = _stem(file)
        beside = file.resolve().parent.parent
        if calibration is None:
            calib: Path | None = beside / "calib" / f"{stem}.txt"
        else:
            calib = calibration / f"{stem}.txt" if calibration.is_dir() else calibration
        if calibration is None and calib is not None and not calib.is_file():
            calib = None
        image = pictures.get(stem) if images else _first_image(beside / "image_2", stem)
        if image is None and len(files) == 1 and len(images) == 1 and images[0].is_file():
            image = images[0]
        frames.append(Frame(name, file, calib, image))
    return frames


def result_names(files: Sequence[Path]) -> list[str]:
    """File names without suffix; those that occur twice get their folder's name, then a number, in front."""
    stems = [_stem(file) for file in files]
    names = [stem if stems.count(stem) == 1 else f"{file.resolve().parent.name}_{stem}" for file, stem in zip(files, stems, strict=True)]
    return [name if names.count(name) == 1 else f"{number}_{name}" for number, name in enumerate(names)]


def _stem(file: Path) -> str:
    """Name without suffix; nuScenes' ``.pcd.bin`` is one suffix."""
    return file.name.removesuffix(".pcd.bin") if file.name.endswith(".pcd.bin") else file.stem


def _images_by_name(images: Iterable[Path]) -> dict[str, Path]:
    files = [file for path in images for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    return {file.stem: file for file in files if file.suffix.lower() in IMAGE_SUFFIXES}


def _first_image(folder: Path, stem: str) -> Path | None:
    return next((folder / f"{stem}{suffix}" for suffix in IMAGE_SUFFIXES if (folder / f"{stem}{suffix}").is_file()), None)


def claim(folder: Path, names: Iterable[str]) -> None:
    """Makes ``folder`` and notes in its summary which files this run may write.

    Raises DataError when one of them exists and no earlier run noted it: it is the user's, and is not overwritten.
    """
    names = sorted(set(names))
    ours = noted(folder / SUMMARY)
    taken = [name for name in names if name not in ours and (folder / name).exists()]
    if (folder / SUMMARY).exists() and SUMMARY not in ours:
        taken.insert(0, SUMMARY)
    if taken:
        more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
        raise DataError(
            f"{folder / taken[0]}{more}: exists and was not written by this command, so it is not overwritten; choose another --out-dir"
        )
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; expected a folder for the results")
    write_json(folder / SUMMARY, {"files": [SUMMARY, *names, *sorted(ours - set(names) - {SUMMARY})]})


def noted(summary: Path) -> set[str]:
    """File names a run noted in its summary; none when there is no summary of ours."""
    try:
        content = json.loads(summary.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    files = content.get("files") if isinstance(content, dict) else None
    return {str(name) for name in files} if isinstance(files, list) else set()


def write_json(path: Path, content: object) -> None:
    """Writes indented JSON whole or not at all."""
    with atomic_write(path, "w") as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
