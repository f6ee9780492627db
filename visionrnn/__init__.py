"""visionrnn: linear-RNN backbones for 3D perception and vision.

Importing the package is cheap: no mmdet3d, timm, spconv, open3d or Triton is imported. ``visionrnn.Detector`` is loaded on first use.
Where timm is imported too, before or after, ``timm.create_model`` knows this package's image classifiers.
"""

from typing import Any

from visionrnn.integrations import on_import

__version__ = "0.1.0"
__all__ = ["Detector", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Detector":
        from visionrnn.detector import Detector

        return Detector
    raise AttributeError(f"module 'visionrnn' has no attribute {name!r}")


on_import.when_imported("timm")
