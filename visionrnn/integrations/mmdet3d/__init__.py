"""visionrnn in mmdet3d: importing this package makes mmdet3d importable without compiled mmcv and registers our modules with it.

In a config: ``custom_imports = dict(imports=["visionrnn.integrations.mmdet3d"])``.
Raises MissingPackageError when mmdet3d is not installed.
"""

from __future__ import annotations

import importlib
import importlib.util

from visionrnn.errors import MissingPackageError
from visionrnn.integrations import mmcv_ops
from visionrnn.integrations.mmdet3d import sparse

MODULES: tuple[str, ...] = ("baselines", "bev", "datasets", "heads", "lidar_metric", "lion", "metrics", "transforms")
"""The modules of this package that register classes with mmdet3d when they are imported."""


def register_all() -> None:
    """Makes mmdet3d importable and registers its modules and ours (``MODULES``); may be called any number of times."""
    if importlib.util.find_spec("mmdet3d") is None:
        raise MissingPackageError("mmdet3d is not installed; install it with: pip install 'visionrnn[mmdet3d]'")
    mmcv_ops.install()
    for package in ("datasets", "engine", "models", "structures"):
        importlib.import_module(f"mmdet3d.{package}")
    sparse.install()
    for module in MODULES:
        importlib.import_module(f"{__name__}.{module}")


register_all()
