"""Checkpoints: reading them safely, whether they fit a model, and the names published weights use.

Nothing stored in a file is executed: files are read with ``weights_only=True``.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visionrnn.errors import CheckpointError
from visionrnn.official import FAMILIES, Family, to_official, to_ours

FOREIGN = "foreign_types"
"""Key of a checkpoint read by ``read_checkpoint`` whose file held pickled objects: the names of their types."""


class Inert:
    """Stands in for any object of a foreign checkpoint: takes every argument and state, and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Content of a checkpoint file on the CPU, with its weights under ``state_dict``.

    A file of ours comes back whole. A foreign file that holds pickled objects (mmengine's own training checkpoints do) gives its weights
    only: ``{"state_dict": …, "foreign_types": [names]}``; it is read with ``weights_only=True`` too, an inert stand-in taking the
    place of every object.

    Raises CheckpointError when there is no such file, when it is cut short or no checkpoint, or when no weights can be read safely.
    """
    path = Path(path).expanduser()
    try:
        content = _read(path)
    except CheckpointError as error:
        if not isinstance(error.__cause__, pickle.UnpicklingError):
            raise
        content = _read_foreign(path, error)
    if not isinstance(content.get("state_dict"), Mapping):
        content = {"state_dict": state_dict_of(content), **({FOREIGN: content[FOREIGN]} if FOREIGN in content else {})}
    if not content["state_dict"]:
        raise CheckpointError(f"{path}: no weights found; expected tensors under 'state_dict'")
    return content


def _read(path: Path) -> dict[str, Any]:
    """The content of a file of tensors and plain values. Raises CheckpointError, its cause an UnpicklingError for pickled objects."""
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint file{_others(path)}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return {"state_dict": load_file(path)}
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(
            f"{path}: holds more than tensors and plain values, or is damaged ({reason}). It is not loaded, since that could run code "
            "stored in it; re-save its state dict with torch.save({'state_dict': model.state_dict()}, PATH) where you trust it"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: is not a whole checkpoint (cut short or another format): {str(error).split(chr(10))[0] or type(error).__name__}"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a dict with 'state_dict', got {type(content).__name__}")
    return content


def _read_foreign(path: Path, reason: CheckpointError) -> dict[str, Any]:
    """The weights of a file with pickled objects; raises ``reason`` when even the stand-ins do not make it readable."""
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        stand_ins: list[Any] = [(Inert, name) for name in names]
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, AttributeError, TypeError, ValueError, KeyError, OSError, EOFError):
        raise reason from None
    state = state_dict_of(content) if isinstance(content, Mapping) else {}
    return {"state_dict": state, FOREIGN: names}


def check_fit(model: nn.Module, state: Mapping[str, torch.Tensor], path: str | Path, need_all: bool = True) -> list[str]:
    """Compares a state dict with a model's; returns one line per kind of misfit, [] when all fits.

    BatchNorm's ``num_batches_tracked`` may be absent. Raises CheckpointError listing the first keys that do not fit: with ``need_all``
    when there is any misfit, otherwise only when no key fits.
    """
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in wanted]
    shapes = {key: (tuple(state[key].shape), tuple(wanted[key].shape)) for key in wanted if key in state}
    differing = [f"{key} {file} in the file, {ours} in the model" for key, (file, ours) in shapes.items() if file != ours]
    lines = [
        f"{len(keys)} {what}: {', '.join(keys[:3])}{' …' if len(keys) > 3 else ''}"
        for what, keys in (("missing from the file", missing), ("of another shape", differing), ("not in the model", unexpected))
        if keys
    ]
    fitting = len(shapes) - len(differing)
    if lines and (need_all or not fitting):
        raise CheckpointError(
            f"{path}: checkpoint of another model: {fitting} of the model's {len(wanted)} keys fit; {'; '.join(lines)}. Use the config that"
            " the checkpoint was trained with"
        )
    return lines


def _others(path: Path) -> str:
    """Names of checkpoints beside a missing one, for the message."""
    folder = path if path.is_dir() else path.parent
    names = sorted(other.name for other in folder.glob("*.pth")) if folder.is_dir() else []
    return f"; in {folder} there are: {', '.join(names[:5])}" if names else ""


def state_dict_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in a checkpoint's content: under ``state_dict`` (ours, mmengine), ``model_state`` (OpenPCDet), or the whole of it."""
    for key in ("state_dict", "model_state", "model"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


def from_official(state: Mapping[str, Tensor], family: str = "lion") -> dict[str, Tensor]:
    """State dict with our names and shapes from one with published ones (or from the gradients of one).

    Counters and buffers that only published files have (``global_step``, ``causal_mask``) are left out. Raises KeyError for an unknown
    family, ValueError when a tensor of ours lacks one of its published parts.
    """
    known = _family(family)
    wanted = {key: value for key, value in state.items() if key not in known.counters and not key.endswith(known.ignored)}
    return to_ours(wanted, known.table(wanted))


def as_official(state: Mapping[str, Tensor], family: str = "lion", step: int | None = None) -> dict[str, Tensor]:
    """The way back: a state dict with published names and shapes from ours; with ``step``, with the published counters set to it.

    Raises KeyError for an unknown family.
    """
    known = _family(family)
    counters = {} if step is None else {name: torch.full(shape, step, dtype=torch.int64) for name, shape in known.counters.items()}
    return {**counters, **to_official(state, known.table(state))}


def load_official(model: nn.Module, state: Mapping[str, Tensor], family: str = "lion") -> None:
    """Loads weights with published names into ``model``; nothing may be missing or left over, and shapes must agree."""
    renamed = from_official(state, family)
    check_fit(model, renamed, f"official {family} weights")
    model.load_state_dict(renamed, strict=False)


def _family(family: str) -> Family:
    if family not in FAMILIES:
        raise KeyError(f"unknown family {family!r}; expected one of {sorted(FAMILIES)}")
    return FAMILIES[family]
