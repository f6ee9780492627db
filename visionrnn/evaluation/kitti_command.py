"""Scores a folder of KITTI detection files against a folder of label files, prints a table and writes JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visionrnn.datasets.kitti import Labels, read_labels
from visionrnn.errors import DataError
from visionrnn.evaluation.kitti import CLASSES, DIFFICULTIES, MIN_OVERLAP, evaluate

EXPLANATION = """
LABEL_DIR holds NNNNNN.txt with 15 columns, DETECTION_DIR (or its folder data/) the same with a score as the 16th. As in the benchmark's own
evaluator, the frames scored are those of the detection files: a frame without detections needs an empty file, and each frame a label file.
With --frames FILE (one name a line, as ImageSets/val.txt) those frames are scored, and a missing detection file means no detections.
"""


def read_folders(
    label_dir: Path, detection_dir: Path, frames: Path | None = None
) -> tuple[list[str], list[Labels], list[Labels], list[str]]:
    """Frame names, ground truth, detections, and the notes to print, of two folders of KITTI text files.

    Raises DataError: a folder or label file is missing, no common frames, malformed lines (file and line are named).
    """
    for folder, what in ((label_dir, "labels"), (detection_dir, "detections")):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; expected a folder of KITTI {what}, one NNNNNN.txt a frame")
    nested = detection_dir / "data"
    if not any(detection_dir.glob("*.txt")) and nested.is_dir():
        detection_dir = nested
    labelled = {path.stem for path in label_dir.glob("*.txt")}
    detected = {path.stem for path in detection_dir.glob("*.txt")}
    notes = []
    if frames is None:
        names = sorted(detected & labelled)
        if not names:
            raise DataError(f"{detection_dir}: no frame in common with {label_dir}; expected equal names, e.g. 000008.txt, in both")
        unlabelled = sorted(detected - labelled)
        if unlabelled:
            raise DataError(f"{label_dir}: no label file for {len(unlabelled)} frames with detections, e.g. {unlabelled[0]}.txt")
        if labelled - detected:
            notes.append(
                f"{len(labelled - detected)} labelled frames have no detection file and are not scored (--frames FILE scores them as empty)"
            )
    else:
        names = _frame_names(frames)
        unlabelled = [name for name in names if name not in labelled]
        if unlabelled:
            raise DataError(f"{label_dir}: no label file for {len(unlabelled)} frames of {frames}, e.g. {unlabelled[0]}.txt")
        missing = sum(name not in detected for name in names)
        if missing:
            notes.append(f"{missing} of the frames have no detection file: scored as frames without detections")
    truth = [read_labels(label_dir / f"{name}.txt") for name in names]
    found = [_read_detections(detection_dir / f"{name}.txt") if name in detected else _nothing() for name in names]
    return names, truth, found, notes


def _frame_names(path: Path) -> list[str]:
    try:
        names = path.read_text(encoding="utf-8").split()
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"{path}: no such file; expected one frame name a line, e.g. 000008") from None
    if not names or len(set(names)) < len(names):
        raise DataError(f"{path}: {'a frame is listed twice' if names else 'lists no frames'}; expected one frame name a line, each once")
    return names


def _read_detections(path: Path) -> Labels:
    labels = read_labels(path)
    if len(labels) and labels.score is None:
        raise DataError(f"{path}, line 1: 15 columns, expected 16 (a detection has its score as the last)")
    return labels


def _nothing() -> Labels:
    empty = np.zeros(0)
    return Labels(np.zeros(0, np.str_), empty, empty, empty, np.zeros((0, 4)), np.zeros((0, 3)), np.zeros((0, 3)), empty, empty)


def format_table(result: dict[str, dict[str, Any]], distance: bool = True) -> str:
    """The scores of ``evaluate`` as text: a row for each class and metric; easy, moderate, hard over 40 and over 11 recalls."""
    header = f"{'':16}{'':11}" + "".join(f"{name + ' R' + recalls:>14}" for recalls in ("40", "11") for name in DIFFICULTIES)
    lines = [header]
    for name, scores in result.items():
        title = f"{name} {MIN_OVERLAP[name]}"
        for key in [key for key in scores if key.endswith(("_AP", "_AOS", "_AHS"))]:
            cells = "".join(f"{value:14.2f}" for value in [*scores[key], *scores[key + "_R11"]])
            lines.append(f"{title:16}{key.replace('_', ' '):11}{cells}")
            title = ""
        lines.append(f"{'':16}{'objects':11}" + "".join(f"{count:14d}" for count in scores["objects"]))
    if distance and any(scores["distance"] for scores in result.values()):
        lines += ["", "by distance from the camera (metres), 40 recalls"]
        lines.append(f"{'':14}{'':10}{'':9}" + "".join(f"{name:>12}" for name in DIFFICULTIES) + f"{'objects':>22}")
        for name, scores in result.items():
            for band, values in scores["distance"].items():
                for key in ("bev_AP", "3d_AP"):
                    shown = zip(values[key], values["objects"], strict=True)
                    cells = "".join(f"{value:12.2f}" if objects else f"{'-':>12}" for value, objects in shown)
                    lines.append(f"{name:14}{band:10}{key.replace('_', ' '):9}{cells}{' / '.join(map(str, values['objects'])):>22}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0, or 2 after printing what is wrong with the input."""
    parser = argparse.ArgumentParser(prog="python -m visionrnn.evaluation.kitti", description=__doc__, epilog=EXPLANATION)
    parser.add_argument("label_dir", type=Path, metavar="LABEL_DIR")
    parser.add_argument("detection_dir", type=Path, metavar="DETECTION_DIR")
    parser.add_argument("--frames", type=Path, metavar="FILE", help="score the frames this file lists")
    parser.add_argument("--classes", nargs="+", default=CLASSES, choices=CLASSES, help="all three by default")
    parser.add_argument("--json", metavar="FILE", help="write the scores here; '-' prints them in place of the table")
    options = parser.parse_args(arguments)
    try:
        names, truth, found, notes = read_folders(options.label_dir, options.detection_dir, options.frames)
        result = evaluate(truth, found, options.classes)
        text = json.dumps(result, indent=1)
        if options.json not in (None, "-"):
            _write(Path(options.json), text + "\n")
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if options.json == "-":
        print(text)
        return 0
    print(f"{len(names)} frames; average precision in percent; overlap needed beside the class\n")
    print(format_table(result))
    if options.json:
        print(f"\nwritten: {options.json}")
    return 0


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); choose a file in an existing folder") from None
