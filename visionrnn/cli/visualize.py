"""Draw a point cloud with boxes, from above and in the camera's image; or the orders in which scans visit image patches.

examples:
  visionrnn visualize --root data/kitti --frame 000008 --out pictures
  visionrnn visualize cloud.bin --boxes found/cloud.json --out cloud.png
  visionrnn visualize cloud.bin --boxes found/cloud.txt --labels label_2/cloud.txt --calib calib/cloud.txt --image photo.png --out pictures
  visionrnn visualize orders --out pictures
  visionrnn visualize orders --grid 32 32 --traversal snake cross_scan hilbert,hilbert_reverse --window 8 8 --group-size 64 --out pictures

--boxes are detections (JSON of `visionrnn detect`, or KITTI text, which needs a calibration); --labels are KITTI labels, drawn dashed as
ground truth. Calibration, image and, with --frame, labels are found by themselves in a folder of the KITTI layout. No display is needed.
--out names a .png, beside which NAME_camera.png is written, or a folder (CLOUD.png, CLOUD_camera.png).

`orders` in place of a cloud draws one picture for every traversal, and paths.png with all paths, into the folder --out. A traversal is a
name, or a list: "," parts blocks that take turns, "+" joins scans that a block averages, as in raster+reverse,column+column_reverse.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from visionrnn.cli.frames import Frame, gather
from visionrnn.errors import DataError

ORDERS = "orders"
GRID = (14, 14)
CLOUD_OPTIONS = ("root", "frame", "boxes", "labels", "calib", "image", "score_thr", "columns", "range", "color_by")
ORDER_OPTIONS = ("grid", "traversal", "window", "shift", "group_size")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``visionrnn visualize``."""
    parser.add_argument("points", nargs="?", type=Path, help="point cloud (.bin, .npy, .pcd, .ply), or the word orders")
    parser.add_argument("--root", type=Path, help="folder in the KITTI layout, with --frame instead of a point cloud")
    parser.add_argument("--frame", help="frame name, e.g. 000008")
    parser.add_argument("--boxes", type=Path, help="detections: JSON of `visionrnn detect`, or KITTI text")
    parser.add_argument("--labels", type=Path, help="KITTI labels, drawn as ground truth")
    parser.add_argument("--calib", type=Path, help="KITTI calibration file")
    parser.add_argument("--image", type=Path, help="camera image")
    parser.add_argument("--out", type=Path, required=True, help="a .png or a folder")
    parser.add_argument("--score-thr", type=float, help="leave out detections below this score")
    parser.add_argument("--columns", type=int, help="values per point of a .bin file (default: 4; nuScenes: 5)")
    parser.add_argument("--range", type=float, nargs=4, metavar=("X_MIN", "Y_MIN", "X_MAX", "Y_MAX"), help="ground to show, in metres")
    parser.add_argument("--color-by", choices=("height", "intensity"), help="what the grey of the points shows (default: height)")
    parser.add_argument("--background", choices=("dark", "light"), help="default: dark for clouds, light for orders")
    orders = parser.add_argument_group("orders of image patches")
    orders.add_argument("--grid", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="patches of the image (default: 14 14)")
    orders.add_argument("--traversal", nargs="+", metavar="NAME", help="traversals or paths to draw (default: all)")
    orders.add_argument("--window", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="order inside windows of this size")
    orders.add_argument("--shift", action="store_true", default=None, help="windows shifted by half of their size")
    orders.add_argument("--group-size", type=int, help="patches of a group; a scan starts anew with every group")


def run(args: argparse.Namespace) -> int:
    """Draws; prints the pictures' paths."""
    wanted = str(args.points) == ORDERS
    refused = CLOUD_OPTIONS if wanted else ORDER_OPTIONS
    for name in refused:
        if getattr(args, name) is not None:
            what = "pictures of orders" if wanted else f"pictures of point clouds; orders are drawn with: visionrnn visualize {ORDERS}"
            raise DataError(f"--{name.replace('_', '-')} is not for {what}")
    return _draw_orders(args) if wanted else _draw_cloud(args)


def _draw_orders(args: argparse.Namespace) -> int:
    from visionrnn.serialization.traversal2d import PATHS, TRAVERSALS
    from visionrnn.visualization.figure import save_png
    from visionrnn.visualization.orders import draw_paths, draw_traversal

    if args.out.is_file() or args.out.suffix:
        raise DataError(f"{args.out}: expected a folder, which gets one picture for every traversal")
    size = args.grid or GRID
    window = None if args.window is None else tuple(args.window)
    options = dict(window=window, shift=bool(args.shift), group_size=args.group_size, background=args.background or "light")
    pictures = [] if args.traversal else [("paths", draw_paths(*size, **options))]
    for text in args.traversal or (*PATHS, *TRAVERSALS):
        steps = [step.split("+") for step in text.split(",")] if set(text) & set(",+") else text
        try:
            picture = draw_traversal(steps, *size, **options)
        except ValueError as error:
            raise DataError(f"--traversal {text}: {error}") from error
        pictures.append((text, picture))
    for name, picture in pictures:
        print(save_png(args.out / f"{name}.png", picture))
    return 0


def _draw_cloud(args: argparse.Namespace) -> int:
    from visionrnn.datasets.kitti import read_calibration
    from visionrnn.datasets.points import load_points
    from visionrnn.visualization.boxes import draw_bev
    from visionrnn.visualization.camera import draw_camera, read_image
    from visionrnn.visualization.figure import save_png

    frame, labels = _inputs(args)
    if args.image is not None and frame.calibration is None:
        raise DataError(f"{args.image}: no calibration for this image, so boxes cannot be projected; give --calib")
    calibration = read_calibration(frame.calibration) if frame.calibration is not None else None
    points = load_points(frame.points, args.columns, allow_empty=True)
    parts: dict[str, Any] = {"ground_truth": _ground_truth(labels, calibration)}
    boxes = None
    if args.boxes is not None:
        found = _detections(args.boxes, calibration).above(args.score_thr or 0.0)
        boxes = found.boxes
        parts |= {"labels": found.labels, "scores": found.scores, "classes": found.classes}
    image = read_image(frame.image) if frame.image is not None and calibration is not None else None
    above, camera = _outputs(args.out, frame.name)
    targets = [above] if image is None else [above, camera]
    inputs = [frame.points, frame.calibration, frame.image, args.boxes, labels]
    for path in targets:
        if any(source is not None and path.resolve() == source.resolve() for source in inputs):
            raise DataError(f"{path}: is one of the inputs, so it is not overwritten; choose another --out")
    style = dict(range=args.range, color_by=args.color_by or "height", background=args.background or "dark")
    title = f"{frame.name}: x forward, y left"
    save_png(above, draw_bev(points, boxes, **parts, **style, title=title))
    if image is not None and calibration is not None:
        save_png(camera, draw_camera(image, boxes, calibration, **parts))
    for path in targets:
        print(path)
    return 0


def _inputs(args: argparse.Namespace) -> tuple[Frame, Path | None]:
    """The cloud with its companions, and the labels' path."""
    if (args.points is None) == (args.root is None):
        raise DataError("expected a point cloud, or --root DIR --frame NAME for a frame of a KITTI folder (one of the two)")
    images = [args.image] if args.image is not None else []
    if args.root is None:
        if args.frame is not None:
            raise DataError(f"--frame {args.frame}: needs --root DIR, the folder in the KITTI layout")
        return gather([args.points], args.calib, images)[0], args.labels
    if args.frame is None:
        raise DataError(f"{args.root}: --root needs --frame NAME, e.g. --frame 000008")
    from visionrnn.datasets.kitti import frame_paths

    paths = next((p for p in (frame_paths(args.root, args.frame, part) for part in ("training", "testing")) if p.points.is_file()), None)
    if paths is None:
        wanted = frame_paths(args.root, args.frame).points
        raise DataError(f"{wanted}: point cloud not found, nor in testing/; expected the KITTI layout with a frame {args.frame}")
    labels = args.labels if args.labels is not None or not paths.labels.is_file() else paths.labels
    return gather([paths.points], args.calib, images)[0], labels


def _ground_truth(path: Path | None, calibration: Any) -> Any:
    """LiDAR boxes [K, 7] of a KITTI label file, without DontCare; None without a file."""
    if path is None:
        return None
    from visionrnn.datasets.kitti import read_labels

    labels = read_labels(path)
    return _needed(calibration, path).boxes_camera_to_lidar(labels[labels.name != "DontCare"].boxes)


def _detections(path: Path, calibration: Any) -> Any:
    """``Detections`` of a JSON or KITTI text file."""
    import numpy as np

    from visionrnn.datasets.kitti import read_labels
    from visionrnn.detections import Detections, read_detections

    if path.suffix.lower() == ".json":
        return read_detections(path)
    labels = read_labels(path)
    labels = labels[labels.name != "DontCare"]
    boxes = _needed(calibration, path).boxes_camera_to_lidar(labels.boxes).astype(np.float32)
    known = ("Car", "Pedestrian", "Cyclist")
    classes = known + tuple(sorted(set(map(str, labels.name)) - set(known)))
    scores = np.ones(len(labels)) if labels.score is None else labels.score
    index = np.array([classes.index(str(name)) for name in labels.name], dtype=np.int64)
    return Detections(boxes, scores.astype(np.float32), index, classes)


def _needed(calibration: Any, path: Path) -> Any:
    if calibration is None:
        raise DataError(
            f"{path}: KITTI text is in the camera's frame, and no calibration was given or found in ../calib; give --calib FILE"
        )
    return calibration


def _outputs(out: Path, name: str) -> tuple[Path, Path]:
    """(picture from above, camera picture)."""
    if out.suffix.lower() == ".png" and not out.is_dir():
        return out, out.with_name(f"{out.stem}_camera.png")
    if out.is_file() or out.suffix.lower() in (".jpg", ".jpeg", ".bin", ".txt", ".json"):
        raise DataError(f"{out}: expected a .png or a folder")
    return out / f"{name}.png", out / f"{name}_camera.png"
