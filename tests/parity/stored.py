"""Files of stored cases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch


class Golden:
    """One .npz of stored cases: arrays by name, the JSON ``config`` (operators: ``meta``; {} without one), groups of arrays by prefix."""

    def __init__(self, path: Path):
        self.arrays = np.load(path, allow_pickle=False)
        self.name = path.stem
        config = next((name for name in ("config", "meta") if name in self.arrays.files), None)
        self.config = json.loads(str(self.arrays[config])) if config else {}

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name])

    def __contains__(self, name: str) -> bool:
        return name in self.arrays.files

    def group(self, prefix: str, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        found = {
            name[len(prefix) :]: self[name] for name in self.arrays.files if name.startswith(prefix) and self.arrays[name].dtype.kind != "U"
        }
        return {name: value.to(dtype) if dtype and value.is_floating_point() else value for name, value in found.items()}
