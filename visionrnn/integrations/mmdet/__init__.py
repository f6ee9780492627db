"""visionrnn in image detectors and segmenters of mmdet and mmseg: backbones, a neck for plain ones, drawn pictures to try them on.

In a config: ``custom_imports = dict(imports=["visionrnn.integrations.mmdet", "visionrnn.integrations.mmengine"])``. Importing it makes
mmdet importable without compiled mmcv, and registers everything with mmengine's own registries, where every scope finds it:
``type="ImageBackbone"``. mmdet itself is needed by ``DrawnShapes`` only, which is registered when mmdet is installed.

Raises MissingPackageError when mmengine or mmcv is not installed.
"""

from __future__ import annotations

import importlib
import importlib.util

from visionrnn.errors import MissingPackageError

if importlib.util.find_spec("mmengine") is None:
    raise MissingPackageError("mmengine is not installed; image detectors need: pip install 'visionrnn[mmdet3d]', which brings mmdet")

from visionrnn.integrations import mmcv_ops
from visionrnn.integrations.mmdet.backbone import ImageBackbone
from visionrnn.integrations.mmdet.simple_pyramid import SimplePyramid

__all__ = ["ImageBackbone", "SimplePyramid"]

mmcv_ops.install()
if importlib.util.find_spec("mmdet") is not None:
    importlib.import_module(f"{__name__}.shapes")
