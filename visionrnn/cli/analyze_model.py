"""Tell what a model costs on a frame: parameters, FLOPs, sequences, time, memory.

examples:
  visionrnn analyze-model lion-mamba_8xb2-80e_kitti-3d-3class
  visionrnn analyze-model CONFIG --frame 000008.bin --checkpoint CHECKPOINT --out analysis
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``visionrnn analyze-model``."""
    parser.add_argument("config", help="config file, or the name of one that comes with visionrnn")
    parser.add_argument("--frame", type=Path, help="point cloud file (default: a synthetic frame)")
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
    from visionrnn.cli.frames import write_json
    from visionrnn.errors import DataError, MissingPackageError

    try:
        from visionrnn.integrations.mmdet3d.analysis import analyze_config
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("mmdet3d", "mmdet", "mmcv", "mmengine"):
            raise
        raise MissingPackageError(f"analysing needs {error.name}, which is not installed; run: pip install 'visionrnn[mmdet3d]'") from error
    from visionrnn.analysis import report

    if args.out is not None:
        if args.out.exists() and not args.out.is_dir():
            raise DataError(f"{args.out}: is a file; expected a folder for the results")
        args.out.mkdir(parents=True, exist_ok=True)
    analysis = analyze_config(args.config, args.frame, args.checkpoint, args.device, args.repeats)
    name, about = Path(args.config).name.removesuffix(".py"), analysis.about
    print(f"{name} on {about['frame']}, {about['points']} points in range, {about['checkpoint']}")
    report.print_tables(analysis)
    if args.out is not None:
        report.plot(analysis, args.out / f"{name}.png", f"{name}, {about['points']} points")
        write_json(args.out / f"{name}.json", report.to_json(analysis))
        print(f"written: {args.out / name}.json, {args.out / name}.png")
    return 0
