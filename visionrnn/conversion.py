"""Files of weights with published names ↔ files of ours: what both directions check, and how a file is written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visionrnn.checkpoints import from_official
from visionrnn.datasets.files import atomic_write
from visionrnn.errors import CheckpointError, DataError

SUFFIXES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class Conversion:
    """What was written: tensors and parameters (buffers not counted) of the model, names in the file that were left out."""

    tensors: int
    parameters: int
    left_out: tuple[str, ...]


def checked_paths(source: str | Path, target: str | Path, overwrite: bool) -> tuple[Path, Path]:
    """Both as paths. Raises DataError when the target is the source, a folder, exists without ``overwrite`` or has an unknown ending."""
    source, target = Path(source).expanduser(), Path(target).expanduser()
    if target.suffix not in SUFFIXES:
        raise DataError(f"{target}: expected a file name that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if target.resolve() == source.resolve() or (target.exists() and source.exists() and target.samefile(source)):
        raise DataError(f"{target}: is the file to convert; give another name for the result")
    if target.is_dir():
        raise DataError(f"{target}: is a folder; give the name of a file")
    if target.exists() and not overwrite:
        raise DataError(f"{target}: exists already; give another name, or --force to replace it")
    return source, target


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the prefix that a wrapper for several processes adds to all names."""
    wrapped = all(name.startswith("module.") for name in state)
    return {name.removeprefix("module.") if wrapped else name: value for name, value in state.items()}


def has_names_of(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether every name of the model is in the state dict; counters of batch norms may be absent."""
    return {name for name in model.state_dict() if not name.endswith("num_batches_tracked")} <= state.keys()


def to_our_names(state: Mapping[str, Tensor], family: str, source: Path) -> dict[str, Tensor]:
    """``checkpoints.from_official``; raises CheckpointError when a tensor of ours lacks one of its published parts."""
    try:
        return from_official(state, family)
    except ValueError as error:
        raise CheckpointError(f"{source}: not the weights of a whole {family} model: {error}") from error


def write_weights(target: Path, state: Mapping[str, Tensor], content: Mapping[str, Any], key: str) -> dict[str, Tensor]:
    """Writes ``{**content, key: state}``, to a ``.safetensors`` the tensors only; returns them, each with its own memory."""
    written = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    with atomic_write(target) as file:
        if target.suffix == ".safetensors":
            from safetensors.torch import save

            file.write(save(written))
        else:
            torch.save({**content, key: written}, file)
    return written
