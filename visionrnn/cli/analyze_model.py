"""Tell what a model costs on a frame or on images: parameters, FLOPs, sequences, time, memory.

examples:
  visionrnn analyze-model lion-mamba_8xb2-80e_kitti-3d-3class
  visionrnn analyze-model CONFIG --frame 000008.bin --checkpoint CHECKPOINT --out analysis
  visionrnn analyze-model vil2_tiny_patch16_224 --size 512 --batch 8
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from visionrnn.analysis.measure import Analysis


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``visionrnn analyze-model``."""
    parser.add_argument("config", help="config file, the name of one that comes with visionrnn, or of one of timm's models")
    parser.add_argument("--frame", type=Path, help="point cloud file (default: a synthetic frame)")
    parser.add_argument("--size", type=_positive, metavar="PIXELS", help="of images, height and width (default: the model's own)")
    parser.add_argument("--batch", type=_positive, default=1, metavar="NUMBER", help="of images (default: %(default)s)")
    parser.add_argument("--checkpoint", help="checkpoint file (.pth; default: random weights, detections take no time then)")
    parser.add_argument("--out", type=Path, help="folder for NAME.json and NAME.png")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--repeats", type=_positive, default=5, help="timed passes (default: %(default)s)")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes; the errors a user can act on are raised as visionrnn's."""
    from visionrnn.analysis import report
    from visionrnn.cli.frames import write_json
    from visionrnn.errors import DataError

    if args.out is not None:
        if args.out.exists() and not args.out.is_dir():
            raise DataError(f"{args.out}: is a file; expected a folder for the results")
        args.out.mkdir(parents=True, exist_ok=True)
    analysis, shown = _analyze(args)
    name = Path(args.config).name.removesuffix(".py")
    print(f"{name} on {shown}, {analysis.about['checkpoint']}")
    report.print_tables(analysis)
    if args.out is not None:
        report.plot(analysis, args.out / f"{name}.png", f"{name}, {shown}")
        write_json(args.out / f"{name}.json", report.to_json(analysis))
        print(f"written: {args.out / name}.json, {args.out / name}.png")
    return 0


def _analyze(args: argparse.Namespace) -> tuple[Analysis, str]:
    """The analysis, and what the model ran on."""
    from visionrnn.analysis.images import analyze_image_model, is_image_model
    from visionrnn.errors import DataError, MissingPackageError

    if is_image_model(args.config):
        if args.frame is not None:
            raise DataError(f"--frame: {args.config} takes images, of --size pixels; no point cloud")
        analysis = analyze_image_model(args.config, args.size, args.batch, args.checkpoint, args.device, args.repeats)
        number, _, height, width = analysis.about["images"]
        return analysis, f"{number} random image{'s' if number > 1 else ''} of {height} × {width} pixels"
    if args.size is not None or args.batch != 1:
        raise DataError(f"--size and --batch are for image models; {args.config!r} is none of timm's")
    try:
        from visionrnn.integrations.mmdet3d.analysis import analyze_config
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("mmdet3d", "mmdet", "mmcv", "mmengine"):
            raise
        raise MissingPackageError(f"analysing needs {error.name}, which is not installed; run: pip install 'visionrnn[mmdet3d]'") from error
    analysis = analyze_config(args.config, args.frame, args.checkpoint, args.device, args.repeats)
    return analysis, f"{analysis.about['frame']}, {analysis.about['points']} points in range"
