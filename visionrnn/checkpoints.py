"""Checkpoints: reading them safely, and the names published weights use.

Nothing stored in a file is executed: files are read with ``weights_only=True`` and no allow-list.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visionrnn.errors import CheckpointError

# Official LION names (OpenPCDet) → ours; every pattern is applied once, in order, to each key.
LION_NAMES = (
    (r"^linear_(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}."),
    (r"^dow(\d+)\.", lambda m: f"merges.{int(m[1]) - 1}."),
    (r"^linear_out\.", "out_layer."),
    (r"pos_emb_list\.(\d+)\.", r"position.\1."),
    (r"position_embedding_head\.", "mlp."),
    (r"downsample_list\.(\d+)\.", r"merging.\1."),
    (r"sub_conv\.0\.", "conv."),
    (r"sub_conv\.1\.", "conv_norm."),
    (r"pfn_layers\.(\d+)\.linear\.", r"layers.\1.0."),
    (r"pfn_layers\.(\d+)\.norm\.", r"layers.\1.1."),
    (r"mamba\.(in_proj|out_proj)\.", r"mixer.\1."),
    (r"mamba\.(conv1d|x_proj|dt_proj)_b\.", r"mixer.directions.1.\1."),
    (r"mamba\.(conv1d|x_proj|dt_proj)\.", r"mixer.directions.0.\1."),
    (r"mamba\.A_b_log$", "mixer.directions.1.A_log"),
    (r"mamba\.D_b$", "mixer.directions.1.D"),
    (r"mamba\.(A_log|D)$", r"mixer.directions.0.\1"),
)
OFFICIAL_NAMES = {"lion": LION_NAMES}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint on the CPU: a dict of tensors and plain values.

    Raises CheckpointError for a file that is missing, cut short, no checkpoint, or that holds Python objects to be executed.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint file")
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


def state_dict_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in a checkpoint's content: under ``state_dict`` (ours, mmengine), ``model_state`` (OpenPCDet), or the whole of it."""
    for key in ("state_dict", "model_state", "model"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


def from_official(state: Mapping[str, Tensor], family: str = "lion") -> dict[str, Tensor]:
    """State dict with our parameter names from one with official names. Raises KeyError for an unknown family."""
    if family not in OFFICIAL_NAMES:
        raise KeyError(f"unknown family {family!r}; expected one of {sorted(OFFICIAL_NAMES)}")
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in OFFICIAL_NAMES[family]:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def load_official(model: nn.Module, state: Mapping[str, Tensor], family: str = "lion") -> None:
    """Loads weights with official names into ``model``; nothing may be missing or left over, and shapes must agree."""
    load_strictly(model, from_official(state, family), f"official {family} weights")


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """``model.load_state_dict`` that names the first keys that do not fit. Raises CheckpointError and leaves the model as it was."""
    own = model.state_dict()
    shapes = [
        f"{key}: expected {list(own[key].shape)}, got {list(state[key].shape)}"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    problems = [
        f"{title} {_first(keys)}"
        for title, keys in (
            ("missing", [key for key in own if key not in state]),
            ("unexpected", [key for key in state if key not in own]),
            ("of other shape", shapes),
        )
        if keys
    ]
    if problems:
        raise CheckpointError(f"{source}: weights of another model? {'; '.join(problems)}")
    model.load_state_dict(dict(state))


def _first(keys: Iterable[str], number: int = 3) -> str:
    keys = list(keys)
    more = f" and {len(keys) - number} more" if len(keys) > number else ""
    return ", ".join(keys[:number]) + more
