"""Train a detector or an image classifier from a config; resume an interrupted training.

examples:
  visionrnn train vil2_1xb32_digits                    an image classifier, half a minute
  visionrnn train lion-mamba_1xb2_synthetic-3d-3class  a LiDAR detector
  visionrnn train CONFIG --resume                      continue from the work dir's last checkpoint
  visionrnn train CONFIG --cfg-options data_root=DIR train_cfg.max_epochs=10
  torchrun --nproc_per_node 2 --no-python visionrnn train CONFIG --launcher pytorch
"""

from __future__ import annotations

import argparse

LAUNCHERS = ("none", "pytorch", "slurm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``visionrnn train``."""
    parser.add_argument("config", help="config file, or the name of one that comes with visionrnn")
    parser.add_argument("--work-dir", help="folder for checkpoints and logs (default: the config's, else work_dirs/NAME)")
    parser.add_argument(
        "--resume", nargs="?", const="auto", metavar="CHECKPOINT", help="continue from CHECKPOINT, or from the work dir's last one"
    )
    add_config_options(parser)
    parser.add_argument("--amp", action="store_true", help="mixed precision (of detectors: GPU only)")
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size")
    parser.add_argument("--seed", type=int, help="seed of everything random (default: the config's)")


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """``--cfg-options`` and ``--launcher``, common to training and testing."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change the config; data_root=DIR moves the data",
    )
    parser.add_argument("--launcher", choices=LAUNCHERS, default="none", help="how several processes were started (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Trains; the errors a user can act on are raised as visionrnn's."""
    from visionrnn.integrations.mmengine.launch import train

    train(args.config, args.work_dir, args.resume, args.cfg_options, args.launcher, args.amp, args.auto_scale_lr, args.seed)
    return 0
