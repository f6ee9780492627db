"""Prepare a data set for training: KITTI in its raw layout, or synthetic LiDAR scenes or pictures made here.

examples:
  visionrnn create-data kitti --root data/kitti
  visionrnn create-data synthetic --out data/synthetic --train 200 --val 50 --seed 0
  visionrnn create-data shapes --out data/shapes

`kitti` expects ROOT/ImageSets/{train,val}.txt and ROOT/training/{velodyne,label_2,calib,image_2} (testing/ and test.txt are optional),
checks every file and writes the info files, the points in the camera's view and the ground-truth database. Interrupted, run it again:
it continues. `synthetic` writes such a folder from a simulated 64-beam sensor, then prepares it the same way.
`shapes` draws pictures of rectangles, ellipses and triangles with boxes in COCO's format, for the config in configs/detection2d.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from visionrnn.datasets.kitti_check import PreparationError

SHAPES = "fcos_pyramidrnn-mamba_1xb8_shapes-2d-3class"


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `visionrnn create-data`."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="{kitti,synthetic,shapes}")
    kitti = kinds.add_parser("kitti", help="prepare a folder in the raw KITTI layout")
    kitti.add_argument("--root", type=Path, required=True, help="folder with ImageSets/ and training/")
    size = "size of the camera image in pixels where there are no images (375 1242 for KITTI's camera)"
    kitti.add_argument("--image-size", type=_positive, nargs=2, metavar=("HEIGHT", "WIDTH"), help=size)
    synthetic = kinds.add_parser("synthetic", help="make a synthetic data set in the KITTI layout and prepare it")
    synthetic.add_argument("--out", type=Path, required=True, help="folder to write, made if absent")
    synthetic.add_argument("--train", type=_positive, default=200, help="training frames (default: %(default)s)")
    synthetic.add_argument("--val", type=_positive, default=50, help="validation frames (default: %(default)s)")
    synthetic.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes (default: %(default)s)")
    shapes = kinds.add_parser("shapes", help="draw pictures of simple shapes, to try an image detector on")
    shapes.add_argument("--out", type=Path, required=True, help="folder to write, made if absent")
    shapes.add_argument("--train", type=_positive, default=400, help="training pictures (default: %(default)s)")
    shapes.add_argument("--val", type=_positive, default=100, help="validation pictures (default: %(default)s)")
    shapes.add_argument("--seed", type=int, default=0, help="the same seed gives the same pictures (default: %(default)s)")
    for kind in (kitti, synthetic):
        kind.add_argument("--workers", type=_positive, help="processes (default: one a processor)")
        kind.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Makes and prepares the data; 2 when files are missing or wrong (each is listed)."""
    if args.kind == "shapes":
        from visionrnn.datasets.drawn_shapes import write_shapes

        for path in write_shapes(args.out, args.train, args.val, args.seed):
            print(path)
        print(f"Next: visionrnn train {SHAPES} --cfg-options data_root={args.out}")
        return 0
    from visionrnn.datasets.kitti_prepare import prepare_kitti

    if args.kind == "synthetic":
        from visionrnn.datasets.synthetic_lidar import write_dataset

        write_dataset(args.out, args.train, args.val, args.seed, workers=args.workers, progress=not args.quiet)
        root, image_size = args.out, None
    else:
        root, image_size = args.root, tuple(args.image_size) if args.image_size else None
    try:
        result = prepare_kitti(root, workers=args.workers, progress=not args.quiet, image_size=image_size)
    except PreparationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(result)
    config = "lion-mamba_1xb2_synthetic-3d-3class" if args.kind == "synthetic" else "lion-mamba_8xb2-80e_kitti-3d-3class"
    print(f"Next: visionrnn train {config} --cfg-options data_root={root}")
    return 0
