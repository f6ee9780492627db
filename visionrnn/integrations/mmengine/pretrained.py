"""mmengine's ``init_cfg=dict(type="Pretrained", checkpoint=…)`` without unrestricted unpickling.

mmengine unpickles what it downloads. Importing this module puts readers with ``weights_only=True`` in place of its readers of local files,
of http(s) addresses and of torchvision's weights; the other schemes are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.runner.checkpoint import CheckpointLoader, get_torchvision_models

from visionrnn.checkpoints import read_checkpoint
from visionrnn.errors import CheckpointError

REFUSED = ("pavi://", r"(\S+\:)?s3://", r"(\S+\:)?petrel://", "open-mmlab://", "openmmlab://", "mmcls://")


def load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:
    """``checkpoints.read_checkpoint``: on the CPU, whatever ``map_location``."""
    return read_checkpoint(filename)


def load_from_address(filename: str, map_location: Any = None) -> Any:
    """Downloads to torch's cache (once) and reads it; raises CheckpointError when it holds more than tensors and plain values."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / filename.rpartition("/")[2].partition("?")[0]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(filename, str(path), progress=False)
        except OSError as error:
            raise CheckpointError(f"{filename}: cannot be downloaded ({error}); download it elsewhere and give the file's path") from error
    return read_checkpoint(path)


def load_from_torchvision(filename: str, map_location: Any = None) -> Any:
    """``torchvision://resnet50`` and the like."""
    name, addresses = filename.partition("://")[2], get_torchvision_models()
    if name not in addresses:
        raise CheckpointError(f"{filename}: torchvision has no such weights; give an address or a file's path")
    return load_from_address(addresses[name])


def load_from_elsewhere(filename: str, map_location: Any = None) -> Any:
    """Raises CheckpointError."""
    raise CheckpointError(f"{filename}: this kind of address is not supported; download the file and give its path")


CheckpointLoader.register_scheme(prefixes="", loader=load_from_local, force=True)
CheckpointLoader.register_scheme(prefixes=("http://", "https://"), loader=load_from_address, force=True)
CheckpointLoader.register_scheme(prefixes=("modelzoo://", "torchvision://"), loader=load_from_torchvision, force=True)
CheckpointLoader.register_scheme(prefixes=REFUSED, loader=load_from_elsewhere, force=True)
