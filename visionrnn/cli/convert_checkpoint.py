"""Convert published weights into a checkpoint of ours, or back.

examples:
  visionrnn convert-checkpoint lion lion_mamba_nuscenes.pth lion.pth --config lion-mamba_8xb2-36e_nuscenes-3d-10class
  visionrnn convert-checkpoint lion work_dirs/NAME/epoch_36.pth published.pth --config CONFIG --to official
  visionrnn convert-checkpoint vil vil2_tiny16_e400_in1k.th vil2.safetensors --model vil2_tiny_patch16_224
  visionrnn convert-checkpoint sequencer sequencer2d_s.pth sequencer.pth --model lstm_sequencer2d_s

Every tensor of the file must have its place in the model, with the same shape, and none may be missing; otherwise nothing is written.
Files are read safely: nothing stored in them is executed. docs/model_zoo.md tells which weights exist and where.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Sequence
from typing import Any

from visionrnn.errors import DataError

FAMILIES = {
    "lion": "happinesslz/LION, OpenPCDet's layout",
    "vil": "NX-AI/vision-lstm, the released files' names",
    "vil_package": "the same, the names inside its package",
    "sequencer": "okojoalg/sequencer; timm's own names are ours",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``visionrnn convert-checkpoint``."""
    whose = "; ".join(f"{name} ({where})" for name, where in FAMILIES.items())
    parser.add_argument("family", choices=list(FAMILIES), help=f"whose published names: {whose}")
    parser.add_argument("source", help="file to convert (any ending; .safetensors is read as such)")
    parser.add_argument("target", help="file to write (.pth, .pt, .safetensors)")
    parser.add_argument("--config", help="lion: config file of the model, or the name of one that comes with visionrnn")
    parser.add_argument("--model", help="image models: the model's name in timm's registry")
    parser.add_argument("--model-kwargs", nargs="+", default=[], metavar="KEY=VALUE", help="further arguments of timm.create_model")
    parser.add_argument("--to", choices=["visionrnn", "official"], default="visionrnn", help="whose names to write (default: %(default)s)")
    parser.add_argument("--step", type=int, help="lion: global_step for --to official (default: 0)")
    parser.add_argument("--force", action="store_true", help="replace the target if it exists")


def run(args: argparse.Namespace) -> int:
    """Converts; the errors a user can act on are raised as visionrnn's."""
    wanted, others = ("config", ("model", "model_kwargs")) if args.family == "lion" else ("model", ("config", "step"))
    for name in others:
        if getattr(args, name):
            raise DataError(f"--{name.replace('_', '-')}: not for {args.family}, whose models are named with --{wanted}")
    if not getattr(args, wanted):
        raise DataError(f"{args.family}: expected --{wanted}, which model the weights belong to")
    return _lion(args) if args.family == "lion" else _classifier(args)


def _classifier(args: argparse.Namespace) -> int:
    from visionrnn.integrations.timm_conversion import convert_classifier

    kwargs = model_kwargs(args.model_kwargs)
    official = args.to == "official"
    done = convert_classifier(args.source, args.target, args.model, args.family, official, kwargs, args.force)
    _tell(args.target, done)
    if not official:
        options = "".join(f", {name}={value!r}" for name, value in kwargs.items())
        print(f'Use it: timm.create_model("{args.model}", checkpoint_path="{args.target}"{options}), after import visionrnn')
    return 0


def _lion(args: argparse.Namespace) -> int:
    import visionrnn.integrations.mmdet3d  # noqa: F401  (makes mmdet3d importable)
    from visionrnn.integrations.mmdet3d.conversion import convert

    official = args.to == "official"
    done, config = convert(args.source, args.target, args.config, args.family, official, args.step or 0, args.force)
    _tell(args.target, done)
    if not official:
        options = " ".join(released_options(config.model))
        print(
            f"To run released weights as they were trained: visionrnn test {args.config} {args.target} --cfg-options {options}\n"
            "(detect takes the same options; without them groups are packed exactly, and what that does to the scores is not measured)"
        )
    return 0


def _tell(target: str, done: Any) -> None:
    left_out = f"; left out: {', '.join(done.left_out)}" if done.left_out else ""
    print(f"{target}: {done.tensors} tensors, {done.parameters:,} parameters, all with a place and the right shape{left_out}")


def model_kwargs(texts: Sequence[str]) -> dict[str, Any]:
    """``["depth=4", "img_size=(64, 32)", "traversal=hilbert"]`` → arguments: Python literals where they are some, text otherwise.

    Raises DataError for a text without ``=``.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise DataError(f"--model-kwargs {text!r}: expected key=value, e.g. num_classes=10")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def released_options(model: Any) -> list[str]:
    """``--cfg-options`` that repeat what the published code does and our defaults do not, for the model of a config."""
    options = ["+model.middle_encoder.padding=duplicate"]
    if (model.get("bbox_head") or {}).get("type") == "LIONTransFusionHead":
        options.append("+model.bbox_head.decoder.wrap_borders=True")
    return options
