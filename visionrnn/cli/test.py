"""Score a checkpoint on a config's test set; draw a detector's detections.

examples:
  visionrnn test CONFIG work_dirs/NAME/epoch_20.pth
  visionrnn test CONFIG CHECKPOINT --show-dir pictures --cfg-options data_root=DIR
"""

from __future__ import annotations

import argparse

from visionrnn.cli.train import add_config_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``visionrnn test``."""
    parser.add_argument("config", help="config file, or the name of one that comes with visionrnn")
    parser.add_argument("checkpoint", help="checkpoint file (.pth)")
    parser.add_argument("--work-dir", help="folder for the log and metrics (default: the config's, else work_dirs/NAME)")
    parser.add_argument("--show-dir", help="folder for one bird's-eye picture per frame (detectors)")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Scores; the errors a user can act on are raised as visionrnn's."""
    from visionrnn.integrations.mmengine.launch import test

    test(args.config, args.checkpoint, args.work_dir, args.show_dir, args.cfg_options, args.launcher)
    return 0
