"""Checkpoint files with published names ↔ files of ours, checked against the model of a config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from visionrnn import __version__
from visionrnn.checkpoints import as_official, check_fit, read_checkpoint
from visionrnn.cli.configs import list_configs
from visionrnn.conversion import Conversion, checked_paths, has_names_of, to_our_names, unwrapped, write_weights
from visionrnn.errors import CheckpointError, DataError
from visionrnn.integrations.mmdet3d.inference import build_model, load_config
from visionrnn.official import FAMILIES


def convert(
    source: str | Path,
    target: str | Path,
    config: str | Path | Mapping[str, Any],
    family: str = "lion",
    to_official: bool = False,
    step: int = 0,
    overwrite: bool = False,
) -> tuple[Conversion, Config]:
    """Reads ``source``, renames its weights, compares them with the model of ``config``, and writes ``target`` whole or not at all.

    Published weights become a checkpoint that ``visionrnn test`` and ``detect`` read; with ``to_official``, one of ours becomes a file
    that OpenPCDet reads, its ``global_step`` set to ``step``. The model is built without memory for its weights, and nothing that is
    stored in ``source`` is executed. A target that ends in ``.safetensors`` holds the tensors only. Returns what was written and the
    loaded config.

    Raises CheckpointError (unreadable, of another model, in the wrong direction) and DataError (config; target is the source, exists
    without ``overwrite``, has an unknown ending).
    """
    source, target = checked_paths(source, target, overwrite)
    loaded = load_config(config)
    state = unwrapped(read_checkpoint(source)["state_dict"])
    model = build_without_memory(loaded)
    left_out: tuple[str, ...] = ()
    if to_official:
        if any(name.startswith(("vfe.", "backbone_3d.", "dense_head.")) for name in state):
            raise CheckpointError(f"{source}: nothing to convert, the file has published names; leave out --to official")
        check_fit(model, state, source)
        written, rest, key = as_official(state, family, step), _official_file(step), "model_state"
    else:
        if has_names_of(model, state):
            raise CheckpointError(
                f"{source}: nothing to convert, the file has the names of this config's model; --to official is the way back"
            )
        written, rest, key = to_our_names(state, family, source), _our_meta(loaded, source), "state_dict"
        _check(model, written, source)
        left_out = tuple(name for name in state if name in FAMILIES[family].counters)
    written = write_weights(target, written, rest, key)
    return Conversion(len(written), sum(parameter.numel() for parameter in model.parameters()), left_out), loaded


def build_without_memory(config: Config) -> nn.Module:
    """The config's model on the device "meta": names and shapes only. Raises DataError when it cannot be built."""
    scope = config.get("default_scope") or "mmdet3d"
    with DefaultScope.overwrite_default_scope(scope), torch.device("meta"):
        return build_model(config)


def fitting_config(state: Mapping[str, Tensor]) -> str | None:
    """Name of a config that comes with visionrnn whose model has exactly these names (ours) and shapes; None when there is none.

    Only models whose voxel encoder fits are built, without memory.
    """
    encoder = {name: tuple(value.shape) for name, value in state.items() if name.startswith("voxel_encoder.")}
    first, last = encoder.get("voxel_encoder.layers.0.0.weight"), encoder.get("voxel_encoder.layers.1.0.weight")
    if first is None or last is None:
        return None
    for name in list_configs():
        config = load_config(name)
        parts: Mapping[str, Any] = config.model.get("voxel_encoder") or {}
        if parts.get("type") != "PointVFE" or (parts["in_channels"] + 6, parts["feat_channels"][-1]) != (first[1], last[0]):
            continue
        try:
            check_fit(build_without_memory(config), state, name)
        except (CheckpointError, DataError):
            continue
        return name
    return None


def _check(model: nn.Module, state: Mapping[str, Tensor], source: Path) -> None:
    """Raises CheckpointError when the weights are not this model's, with the config they belong to where one fits."""
    try:
        check_fit(model, state, source)
    except CheckpointError as error:
        better = fitting_config(state)
        if better is None:
            raise
        raise CheckpointError(f"{error}. The file fits the config {better}") from error


def _our_meta(config: Config, source: Path) -> dict[str, Any]:
    dataset = (config.get("test_dataloader") or {}).get("dataset") or {}
    while "metainfo" not in dataset and "dataset" in dataset:
        dataset = dataset["dataset"]
    classes = (dataset.get("metainfo") or {}).get("classes") or ()
    meta = {"visionrnn_version": __version__, "converted_from": source.name, "classes": [str(name) for name in classes]}
    return {"meta": {**meta, "config": config.pretty_text}}


def _official_file(step: int) -> dict[str, Any]:
    """What OpenPCDet stores beside the weights."""
    return {"epoch": -1, "it": step, "optimizer_state": None, "version": f"visionrnn+{__version__}"}
