"""Checkpoint files of image classifiers with published names ↔ files of ours, checked against a model of the timm registry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from visionrnn import __version__
from visionrnn.checkpoints import as_official, check_fit, read_checkpoint
from visionrnn.conversion import Conversion, checked_paths, has_names_of, to_our_names, unwrapped, write_weights
from visionrnn.errors import CheckpointError, DataError
from visionrnn.integrations.timm import of_classifier
from visionrnn.official import FAMILIES

VIL = ("vil_*", "vil2_*")
PATTERNS = {"vil": VIL, "vil_package": VIL, "sequencer": ("*_sequencer2d_*",)}
"""Registered models of a family."""


def convert_classifier(
    source: str | Path,
    target: str | Path,
    model_name: str,
    family: str,
    to_official: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Reads ``source``, renames its weights, compares them with ``timm.create_model(model_name, **model_kwargs)``, and writes ``target``.

    Published weights become a file for ``timm.create_model(model_name, checkpoint_path=target)``; with ``to_official``, one of ours, a
    training's too, gets the published names. The model is built without memory for its weights, and nothing that is stored in ``source``
    is executed. Nothing is written unless every tensor has its place with the same shape and none is missing. A ``.safetensors`` holds the
    tensors only.

    Raises CheckpointError (unreadable, of another model, in the wrong direction) and DataError (unknown model or option; target is the
    source, exists without ``overwrite``, has an unknown ending).
    """
    source, target = checked_paths(source, target, overwrite)
    model = build_without_memory(model_name, model_kwargs)
    state = of_classifier(unwrapped(read_checkpoint(source)["state_dict"]))
    left_out = tuple(name for name in state if name.endswith(FAMILIES[family].ignored))
    state = {name: value for name, value in state.items() if name not in left_out}
    content: dict[str, Any] = {}
    ours = has_names_of(model, state)
    if to_official:
        if not ours and has_names_of(model, to_our_names(state, family, source)):
            raise CheckpointError(f"{source}: nothing to convert, the file has published names; leave out --to official")
        _check(model, state, source, family)
        renamed = as_official(state, family)
    else:
        if ours:
            raise CheckpointError(f"{source}: nothing to convert, the file has the names of {model_name}; --to official is the way back")
        renamed = to_our_names(state, family, source)
        _check(model, renamed, source, family)
        meta = {
            "visionrnn_version": __version__,
            "converted_from": source.name,
            "model": model_name,
            "model_kwargs": dict(model_kwargs or {}),
        }
        content = {"meta": meta}
    written = write_weights(target, renamed, content, "state_dict")
    return Conversion(len(written), sum(parameter.numel() for parameter in model.parameters()), left_out)


def build_without_memory(name: str, kwargs: Mapping[str, Any] | None = None) -> nn.Module:
    """A registered model on the device "meta": names and shapes only. Raises DataError when there is none or an option does not fit."""
    if not timm.is_model(name):
        known = [model for pattern in (*VIL, *PATTERNS["sequencer"]) for model in timm.list_models(pattern)]
        raise DataError(f"--model {name}: timm knows no such model; those with published weights in their families: {', '.join(known)}")
    try:
        with torch.device("meta"):
            return timm.create_model(name, **dict(kwargs or {}))
    except (TypeError, ValueError) as error:
        raise DataError(f"--model {name}: the model cannot be built with {dict(kwargs or {})}: {error}") from error


def fitting_model(state: Mapping[str, Tensor], family: str) -> str | None:
    """Name of a registered model of the family with exactly these names (ours) and shapes; None when there is none."""
    for pattern in PATTERNS[family]:
        for name in timm.list_models(pattern):
            try:
                check_fit(build_without_memory(name), state, name)
            except CheckpointError:
                continue
            return name
    return None


def _check(model: nn.Module, state: Mapping[str, Tensor], source: Path, family: str) -> None:
    """Raises CheckpointError when the weights are not this model's, with the model they belong to where one fits."""
    try:
        check_fit(model, state, source)
    except CheckpointError as error:
        better = fitting_model(state, family)
        reason = str(error).replace("Use the config that the checkpoint was trained with", "").rstrip(". ")
        raise CheckpointError(
            f"{reason}. {f'The file fits --model {better}' if better else 'No registered model fits the file'}"
        ) from error
