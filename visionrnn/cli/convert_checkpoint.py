"""Convert published weights into a checkpoint of ours, or back.

examples:
  visionrnn convert-checkpoint lion lion_mamba_nuscenes.pth lion.pth --config lion-mamba_8xb2-36e_nuscenes-3d-10class
  visionrnn convert-checkpoint lion work_dirs/NAME/epoch_36.pth published.pth --config CONFIG --to official

Every tensor of the file must have its place in the config's model, with the same shape, and none may be missing; otherwise nothing is
written. Files are read safely: nothing stored in them is executed. docs/model_zoo.md tells which weights exist and where.
"""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``visionrnn convert-checkpoint``."""
    parser.add_argument("family", choices=["lion"], help="whose published names: lion (happinesslz/LION, OpenPCDet's layout)")
    parser.add_argument("source", help="file to convert (.pth, .pt, .safetensors)")
    parser.add_argument("target", help="file to write (.pth, .pt, .safetensors)")
    parser.add_argument("--config", required=True, help="config file of the model, or the name of one that comes with visionrnn")
    parser.add_argument("--to", choices=["visionrnn", "official"], default="visionrnn", help="whose names to write (default: %(default)s)")
    parser.add_argument("--step", type=int, default=0, help="global_step for --to official (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="replace the target if it exists")


def run(args: argparse.Namespace) -> int:
    """Converts; the errors a user can act on are raised as visionrnn's."""
    import visionrnn.integrations.mmdet3d  # noqa: F401  (makes mmdet3d importable)
    from visionrnn.integrations.mmdet3d.conversion import convert

    official = args.to == "official"
    done = convert(args.source, args.target, args.config, args.family, official, args.step, args.force)
    left_out = f"; left out: {', '.join(done.left_out)}" if done.left_out else ""
    print(f"{args.target}: {done.tensors} tensors, {done.parameters:,} parameters, all with a place and the right shape{left_out}")
    if not official:
        options = " ".join(released_options(done.config.model))
        print(
            f"To run released weights as they were trained: visionrnn test {args.config} {args.target} --cfg-options {options}\n"
            "(detect takes the same options; without them groups are packed exactly, and what that does to the scores is not measured)"
        )
    return 0


def released_options(model: Any) -> list[str]:
    """``--cfg-options`` that repeat what the published code does and our defaults do not, for the model of a config."""
    options = ["+model.middle_encoder.padding=duplicate"]
    if (model.get("bbox_head") or {}).get("type") == "LIONTransFusionHead":
        options.append("+model.bbox_head.decoder.wrap_borders=True")
    return options
