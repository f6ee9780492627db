"""Detect boxes in point clouds: JSON, KITTI text and pictures.

examples:
  visionrnn detect CONFIG CHECKPOINT data/kitti/training/velodyne/000008.bin --out-dir found
  visionrnn detect CONFIG CHECKPOINT scans/ --out-dir found --score-thr 0.3 --z-offset -0.5 --intensity-scale 0.00392157
  visionrnn detect CONFIG CHECKPOINT cloud.pcd --calib calib.txt --image photo.png --out-dir found

For each cloud NAME there are NAME.json (class, score, x, y, z of the geometric centre in metres in the cloud's LiDAR frame, l, w, h, yaw),
NAME.png (from above) and, where a calibration is given or lies in ../calib/NAME.txt as KITTI has it, NAME.txt (KITTI text with scores) and
with an image NAME_camera.png. With a calibration the cloud is cut to the camera's view first, as training on KITTI-format data does.
A file that cannot be read is reported and the others are done; the exit code is then 1. Files that exist are never overwritten, unless an
earlier run of detect wrote them.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from visionrnn.cli.frames import SUMMARY, Frame, claim, gather, noted, write_json
from visionrnn.errors import DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``visionrnn detect``."""
    parser.add_argument("config", help="config file, or the name of one that comes with visionrnn")
    parser.add_argument("checkpoint", help="checkpoint file (.pth)")
    parser.add_argument("points", nargs="+", help="point clouds (.bin, .npy, .pcd, .ply) or folders of them")
    parser.add_argument("--out-dir", type=Path, required=True, help="folder for the results, made if absent")
    parser.add_argument("--score-thr", type=float, help="leave out boxes below this score (default: the config's limit)")
    parser.add_argument(
        "--z-offset", type=float, default=0.0, help="metres added to the points' z for the model; boxes stay in the cloud's frame"
    )
    parser.add_argument("--intensity-scale", type=float, default=1.0, help="factor for the points' intensity, e.g. 0.00392157 for 0–255")
    parser.add_argument("--columns", type=int, help="values per point of .bin files, if they are not the model's (nuScenes: 5)")
    parser.add_argument("--calib", type=Path, help="KITTI calibration file for all clouds, or a folder of NAME.txt")
    parser.add_argument("--image", type=Path, nargs="+", default=[], help="camera images, or folders of NAME.png")
    parser.add_argument("--whole-cloud", action="store_true", help="do not cut the cloud to the camera's view")
    parser.add_argument("--no-pictures", action="store_true", help="write no pictures")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:0 (default: %(default)s)")
    parser.add_argument("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change the config")


def run(args: argparse.Namespace) -> int:
    """Detects; 0, or 1 when some clouds failed."""
    frames = gather(args.points, args.calib, args.image)
    pictures = not args.no_pictures
    lonely = next((frame for frame in frames if args.image and frame.image is not None and frame.calibration is None), None)
    if lonely is not None:
        raise DataError(f"{lonely.image}: no calibration for this image, so boxes cannot be projected; give --calib")
    if pictures:
        from visionrnn.visualization.figure import load_matplotlib

        load_matplotlib()
    claim(args.out_dir, [name for frame in frames for name in _targets(frame, pictures)])
    start = time.monotonic()
    warned: Counter[str] = Counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        detector = _detector(args)
    _tell(caught, warned)
    print(f"model ready in {time.monotonic() - start:.1f} s: {', '.join(detector.classes)}", file=sys.stderr)
    counts: Counter[str] = Counter()
    latencies: list[float] = []
    failed: dict[str, str] = {}

    from visionrnn.datasets.progress import track

    for frame in track(frames, len(frames), "detecting", len(frames) > 1):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = _detect(detector, frame, args, pictures)
            except (DataError, OSError) as error:
                failed[str(frame.points)] = str(error)
                print(f"\nfailed: {error}", file=sys.stderr)
                continue
        _tell(caught, warned)
        counts.update(found.names)
        latencies.append(found.latency)
    _summary(args, frames, detector.classes, counts, latencies, failed, pictures)
    return 1 if failed else 0


def _detector(args: argparse.Namespace) -> Any:
    from visionrnn.detector import Detector

    config: Any = args.config
    if args.cfg_options:
        import visionrnn.integrations.mmdet3d  # noqa: F401  (prepares mmcv for what the config imports)
        from visionrnn.integrations.mmengine.launch import load_config

        config = load_config(args.config, args.cfg_options)
    return Detector(config, args.checkpoint, args.device, args.score_thr, z_offset=args.z_offset, intensity_scale=args.intensity_scale)


def _targets(frame: Frame, pictures: bool) -> list[str]:
    names = [f"{frame.name}.json"]
    if frame.calibration is not None:
        names.append(f"{frame.name}.txt")
    if pictures:
        names.append(f"{frame.name}.png")
        if frame.calibration is not None and frame.image is not None:
            names.append(f"{frame.name}_camera.png")
    return names


def _detect(detector: Any, frame: Frame, args: argparse.Namespace, pictures: bool) -> Any:
    """Finds and writes the boxes of one cloud; all inputs are read before the first file is written."""
    from visionrnn.datasets.files import atomic_write
    from visionrnn.datasets.kitti import read_calibration, write_labels
    from visionrnn.detector import KITTI_IMAGE
    from visionrnn.visualization.boxes import draw_bev
    from visionrnn.visualization.camera import draw_camera, read_image
    from visionrnn.visualization.figure import save_png

    for name in _targets(frame, pictures):
        (args.out_dir / name).unlink(missing_ok=True)  # an earlier run's result must not be taken for this one's
    calibration = read_calibration(frame.calibration) if frame.calibration is not None else None
    image = read_image(frame.image) if frame.image is not None and calibration is not None else None
    shape = image.shape[:2] if image is not None else KITTI_IMAGE
    points = detector.load(frame.points, args.columns)
    seen_by = None if args.whole_cloud else calibration
    found = detector(points, calibration=seen_by, image_shape=shape, name=str(frame.points))
    with atomic_write(args.out_dir / f"{frame.name}.json", "w") as file:
        file.write(found.to_json())
    if calibration is not None:
        write_labels(args.out_dir / f"{frame.name}.txt", found.to_kitti(calibration, shape))
    if pictures:
        parts: dict[str, Any] = {"labels": found.labels, "scores": found.scores, "classes": found.classes}
        save_png(args.out_dir / f"{frame.name}.png", draw_bev(points, found.boxes, **parts, range=_shown(detector.point_range)))
        if image is not None and calibration is not None:
            save_png(args.out_dir / f"{frame.name}_camera.png", draw_camera(image, found.boxes, calibration, **parts))
    return found


def _shown(point_range: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """The ground a picture shows: the model's range."""
    return None if point_range is None else (point_range[0], point_range[1], point_range[3], point_range[4])


def _tell(caught: list[warnings.WarningMessage], warned: Counter[str]) -> None:
    """Prints each kind of user warning once; file names and numbers do not make another kind."""
    for warning in caught:
        if not issubclass(warning.category, UserWarning) or issubclass(warning.category, DeprecationWarning):
            continue
        text = str(warning.message)
        kind = "".join(letter for letter in text.partition(": ")[2] or text if not letter.isdigit())
        warned[kind] += 1
        if warned[kind] == 1:
            print(f"\nwarning: {text}", file=sys.stderr)
        elif warned[kind] == 2:
            print("\nwarning: the same holds for further clouds", file=sys.stderr)


def _summary(
    args: argparse.Namespace,
    frames: list[Frame],
    classes: tuple[str, ...],
    counts: Counter[str],
    latencies: list[float],
    failed: dict[str, str],
    pictures: bool,
) -> None:
    """Prints where things are, and completes the summary file."""
    warm = latencies[1:] or latencies
    mean = sum(warm) / len(warm) if warm else 0.0
    boxes = {name: counts[name] for name in classes}
    with_text = sum(frame.calibration is not None and str(frame.points) not in failed for frame in frames)
    done = len(frames) - len(failed)
    print(f"{done} of {len(frames)} clouds done" + (f", {len(failed)} failed:" if failed else ""))
    for message in failed.values():
        print(f"  {' '.join(message.split())}")
    print(f"  boxes         {', '.join(f'{name} {number}' for name, number in boxes.items())}")
    if warm:
        first = f" (the first: {1000 * latencies[0]:.0f} ms)" if len(latencies) > 1 else ""
        print(f"  mean latency  {1000 * mean:.0f} ms a cloud on {args.device}, without reading and drawing{first}")
    print(f"  results       {args.out_dir}: NAME.json" + (", NAME.txt (KITTI)" if with_text else "") + (", NAME.png" if pictures else ""))
    if done and with_text:
        print(f"  next: python -m visionrnn.evaluation.kitti LABEL_DIR {args.out_dir}")
    content = {
        "files": sorted(noted(args.out_dir / SUMMARY)),
        "config": str(args.config),
        "checkpoint": str(args.checkpoint),
        "clouds": done,
        "boxes": boxes,
        "mean_latency_seconds": round(mean, 6),
        "failed": failed,
    }
    write_json(args.out_dir / SUMMARY, content)
